/**
 * The real objects in seeded runs (world.ts). A failing seed prints the command that runs it again; planted bugs (bugs.ts) show that the checks find what they
 * are for. COGWAY_SIM_SEEDS sets another number of seeds, such as 100000 by night.
 */
import { availableParallelism } from "node:os";
import { describe, expect, it } from "vitest";
import { BUGS } from "./bugs.ts";
import { findBug, reproduce, runAll } from "./threads.ts";

const SEEDS = Number(process.env["COGWAY_SIM_SEEDS"] ?? 2_000);
const THREADS = Math.max(2, Math.min(8, availableParallelism()));
/** Seeds in which a planted bug must show. */
const SEEDS_TO_FIND = 1_000;

describe("the core", () => {
  it(`keeps its invariants in ${SEEDS} seeded runs`, { timeout: 240_000 + SEEDS * 100 }, async () => {
    const started = performance.now();
    const outcomes = await runAll(SEEDS, THREADS);
    const sum = (of: "turns" | "crashes" | "predictions"): number =>
      outcomes.reduce((total, each) => total + each[of], 0);
    const took = ((performance.now() - started) / 1_000).toFixed(1);
    process.stdout.write(
      `${outcomes.length} seeds in ${took} s: ${sum("predictions")} predictions, ${sum("crashes")} crashes, ${sum("turns")} turns\n`,
    );
    expect(outcomes).toHaveLength(SEEDS);
    const failed = outcomes.filter(({ violations }) => violations.length > 0).sort((a, b) => a.seed - b.seed);
    const told = failed.map(({ seed, violations }) => `seed ${seed}: ${violations[0]}\n  ${reproduce(seed)}`);
    expect(told.join("\n")).toBe("");
    // It goes where faults could be.
    expect(sum("predictions")).toBeGreaterThan(2 * SEEDS);
    expect(sum("crashes")).toBeGreaterThan(5 * SEEDS);
  });

  it("runs a seed again to the byte, alone or behind others", { timeout: 60_000 }, async () => {
    const [whole, alone] = await Promise.all([runAll(12, 1), runAll(12, 2)]);
    const hashes = (of: typeof whole): string[] => of.sort((a, b) => a.seed - b.seed).map(({ hash }) => hash);
    expect(hashes(alone)).toEqual(hashes(whole));
    expect(new Set(hashes(whole)).size).toBe(12);
  });
});

describe("planted bugs", () => {
  it("are twenty at least", () => expect(BUGS.length).toBeGreaterThanOrEqual(20));

  const found: string[] = [];
  it.concurrent.each(BUGS)("$name", { timeout: 120_000 }, async ({ name, patches }) => {
    const outcome = await findBug(patches, SEEDS_TO_FIND);
    if (outcome === null) throw new Error(`no seed of ${SEEDS_TO_FIND} finds it`);
    found.push(`${name}: seed ${outcome.seed}, ${outcome.violations[0]}`);
    process.stdout.write(`${found.at(-1)?.slice(0, 200)}\n`);
  });
});
