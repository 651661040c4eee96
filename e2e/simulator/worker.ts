/** A thread of the test: runs seeds of the product, with a planted bug or without, and tells of each. */
import { parentPort, workerData } from "node:worker_threads";
import { loadWith, type Patch } from "./loader.ts";
import type { Outcome } from "./world.ts";

export interface Work {
  patches: Patch[];
  from: number;
  to: number;
  /** not the next one, but so many on */
  step: number;
  /** go on to `to` whatever breaks */
  goesOn: boolean;
}

const { patches, from, to, step, goesOn } = workerData as Work;
loadWith(patches);
const { runSeeds } = await import("./seeds.ts");
await runSeeds({ from, to, step, keepsLines: false }, (outcome: Outcome) => {
  parentPort?.postMessage(outcome);
  return goesOn || outcome.violations.length === 0;
});
