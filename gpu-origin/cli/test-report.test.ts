import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { sumsOf } from "./test-report.ts";

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "cogway-report-"));
  path = join(folder, "report.json");
});
afterEach(() => rmSync(folder, { recursive: true }));

function report(tests: string[][], broken: string[] = []): void {
  const count = (status: string): number => tests.flat().filter((each) => each === status).length;
  const files = tests.map((statuses, i) => ({
    name: `${i}.test.ts`,
    status: statuses.includes("failed") ? "failed" : "passed",
    assertionResults: statuses.map((status) => ({ status })),
  }));
  writeFileSync(
    path,
    JSON.stringify({
      numTotalTests: tests.flat().length,
      numPassedTests: count("passed"),
      numFailedTests: count("failed"),
      numPendingTests: count("pending"),
      testResults: [...files, ...broken.map((name) => ({ name, status: "failed", assertionResults: [] }))],
    }),
  );
}

it("gives the report's own numbers", () => {
  report([
    ["passed", "passed"],
    ["passed", "failed"],
  ]);
  expect(sumsOf(path, 1)).toEqual({ passed: 3, failed: 1, faults: [] });
  report([["passed", "passed"]]);
  expect(sumsOf(path, 0)).toEqual({ passed: 2, failed: 0, faults: [] });
});

it("counts a file that does not load", () => {
  report([["passed"]], ["broken.test.ts"]);
  expect(sumsOf(path, 1)).toEqual({ passed: 1, failed: 1, faults: ["broken.test.ts could not be run"] });
});

it("counts a project without tests, a skipped test, an error outside of tests, and a run without a report", () => {
  report([]);
  expect(sumsOf(path, 1)).toMatchObject({ passed: 0, failed: 1 });
  report([["passed", "pending"]]);
  expect(sumsOf(path, 0)).toMatchObject({ passed: 1, failed: 1 });
  report([["passed"]]);
  expect(sumsOf(path, 1)).toMatchObject({ passed: 1, failed: 1 });
  expect(sumsOf(join(folder, "none.json"), null)).toMatchObject({ passed: 0, failed: 1 });
});
