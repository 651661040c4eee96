/**
 * Scaling, placement and queue on a virtual clock, against rivals (bench/fleet-sim). Needs no running system.
 *   npm run bench -- fleet-sim                     training seeds, the large catalog, and the time of decisions
 *   npm run bench -- fleet-sim quick               one seed of each kind of trace
 *   npm run bench -- fleet-sim kinds poisson,zipf  training seeds of these, with `weight N` for another weight of waiting
 *   npm run bench -- fleet-sim large               a million predictions on 10,000 GPUs
 *   npm run bench -- fleet-sim decision            how long one decision takes, by number of hosts and instances
 *   npm run bench -- fleet-sim held-out            the seeds that nothing was chosen by
 */
import { measureDecisions } from "./fleet-sim/decision.ts";
import { compare, printComparisons } from "./fleet-sim/report.ts";
import { HELD_OUT_SEEDS, KINDS, type Kind, TRAINING_SEEDS } from "./fleet-sim/traces.ts";
import { printMachine } from "./lib/stats.ts";

const [what = "all", ...args] = process.argv.slice(2);
const began = performance.now();
printMachine();

function sets(title: string, kinds: readonly Kind[], seeds: readonly number[], weight?: number): void {
  console.log(`\n## ${title}: seeds ${seeds.join(", ")}\n`);
  printComparisons(kinds.map((kind) => compare(kind, seeds, weight)));
}

if (what === "quick") sets("quick", KINDS, [1]);
else if (what === "held-out") sets("held out", KINDS, HELD_OUT_SEEDS);
else if (what === "kinds") {
  const kinds = KINDS.filter((kind) => args[0]?.split(",").includes(kind));
  sets("training", kinds, TRAINING_SEEDS, args[1] === "weight" ? Number(args[2]) : undefined);
} else {
  if (what === "all") sets("training", KINDS, TRAINING_SEEDS);
  if (what === "all" || what === "decision") measureDecisions();
  if (what === "all" || what === "large") sets("large", ["zipf-large"], [1]);
}
console.log(`\n${((performance.now() - began) / 1_000).toFixed(0)} s`);
printMachine();
