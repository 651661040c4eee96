/** docs/security.md says which file does what and which test shows it: a name that nothing has any more fails here. */
import { existsSync, globSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";

const ROOT = join(import.meta.dirname, "../..");
const PAGE = readFileSync(join(ROOT, "docs/security.md"), "utf8");
const IS_TEST = /\.(test|e2e)\.ts$/;

interface Reference {
  path: string;
  /** names or words of a test that the page quotes behind it */
  quoted: string[];
}

/** The rows of all tables: control, code and test. */
const rows = PAGE.split("\n")
  .filter((line) => /^\| (?!---|item|threat)/.test(line))
  .map((line) => line.slice(2, -2).split(" | "));

/** Files in backticks; one without a folder is in the folder of the one before it. */
function references(cell: string): Reference[] {
  let folder = ".";
  return [...cell.matchAll(/`([^`]+)`([^`]*)/g)].flatMap(([, name = "", behind = ""]) => {
    if (!/\.(ts|json|toml)$|\/$/.test(name)) return [];
    const path = name.includes("/") ? name : existsSync(join(ROOT, name)) ? name : `${folder}/${name}`;
    folder = dirname(path);
    return [{ path, quoted: [...behind.matchAll(/"([^"]+)"/g)].map(([, words = ""]) => words) }];
  });
}

function filesOf(path: string): string[] {
  return path.includes("*") ? globSync(path, { cwd: ROOT }) : existsSync(join(ROOT, path)) ? [path] : [];
}

/** What is wrong with what one row names. */
function faults([, , code = "", test = ""]: string[]): string[] {
  const named = [...references(code), ...references(test)];
  const wrong = named.flatMap(({ path, quoted }) => {
    const files = filesOf(path);
    if (files.length === 0) return [`${path} does not exist`];
    const text = files.map((file) => (file.endsWith("/") ? "" : readFileSync(join(ROOT, file), "utf8"))).join("\n");
    return quoted.filter((words) => !text.includes(words)).map((words) => `${path} has no "${words}"`);
  });
  if (references(code).length === 0) wrong.push("names no code");
  const isShown = references(test).some(({ path }) => IS_TEST.test(path)) || test.includes("`npm run check`");
  return isShown ? wrong : [...wrong, "names no test"];
}

describe("docs/security.md", () => {
  it("has all of OWASP's ten, and what is special here", () => {
    for (let item = 1; item <= 10; item += 1)
      expect(rows.filter(([name]) => name?.startsWith(`${item} `))).toHaveLength(1);
    expect(rows.length).toBeGreaterThanOrEqual(20);
  });

  it.each(rows.map((row) => [row[0] ?? "", row] as const))("names code and tests that exist: %s", (_control, row) => {
    expect(row).toHaveLength(4);
    expect(faults(row)).toEqual([]);
  });

  it("is checked for files, folders, words and rows without either", () => {
    const code = "`schema/ids.ts`";
    const test = "`schema/ids.test.ts`";
    expect(faults(["", "", code, test])).toEqual([]);
    expect(faults(["", "", "`schema/gone.ts`", test])).toEqual(["schema/gone.ts does not exist"]);
    expect(faults(["", "", "`schema/ids.ts`, `gone.ts`", test])).toEqual(["schema/gone.ts does not exist"]);
    expect(faults(["", "", code, '`schema/ids.test.ts` ("no such words")'])).toEqual([
      'schema/ids.test.ts has no "no such words"',
    ]);
    expect(faults(["", "", "all over", code])).toEqual(["names no code", "names no test"]);
  });
});
