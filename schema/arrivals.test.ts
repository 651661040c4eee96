import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type Arrivals,
  arrivalRates,
  expectedInstances,
  idleSince,
  NO_ARRIVALS,
  neededInstances,
  nextExpectedAt,
  noteWork,
  planIdle,
  planOf,
} from "./arrivals.ts";

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** A midnight (UTC). */
const START = Date.UTC(2030, 0, 7);
const COSTS = { start_ms: 30 * SECOND, missing_ms: 330 * SECOND };

/** One prediction of `runMs` that comes to an idle deployment. */
function use(arrivals: Arrivals, at: number, runMs = 100, instances = 1): Arrivals {
  const came = noteWork(arrivals, { before: 0, after: instances, came: instances }, at);
  return noteWork(came, { before: instances, after: 0, came: 0 }, at + runMs);
}

function every(gapMs: number, times: number, start = START): Arrivals {
  let arrivals = NO_ARRIVALS;
  for (let n = 0; n < times; n++) arrivals = use(arrivals, start + n * gapMs, 0);
  return arrivals;
}

/** What a plan costs for a gap: idle time, starts, and what is missing. */
function costOf(plan: ReturnType<typeof planIdle>, gapMs: number, { start_ms, missing_ms }: typeof COSTS): number {
  if (gapMs <= plan.keep_ms) return gapMs;
  let cost = plan.keep_ms;
  for (const { after_ms, until_ms } of plan.boots) {
    if (gapMs < after_ms + start_ms) return cost + missing_ms;
    cost += 2 * start_ms + Math.min(gapMs, until_ms) - after_ms - start_ms;
    if (gapMs <= until_ms) return cost;
  }
  return cost + missing_ms;
}

describe("gaps", () => {
  it("guarantees that what comes every minute is kept through the minute, and what comes every two hours is let go and booted again in time", () => {
    const minutely = planOf(every(MINUTE, 20), 1, COSTS, 5 * MINUTE);
    expect(minutely.keep_ms).toBeGreaterThan(MINUTE);
    expect(minutely.keep_ms).toBeLessThan(4 * MINUTE);
    const rare = planOf(every(2 * HOUR, 20), 1, { start_ms: 30 * SECOND, missing_ms: 40 * MINUTE }, 5 * MINUTE);
    expect(rare.keep_ms).toBeLessThan(5 * MINUTE);
    expect(rare.boots).toHaveLength(1);
    expect(rare.boots[0]?.after_ms).toBeGreaterThan(90 * MINUTE);
    expect(rare.boots[0]?.after_ms).toBeLessThan(2 * HOUR - 30 * SECOND);
    expect(rare.boots[0]?.until_ms).toBeGreaterThan(2 * HOUR);
  });

  it("guarantees the default while there are few gaps", () => {
    expect(planOf(every(HOUR, 2), 1, COSTS, 77)).toEqual({ keep_ms: 77, boots: [] });
  });

  it("guarantees that a dearer start is never a reason to keep for a shorter time", () =>
    fc.assert(
      fc.property(
        fc.dictionary(fc.integer({ min: 0, max: 60 }).map(String), fc.integer({ min: 1, max: 40 }), { minKeys: 1 }),
        fc.integer({ min: 1, max: 100_000 }),
        fc.integer({ min: 0, max: 1_000_000 }),
        (gaps, start_ms, more) => {
          // Without a boot in between: that has its own price.
          const cheap = planIdle(gaps, { start_ms: Number.MAX_SAFE_INTEGER, missing_ms: start_ms });
          const dear = planIdle(gaps, { start_ms: Number.MAX_SAFE_INTEGER, missing_ms: start_ms + more });
          expect(dear.keep_ms).toBeGreaterThanOrEqual(cheap.keep_ms);
        },
      ),
    ));

  it("guarantees a plan that costs no more than any constant idle time does, on the gaps that it learned from", () =>
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 3_000_000 }), { minLength: 10, maxLength: 100 }),
        fc.integer({ min: 1_000, max: 120_000 }),
        fc.integer({ min: 1, max: 20 }),
        (gaps, start_ms, weight) => {
          const costs = { start_ms, missing_ms: start_ms * (1 + weight) };
          let arrivals = NO_ARRIVALS;
          let at = START;
          for (const gap of [0, ...gaps]) {
            at += gap;
            arrivals = use(arrivals, at, 0);
          }
          const plan = planOf(arrivals, 1, costs, 0);
          const total = (of: typeof plan) => gaps.reduce((sum, gap) => sum + costOf(of, gap, costs), 0);
          const planned = total(plan);
          for (const keep_ms of [0, 10_000, 60_000, 300_000, 3_000_000]) {
            const constant = total({ keep_ms, boots: [] });
            // Buckets are 19 % wide, and the prior has its say.
            expect(planned).toBeLessThanOrEqual(constant * 1.25 + 3 * costs.missing_ms);
          }
        },
      ),
      { numRuns: 200 },
    ));

  it("guarantees gaps of their own for further instances", () => {
    let arrivals = NO_ARRIVALS;
    for (let n = 0; n < 20; n++) arrivals = use(arrivals, START + n * 10 * SECOND, 0, n % 10 === 0 ? 2 : 1);
    expect(planOf(arrivals, 1, COSTS, 0).keep_ms).toBeGreaterThan(10 * SECOND);
    expect(idleSince(arrivals)).toBe(START + 190 * SECOND);
    expect(neededInstances(3, 0, 2)).toBe(2);
    expect(neededInstances(4, 1, 2)).toBe(3);
    expect(neededInstances(0, 1, 2)).toBe(1);
    expect(neededInstances(0, 0, 2)).toBe(0);
  });
});

