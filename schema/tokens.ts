/**
 * API tokens: `cw_` + 30 random base62 characters + the CRC32 of those in base62, left-padded to 6.
 * The checksum lets a scanner find leaked tokens and lets us refuse a mistyped one without a look-up.
 */
import { randomInt } from "node:crypto";
import { sha256Hex } from "./ids.ts";

const BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const TOKEN_PATTERN = /^cw_([0-9A-Za-z]{30})([0-9A-Za-z]{6})$/;

/** CRC-32 (ISO 3309, the polynomial of zip and PNG) of ASCII text. */
function crc32(text: string): number {
  let crc = 0xffffffff;
  for (let i = 0; i < text.length; i++) {
    crc ^= text.charCodeAt(i);
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

function checksum(random: string): string {
  let value = crc32(random);
  let out = "";
  while (value > 0) {
    out = (BASE62[value % 62] ?? "0") + out;
    value = Math.floor(value / 62);
  }
  return out.padStart(6, "0");
}

/** A new token. It is shown once; only {@link hashToken} of it is stored. */
export function newToken(): string {
  let random = "";
  for (let i = 0; i < 30; i++) random += BASE62[randomInt(62)];
  return `cw_${random}${checksum(random)}`;
}

/** True when the shape and the checksum are right: nothing is looked up for any other text. */
export function isTokenWellFormed(token: string): boolean {
  const match = TOKEN_PATTERN.exec(token);
  return match !== null && checksum(match[1] ?? "") === match[2];
}

/** What is stored of a token. One SHA-256 is enough for 178 random bits; slow hashes are for passwords. */
export function hashToken(token: string): string {
  return sha256Hex(token);
}

/** Hexadecimal characters of a token's id: 80 bits, far from guessing the 178 of the token. */
export const TOKEN_ID_LENGTH = 20;

/** What a token is called in addresses and lists: the start of its hash. */
export function tokenId(hash: string): string {
  return hash.slice(0, TOKEN_ID_LENGTH);
}

/**
 * Everything a token may be allowed to do. Trainings and batches need those of predictions, collections and search those of models, members of an
 * organization those of the account. `metrics:read` and `admin` are the operator's, and imply its routes only.
 */
export const SCOPES = [
  "predictions:read",
  "predictions:write",
  "models:read",
  "models:write",
  "deployments:read",
  "deployments:write",
  "files:read",
  "files:write",
  "account:read",
  "account:write",
  "billing:read",
  "billing:write",
  "webhooks:secret",
  "tokens:admin",
  "metrics:read",
  "admin",
] as const;
export type Scope = (typeof SCOPES)[number];
