/** Runs policies over sets of traces and says how they compare: the tables of bench/README.md. */
import { ms, printTable } from "../lib/stats.ts";
import { cogway } from "./cogway.ts";
import { type Outcome, simulate } from "./engine.ts";
import { clairvoyant, type LowerBound } from "./rivals/clairvoyant.ts";
import { CONSTANT_IDLE_MS, constantIdle } from "./rivals/constant-idle.ts";
import { fixedInstances } from "./rivals/fixed.ts";
import { knative } from "./rivals/knative.ts";
import type { PolicyMaker } from "./rivals/policy.ts";
import { type Kind, makeTrace, type Trace } from "./traces.ts";

/** Of one policy over all seeds of one kind. */
interface Total extends Omit<Outcome, "delays_ms"> {
  name: string;
  p50_ms: number;
  p99_ms: number;
  /** of each trace: its own */
  p99s_ms: number[];
  /** what the whole simulation took for each prediction, all decisions in it */
  wall_us: number;
}

export interface Comparison {
  kind: Kind;
  fixed: Total;
  idle: Total;
  knative: Total;
  cogway: Total;
  /** rival b at the idle time at which it costs what ours costs */
  equalCost: EqualCost;
  bound: LowerBound;
  /** what each rival costs to the bound at its own p99 */
  toBound: { fixed: number; idle: number; knative: number; cogway: number };
  /** predictions that come before the first instance of their deployment could be ready: cold for whoever does not know the future */
  firstUse: number;
  /** the bound where nothing may wait */
  boundAtOnce: LowerBound;
}

interface EqualCost {
  idle_ms: number;
  dollars: number;
  cold: number;
}

function runAll(traces: Trace[], maker: PolicyMaker): Total {
  const began = performance.now();
  const outcomes = traces.map((trace) => simulate(trace, maker));
  const wall_ms = performance.now() - began;
  const sum = (of: (outcome: Outcome) => number): number => outcomes.reduce((total, outcome) => total + of(outcome), 0);
  const predictions = sum((outcome) => outcome.predictions);
  const delays = new Float64Array(predictions);
  let filled = 0;
  for (const { delays_ms } of outcomes) {
    delays.set(delays_ms, filled);
    filled += delays_ms.length;
  }
  return {
    ...{ name: maker.name, predictions, cold: sum((each) => each.cold), dollars: sum((each) => each.dollars) },
    ...{ held_ms: sum((each) => each.held_ms), busy_ms: sum((each) => each.busy_ms) },
    starting_ms: sum((each) => each.starting_ms),
    ...{
      instances: sum((each) => each.instances),
      fetches: sum((each) => each.fetches),
      refused: sum((each) => each.refused),
    },
    most_gpus: Math.max(...outcomes.map((each) => each.most_gpus)),
    ...{ p50_ms: quantile(delays, 0.5), p99_ms: quantile(delays, 0.99) },
    p99s_ms: outcomes.map(({ delays_ms }) => quantile(delays_ms, 0.99)),
    wall_us: (wall_ms * 1_000) / predictions,
  };
}

/** Nearest rank. */
function quantile(values: Float64Array, q: number): number {
  return values.toSorted()[Math.max(0, Math.ceil(q * values.length) - 1)] ?? 0;
}

const IDLE_MIN_MS = 1_000;
const IDLE_MAX_MS = 16 * 3_600_000;
const SAME_COST = 0.01;
const TRIES_MAX = 6;

/**
 * The idle time at which rival b costs as much as `dollars`. Its cost first falls with the idle time (fewer starts), then rises: the longest time counts that costs
 * no more. Idle times of 1 s, 2 s, 4 s and so on are run, then the last interval is halved (by its logarithm) until costs are within 1 %, six times at most; its cold
 * starts are read on the line between the two nearest costs. Where b costs more at every idle time, its cheapest run stands; of those within 1 % of the
 * cheapest, the one that is kept longest, in b's favour.
 */
function atEqualCost(traces: Trace[], dollars: number): EqualCost {
  const run = (idle_ms: number): EqualCost => {
    const total = runAll(traces, constantIdle(idle_ms));
    return { idle_ms, dollars: total.dollars, cold: total.cold };
  };
  const runs: EqualCost[] = [];
  let least = Number.POSITIVE_INFINITY;
  for (let idle_ms = IDLE_MIN_MS; idle_ms <= IDLE_MAX_MS; idle_ms *= 2) {
    const next = run(idle_ms);
    runs.push(next);
    least = Math.min(least, next.dollars);
    if (next.dollars > 1.5 * Math.max(dollars, least)) break;
  }
  const last = runs.findLastIndex((one) => one.dollars <= dollars);
  let low = runs[last];
  let high = runs[last + 1];
  if (low === undefined) {
    const cheapest = runs.findLast((one) => one.dollars <= least * (1 + SAME_COST));
    return cheapest ?? run(CONSTANT_IDLE_MS);
  }
  if (high === undefined) return low;
  for (let tries = 0; tries < TRIES_MAX && high.dollars - low.dollars > SAME_COST * dollars; tries++) {
    const middle = run(Math.sqrt(low.idle_ms * high.idle_ms));
    if (middle.dollars > dollars) high = middle;
    else low = middle;
  }
  const share = high.dollars === low.dollars ? 0 : (dollars - low.dollars) / (high.dollars - low.dollars);
  return {
    idle_ms: low.idle_ms + share * (high.idle_ms - low.idle_ms),
    dollars,
    cold: low.cold + share * (high.cold - low.cold),
  };
}

