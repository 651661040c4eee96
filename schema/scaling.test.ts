import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { NO_ARRIVALS, neededInstances, noteWork } from "./arrivals.ts";
import {
  decideScaling,
  estimateWait,
  type ScalingDecision,
  type ScalingInput,
  type ScalingInstance,
} from "./scaling.ts";

const NOW = 1_000_000;

function anInstance(change: Partial<ScalingInstance> = {}): ScalingInstance {
  return { instance_id: "a", state: "ready", slots: 1, leased: 0, last_used_at: NOW, ...change };
}

function anInput(change: Partial<ScalingInput> = {}): ScalingInput {
  return {
    queued: 0,
    instances: [],
    placing: 0,
    slots_per_instance: 1,
    min_instances: 0,
    max_instances: 3,
    idle_ttl_ms: 60_000,
    hold_until: 0,
    run_ms: null,
    start_ms: null,
    ...change,
  };
}

describe("decideScaling", () => {
  it("guarantees that the first queued prediction gets an instance at once", () => {
    expect(decideScaling(anInput({ queued: 1 }), NOW)).toMatchObject({ wanted: 1, place: 1, reason: "queued work" });
  });

  it("guarantees that nothing is wanted for nothing, and the minimum is kept", () => {
    expect(decideScaling(anInput(), NOW)).toMatchObject({ wanted: 0, place: 0, reason: "nothing to do" });
    expect(decideScaling(anInput({ min_instances: 2 }), NOW)).toMatchObject({ wanted: 2, place: 2, reason: "minimum" });
  });

  it("guarantees no second instance while the first one starts", () => {
    const starting = anInput({ queued: 100, instances: [anInstance({ state: "starting" })] });
    expect(decideScaling(starting, NOW)).toMatchObject({ wanted: 1, place: 0, reason: "starting" });
    expect(decideScaling(anInput({ queued: 100, placing: 1 }), NOW)).toMatchObject({ wanted: 1, place: 0 });
  });

  it("guarantees one more instance only when the queue waits longer than its start takes", () => {
    const busy = anInput({ instances: [anInstance({ leased: 1 })], run_ms: 1_000, start_ms: 5_000 });
    expect(decideScaling({ ...busy, queued: 5 }, NOW).place).toBe(0);
    expect(decideScaling({ ...busy, queued: 6 }, NOW)).toMatchObject({ wanted: 2, place: 1, reason: "long queue" });
    expect(decideScaling({ ...busy, queued: 6, max_instances: 1 }, NOW)).toMatchObject({ place: 0, reason: "maximum" });
  });

  it("guarantees a pause after a failure, and says when it ends", () => {
    expect(decideScaling(anInput({ queued: 1, hold_until: NOW + 500 }), NOW)).toMatchObject({
      place: 0,
      reason: "held back",
      decide_again_at: NOW + 500,
    });
  });

  it("guarantees that an idle instance goes after its time, longest idle first, and never below the minimum", () => {
    const idle = anInput({
      instances: [
        anInstance({ instance_id: "new", last_used_at: NOW - 10_000 }),
        anInstance({ instance_id: "old", last_used_at: NOW - 60_000 }),
      ],
    });
    expect(decideScaling(idle, NOW)).toMatchObject({ drain: ["old"], wanted: 1, decide_again_at: NOW + 50_000 });
    expect(decideScaling({ ...idle, min_instances: 2 }, NOW)).toMatchObject({ drain: [], decide_again_at: null });
  });

  it("guarantees bounds for all inputs: never above the maximum, never draining what is used or queued for", () => {
    fc.assert(
      fc.property(
        fc.record({
          queued: fc.nat(50),
          placing: fc.nat(2),
          min: fc.nat(3),
          max: fc.integer({ min: 1, max: 5 }),
          run_ms: fc.option(fc.nat(10_000)),
          start_ms: fc.option(fc.nat(10_000)),
          instances: fc.array(fc.record({ ready: fc.boolean(), leased: fc.nat(2), idle: fc.nat(200_000) }), {
            maxLength: 5,
          }),
        }),
        ({ instances, min, max, ...rest }) => {
          const input = anInput({
            ...rest,
            min_instances: min,
            max_instances: max,
            slots_per_instance: 2,
            instances: instances.map((row, i) =>
              anInstance({
                instance_id: String(i),
                state: row.ready ? "ready" : "starting",
                slots: 2,
                leased: row.leased,
                last_used_at: NOW - row.idle,
              }),
            ),
          });
          const decision = decideScaling(input, NOW);
          const live = input.instances.length + input.placing;
          if (decision.place > 0) expect(live + decision.place).toBeLessThanOrEqual(Math.max(max, min, 1));
          if (input.queued > 0) expect(decision.drain).toEqual([]);
          for (const id of decision.drain) {
            const row = input.instances[Number(id)];
            expect(row).toMatchObject({ leased: 0, state: "ready" });
            expect(NOW - (row?.last_used_at ?? NOW)).toBeGreaterThanOrEqual(60_000);
          }
          expect(live - decision.drain.length).toBeGreaterThanOrEqual(Math.min(live, min));
          // Demand and no instance at all: one is asked for.
          if (input.queued > 0 && live === 0) expect(decision.place).toBeGreaterThan(0);
        },
      ),
    );
  });
});

