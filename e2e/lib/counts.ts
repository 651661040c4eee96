/** What a long scenario did, in figures: shown of passed tests too, of which vitest keeps everything else to itself. */
export function printCounts(name: string, counts: Record<string, unknown>): void {
  process.stderr.write(`${name}: ${JSON.stringify(counts, null, 1)}\n`);
}
