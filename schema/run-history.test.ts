import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  coldShare,
  meanOf,
  mergeHistories,
  NO_HISTORY,
  quantile,
  type RunEnd,
  type RunHistory,
  successShare,
  withRun,
  withStart,
} from "./run-history.ts";

function anEnd(change: Partial<RunEnd> = {}): RunEnd {
  return {
    outcome: "succeeded",
    platform_failure: false,
    run_ms: 100,
    queue_ms: 5,
    is_cold: false,
    ended_at: 1_000,
    ...change,
  };
}

function historyOf(ends: RunEnd[]): RunHistory {
  return ends.reduce(withRun, NO_HISTORY);
}

describe("run history", () => {
  it("guarantees quantiles within 10 %, whatever the values", () =>
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 86_400_000 }), { minLength: 1, maxLength: 500 }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        (values, q) => {
          const history = historyOf(values.map((run_ms) => anEnd({ run_ms })));
          const sorted = [...values].sort((a, b) => a - b);
          const exact = sorted[Math.max(1, Math.ceil(q * sorted.length)) - 1] ?? 0;
          const told = quantile(history.run_ms, q) ?? 0;
          expect(Math.abs(told - exact)).toBeLessThanOrEqual(exact * 0.1 + 1);
          expect(meanOf(history.run_ms)).toBeCloseTo(values.reduce((sum, value) => sum + value, 0) / values.length);
        },
      ),
      { numRuns: 60 },
    ));

  it("guarantees that parts add up to the whole, in any order", () =>
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            outcome: fc.constantFrom("succeeded", "failed", "canceled", "aborted"),
            platform_failure: fc.boolean(),
            run_ms: fc.nat(100_000),
            queue_ms: fc.option(fc.nat(100_000)),
            is_cold: fc.boolean(),
            units: fc.constantFrom(undefined, { images: 4 }, { tokens: 900 }),
            ended_at: fc.integer({ min: 1, max: 100_000 }),
          }),
          { maxLength: 60 },
        ),
        fc.nat(60),
        (ends, cut) => {
          const [first, second] = [historyOf(ends.slice(0, cut)), historyOf(ends.slice(cut))];
          expect(mergeHistories(first, second)).toEqual(historyOf(ends));
          expect(mergeHistories(second, first)).toEqual(historyOf(ends));
        },
      ),
    ));

  it("guarantees bounds, and that what is newer weighs more", () => {
    let history = NO_HISTORY;
    for (let n = 0; n < 20_000; n++)
      history = withRun(history, anEnd({ run_ms: 2 ** (n % 40), units: { [`u${n % 20}`]: n } }));
    for (let n = 0; n < 6_000; n++)
      history = withRun(history, anEnd({ run_ms: 5_000, outcome: "succeeded", is_cold: true }));
    expect(JSON.stringify(history).length).toBeLessThan(8_000);
    expect(Object.keys(history.units)).toHaveLength(8);
    expect(history.runs).toBe(26_000);
    expect(quantile(history.run_ms, 0.5)).toBeGreaterThan(4_500);
    expect(coldShare(history)).toBeGreaterThan(0.8);
  });

  it("guarantees outcomes apart: the platform's failures, cancels and successes", () => {
    const history = historyOf([
      anEnd({ ended_at: 50 }),
      anEnd({ outcome: "failed" }),
      anEnd({ outcome: "failed", platform_failure: true, queue_ms: null }),
      anEnd({ outcome: "aborted", queue_ms: null, is_cold: true }),
    ]);
    expect(history).toMatchObject({ runs: 4, succeeded: 1, failed: 1, platform_failures: 1, canceled: 1, cold: 0 });
    expect(history).toMatchObject({ leased: 2, last_success_at: 50, run_ms: { count: 1 } });
    expect(successShare(history)).toBeCloseTo(1 / 3);
    expect(successShare(NO_HISTORY)).toBeNull();
    expect(coldShare(NO_HISTORY)).toBeNull();
    expect(quantile(NO_HISTORY.run_ms, 0.5)).toBeNull();
  });

  it("guarantees boot and setup apart", () => {
    const history = withStart(withStart(NO_HISTORY, 200, 4_000), undefined, 5_000);
    expect(history.boot_ms.count).toBe(1);
    expect(history.setup_ms).toMatchObject({ count: 2, max: 5_000 });
  });
});
