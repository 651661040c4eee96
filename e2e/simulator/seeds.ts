/** Seeds one after another in this thread, whose clock and chance are the run's from the first of them on. */
import { replaceGlobals } from "./timeline.ts";

replaceGlobals();
const { runSeed } = await import("./world.ts");
type Outcome = Awaited<ReturnType<typeof runSeed>>;

/** `tell` answers whether to go on. */
export async function runSeeds(
  seeds: { from: number; to: number; step: number; keepsLines: boolean },
  tell: (outcome: Outcome) => boolean,
): Promise<void> {
  for (let seed = seeds.from; seed <= seeds.to; seed += seeds.step) {
    if (!tell(await runSeed(seed, seeds.keepsLines))) return;
  }
}
