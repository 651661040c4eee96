/** Names of the OCI distribution API, as its specification spells them. Pure. */
import { NAME_PATTERN } from "../../schema/ids.ts";

const REPOSITORY = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:\/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const DIGEST = /^(?:sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
/** Of a whole name, by the specification. */
const REPOSITORY_CHARACTERS_MAX = 255;

export type DigestAlgorithm = "sha256" | "sha512";

/** Every model's name passes, also one that the specification would not take (two dots in a row): some clients do not ask. */
export function isRepositoryName(name: string): boolean {
  return ownerAndName(name) !== null || (name.length <= REPOSITORY_CHARACTERS_MAX && REPOSITORY.test(name));
}

export function isTag(text: string): boolean {
  return TAG.test(text);
}

export function isDigest(text: string): boolean {
  return DIGEST.test(text);
}

export function digestAlgorithm(digest: string): DigestAlgorithm {
  return digest.startsWith("sha512:") ? "sha512" : "sha256";
}

/** Owner and name of the model that a repository is of; null for a name that no model has. */
export function ownerAndName(repository: string): [owner: string, name: string] | null {
  const parts = repository.split("/");
  const [owner = "", name = ""] = parts;
  return parts.length === 2 && NAME_PATTERN.test(owner) && NAME_PATTERN.test(name) ? [owner, name] : null;
}

/** First and last byte of a chunk's `Content-Range`, which here has no unit before it; null where it cannot be read. */
export function parseChunkRange(header: string): { first: number; last: number } | null {
  const match = /^(?:bytes[ =])?(\d{1,15})-(\d{1,15})(?:\/(?:\d{1,15}|\*))?$/.exec(header.trim());
  if (match === null) return null;
  const [first, last] = [Number(match[1]), Number(match[2])];
  return last < first ? null : { first, last };
}
