/**
 * Rival d: a lower bound, not a policy. It knows everything: when each prediction comes, how long it runs, how long each start takes, and has every image and all weights
 * on every host but for a deployment's first start. It may start any prediction up to `delay_ms` after its arrival, and 1 % of all predictions as late
 * as it likes. So nothing that has a p99 delay of `delay_ms` or less can cost less.
 *
 * An instance costs from its placement to its end. For one deployment, with work W (the sum of all runs) and starts of S, and one prediction at a time
 * on an instance, two bounds hold when every prediction begins within its delay D:
 *
 * 1. Nothing runs outside the spans [arrives, arrives + D + run]. Between two spans either an instance waits through the gap, or all are gone and one is
 *    started after it: min(gap, S). With the first start: cost >= W + S + fetch + sum of min(gap, S).
 * 2. A prediction with run > D surely runs in [arrives + D, arrives + run]. There must be as many instances as surely run at any time; the cheapest way to have
 *    them is found level by level (the k-th instance is needed when k or more run; in each pause of a level min(pause, S) is paid), which is exact for
 *    equal instances with a start cost (the decomposition of Lu, Chen and Andrew, 2013). cost >= the sum over levels.
 *
 * The larger one counts. What 1 % of the predictions can save: taken out of an instance's life, a run leaves a hole of at most min(run, S), and what remains
 * has lost at most the gap before it (bound 1) or one start (bound 2). The largest such savings, for 1 % of all predictions of the trace, are taken off.
 */
import { type Deployment, HARDWARE, type Trace } from "../traces.ts";

const LATE_SHARE = 0.01;

export interface LowerBound {
  gpu_ms: number;
  dollars: number;
}

export function clairvoyant(trace: Trace, delay_ms: number): LowerBound {
  const of: number[][] = trace.deployments.map(() => []);
  trace.deployment.forEach((deployment, i) => {
    of[deployment]?.push(i);
  });
  let gpu_ms = 0;
  let dollars = 0;
  const savings: { gpu_ms: number; price: number }[] = [];
  trace.deployments.forEach((deployment, index) => {
    const runs = (of[index] ?? []).map((i) => ({ at: trace.arrives_at[i] ?? 0, run_ms: trace.run_ms[i] ?? 0 }));
    if (runs.length === 0) return;
    const price = (HARDWARE[deployment.hardware]?.price ?? 0) / 1_000;
    const bound = boundOf(deployment, runs, delay_ms);
    gpu_ms += bound.gpu_ms;
    dollars += bound.gpu_ms * price;
    for (const saved of bound.savings) savings.push({ gpu_ms: saved, price });
  });
  const late = Math.floor(LATE_SHARE * savings.length);
  const least = (of: (saved: (typeof savings)[number]) => number): number =>
    savings
      .map(of)
      .sort((a, b) => b - a)
      .slice(0, late)
      .reduce((sum, saved) => sum + saved, 0);
  return {
    gpu_ms: gpu_ms - least((saved) => saved.gpu_ms),
    dollars: dollars - least((saved) => saved.gpu_ms * saved.price),
  };
}

interface Run {
  at: number;
  run_ms: number;
}

/** `savings`: for each prediction, what may be saved at most by starting it as late as one likes. */
function boundOf(deployment: Deployment, runs: Run[], delay_ms: number): { gpu_ms: number; savings: number[] } {
  const { start_ms, fetch_ms } = deployment;
  let work = 0;
  let pauses = 0;
  let busy_until = 0;
  const gaps = runs.map(({ at, run_ms }, i) => {
    work += run_ms;
    const gap = i === 0 ? 0 : Math.min(Math.max(0, at - busy_until), start_ms);
    busy_until = Math.max(busy_until, at + delay_ms + run_ms);
    pauses += gap;
    return gap;
  });
  const bySpans = work + start_ms + pauses;
  const byLevels = levelsCost(runs, delay_ms, start_ms);
  const isBySpans = bySpans >= byLevels;
  return {
    gpu_ms: Math.max(bySpans, byLevels) + fetch_ms,
    savings: runs.map(({ run_ms }, i) => Math.min(run_ms, start_ms) + (isBySpans ? (gaps[i] ?? 0) : start_ms)),
  };
}

/** The least that instances cost of which as many are needed at each time as predictions surely run. */
function levelsCost(runs: Run[], delay_ms: number, start_ms: number): number {
  const edges = runs.flatMap(({ at, run_ms }) =>
    run_ms > delay_ms
      ? [
          { at: at + delay_ms, change: 1 },
          { at: at + run_ms, change: -1 },
        ]
      : [],
  );
  edges.sort((a, b) => a.at - b.at || a.change - b.change);
  let cost = 0;
  let level = 0;
  /** when each level was left last */
  const left_at: number[] = [];
  for (const edge of edges) {
    if (edge.change > 0) {
      const since = left_at[level];
      cost += since === undefined ? start_ms : Math.min(start_ms, edge.at - since);
      level++;
      cost -= edge.at;
    } else {
      level--;
      left_at[level] = edge.at;
      cost += edge.at;
    }
  }
  return cost;
}
