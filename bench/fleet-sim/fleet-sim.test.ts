import { describe, expect, it } from "vitest";
import { cogway } from "./cogway.ts";
import { simulate } from "./engine.ts";
import { EventHeap } from "./event-heap.ts";
import { Random } from "./random.ts";
import { compare } from "./report.ts";
import { clairvoyant } from "./rivals/clairvoyant.ts";
import { constantIdle } from "./rivals/constant-idle.ts";
import { fixedInstances } from "./rivals/fixed.ts";
import { knative } from "./rivals/knative.ts";
import type { PolicyMaker } from "./rivals/policy.ts";
import { HARDWARE, HELD_OUT_SEEDS, makeTrace, TRAINING_SEEDS, type Trace } from "./traces.ts";

const PRICE = HARDWARE[0].price / 1_000;

/** One deployment on three hosts: starts take 10 s, a fetch before it 5 s. */
function oneDeployment(predictions: { at: number; run_ms: number; account?: number }[], mean_load = 0.5): Trace {
  return {
    ...{ kind: "poisson", seed: 0, hosts: 3 },
    duration_ms: predictions.reduce((end, { at, run_ms }) => Math.max(end, at + run_ms), 0) + 1_000_000,
    deployments: [{ hardware: 0, start_ms: 10_000, fetch_ms: 5_000, mean_load, max_instances: 8 }],
    arrives_at: Float64Array.from(predictions, ({ at }) => at),
    deployment: new Uint32Array(predictions.length),
    run_ms: Float64Array.from(predictions, ({ run_ms }) => run_ms),
    account: Uint16Array.from(predictions, ({ account = 0 }) => account),
  };
}

/** Poisson arrivals and exponential runs of one second, `load` busy instances on average. */
function markovian(count: number, load: number): Trace {
  const random = new Random(7, "markovian");
  let at = 0;
  const predictions = Array.from({ length: count }, () => {
    at += random.exponential(1_000 / load);
    return { at, run_ms: random.exponential(1_000) };
  });
  return oneDeployment(predictions, load);
}

const POLICIES: PolicyMaker[] = [fixedInstances(), constantIdle(60_000), knative, cogway()];

describe("a simulation", () => {
  it.each(POLICIES)("starts and ends every prediction once, under $name", (policy) => {
    for (const kind of ["poisson", "flash"] as const) {
      const trace = makeTrace(kind, 1);
      const outcome = simulate(trace, policy);
      expect(outcome.predictions).toBe(trace.arrives_at.length);
      expect(outcome.delays_ms.every((delay) => delay >= 0)).toBe(true);
      const work = trace.run_ms.reduce((sum, run) => sum + run, 0);
      expect(outcome.busy_ms).toBeCloseTo(work, 3);
      expect(outcome.held_ms).toBeGreaterThan(work);
      expect(outcome.most_gpus).toBeLessThanOrEqual(trace.hosts * 8);
    }
  });

  it("gives the same report for the same seed, and another for another", () => {
    const run = (seed: number) => simulate(makeTrace("heavy", seed), cogway());
    expect(run(3)).toEqual(run(3));
    expect(run(3).delays_ms).not.toEqual(run(4).delays_ms);
  });

  it("waits as long as Erlang's formula says on a fixed fleet", () => {
    const [load, servers] = [2.5, 4];
    const outcome = simulate(markovian(60_000, load), fixedInstances());
    expect(outcome.instances).toBe(servers);
    const terms = Array.from({ length: servers }, (_, n) => load ** n / factorial(n));
    const all = (load ** servers / factorial(servers)) * (servers / (servers - load));
    const waits = all / (terms.reduce((sum, term) => sum + term, 0) + all);
    const expected_ms = (waits / (servers - load)) * 1_000;
    // The first thousand wait for the first instance.
    const settled = outcome.delays_ms.slice(1_000);
    const mean_ms = settled.reduce((sum, delay) => sum + delay, 0) / settled.length;
    expect(Math.abs(mean_ms / expected_ms - 1)).toBeLessThan(0.05);
    expect(Math.abs(settled.filter((delay) => delay > 0).length / settled.length - waits)).toBeLessThan(0.01);
  });

  it("takes the queue in production's order: fair between accounts, first in first out within", () => {
    const trace = oneDeployment([
      ...[1, 2, 3].map((at) => ({ at, run_ms: 1_000, account: 1 })),
      { at: 4, run_ms: 1_000, account: 2 },
    ]);
    const { delays_ms } = simulate(trace, fixedInstances());
    const starts = [...delays_ms].map((delay, i) => delay + (trace.arrives_at[i] ?? 0));
    // A fixed instance starts at 0 and fetches first.
    expect(starts.map((start) => Math.round(start))).toEqual([15_000, 17_000, 18_000, 16_000]);
  });

  it("keeps an instance for the constant time, not longer", () => {
    const runs = [0, 75_000 + 59_000].map((at) => ({ at, run_ms: 60_000 }));
    // Ready at 15 s, it ends at 75 s; the second comes 59 s later and ends at 194 s; idle until 254 s.
    expect(simulate(oneDeployment(runs), constantIdle(60_000))).toMatchObject({
      cold: 1,
      instances: 1,
      held_ms: 254_000,
    });
    const later = [0, 75_000 + 61_000].map((at) => ({ at, run_ms: 60_000 }));
    // Gone at 135 s; a second start on the same host takes 10 s, and runs until 206 s.
    const both = simulate(oneDeployment(later), constantIdle(60_000));
    expect(both).toMatchObject({ cold: 2, instances: 2, fetches: 1, held_ms: 135_000 + 130_000 });
    expect(both.dollars).toBeCloseTo(265_000 * PRICE, 6);
  });

  it("follows Knative's target: a steady load gets what keeps 70 % busy, and nothing once all is over", () => {
    const trace = oneDeployment(Array.from({ length: 3_000 }, (_, i) => ({ at: i * 500, run_ms: 1_000 })));
    const outcome = simulate(trace, knative);
    const busyUntil = 3_000 * 500;
    // 2 busy by 0.7 are 3; the panic of the first start passes. After the load: a window of 60 s and the grace of 30 s.
    expect(outcome.held_ms / busyUntil).toBeGreaterThan(3);
    expect(outcome.held_ms / busyUntil).toBeLessThan(4.2);
    expect(outcome.cold).toBeLessThan(60);
  });
});