/** One deployment over time: predictions come at `arrivals` and run for `run_ms` on instances that take `start_ms` to start. */
function simulate(
  arrivals: number[],
  until: number,
  { run_ms, start_ms, max }: { run_ms: number; start_ms: number; max: number },
) {
  const base = anInput({ max_instances: max, run_ms, start_ms });
  let state = NO_ARRIVALS;
  let nextId = 0;
  let queued = 0;
  let instances: (ScalingInstance & { ready_at: number; ends_at: number | null })[] = [];
  const coming = [...arrivals].sort((a, b) => a - b);
  const decisions: { at: number; live: number; decision: ScalingDecision }[] = [];
  let alarm: number | null = null;
  const busy = () => instances.filter(({ leased }) => leased > 0).length;
  for (let now = 0; now <= until; ) {
    const before = neededInstances(busy(), queued, 1);
    let came = 0;
    while ((coming[0] ?? Number.POSITIVE_INFINITY) <= now) {
      coming.shift();
      queued++;
      came++;
    }
    for (const row of instances) {
      if (row.state === "starting" && row.ready_at <= now) Object.assign(row, { state: "ready", last_used_at: now });
      if (row.ends_at !== null && row.ends_at <= now)
        Object.assign(row, { leased: 0, ends_at: null, last_used_at: now });
      if (row.state === "ready" && row.leased === 0 && queued > 0) {
        queued--;
        Object.assign(row, { leased: 1, ends_at: now + run_ms });
      }
    }
    state = noteWork(state, { before, after: neededInstances(busy(), queued, 1), came }, now);
    const decision = decideScaling({ ...base, queued, instances, arrivals: state }, now);
    decisions.push({ at: now, live: instances.length, decision });
    instances = instances.filter(({ instance_id }) => !decision.drain.includes(instance_id));
    for (let n = 0; n < decision.place; n++) {
      nextId++;
      const started = { state: "starting" as const, placed_at: now, ready_at: now + start_ms, ends_at: null };
      instances.push({ ...anInstance({ instance_id: String(nextId), last_used_at: now }), ...started });
    }
    alarm = decision.decide_again_at;
    const next = [
      coming[0] ?? Number.POSITIVE_INFINITY,
      alarm ?? Number.POSITIVE_INFINITY,
      ...instances.map(({ state: is, ready_at, ends_at }) =>
        is === "starting" ? ready_at : (ends_at ?? Number.POSITIVE_INFINITY),
      ),
    ];
    const due = Math.min(...next);
    if (due === Number.POSITIVE_INFINITY) break;
    now = Math.max(now + 1, due);
  }
  return { decisions, started: nextId, live: instances.length };
}

