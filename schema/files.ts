/**
 * Files that callers upload: their form, their bounds, and the signed addresses that hand out their bytes without a token. Pure.
 *
 * The signature is Replicate's: base64 of HMAC-SHA256 over "{owner} {id} {expiry}". `owner` is the account's id, so that a download finds the
 * AccountObject that has the file with no look-up, and `expiry` is in seconds since 1970.
 */
import { createHmac, timingSafeEqual } from "node:crypto";

/** One request's file, as at Replicate; larger ones come in parts. */
export const FILE_BYTES_MAX = 104_857_600;
/** A file in parts. */
export const UPLOAD_BYTES_MAX = 5 * 1024 ** 3;
/** Each part but the last has exactly these bytes: R2 wants equal parts of at least 5 MiB. */
export const UPLOAD_PART_BYTES = 8_388_608;
/** Bytes of UTF-8. */
export const FILE_NAME_BYTES_MAX = 255;
export const FILE_METADATA_BYTES_MAX = 16_384;
/** How long a file is kept, unless its upload says otherwise; and how long it is kept at least after it was last given to a prediction. */
export const FILE_RETENTION_MS = 86_400_000;

/** A whole file, as its account keeps it. */
export interface StoredFile {
  id: string;
  name: string;
  content_type: string;
  size_bytes: number;
  /** lower-case hex */
  sha256: string;
  /** lower-case hex; also the entity tag */
  md5: string;
  metadata: Record<string, unknown>;
  created_at: number;
  /** null is never */
  expires_at: number | null;
}

/** Where its bytes are in R2. */
export function fileKey(id: string): string {
  return `files/${id}`;
}

/** How many parts a file of this size has, and how many bytes part `n` (from 1) has. */
export function uploadParts(sizeBytes: number): { count: number; sizeOf: (n: number) => number } {
  const count = Math.ceil(sizeBytes / UPLOAD_PART_BYTES);
  return { count, sizeOf: (n) => (n < count ? UPLOAD_PART_BYTES : sizeBytes - (count - 1) * UPLOAD_PART_BYTES) };
}

function signature(secret: string, owner: string, id: string, expiryS: number): string {
  return createHmac("sha256", `files:${secret}`).update(`${owner} ${id} ${expiryS}`).digest("base64");
}

/** Path and query, below the public URL, that give the bytes of the file to whoever holds them, until `expiresAt`. */
export function downloadPath(secret: string, owner: string, id: string, expiresAt: number): string {
  const expiry = Math.floor(expiresAt / 1_000);
  const query = new URLSearchParams({ owner, expiry: String(expiry), signature: signature(secret, owner, id, expiry) });
  return `/v1/files/${id}/download?${query}`;
}

export function isDownloadSignatureValid(
  secret: string,
  { owner, id, expiry, signature: given }: { owner: string; id: string; expiry: string; signature: string },
  now: number,
): boolean {
  // One spelling of a time, so that one signature opens one address.
  if (!/^(?:0|[1-9]\d{0,14})$/.test(expiry) || Number(expiry) * 1_000 <= now) return false;
  const [a, b] = [Buffer.from(given), Buffer.from(signature(secret, owner, id, Number(expiry)))];
  return a.length === b.length && timingSafeEqual(a, b);
}

/**
 * The id of the caller's own file that `text` names: `urls.get` or `urls.download` of a file object. Null for everything else, also for signed
 * addresses of other accounts' files, which are URLs like any other. The account itself needs no signature, so none is looked at.
 */
export function ownFileId(text: string, publicUrl: string, accountId: string): string | null {
  if (!text.startsWith(`${publicUrl}/v1/files/`)) return null;
  const match = /^\/v1\/files\/([^/?#]+)(?:\/download(?:\?([^#]*))?)?$/.exec(text.slice(publicUrl.length));
  if (match === null) return null;
  const owner = new URLSearchParams(match[2]).get("owner");
  return owner === null || owner === accountId ? (match[1] ?? null) : null;
}
