/** What callers say of a file: its name, type, metadata and retention, judged. Every fault is named at once. Pure. */
import { parseDuration } from "../../schema/durations.ts";
import { FILE_METADATA_BYTES_MAX, FILE_NAME_BYTES_MAX, FILE_RETENTION_MS } from "../../schema/files.ts";
import { AppError, type InvalidField } from "../../schema/problems.ts";
import { exceedsDepth } from "../middleware/json-body.ts";
import { faultsDetail } from "./validate-input.ts";

const TYPE_DEFAULT = "application/octet-stream";
/** RFC 6838 bounds each half to 127 characters; parameters follow. */
const TYPE_PATTERN = /^[\w!#$&^.+-]{1,127}\/[\w!#$&^.+-]{1,127}(?:\s*;[\x20-\x7e]{0,200})?$/;
/** A shorter one ends before anything can be done with the file. */
const RETENTION_MIN_MS = 60_000;
const METADATA_DEPTH_MAX = 64;

export interface FileClaims {
  name: string;
  content_type: string | undefined;
  /** JSON text; empty and absent are `{}` */
  metadata: string | undefined;
  retention: string | undefined;
}

/** Throws `file.invalid` with every fault. */
export function fileIntent(claims: FileClaims): {
  name: string;
  content_type: string;
  metadata: Record<string, unknown>;
  retention_ms: number | null;
} {
  const faults: InvalidField[] = [];
  const fault = (field: string, description: string): void => {
    faults.push({ type: "format", field, description });
  };
  // A path of the sender's machine says nothing here (RFC 7578, section 4.2).
  const name = claims.name.split(/[/\\]/).at(-1) || "file";
  if (new TextEncoder().encode(name).length > FILE_NAME_BYTES_MAX) {
    fault("filename", `Must have at most ${FILE_NAME_BYTES_MAX} bytes of UTF-8`);
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
  if (/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/.test(name)) fault("filename", "Must hold no control characters");
  if (!name.isWellFormed()) fault("filename", "Must be well-formed text");
  const content_type = (claims.content_type ?? "").trim() || TYPE_DEFAULT;
  if (!TYPE_PATTERN.test(content_type)) fault("type", "Must be a media type, such as image/png");
  const metadata = parseMetadata(claims.metadata ?? "");
  if (typeof metadata === "string") fault("metadata", metadata);
  const retention_ms = parseRetention(claims.retention);
  if (retention_ms === undefined) fault("retention", "Must be at least 60s, such as 7d or 12h, or forever");
  if (faults.length > 0 || typeof metadata === "string" || retention_ms === undefined) {
    throw new AppError("file.invalid", faultsDetail(faults), { invalid_fields: faults });
  }
  return { name, content_type, metadata, retention_ms };
}

/** The object, or what is wrong with it. */
function parseMetadata(text: string): Record<string, unknown> | string {
  if (text.trim() === "") return {};
  if (new TextEncoder().encode(text).length > FILE_METADATA_BYTES_MAX) {
    return `Must have at most ${FILE_METADATA_BYTES_MAX} bytes`;
  }
  if (exceedsDepth(text, METADATA_DEPTH_MAX)) return `Must not be nested deeper than ${METADATA_DEPTH_MAX} levels`;
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  } catch {
    // Said below.
  }
  return "Must be a JSON object";
}

/** Milliseconds; null is forever; undefined is wrong. */
function parseRetention(text: string | undefined): number | null | undefined {
  if (text === undefined || text.trim() === "") return FILE_RETENTION_MS;
  if (text.trim().toLowerCase() === "forever") return null;
  const ms = parseDuration(text.trim());
  return ms === null || ms < RETENTION_MIN_MS || ms > Number.MAX_SAFE_INTEGER / 1_000 ? undefined : ms;
}