const anyLoad = fc.record({
  gaps: fc.array(fc.integer({ min: 1, max: 40_000 }), { minLength: 1, maxLength: 120 }),
  run_ms: fc.integer({ min: 10, max: 20_000 }),
  start_ms: fc.integer({ min: 100, max: 60_000 }),
  max: fc.integer({ min: 1, max: 8 }),
});

describe("decideScaling over time", () => {
  it("guarantees, in all histories, that nothing climbs without load, that bounds hold and that all goes in the end", () =>
    fc.assert(
      fc.property(anyLoad, ({ gaps, ...rest }) => {
        let at = 0;
        const arrivals = gaps.map((gap) => {
          at += gap;
          return at;
        });
        const { decisions, live } = simulate(arrivals, at + 40 * 3_600_000, rest);
        for (const { live: before, decision } of decisions) {
          expect(before + decision.place).toBeLessThanOrEqual(rest.max);
          const { queued, busy_slots } = decision.measures;
          const isAsked =
            queued + busy_slots > 0 || decision.reason === "expected soon" || decision.reason === "daily pattern";
          if (decision.place > 0) expect(isAsked).toBe(true);
          // Never more than one instance beyond what is in use, unless a queue asks for it.
          if (decision.place > 0 && queued === 0) expect(before + decision.place).toBeLessThanOrEqual(busy_slots + 1);
        }
        expect(live).toBe(0);
      }),
      { numRuns: 150 },
    ));

  it("guarantees that a constant load does not make it flap", () =>
    fc.assert(
      fc.property(
        fc.integer({ min: 500, max: 8_000 }),
        fc.integer({ min: 10, max: 20_000 }),
        fc.integer({ min: 1_000, max: 60_000 }),
        (gap, run_ms, start_ms) => {
          const arrivals = Array.from({ length: Math.floor(1_800_000 / gap) }, (_, n) => n * gap);
          const { decisions } = simulate(arrivals, 1_800_000, { run_ms, start_ms, max: 300 });
          // Ten minutes to find its size, then it stays there.
          const later = decisions.filter(({ at }) => at > 900_000);
          const starts = later.reduce((sum, { decision }) => sum + decision.place, 0);
          const ends = later.reduce((sum, { decision }) => sum + decision.drain.length, 0);
          expect(Math.min(starts, ends)).toBeLessThanOrEqual(1);
        },
      ),
      { numRuns: 12 },
    ));

  it("guarantees that a burst brings several instances at once, those that start counted as capacity that comes", () => {
    const steady = Array.from({ length: 60 }, (_, n) => n * 5_000);
    const burst = Array.from({ length: 400 }, (_, n) => 300_000 + n * 10);
    const { decisions } = simulate([...steady, ...burst], 330_000, { run_ms: 1_000, start_ms: 10_000, max: 100 });
    const grown = decisions.filter(({ at, decision }) => at >= 300_000 && decision.place > 0);
    expect(grown.some(({ decision }) => decision.reason === "burst")).toBe(true);
    const placed = grown.reduce((sum, { decision }) => sum + decision.place, 0);
    expect(placed).toBeGreaterThan(10);
    expect(placed).toBeLessThan(100);
  });
});

describe("estimateWait", () => {
  it("guarantees a number only where history allows one", () => {
    const waiting = { position: 3, slots_per_instance: 1, ready_slots: 1, starting_for_ms: null, start_ms: null };
    expect(estimateWait({ ...waiting, run_ms: 2_000 })).toBe(6_000);
    expect(estimateWait({ ...waiting, run_ms: null })).toBeNull();
    const cold = { ...waiting, position: 1, ready_slots: 0, run_ms: null };
    expect(estimateWait(cold)).toBeNull();
    expect(estimateWait({ ...cold, start_ms: 9_000, starting_for_ms: 4_000 })).toBe(5_000);
    expect(estimateWait({ ...cold, position: 3, start_ms: 9_000, run_ms: 500 })).toBe(10_000);
  });
});
