import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { faultOf, wrongImports } from "./import-directions.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "cogway-imports-"));
});
afterEach(() => rmSync(root, { recursive: true }));

function write(path: string, text: string): string {
  mkdirSync(dirname(join(root, path)), { recursive: true });
  writeFileSync(join(root, path), text);
  return path;
}

it.each([
  ["workers/app.ts", "durable-objects/stubs.ts"],
  ["workers/app.ts", "schema/ids.ts"],
  ["durable-objects/fleet-placement.ts", "schema/placement.ts"],
  ["gpu-origin/main.ts", "schema/ids.ts"],
  ["gpu-origin/cli/launcher.ts", "gpu-origin/log.ts"],
  ["workers/web/src/api.ts", "schema/api/common.ts"],
  ["workers/app.test.ts", "workers/testing/harness.ts"],
  ["e2e/lib/system.ts", "gpu-origin/models.ts"],
  ["workers/pages.test.ts", "docs/problems.md?raw"],
])("%s may import %s", (file, target) => expect(faultOf(file, target)).toBeNull());

it.each([
  ["workers/app.ts", "gpu-origin/log.ts"],
  ["gpu-origin/main.ts", "durable-objects/stubs.ts"],
  ["gpu-origin/cli/launcher.ts", "workers/app.ts"],
  ["gpu-origin/main.ts", "gpu-origin/cli/paths.ts"],
  ["schema/ids.ts", "durable-objects/stubs.ts"],
  ["durable-objects/fleet.ts", "workers/env.ts"],
  ["workers/web/src/api.ts", "workers/env.ts"],
  ["gpu-origin/main.ts", "gpu-origin/drivers/testing/fake.ts"],
  ["schema/ids.ts", "e2e/lib/wait.ts"],
])("%s may not import %s", (file, target) => expect(faultOf(file, target)).not.toBeNull());

it("sees imports, re-exports, types and dynamic imports, and only those", () => {
  const file = write(
    "schema/a.ts",
    [
      'import { one } from "../workers/one.ts";',
      'import type { Two } from "../workers/two.ts";',
      'export * from "../workers/three.ts";',
      'export const four = () => import("../workers/four.ts");',
      '// import "../workers/five.ts"',
      'export const six: Two = `import "../workers/six.ts"` + one;',
      'import { join } from "node:path";',
    ].join("\n"),
  );
  const targets = wrongImports(root, [file]).map((line) => /workers\/\w+/.exec(line)?.[0]);
  expect(targets.sort()).toEqual(["workers/four", "workers/one", "workers/three", "workers/two"]);
});
