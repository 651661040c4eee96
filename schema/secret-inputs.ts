/**
 * Which inputs of a model are secrets (Cog's `Secret`, or a list of them), and their values kept out of what the model prints. Shared by the edge, which
 * shows them redacted, and by the origin, which sees the model's lines first.
 */

type Json = Record<string, unknown>;

export const REDACTED = "[REDACTED]";
/** Shorter ones are parts of ordinary words and numbers: replaced everywhere, they would spoil the logs and be guessed from the gaps. */
const MASKED_CHARACTERS_MIN = 6;

/** `property` is an input's schema, its references put in place or not. */
export function isSecretInput(property: unknown): boolean {
  if (!isObject(property)) return false;
  return property["x-cog-secret"] === true || isSecretInput(property["items"]);
}

/** The secrets of `input`, for {@link maskSecrets}: each value, and each line of it, since logs come by lines. */
export function secretTexts(properties: Json, input: Json): string[] {
  const texts = Object.entries(input)
    .filter(([name]) => Object.hasOwn(properties, name) && isSecretInput(properties[name]))
    .flatMap(([, value]) => (Array.isArray(value) ? value : [value]))
    .filter((value) => typeof value === "string")
    .flatMap((value) => [value, ...value.split("\n").map((line) => line.trim())])
    .filter((text) => text.length >= MASKED_CHARACTERS_MIN);
  // The longest first: one may be part of another.
  return [...new Set(texts)].sort((a, b) => b.length - a.length);
}

export function maskSecrets(text: string, secrets: readonly string[]): string {
  return secrets.reduce((masked, secret) => masked.replaceAll(secret, REDACTED), text);
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
