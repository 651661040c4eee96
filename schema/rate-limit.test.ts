import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { takeOne } from "./rate-limit.ts";

describe("takeOne", () => {
  it("guarantees that no window admits more than its rate and one burst, and that a refusal's time is true", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 2_000 }),
        fc.array(fc.integer({ min: 0, max: 5_000 }), { minLength: 1, maxLength: 400 }),
        (perMinute, pauses) => {
          let now = 1_800_000_000_000;
          let fullAt = 0;
          const admitted: number[] = [];
          for (const pause of pauses) {
            now += pause;
            const taken = takeOne(fullAt, perMinute, now);
            if (taken.kind === "admitted") {
              fullAt = taken.fullAt;
              admitted.push(now);
              expect(taken.remaining).toBeLessThan(perMinute);
            } else {
              expect(takeOne(fullAt, perMinute, now + taken.retry_after_ms).kind).toBe("admitted");
              if (taken.retry_after_ms > 1) {
                expect(takeOne(fullAt, perMinute, now + taken.retry_after_ms - 1).kind).toBe("limited");
              }
            }
          }
          for (let from = 0; from < admitted.length; from++) {
            for (let to = from; to < admitted.length; to++) {
              const window = (admitted[to] ?? 0) - (admitted[from] ?? 0);
              expect(to - from + 1).toBeLessThanOrEqual(Math.floor(perMinute * (1 + window / 60_000) + 0.001));
            }
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  it("guarantees the whole burst at once, and the rate after it", () => {
    for (const perMinute of [1, 7, 600, 601]) {
      let fullAt = 0;
      for (let i = 0; i < perMinute; i++) {
        const taken = takeOne(fullAt, perMinute, 1_000_000);
        expect(taken.kind).toBe("admitted");
        if (taken.kind !== "admitted") return;
        expect(taken.remaining).toBe(perMinute - 1 - i);
        fullAt = taken.fullAt;
      }
      expect(takeOne(fullAt, perMinute, 1_000_000)).toEqual({
        kind: "limited",
        retry_after_ms: Math.ceil(60_000 / perMinute),
      });
    }
  });

  it("guarantees that a clock which went back an hour locks nobody out for more than a minute", () => {
    const before = takeOne(0, 60, 10_000_000);
    if (before.kind !== "admitted") throw new Error("the first is admitted");
    const after = takeOne(before.fullAt, 60, 10_000_000 - 3_600_000);
    expect(after).toEqual({ kind: "limited", retry_after_ms: 1_000 });
  });

  it("guarantees that a limit of none admits none", () => {
    expect(takeOne(0, 0, 1).kind).toBe("limited");
  });
});
