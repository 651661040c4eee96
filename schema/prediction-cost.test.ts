import { describe, expect, it } from "vitest";
import { newProgress } from "./attempt-events.ts";
import { costLimit, finalLines, firstHold, nextHolds, type PaidProgress, reachesAt } from "./prediction-cost.ts";
import { newLife } from "./prediction-lifecycle.ts";
import type { Rates } from "./pricing.ts";

const NOW = Date.UTC(2026, 10, 25, 12);
/** A second costs 100 micro-dollars, less a tenth. */
const ACTIVE: Rates = {
  ...{ basis: "active", hardware: "cpu", discount_ppm: 100_000 },
  items: [{ unit: "second", price_micros: 100, per: 1_000_000 }],
};
const BY_RUN: Rates = {
  ...{ basis: "output", hardware: "cpu", discount_ppm: 0 },
  items: [{ unit: "prediction", price_micros: 700, per: 1 }],
};

function running(change: Partial<PaidProgress> = {}): PaidProgress {
  const progress = newProgress({ ...newLife(NOW, true), state: "processing", started_at: NOW });
  return { ...progress, running_since: NOW, ...change };
}

describe("a limit", () => {
  it("is the least of what is held and what the caller allows; only what is held can grow", () => {
    const paid = (max_cost_micros: number | null, reserved_micros: number | null) =>
      costLimit({ rates: ACTIVE, max_cost_micros, reserved_micros }, running());
    expect(paid(null, null)).toBeNull();
    expect(paid(50, null)).toEqual({ micros: 50, reason: "max_cost" });
    expect(paid(null, 60)).toEqual({ micros: 60, reason: "budget" });
    expect(paid(50, 60)).toEqual({ micros: 50, reason: "max_cost" });
    expect(paid(60, 60)).toEqual({ micros: 60, reason: "max_cost" });
    expect(paid(70, 60)).toEqual({ micros: 60, reason: "budget" });
    const grown = costLimit({ max_cost_micros: 500, reserved_micros: 60 }, running({ reserved_micros: 120 }));
    expect(grown).toEqual({ micros: 120, reason: "budget" });
  });

  it("is reached when so much time is worked, at the price after its discount", () => {
    // 900 micro-dollars are 10 s at 90 a second.
    expect(reachesAt(running(), ACTIVE, 900, NOW)).toBe(NOW + 10_005);
    expect(reachesAt(running({ running_since: null }), ACTIVE, 900, NOW)).toBeNull();
    expect(reachesAt(running(), { ...ACTIVE, basis: "online" }, 0, NOW)).toBeNull();
  });
});

describe("what is held", () => {
  it("is the worst that is known, a minute at most, and never more than the caller allows", () => {
    expect(firstHold(ACTIVE, { worst_micros: 1_000 }, null)).toBe(1_000);
    expect(firstHold(ACTIVE, { worst_micros: 9_000_000 }, null)).toBe(5_400);
    expect(firstHold(ACTIVE, { worst_micros: 9_000_000 }, 300)).toBe(300);
    expect(firstHold(BY_RUN, { worst_micros: 700 }, null)).toBe(700);
    // Something is held of everything that may cost.
    expect(firstHold(ACTIVE, { worst_micros: 0 }, null)).toBe(1);
  });

  it("grows by a minute, or by six seconds where there is no room for that", () => {
    expect(nextHolds(ACTIVE, 5_400)).toEqual([10_800, 5_940]);
    expect(nextHolds(BY_RUN, 700)).toEqual([1_400, 875]);
  });
});

describe("an end", () => {
  const ended = (state: "succeeded" | "failed" | "canceled") => {
    const life = { ...running().life, state, predict_time_s: 3, completed_at: NOW + 3_000 };
    return finalLines(running({ life }), { rates: BY_RUN }, "cpu");
  };

  it("pays for a run by the piece where it succeeded alone", () => {
    expect(ended("succeeded")).toMatchObject([{ unit: "prediction", quantity: 1, amount_micros: 700 }]);
    expect([ended("failed"), ended("canceled")]).toEqual([[], []]);
  });
});