export function compare(kind: Kind, seeds: readonly number[], weight?: number): Comparison {
  const traces = seeds.map((seed) => makeTrace(kind, seed));
  const boundAt = ({ p99s_ms }: Total): LowerBound =>
    added(traces.map((trace, i) => clairvoyant(trace, p99s_ms[i] ?? 0)));
  const toBound = (total: Total): number => total.dollars / boundAt(total).dollars;
  const fixed = runAll(traces, fixedInstances());
  const idle = runAll(traces, constantIdle(CONSTANT_IDLE_MS));
  const kpa = runAll(traces, knative);
  const ours = runAll(traces, cogway(weight));
  return {
    ...{ kind, fixed, idle, knative: kpa, cogway: ours },
    equalCost: atEqualCost(traces, ours.dollars),
    bound: boundAt(ours),
    toBound: { fixed: toBound(fixed), idle: toBound(idle), knative: toBound(kpa), cogway: toBound(ours) },
    firstUse: traces.reduce((sum, trace) => sum + firstUses(trace), 0),
    boundAtOnce: added(traces.map((trace) => clairvoyant(trace, 0))),
  };
}

function firstUses(trace: Trace): number {
  const readyAt = new Map<number, number>();
  let count = 0;
  trace.deployment.forEach((index, i) => {
    const at = trace.arrives_at[i] ?? 0;
    const deployment = trace.deployments[index];
    const ready = readyAt.get(index) ?? at + (deployment?.start_ms ?? 0) + (deployment?.fetch_ms ?? 0);
    readyAt.set(index, ready);
    if (at < ready) count++;
  });
  return count;
}

function added(bounds: LowerBound[]): LowerBound {
  return {
    gpu_ms: bounds.reduce((total, bound) => total + bound.gpu_ms, 0),
    dollars: bounds.reduce((total, bound) => total + bound.dollars, 0),
  };
}

export function printComparisons(comparisons: Comparison[]): void {
  printTable(
    [
      ...["trace", "policy", "predictions", "cold", "p50 s", "p99 s", "GPUs busy", "$", "starts", "with fetch"],
      ...["most GPUs", "simulated in µs each"],
    ],
    comparisons.flatMap(({ kind, fixed, idle, knative: kpa, cogway: ours, equalCost, bound }) => [
      ...[fixed, idle, kpa, ours].map((total, row) => [
        row === 0 ? kind : "",
        total.name,
        row === 0 ? total.predictions : "",
        percent(total.cold / total.predictions),
        seconds(total.p50_ms),
        seconds(total.p99_ms),
        percent(total.busy_ms / total.held_ms),
        money(total.dollars),
        total.instances,
        total.fetches,
        total.most_gpus,
        total.wall_us.toFixed(0),
      ]),
      [
        ...["", `idle ${seconds(equalCost.idle_ms)} s, equal cost`, ""],
        ...[percent(equalCost.cold / ours.predictions), "", "", "", money(equalCost.dollars), "", "", "", ""],
      ],
      [
        ...["", "clairvoyant bound", "", "", "", seconds(ours.p99_ms)],
        ...[percent(ours.busy_ms / bound.gpu_ms), money(bound.dollars), "", "", "", ""],
      ],
    ]),
  );
  console.log();
  printTable(
    [
      "trace",
      "cold starts to b's at equal cost (aim 0.5)",
      "both without first uses",
      "to b's at 60 s, and cost to its",
      "our GPU time: runs, starts, idle",
    ],
    comparisons.map(({ kind, cogway: ours, idle, equalCost, firstUse }) => [
      kind,
      `${times(ours.cold / equalCost.cold)}${equalCost.dollars > ours.dollars ? ` (b costs ${times(equalCost.dollars / ours.dollars)} at least)` : ""}`,
      times((ours.cold - firstUse) / (equalCost.cold - firstUse)),
      `${times(ours.cold / idle.cold)}, ${times(ours.dollars / idle.dollars)}`,
      [ours.busy_ms, ours.starting_ms, ours.held_ms - ours.busy_ms - ours.starting_ms]
        .map((part) => percent(part / ours.held_ms))
        .join(", "),
    ]),
  );
  console.log();
  printTable(
    [
      "trace",
      "first uses, of all predictions",
      "our cost to the bound at equal p99 (aim 1.2)",
      "fixed, b at 60 s, Knative to it at theirs",
      "our cost to the bound where nothing waits",
    ],
    comparisons.map(({ kind, cogway: ours, toBound, boundAtOnce, firstUse }) => [
      kind,
      percent(firstUse / ours.predictions),
      times(toBound.cogway),
      [toBound.fixed, toBound.idle, toBound.knative].map(times).join(", "),
      times(ours.dollars / boundAtOnce.dollars),
    ]),
  );
  const ratio = (of: (one: Comparison) => number, to: (one: Comparison) => number): string =>
    times(comparisons.reduce((sum, one) => sum + of(one), 0) / comparisons.reduce((sum, one) => sum + to(one), 0));
  const cold = ratio(
    ({ cogway: ours }) => ours.cold,
    ({ equalCost }) => equalCost.cold,
  );
  const paid = ratio(
    ({ equalCost }) => equalCost.dollars,
    ({ cogway: ours }) => ours.dollars,
  );
  const bound = ratio(
    ({ cogway: ours }) => ours.dollars,
    ({ bound: least }) => least.dollars,
  );
  console.log(`\nAll together: ${cold} the cold starts of b, which costs ${paid}; ${bound} the cost of the bound.`);
}

function times(ratio: number): string {
  return `${ratio.toFixed(2)}x`;
}

function percent(share: number): string {
  return `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;
}

function seconds(value_ms: number): string {
  return ms(value_ms / 1_000);
}

function money(dollars: number): string {
  return dollars < 1_000 ? dollars.toFixed(1) : dollars.toFixed(0);
}
