/** The tests of the platform's limits grow with the objects: each one that wrangler.toml binds is in one of them. */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";

const ROOT = join(import.meta.dirname, "../..");
const bindings = [...readFileSync(join(ROOT, "wrangler.toml"), "utf8").matchAll(/^name = "([A-Z_]+)"\nclass_name/gm)];
const tests = globSync("{durable-objects,workers}/*.limits.test.ts", { cwd: ROOT })
  .map((file) => readFileSync(join(ROOT, file), "utf8"))
  .join("\n");

it.each(bindings.map(([, name = ""]) => name))("%s has a test of the platform's limits", (name) => {
  expect(tests).toMatch(new RegExp(`\\b${name}\\b`));
});
