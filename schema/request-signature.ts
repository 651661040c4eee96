/**
 * Signatures between the edge and an origin, both ways: HMAC-SHA256 over method, path with query, body digest, time and nonce,
 * under a key that belongs to one origin. Short-lived: a receiver refuses what is older or newer than the window.
 * The receiver of edge calls (the origin) remembers nonces for the window; calls of an origin are idempotent by (attempt, i) instead.
 */
import { createHash, createHmac, randomBytes, timingSafeEqual } from "node:crypto";

export const SIGNATURE_WINDOW_MS = 60_000;
export const HEADER_KEY_ID = "cogway-key-id";
export const HEADER_TIMESTAMP = "cogway-timestamp";
export const HEADER_NONCE = "cogway-nonce";
export const HEADER_BODY_SHA256 = "cogway-body-sha256";
export const HEADER_SIGNATURE = "cogway-signature";

/** Lower-case hex SHA-256 of a body; the empty body has one too. */
export function bodyDigest(body: string | Uint8Array): string {
  return createHash("sha256").update(body).digest("hex");
}

export interface SigningKey {
  key_id: string;
  /** base64 of 32 random bytes */
  secret: string;
}

interface SignedParts {
  method: string;
  /** path and query exactly as requested, such as `/v1/attempts/abc/1?x=1` */
  path: string;
  body_sha256: string;
  timestamp_ms: string;
  nonce: string;
  key_id: string;
}

function signatureOf(parts: SignedParts, secret: string): Buffer {
  const text = [
    "cogway-v1",
    parts.method.toUpperCase(),
    parts.path,
    parts.body_sha256,
    parts.timestamp_ms,
    parts.nonce,
    parts.key_id,
  ].join("\n");
  return createHmac("sha256", Buffer.from(secret, "base64")).update(text).digest();
}

/** Headers that sign one request. `now` is epoch milliseconds. `body_sha256` may be given for a body that is streamed. */
export function signRequest(
  key: SigningKey,
  request: { method: string; path: string; body?: string | Uint8Array; body_sha256?: string },
  now: number,
): Record<string, string> {
  const parts: SignedParts = {
    method: request.method,
    path: request.path,
    body_sha256: request.body_sha256 ?? bodyDigest(request.body ?? ""),
    timestamp_ms: String(now),
    nonce: Buffer.from(randomBytes(16)).toString("base64url"),
    key_id: key.key_id,
  };
  return {
    [HEADER_KEY_ID]: parts.key_id,
    [HEADER_TIMESTAMP]: parts.timestamp_ms,
    [HEADER_NONCE]: parts.nonce,
    [HEADER_BODY_SHA256]: parts.body_sha256,
    [HEADER_SIGNATURE]: Buffer.from(signatureOf(parts, key.secret)).toString("base64url"),
  };
}

export type VerifyResult =
  | { ok: true; key_id: string; nonce: string; body_sha256: string }
  | { ok: false; reason: "missing" | "stale" | "unknown_key" | "bad_signature" | "bad_digest" };

/**
 * Verifies the headers of one request. With `body` the digest is checked too; without it (a streamed body) the caller must compare
 * `body_sha256` of the answer with what it read. `secretOf` gives the secret of a live key, or null.
 */
export function verifyRequest(
  request: {
    method: string;
    path: string;
    header: (name: string) => string | null | undefined;
    body?: string | Uint8Array;
  },
  secretOf: (keyId: string) => string | null,
  now: number,
): VerifyResult {
  const key_id = request.header(HEADER_KEY_ID);
  const timestamp_ms = request.header(HEADER_TIMESTAMP);
  const nonce = request.header(HEADER_NONCE);
  const body_sha256 = request.header(HEADER_BODY_SHA256);
  const signature = request.header(HEADER_SIGNATURE);
  if (!key_id || !timestamp_ms || !nonce || !body_sha256 || !signature) return { ok: false, reason: "missing" };
  const age = Math.abs(now - Number(timestamp_ms));
  if (!(age <= SIGNATURE_WINDOW_MS)) return { ok: false, reason: "stale" };
  const secret = secretOf(key_id);
  if (secret === null) return { ok: false, reason: "unknown_key" };
  const expected = signatureOf(
    { method: request.method, path: request.path, body_sha256, timestamp_ms, nonce, key_id },
    secret,
  );
  const given = Buffer.from(signature, "base64url");
  if (given.length !== expected.length || !timingSafeEqual(given, expected))
    return { ok: false, reason: "bad_signature" };
  if (request.body !== undefined && bodyDigest(request.body) !== body_sha256)
    return { ok: false, reason: "bad_digest" };
  return { ok: true, key_id, nonce, body_sha256 };
}
