import { describe, expect, it } from "vitest";
import { lostControls } from "./control-map.ts";

const FILES = ["workers/a.ts", "workers/b.ts", "workers/a.test.ts", "workers/rows.limits.test.ts", "package.json"];
const read = (path: string): string => (path === "workers/a.test.ts" ? 'it("refuses what is not signed", …' : "");

function lost(...rows: string[]): string[] {
  return lostControls(
    ["| item | control | code | test |", "| --- | --- | --- | --- |", ...rows].join("\n"),
    FILES,
    read,
  );
}

describe("the map of controls", () => {
  it("holds where all that it names is there", () => {
    expect(lost('| 1 signed | by key | `workers/a.ts`, `b.ts` | `workers/a.test.ts` ("not signed") |')).toEqual([]);
    expect(lost("| 2 bounds | named | `workers/` | `workers/*.limits.test.ts` |")).toEqual([]);
    expect(lost("| 3 pins | exact | `package.json` | `npm run check` |")).toEqual([]);
  });

  it("tells each file, title and cell that is not", () => {
    expect(lost('| 1 signed | by key | `workers/c.ts`, `a.ts`, `c.ts` | `workers/a.test.ts` ("unsigned") |')).toEqual([
      "1 signed: workers/c.ts is not there",
      "1 signed: workers/c.ts is not there",
      '1 signed: workers/a.test.ts has no test "unsigned"',
    ]);
    expect(lost("| 2 none | by hope |  |  |")).toEqual(["2 none: no code", "2 none: no test"]);
  });
});
