/**
 * Ids and references. An id is a capability only in so far as it cannot be guessed: every read still checks the owner.
 * Pure but for randomness, which callers can pass in.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";

const BASE32 = "abcdefghijklmnopqrstuvwxyz234567";
/** Characters of a prediction or training id: 1 that names its object, 20 random (100 bits), 5 keyed check characters (25 bits). */
export const PREDICTION_ID_LENGTH = 26;
const CHECK_LENGTH = 5;
/** The first character names the PredictionObject, so a pool may grow to 32 objects a region and no prediction moves. */
export const PREDICTION_POOL_MAX = 32;

/** The names of all objects that predictions may lie in. */
export const PREDICTION_POOL: readonly string[] = [...BASE32];

function toBase32(bytes: Uint8Array, length: number): string {
  let bits = 0;
  let value = 0;
  let out = "";
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5 && out.length < length) {
      out += BASE32[(value >>> (bits - 5)) & 31];
      bits -= 5;
    }
    value &= (1 << bits) - 1;
  }
  return out;
}

function checkCharacters(kind: "prediction" | "file", body: string, secret: string): string {
  return toBase32(createHmac("sha256", secret).update(`${kind}-id:${body}`).digest(), CHECK_LENGTH);
}

function isChecked(kind: "prediction" | "file", id: string, secret: string): boolean {
  if (!/^[a-z2-7]{26}$/.test(id)) return false;
  const body = id.slice(0, -CHECK_LENGTH);
  return timingSafeEqual(Buffer.from(id.slice(-CHECK_LENGTH)), Buffer.from(checkCharacters(kind, body, secret)));
}

/**
 * A new prediction id in the pool of `poolSize` objects (1 to {@link PREDICTION_POOL_MAX}).
 * `random` is 21 random bytes or more; it is a parameter only for tests.
 */
export function newPredictionId(secret: string, poolSize: number, random: Uint8Array = randomBytes(21)): string {
  const shard = BASE32[(random[0] ?? 0) % Math.min(Math.max(poolSize, 1), PREDICTION_POOL_MAX)] ?? "a";
  const body = shard + toBase32(random.subarray(1), PREDICTION_ID_LENGTH - CHECK_LENGTH - 1);
  return body + checkCharacters("prediction", body, secret);
}

/** True when `id` was made by us. A guessed id is refused here, before any object is touched. */
export function isPredictionId(id: string, secret: string): boolean {
  return isChecked("prediction", id, secret);
}

/** An id of a file or of its upload: 21 random characters (105 bits), then 5 keyed check characters. Its account is not in it. */
export function newFileId(secret: string): string {
  const body = newId(PREDICTION_ID_LENGTH - CHECK_LENGTH);
  return body + checkCharacters("file", body, secret);
}

/** The same of a file's id. */
export function isFileId(id: string, secret: string): boolean {
  return isChecked("file", id, secret);
}

/** The name of the PredictionObject that holds `id`. */
export function predictionObjectName(id: string): string {
  return id.slice(0, 1);
}

/** A random id of `length` base32 characters (5 bits each) for things that are not predictions: instances, origins, requests. */
export function newId(length = 26): string {
  return toBase32(randomBytes(Math.ceil((length * 5) / 8)), length);
}

/** Lower-case hex SHA-256. */
export function sha256Hex(data: string | Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** Names of accounts, models and deployments, as they stand in URLs. Both official clients accept these characters. */
export const NAME_PATTERN = /^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$/;
export const VERSION_ID_PATTERN = /^[0-9a-f]{64}$/;

/** What a caller may put in `version`: a bare version id, `owner/name`, or `owner/name:version`. */
export type ModelReference =
  | { kind: "version"; version: string }
  | { kind: "model"; owner: string; name: string }
  | { kind: "model_version"; owner: string; name: string; version: string };

/** Parses a reference as the official clients split it: at the first `/` and the first following `:`. Null when it is none. */
export function parseModelReference(text: string): ModelReference | null {
  if (VERSION_ID_PATTERN.test(text)) return { kind: "version", version: text };
  const slash = text.indexOf("/");
  if (slash < 0) return null;
  const owner = text.slice(0, slash);
  const rest = text.slice(slash + 1);
  const colon = rest.indexOf(":");
  const name = colon < 0 ? rest : rest.slice(0, colon);
  if (!NAME_PATTERN.test(owner) || !NAME_PATTERN.test(name)) return null;
  if (colon < 0) return { kind: "model", owner, name };
  return { kind: "model_version", owner, name, version: rest.slice(colon + 1) };
}
