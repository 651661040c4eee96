/**
 * Runs seeds: `node e2e/simulator/run.ts --seed 7 [--trace] [--bug NAME]`, or `--seeds 1-100`. `--trace` prints what happened. Without a bug the product is as
 * it is in the working copy.
 */
import { parseArgs } from "node:util";
import { BUGS } from "./bugs.ts";
import { loadWith } from "./loader.ts";
import type { Outcome } from "./world.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    seeds: { type: "string" },
    trace: { type: "boolean", default: false },
    bug: { type: "string" },
  },
});
const print = console.log;
const [from = 1, to = from] = (values.seed ?? values.seeds ?? "1").split("-").map(Number);
const bug = BUGS.find(({ name }) => name === values.bug);
if (values.bug !== undefined && bug === undefined)
  throw new Error(`no bug ${values.bug}: ${BUGS.map(({ name }) => name).join(", ")}`);
loadWith(bug?.patches ?? []);
const started = performance.now();
const { runSeeds } = await import("./seeds.ts");
let failed = 0;
let turns = 0;
await runSeeds({ from, to, step: 1, keepsLines: values.trace }, (outcome: Outcome) => {
  for (const line of outcome.lines ?? []) print(line);
  turns += outcome.turns;
  if (values.seed !== undefined) {
    print(
      `seed ${outcome.seed}: hash ${outcome.hash}, ${outcome.turns} turns, ${outcome.crashes} crashes, ${outcome.predictions} predictions, ${outcome.virtual_ms} ms`,
    );
  }
  if (outcome.violations.length === 0) return true;
  failed += 1;
  print(
    `seed ${outcome.seed} breaks:\n  ${outcome.violations.slice(0, values.seed === undefined ? 2 : 20).join("\n  ")}`,
  );
  return true;
});
const ms = performance.now() - started;
print(`${to - from + 1} seeds, ${failed} failed, ${turns} turns, ${(ms / (to - from + 1)).toFixed(1)} ms each`);
process.exitCode = failed > 0 ? 1 : 0;
