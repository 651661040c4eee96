/** Reads vitest's JSON report. What is no test but went wrong is a fault, and counts as failed. */
import { readFileSync } from "node:fs";
import { z } from "zod";

const ReportSchema = z.object({
  numTotalTests: z.number(),
  numPassedTests: z.number(),
  numFailedTests: z.number(),
  numPendingTests: z.number(),
  testResults: z.array(
    z.object({ name: z.string(), status: z.string(), assertionResults: z.array(z.object({ status: z.string() })) }),
  ),
});

export interface Sums {
  passed: number;
  /** tests and faults */
  failed: number;
  faults: string[];
}

/** `exitCode` is vitest's. */
export function sumsOf(path: string, exitCode: number | null): Sums {
  const report = readReport(path);
  if (report === null) return { passed: 0, failed: 1, faults: [`vitest ended with ${exitCode} and gave no report`] };
  const faults = report.testResults
    .filter(
      ({ status, assertionResults }) =>
        status === "failed" && assertionResults.every((each) => each.status !== "failed"),
    )
    .map(({ name }) => `${name} could not be run`);
  if (report.numTotalTests === 0 && faults.length === 0) faults.push("no tests were found");
  if (report.numPendingTests > 0) faults.push(`${report.numPendingTests} tests were skipped`);
  if (exitCode !== 0 && report.numFailedTests + faults.length === 0) {
    faults.push(`vitest ended with ${exitCode}: an error outside of tests`);
  }
  return { passed: report.numPassedTests, failed: report.numFailedTests + faults.length, faults };
}

function readReport(path: string): z.infer<typeof ReportSchema> | null {
  try {
    return ReportSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    return null;
  }
}