describe("rates", () => {
  it("guarantees both windows, and silence after the stable one", () => {
    let arrivals = NO_ARRIVALS;
    for (let at = START; at < START + MINUTE; at += 500) arrivals = use(arrivals, at, 1);
    for (let at = START + MINUTE; at < START + MINUTE + 6 * SECOND; at += 50) arrivals = use(arrivals, at, 1);
    const { stable, panic } = arrivalRates(arrivals, START + MINUTE + 6 * SECOND - 1);
    expect(stable * SECOND).toBeGreaterThan(2);
    expect(stable * SECOND).toBeLessThan(5);
    expect(panic * SECOND).toBeGreaterThan(9);
    expect(arrivalRates(arrivals, START + 3 * MINUTE)).toEqual({ stable: 0, panic: 0, arrivals: 0 });
  });
});

describe("days", () => {
  /** Every working morning at 9:00 some eight instances are needed. */
  function mornings(days: number): Arrivals {
    let arrivals = NO_ARRIVALS;
    for (let day = 0; day < days; day++) arrivals = use(arrivals, START + day * DAY + 9 * HOUR, MINUTE, 8);
    return use(arrivals, START + days * DAY, 0);
  }
  const dear = { start_ms: 60 * SECOND, missing_ms: 1_000 * SECOND };

  it("guarantees that a pattern of two days is expected on the third, one of a day is not, nor where a start is cheaper than waiting", () => {
    const nine = START + 3 * DAY + 9 * HOUR;
    expect(expectedInstances(mornings(1), nine, dear)).toBe(0);
    expect(expectedInstances(mornings(3), nine, dear)).toBe(8);
    expect(expectedInstances(mornings(3), nine - HOUR, dear)).toBe(0);
    expect(expectedInstances(mornings(3), nine, { start_ms: 1, missing_ms: 10 })).toBe(0);
    expect(nextExpectedAt(mornings(3), 0, START + 3 * DAY, dear)).toBe(nine);
    expect(nextExpectedAt(mornings(3), 8, START + 3 * DAY, dear)).toBeNull();
  });

  it("guarantees all that was needed where work begins, and one where it goes on: load decides there", () => {
    let arrivals = NO_ARRIVALS;
    for (let day = 0; day < 3; day++) {
      for (const quarter of [36, 37, 38])
        arrivals = use(arrivals, START + day * DAY + quarter * 15 * MINUTE, MINUTE, 8);
    }
    arrivals = use(arrivals, START + 3 * DAY, 0);
    const inQuarter = (quarter: number) =>
      expectedInstances(arrivals, START + 3 * DAY + quarter * 15 * MINUTE + MINUTE, dear);
    expect([35, 36, 37, 38, 39].map(inQuarter)).toEqual([0, 8, 1, 1, 0]);
  });

  it("guarantees that it is forgotten when it ends", () => {
    const arrivals = use(mornings(5), START + 9 * DAY, 0);
    expect(expectedInstances(arrivals, START + 10 * DAY + 9 * HOUR, dear)).toBe(0);
  });
});

describe("the value", () => {
  it("guarantees that it stays small, whatever comes", () => {
    let arrivals = NO_ARRIVALS;
    let at = START;
    for (let n = 0; n < 6_000; n++) {
      at += ((n * 7_919) % 1_000) ** 2;
      arrivals = use(arrivals, at, n % 500, 1 + (n % 400));
    }
    expect(JSON.stringify(arrivals).length).toBeLessThan(8_192);
    expect(JSON.parse(JSON.stringify(arrivals))).toEqual(arrivals);
  });
});
