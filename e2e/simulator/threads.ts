/** Runs seeds in worker threads, each with the product loaded for itself. */
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import type { Patch } from "./loader.ts";
import type { Work } from "./worker.ts";
import type { Outcome } from "./world.ts";

const WORKER = fileURLToPath(import.meta.resolve("./worker.ts"));

/** What a failing seed is run again with. */
export function reproduce(seed: number, bug?: string): string {
  return `npm exec -- node e2e/simulator/run.ts --seed ${seed}${bug === undefined ? "" : ` --bug "${bug}"`} --trace`;
}

/** Runs `from` to `to` in one thread; resolves with what came of each. */
export function runThread(work: Work): Promise<Outcome[]> {
  return new Promise((resolve, reject) => {
    const outcomes: Outcome[] = [];
    const worker = new Worker(WORKER, { workerData: work });
    worker.on("message", (outcome: Outcome) => outcomes.push(outcome));
    worker.on("error", reject);
    worker.on("exit", () => resolve(outcomes));
  });
}

/** Runs `count` seeds on `threads` threads. */
export async function runAll(count: number, threads: number, patches: Patch[] = []): Promise<Outcome[]> {
  const works = Array.from({ length: threads }, (_, n) => ({
    patches,
    from: n + 1,
    to: count,
    step: threads,
    goesOn: true,
  }));
  return (await Promise.all(works.map(runThread))).flat();
}

/** The first of `count` seeds that finds a bug; null when none does. */
export async function findBug(patches: Patch[], count: number): Promise<Outcome | null> {
  const outcomes = await runThread({ patches, from: 1, to: count, step: 1, goesOn: false });
  return outcomes.find(({ violations }) => violations.length > 0) ?? null;
}
