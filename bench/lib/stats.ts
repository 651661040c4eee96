/** Percentiles and the line that says how busy the machine was: a figure without its load is not a measurement. */
import { cpus, loadavg } from "node:os";

export interface Summary {
  count: number;
  mean: number;
  p50: number;
  p90: number;
  p99: number;
  max: number;
}

/** Nearest-rank percentiles of `values` (any order). All zero when there are none. */
export function summarize(values: readonly number[]): Summary {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (q: number) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(q * sorted.length) - 1))] ?? 0;
  const sum = sorted.reduce((total, value) => total + value, 0);
  return {
    count: sorted.length,
    mean: sorted.length === 0 ? 0 : sum / sorted.length,
    p50: at(0.5),
    p90: at(0.9),
    p99: at(0.99),
    max: sorted[sorted.length - 1] ?? 0,
  };
}

/** Milliseconds with as many digits as they deserve. */
export function ms(value: number): string {
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0);
}

/** A difference, with its sign. */
export function signed(value: number): string {
  return `${value < 0 ? "-" : "+"}${ms(Math.abs(value))}`;
}

/** Prints rows as a Markdown table, so that a run's output can be pasted into bench/README.md as it is. */
export function printTable(head: string[], rows: (string | number)[][]): void {
  const cells = [head, head.map(() => "---"), ...rows.map((row) => row.map(String))];
  const widths = head.map((_, column) => Math.max(...cells.map((row) => (row[column] ?? "").length)));
  for (const row of cells)
    console.log(`| ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ")} |`);
}

export function printMachine(): void {
  const [one] = loadavg();
  console.log(
    `machine: ${cpus().length} cores, load average ${one?.toFixed(2)}, ${new Date().toISOString()}, Node ${process.versions.node}`,
  );
}
