import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decideScaling, estimateWait, type ScalingInput, type ScalingInstance } from "./scaling.ts";

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
