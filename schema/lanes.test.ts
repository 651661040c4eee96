import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LANES_MAX, laneCount, laneOf, type SharedInstance, shareOf, slotTargets } from "./lanes.ts";

describe("how many lanes", () => {
  it.each([
    [1, 100, 100, 1],
    [1, 101, 100, 2],
    [1, 450, 100, 5],
    [5, 380, 100, 5],
    [5, 270, 100, 4],
    [2, 71, 100, 2],
    [2, 70, 100, 1],
    [4, 0, 100, 1],
    [1, 1_000, 4, 2],
    [1, 1_000, 1, 1],
    [1, 1_000_000, 1_000, LANES_MAX],
  ])("%i lanes, %i leases a second, %i slots: %i", (current, rate, slots, lanes) => {
    expect(laneCount(current, rate, slots, 100)).toBe(lanes);
  });

  it("neither comes nor goes with noise at any steady rate", () =>
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1_500 }),
        fc.array(fc.double({ min: 0.9, max: 1.1, noNaN: true })),
        (rate, noise) => {
          let lanes = laneCount(1, rate * 1.1, 1_000, 100);
          const first = lanes;
          for (const factor of noise) lanes = laneCount(lanes, rate * factor, 1_000, 100);
          expect(lanes).toBe(first);
        },
      ),
    ));
});

it("spreads predictions evenly over lanes, the same one always to the same", () => {
  const counts = [0, 0, 0, 0, 0];
  for (let n = 0; n < 5_000; n++) {
    const lane = laneOf(`prediction${n}`, 5);
    expect(laneOf(`prediction${n}`, 5)).toBe(lane);
    counts[lane] = (counts[lane] ?? 0) + 1;
  }
  for (const count of counts) expect(count).toBeGreaterThan(850);
});

describe("the slots of lanes", () => {
  const load = fc.record({ leased: fc.nat(20), queued: fc.nat(200), waiting_since: fc.nat(1_000) });
  const loads = fc
    .array(load, { minLength: 1, maxLength: 6 })
    .map((list) =>
      list.map((one, lane) => ({ ...one, lane, waiting_since: one.queued > 0 ? one.waiting_since : null })),
    );

  it("are all given, and whoever waits longest has one in any case", () =>
    fc.assert(
      fc.property(loads, fc.nat(40), (list, total) => {
        const targets = slotTargets(total, list);
        expect([...targets.values()].reduce((sum, slots) => sum + slots, 0)).toBe(total);
        const waiting = list.filter(({ queued }) => queued > 0);
        const longest = waiting.toSorted((a, b) => (a.waiting_since ?? 0) - (b.waiting_since ?? 0) || a.lane - b.lane);
        for (const { lane } of longest.slice(0, total)) expect(targets.get(lane)).toBeGreaterThanOrEqual(1);
      }),
    ));

  it("are what a lane uses at least, and what is free beside others at most", () =>
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(fc.nat(5), fc.nat(5), fc.nat(5), fc.nat(5), fc.nat(5)).map(
            ([used, spare, own, others, free]): Omit<SharedInstance, "instance_id"> => ({
              slots: used + spare + own + others + free,
              ...{ own, others, held: used + spare, used },
            }),
          ),
          { maxLength: 5 },
        ),
        fc.nat(60),
        fc.nat(60),
        (list, target, ownTarget) => {
          const instances = list.map((one, n) => ({ ...one, instance_id: String(n) }));
          const share = shareOf(instances, target, ownTarget);
          for (const { instance_id, slots, own, others, used } of instances) {
            expect(share.get(instance_id)).toBeGreaterThanOrEqual(used);
            expect(share.get(instance_id)).toBeLessThanOrEqual(slots - own - others);
          }
          const given = [...share.values()].reduce((sum, slots) => sum + slots, 0);
          const used = instances.reduce((sum, one) => sum + one.used, 0);
          expect(given).toBeLessThanOrEqual(Math.max(used, target));
        },
      ),
    ));
});
