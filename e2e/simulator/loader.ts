/**
 * Loads the product's own source into this thread, as it is or with planted bugs: a patch replaces one piece of text, which must be there exactly once.
 * What only workerd has is replaced by a few lines, and what draws true random numbers by what draws the run's.
 */
import { readFileSync } from "node:fs";
import { registerHooks, stripTypeScriptTypes } from "node:module";
import { fileURLToPath } from "node:url";

export interface Patch {
  /** relative to the repository */
  file: string;
  find: string;
  replace: string;
}

const ROOT = new URL("../../", import.meta.url);

/** What stands in for a module of the platform. */
const STAND_INS: Record<string, string> = {
  "cloudflare:workers": "stand-ins/cloudflare-workers.ts",
  "node:crypto": "stand-ins/crypto.ts",
  "itty-durable/itty-durable.js": "stand-ins/itty-durable.ts",
  "itty-durable/proxy-durable.js": "stand-ins/itty-durable.ts",
};

/** The source of `file` with these patches. Throws where one does not apply. */
export function patched(file: string, source: string, patches: readonly Patch[]): string {
  let text = source;
  for (const { find, replace } of patches) {
    const parts = text.split(find);
    if (parts.length !== 2)
      throw new Error(`a planted bug does not apply: ${parts.length - 1} times in ${file}: ${find}`);
    text = parts.join(replace);
  }
  return text;
}

/** From now on, what this thread imports. Call it before the product is imported. */
export function loadWith(patches: readonly Patch[]): void {
  const byFile = Map.groupBy(patches, ({ file }) => new URL(file, ROOT).href);
  registerHooks({
    resolve(specifier, context, next) {
      const standIn = STAND_INS[specifier];
      if (standIn === undefined || context.parentURL?.includes("/stand-ins/") === true) return next(specifier, context);
      if (specifier === "node:crypto" && context.parentURL?.includes("/node_modules/") === true) {
        return next(specifier, context);
      }
      return { url: new URL(standIn, import.meta.url).href, shortCircuit: true };
    },
    load(url, context, next) {
      const own = byFile.get(url);
      if (own === undefined) return next(url, context);
      const source = readFileSync(fileURLToPath(url), "utf8");
      return { format: "module", source: stripTypeScriptTypes(patched(url, source, own)), shortCircuit: true };
    },
  });
}
