import { describe, expect, it } from "vitest";
import { estimate, PREDICTION_MAX_MS, waitEstimate } from "./estimate.ts";
import { amountMicros, FREE, type Rates } from "./pricing.ts";
import { NO_HISTORY, type RunHistory, withRun } from "./run-history.ts";

const second = { unit: "second", price_micros: 225, per: 1_000_000 } as const;
const active: Rates = { basis: "active", hardware: "gpu-t4", items: [second], discount_ppm: 0 };
const official = (items: Rates["items"]): Rates => ({ basis: "output", hardware: "gpu-t4", items, discount_ppm: 0 });
/** 40 runs: 2 s on average, 6 s at most; 3 pictures each */
const known = [...Array(38).fill(1_800), 5_600, 6_000].reduce(
  (history: RunHistory, run_ms: number) =>
    withRun(history, {
      outcome: "succeeded",
      platform_failure: false,
      run_ms,
      queue_ms: 100,
      is_cold: false,
      units: { image: 3 },
      ended_at: 1,
    }),
  NO_HISTORY,
);

describe("what a run may cost", () => {
  it("is the mean of earlier runs, and at worst twice the longest", () => {
    const found = estimate({ rates: active, input: {}, history: known, cancel_after_ms: null });
    expect(found).toMatchObject({ expected_micros: 450, worst_micros: 2_700 });
    expect(found.limit_micros).toBe(amountMicros(PREDICTION_MAX_MS * 1_000, second, 0));
    expect(found.summary).toContain("40 recent runs took 2 s on average, 6 s at most");
  });

  it("never exceeds what the caller's deadline allows", () => {
    const found = estimate({ rates: active, input: {}, history: known, cancel_after_ms: 5_000 });
    expect(found).toMatchObject({ expected_micros: 450, worst_micros: 1_125, limit_micros: 1_125 });
  });

  it("says that nothing is known of a version that never ran", () => {
    const found = estimate({ rates: active, input: {}, history: null, cancel_after_ms: 60_000 });
    expect(found).toMatchObject({ expected_micros: 2_250, worst_micros: 13_500 });
    expect(found.summary).toContain("No run of this version is known yet");
    expect(found.lines[0]?.source).toBe("deadline");
    expect(found.known_micros).toBe(0);
  });

  it("takes numbers of outputs from the input", () => {
    const image = { unit: "image", price_micros: 40_000, per: 1 } as const;
    const of = (input: Record<string, unknown>) =>
      estimate({ rates: official([image]), input, history: null, cancel_after_ms: null });
    expect(of({ num_outputs: 3 })).toMatchObject({ expected_micros: 120_000, worst_micros: 120_000 });
    expect(of({ num_outputs: "many" })).toMatchObject({ expected_micros: 40_000, worst_micros: 160_000 });
    expect(of({}).summary).toContain("assumed");
  });

  it("falls back to what earlier runs made where the input names no number", () => {
    const image = { unit: "image", price_micros: 40_000, per: 1 } as const;
    const found = estimate({ rates: official([image]), input: {}, history: known, cancel_after_ms: null });
    expect(found).toMatchObject({ expected_micros: 120_000, worst_micros: 240_000 });
  });

  it("tells how long it may wait", () => {
    expect(waitEstimate(known).queue_ms?.p50).toBeCloseTo(100, -1);
    expect(waitEstimate(null)).toEqual({ queue_ms: null, boot_ms: null, setup_ms: null });
  });

  it("counts what is read, at worst a token for each byte", () => {
    const items: Rates["items"] = [
      { unit: "input_token", price_micros: 3_000_000, per: 1_000_000 },
      { unit: "output_token", price_micros: 3_750_000, per: 1_000_000 },
    ];
    const found = estimate({
      rates: official(items),
      input: { prompt: "x".repeat(400), max_tokens: 1_000 },
      history: null,
      cancel_after_ms: null,
    });
    expect(found).toMatchObject({ expected_micros: 300 + 3_750, worst_micros: 1_200 + 3_750 });
  });

  it("takes the account's discount off", () => {
    const rates = { ...active, discount_ppm: 500_000 };
    expect(estimate({ rates, input: {}, history: known, cancel_after_ms: null }).expected_micros).toBe(225);
  });

  it("is nothing for what is free, or paid by the time of its instances", () => {
    for (const rates of [FREE, { ...active, basis: "online" as const }]) {
      expect(estimate({ rates, input: {}, history: known, cancel_after_ms: null })).toMatchObject({
        expected_micros: 0,
        worst_micros: 0,
      });
    }
  });
});
