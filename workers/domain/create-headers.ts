/** The request headers of a create, in the forms that clients send. Pure. */
import { parseDuration } from "../../schema/durations.ts";
import { AppError } from "../../schema/problems.ts";

const WAIT_DEFAULT_S = 60;
const WAIT_MAX_S = 60;
/** A wait of the full 60 s ends before clients give up at 60.5 s, and before the platform's own limits. */
const WAIT_MAX_MS = 59_750;
const CANCEL_AFTER_MIN_MS = 5_000;
const CANCEL_AFTER_MAX_MS = 86_400_000;
const IDEMPOTENCY_KEY_CHARACTERS_MAX = 255;
/** Whoever wants data longer than a year wants it `forever`. */
const RETENTION_MAX_MS = 366 * 86_400_000;

/** `applied` goes back as Preference-Applied; null when nothing that we know was asked for. */
export interface Preference {
  wait_ms: number;
  applied: string | null;
}

/** `wait`, `wait=n` (longer waits are cut to 60 s, since clients do not) and `respond-async`; what else is preferred is ignored, as RFC 7240 says. */
export function parsePrefer(header: string | undefined): Preference {
  const preferences = (header ?? "").split(",").map((part) => part.split(";")[0]?.trim().toLowerCase() ?? "");
  for (const preference of preferences) {
    const match = /^wait(?:\s*=\s*"?(\d+(?:\.\d+)?)"?)?$/.exec(preference);
    if (match === null) continue;
    const seconds = Math.min(Number(match[1] ?? WAIT_DEFAULT_S), WAIT_MAX_S);
    const applied = match[1] === undefined ? "wait" : `wait=${seconds}`;
    return { wait_ms: Math.min(Math.round(seconds * 1_000), WAIT_MAX_MS), applied };
  }
  return { wait_ms: 0, applied: preferences.includes("respond-async") ? "respond-async" : null };
}

/** Milliseconds of Cancel-After: `90`, `30s`, `1h30m45s`. Null when the header is absent. */
export function parseCancelAfter(header: string | undefined): number | null {
  if (header === undefined) return null;
  const ms = parseDuration(header.trim());
  if (ms === null || ms < CANCEL_AFTER_MIN_MS || ms > CANCEL_AFTER_MAX_MS) {
    throw new AppError(
      "request.header_invalid",
      "Cancel-After must be 5 seconds to 24 hours, such as 90, 30s, 5m or 1h30m45s.",
    );
  }
  return ms;
}

/** Milliseconds that data is kept after the end: 0 is until it was delivered, null is for ever (Cogway-Retention: forever). */
export function parseRetention(header: string | undefined, defaultMs: number): number | null {
  if (header === undefined) return defaultMs;
  const text = header.trim().toLowerCase();
  if (text === "forever") return null;
  const ms = parseDuration(text);
  if (ms === null || ms > RETENTION_MAX_MS) {
    throw new AppError(
      "request.header_invalid",
      "Cogway-Retention must be 0 (until delivered), a duration up to 366d such as 90, 30m, 12h or 7d, or forever.",
    );
  }
  return ms;
}

/** A dollar has a million micro-dollars. More than a billion dollars is no limit. */
const MAX_COST = /^\$?(\d{1,9})(?:\.(\d{1,6}))?$/;

/** Micro-dollars of Cogway-Max-Cost: `0.05`, `$1`, `12.345678`. Null when the header is absent. */
export function parseMaxCost(header: string | undefined): number | null {
  if (header === undefined) return null;
  const match = MAX_COST.exec(header.trim());
  if (match === null) {
    throw new AppError(
      "request.header_invalid",
      "Cogway-Max-Cost must be dollars with at most six decimals, such as 0.05, 2 or 12.345678.",
    );
  }
  return Number(match[1]) * 1_000_000 + Number((match[2] ?? "").padEnd(6, "0"));
}

/** The queue's priority of Cogway-Priority: 0 (`normal`, also when the header is absent) before 1 (`low`). */
export function parsePriority(header: string | undefined): 0 | 1 {
  const text = header?.trim().toLowerCase() ?? "normal";
  if (text === "normal") return 0;
  if (text === "low") return 1;
  throw new AppError("request.header_invalid", "Cogway-Priority must be normal or low.");
}

/** The key itself. `"x"`, the form of the draft standard, and `x`, which most clients send, are one key. */
export function parseIdempotencyKey(header: string | undefined): string | null {
  if (header === undefined) return null;
  const text = header.trim();
  const quoted = /^"((?:[^"\\]|\\["\\])*)"$/.exec(text);
  const key = quoted === null ? text : (quoted[1] ?? "").replaceAll(/\\(["\\])/g, "$1");
  if (key === "" || key.length > IDEMPOTENCY_KEY_CHARACTERS_MAX) {
    throw new AppError("request.header_invalid", "Idempotency-Key must have 1 to 255 characters.");
  }
  return key;
}