describe("the clairvoyant bound", () => {
  it("is what the best possible costs where that is known", () => {
    const start = 15_000;
    // One that comes after 4 s of pause waits for it; after 100 s of pause a second start is cheaper.
    const near = oneDeployment([0, 10_000].map((at) => ({ at, run_ms: 6_000 })));
    expect(clairvoyant(near, 0).gpu_ms).toBe(start + 6_000 + 4_000 + 6_000);
    const far = oneDeployment([0, 106_000].map((at) => ({ at, run_ms: 6_000 })));
    expect(clairvoyant(far, 0).gpu_ms).toBe(start + 6_000 + 10_000 + 6_000);
    // Two at once need two instances where nothing may wait, and one where the second may wait for the first.
    const both = oneDeployment([0, 0].map((at) => ({ at, run_ms: 6_000 })));
    expect(clairvoyant(both, 0).gpu_ms).toBe(start + 10_000 + 12_000);
    expect(clairvoyant(both, 6_000).gpu_ms).toBe(start + 12_000);
  });

  it.each(POLICIES)("costs no more than $name at its own p99 delay", (policy) => {
    for (const kind of ["poisson", "flash", "heavy"] as const) {
      const trace = makeTrace(kind, 2);
      const { delays_ms, dollars } = simulate(trace, policy);
      const p99 = delays_ms.toSorted()[Math.ceil(delays_ms.length * 0.99) - 1] ?? 0;
      expect(clairvoyant(trace, p99).dollars).toBeLessThanOrEqual(dollars);
    }
  });
});

describe("a comparison", () => {
  it("holds the rival against ours where it costs the same, or where it costs least; and nobody is below the bound", () => {
    const { cogway: ours, idle, equalCost, toBound, firstUse } = compare("flash", [1]);
    expect(equalCost.dollars).toBeGreaterThanOrEqual(ours.dollars);
    expect(equalCost.dollars).toBeLessThan(idle.dollars);
    expect(equalCost.idle_ms).toBeLessThan(60_000);
    // The rival keeps its instances for less time than in its own run, so it starts more.
    expect(equalCost.cold).toBeGreaterThan(idle.cold);
    expect(firstUse).toBeLessThanOrEqual(Math.min(ours.cold, equalCost.cold));
    for (const ratio of Object.values(toBound)) expect(ratio).toBeGreaterThanOrEqual(1);
  });
});

describe("traces", () => {
  it("hold out 30 % of their seeds", () => {
    const all = TRAINING_SEEDS.length + HELD_OUT_SEEDS.length;
    expect(HELD_OUT_SEEDS.length / all).toBe(0.3);
    expect(new Set([...TRAINING_SEEDS, ...HELD_OUT_SEEDS]).size).toBe(all);
  });

  it("are in order of arrival, within their time, and of the catalog's size", () => {
    const { arrives_at, deployments, duration_ms } = makeTrace("zipf", 1);
    expect(deployments).toHaveLength(50_000);
    expect(arrives_at.every((at, i) => at >= (arrives_at[i - 1] ?? 0) && at < duration_ms)).toBe(true);
    expect(Math.abs(arrives_at.length / 50_000 - 1)).toBeLessThan(0.1);
  });
});

it("events come in order of time, equal ones in that of their adding", () => {
  const random = new Random(1, "heap");
  const heap = new EventHeap<{ at: number; added: number }>();
  const events = Array.from({ length: 2_000 }, (_, added) => ({ at: Math.floor(random.between(0, 300)), added }));
  for (const event of events) heap.add(event.at, event);
  const expected = events.toSorted((a, b) => a.at - b.at || a.added - b.added);
  expect(events.map(() => heap.take())).toEqual(expected);
  expect(heap.take()).toBeUndefined();
});

function factorial(n: number): number {
  return n <= 1 ? 1 : n * factorial(n - 1);
}
