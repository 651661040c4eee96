/** Where things lie in the repository. */
import { existsSync, readdirSync } from "node:fs";
import { join, resolve } from "node:path";

export const ROOT = resolve(import.meta.dirname, "../..");
export const EDGE_BUILD = join(ROOT, "dist/edge");
export const PAGE_BUILD = join(ROOT, "dist/web");

/** Every folder of a Cog model under examples/models is an example. */
export function exampleNames(): string[] {
  const folder = join(ROOT, "examples", "models");
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => existsSync(join(folder, name, "cog.yaml")))
    .sort();
}
