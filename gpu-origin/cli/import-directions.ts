/** Which part may import which: `workers -> durable-objects -> schema <- gpu-origin`. The folder says the runtime; edge and origin never import each other. */
import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { parseSync } from "oxc-parser";

/** Longest folder first: a file belongs to the first that holds it. Files elsewhere (tests of the whole, benches, configuration) may import anything. */
const AREAS: { folder: string; mayImport: string[] }[] = [
  { folder: "workers/web", mayImport: ["workers/web", "schema"] },
  { folder: "gpu-origin/cli", mayImport: ["gpu-origin/cli", "gpu-origin", "schema"] },
  { folder: "workers", mayImport: ["workers", "durable-objects", "schema"] },
  { folder: "durable-objects", mayImport: ["durable-objects", "schema"] },
  { folder: "schema", mayImport: ["schema"] },
  { folder: "gpu-origin", mayImport: ["gpu-origin", "schema"] },
];

/** The imports of these files, relative to `root`, that go the wrong way: one line each. */
export function wrongImports(root: string, files: string[]): string[] {
  return files.flatMap((file) =>
    importsOf(join(root, file), file)
      .filter((target) => target.startsWith("."))
      .map((target) => normalize(join(dirname(file), target)))
      .flatMap((target) => {
        const fault = faultOf(file, target);
        return fault === null ? [] : [`${file} imports ${target}: ${fault}`];
      }),
  );
}

/** Null when `file` may import `target`. */
export function faultOf(file: string, target: string): string | null {
  const from = areaOf(file);
  if (from === null) return null;
  if (!isTestCode(file) && isTestCode(target)) return "production code must not import what is for tests";
  const to = areaOf(target)?.folder ?? null;
  if (to === null ? !/\.(ts|tsx|mjs)$/.test(target) : from.mayImport.includes(to)) return null;
  return `${from.folder} may import only ${from.mayImport.join(", ")}`;
}

function areaOf(path: string): (typeof AREAS)[number] | null {
  return AREAS.find(({ folder }) => path.startsWith(`${folder}/`)) ?? null;
}

function isTestCode(path: string): boolean {
  return /\.test\.tsx?$|\/testing\//.test(path);
}

/** Every module that a file names: static and dynamic imports and re-exports, those of types too. */
function importsOf(path: string, name: string): string[] {
  const source = readFileSync(path, "utf8");
  const { module } = parseSync(name, source);
  const exported = module.staticExports.flatMap(({ entries }) =>
    entries.map(({ moduleRequest }) => moduleRequest?.value),
  );
  const dynamic = module.dynamicImports.map(({ moduleRequest: { start, end } }) => source.slice(start + 1, end - 1));
  return [...module.staticImports.map(({ moduleRequest }) => moduleRequest.value), ...exported, ...dynamic].filter(
    (target) => target !== undefined,
  );
}
