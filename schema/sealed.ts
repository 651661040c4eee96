/**
 * Text that must not lie in a store in clear: inputs that hold secrets, while their predictions live. AES-256-GCM under a key made of the platform's signing
 * secret, so whoever has the disk alone reads nothing (a deleted row may stay in a database's free pages). What is not sealed is read as it is.
 */
import { createCipheriv, createDecipheriv, createHmac, randomBytes } from "node:crypto";

const PREFIX = "sealed:";
const IV_BYTES = 12;
const TAG_BYTES = 16;

function key(secret: string): Buffer {
  return createHmac("sha256", secret).update("cogway inputs at rest").digest();
}

export function seal(secret: string, text: string): string {
  const iv = randomBytes(IV_BYTES);
  const cipher = createCipheriv("aes-256-gcm", key(secret), iv);
  const body = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
  return PREFIX + Buffer.concat([iv, cipher.getAuthTag(), body]).toString("base64");
}

/** Throws where the text was sealed under another secret, or changed. */
export function unseal(secret: string, stored: string): string {
  if (!stored.startsWith(PREFIX)) return stored;
  const bytes = Buffer.from(stored.slice(PREFIX.length), "base64");
  const decipher = createDecipheriv("aes-256-gcm", key(secret), bytes.subarray(0, IV_BYTES));
  decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES));
  return decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES), undefined, "utf8") + decipher.final("utf8");
}
