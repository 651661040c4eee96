/**
 * Webhooks: which events are told, when a failed call is made again, and how a call is signed (Standard Webhooks: `webhook-id` is the same on every retry,
 * `webhook-timestamp` that of the attempt). Pure. The schedule and the rules are published in docs/webhooks.md.
 */
import { createHmac } from "node:crypto";
import { Webhook } from "standardwebhooks";

export const WEBHOOK_EVENTS = ["start", "output", "logs", "completed"] as const;
export type WebhookEvent = (typeof WEBHOOK_EVENTS)[number];

/** `output` and `logs` of a prediction are told no more often than this, from one's answer to the next call. */
export const WEBHOOK_THROTTLE_MS = 500;
/** Pauses between the attempts of a terminal event: 12 in all. Others are tried once, as Replicate does: what they say, the next says again. */
const RETRY_PAUSES_MS = [
  ...[1_000, 5_000, 15_000, 60_000],
  ...[5 * 60_000, 30 * 60_000],
  ...[2, 5, 10, 24, 30].map((hours) => hours * 3_600_000),
];
/** Each pause is drawn from this part around its length, so that a receiver that comes back is not met by all at once. */
const JITTER = 0.1;
/** No attempt is made later than this after the event, whatever jitter and receivers add. */
export const WEBHOOK_GIVE_UP_MS = 72 * 3_600_000;
/** A receiver's Retry-After lengthens a pause to this at most. */
const RETRY_AFTER_MAX_MS = 3_600_000;
/** A larger body goes without output, logs and input. */
export const WEBHOOK_BODY_BYTES_MAX = 1_048_576;
/** After a rotation the old key signs as well for this long. */
export const WEBHOOK_KEY_OVERLAP_MS = 86_400_000;
/** Bytes of a key: 24 to 64 by the standard; 24 make base64 without padding. */
const KEY_BYTES = 24;

/**
 * Why an attempt failed. `network`: no connection, or the address is not public. `redirect`: redirects are not followed. `gone`: the receiver answered 410,
 * which ends the retries.
 */
export const WEBHOOK_ERRORS = ["timeout", "network", "redirect", "status", "gone"] as const;
export type WebhookError = (typeof WEBHOOK_ERRORS)[number];

export interface WebhookAttempt {
  /** epoch milliseconds */
  at: number;
  duration_ms: number;
  /** HTTP status; null when there was no answer */
  status: number | null;
  error: WebhookError | null;
  /** asked for by hand */
  is_replay: boolean;
}

/** Only what was asked for is told: without a filter everything. */
export function isWanted(event: WebhookEvent, filter: readonly string[] | null): boolean {
  return filter === null || filter.includes(event);
}

/** What the status of an answer means for the call. */
export function errorOfStatus(status: number): WebhookError | null {
  if (status >= 200 && status < 300) return null;
  if (status === 410) return "gone";
  return status >= 300 && status < 400 ? "redirect" : "status";
}

/**
 * When a terminal event is tried again after its `tried`-th failed attempt; null when it is given up. `random` is in [0, 1); `retryAfterMs` is what the
 * receiver asked for.
 */
export function nextAttemptAt(
  event: { created_at: number; tried: number },
  failure: { now: number; error: WebhookError; retryAfterMs: number | null },
  random: number,
): number | null {
  const pause = RETRY_PAUSES_MS[event.tried - 1];
  if (pause === undefined || failure.error === "gone") return null;
  const jittered = pause * (1 - JITTER + 2 * JITTER * random);
  const asked = Math.min(failure.retryAfterMs ?? 0, RETRY_AFTER_MAX_MS);
  const last = event.created_at + WEBHOOK_GIVE_UP_MS;
  const next = failure.now + Math.round(Math.max(jittered, asked));
  return failure.now >= last ? null : Math.min(next, last);
}

/** Milliseconds of a Retry-After header: seconds or a date. Null where it says nothing. */
export function parseRetryAfter(header: string | null, now: number): number | null {
  if (header === null) return null;
  if (/^\d{1,9}$/.test(header.trim())) return Number(header) * 1_000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - now);
}

/**
 * An account's key: derived, so that no store holds it. `generation` is random, and new at each rotation. Standard base64 without `_`, since a client
 * takes what follows the last `_` for the key.
 */
export function webhookKey(signingSecret: string, accountId: string, generation: string): string {
  const bytes = createHmac("sha256", signingSecret).update(`webhook-key\n${accountId}\n${generation}`).digest();
  return `whsec_${Buffer.from(bytes.subarray(0, KEY_BYTES)).toString("base64")}`;
}

/** The headers of one attempt, signed with each of `keys`: receivers take any of them. */
export function signedHeaders(
  keys: readonly string[],
  /** `event`: one of a prediction, or the type of an alert */
  message: { id: string; event: string; body: string },
  now: number,
): Record<string, string> {
  const at = new Date(now);
  return {
    "content-type": "application/json",
    "user-agent": "Cogway-Webhooks/1",
    "webhook-id": message.id,
    "webhook-timestamp": String(Math.floor(now / 1_000)),
    "webhook-signature": keys.map((key) => new Webhook(key).sign(message.id, at, message.body)).join(" "),
    "cogway-event": message.event,
  };
}

/** The bytes that are sent: the document, or where that is too large what it is without its data. `urls.get` has the rest. */
export function webhookBody(shown: Record<string, unknown>): string {
  const text = JSON.stringify(shown);
  // A character takes 1 to 3 bytes of UTF-8: only texts near the bound are counted.
  const isSmall = text.length * 3 <= WEBHOOK_BODY_BYTES_MAX;
  if (isSmall || new TextEncoder().encode(text).byteLength <= WEBHOOK_BODY_BYTES_MAX) return text;
  return JSON.stringify({ ...shown, input: {}, output: null, logs: "", truncated: true });
}
