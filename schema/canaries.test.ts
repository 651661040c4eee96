import { describe, expect, it } from "vitest";
import {
  type CanaryResult,
  type CanaryState,
  firstCanary,
  healthStatus,
  isForsaken,
  NEW_CANARY,
  nextCanary,
  resultOf,
  UNUSED_MS,
  withResult,
} from "./canaries.ts";
import type { PredictionDocument } from "./prediction-document.ts";

const NOW = Date.UTC(2030, 0, 1);
const DAY_MS = 86_400_000;

function aResult(outcome: CanaryResult["outcome"], change: Partial<CanaryResult> = {}): CanaryResult {
  const hasRun = outcome === "succeeded" || outcome === "failed";
  return {
    outcome,
    at: NOW,
    duration_ms: hasRun ? 100 : null,
    detail: outcome === "failed" ? "boom" : null,
    ...change,
  };
}

const stateOf = (...outcomes: CanaryResult["outcome"][]): CanaryState =>
  outcomes.reduce((state, outcome, day) => withResult(state, aResult(outcome, { at: NOW + day * DAY_MS })), NEW_CANARY);

function ended(change: Partial<PredictionDocument>): CanaryResult | null {
  const document = {
    state: "failed",
    created_at: NOW,
    started_at: NOW,
    completed_at: NOW + 5,
    error: "boom",
    error_code: null,
  };
  const meter = { hardware: "cpu", predict_time_s: 1, outcome: "failed", platform_failure: false };
  return resultOf({ ...document, meter, ...change } as PredictionDocument);
}

describe("a version's health", () => {
  it("is unhealthy from the third failure in a row on, and well again by one success", () => {
    expect(healthStatus(NEW_CANARY)).toBe("unknown");
    expect(healthStatus(stateOf("failed", "failed"))).toBe("unknown");
    expect(healthStatus(stateOf("succeeded", "failed", "failed"))).toBe("healthy");
    const bad = stateOf("failed", "failed", "failed", "failed");
    expect(bad).toMatchObject({ failures_in_row: 4, unhealthy_since: NOW + 2 * DAY_MS });
    expect(healthStatus(bad)).toBe("unhealthy");
    const well = withResult({ ...bad, told_at: NOW }, aResult("succeeded", { at: NOW + 9 }));
    expect(well).toMatchObject({ failures_in_row: 0, unhealthy_since: null, last_success_at: NOW + 9, told_at: null });
    expect(stateOf("failed", "failed", "succeeded", "failed", "failed").unhealthy_since).toBeNull();
  });

  it("learns nothing from what did not run, which neither ends nor lengthens a row of failures", () => {
    expect(stateOf("failed", "skipped", "failed", "not_run").failures_in_row).toBe(2);
    expect(stateOf("failed", "skipped", "failed", "skipped", "failed").unhealthy_since).not.toBeNull();
    expect(stateOf("skipped", "skipped", "skipped", "skipped").unhealthy_since).toBeNull();
  });

  it("keeps few results, and of tries that ran nothing the newest alone", () => {
    const state = stateOf("failed", ...Array.from({ length: 50 }, () => "skipped" as const));
    expect(state.results.map(({ outcome }) => outcome)).toEqual(["skipped", "failed"]);
    expect(stateOf(...Array.from({ length: 50 }, () => "failed" as const)).results).toHaveLength(5);
  });
});

describe("the end of a canary", () => {
  it("tells failures of the model from those of the platform, and a run without end from a wait without room", () => {
    expect(ended({})).toMatchObject({ outcome: "failed", detail: "boom", duration_ms: 5 });
    expect(ended({ state: "succeeded" })).toMatchObject({ outcome: "succeeded", detail: null });
    const meter = { hardware: "cpu", predict_time_s: 0, outcome: "failed" as const, platform_failure: true };
    expect(ended({ error_code: "origin.lost", meter })).toMatchObject({ outcome: "skipped" });
    expect(ended({ state: "aborted", started_at: null, completed_at: NOW + 600_000 })).toMatchObject({
      outcome: "skipped",
    });
    expect(ended({ state: "aborted", completed_at: NOW + 600_000 })).toMatchObject({
      ...{ outcome: "failed", detail: "It did not end within 10 minutes." },
    });
    expect(ended({ state: "processing", completed_at: null })).toBeNull();
    expect(ended({ error: "x".repeat(9_999) })?.detail?.length).toBeLessThan(600);
  });
});

describe("the time of the next", () => {
  it("is a day later, give or take a tenth, and an hour where it could not run", () => {
    for (const random of [0, 0.5, 0.999]) {
      const ran = nextCanary(aResult("failed"), DAY_MS, NOW, random) - NOW;
      expect(ran / DAY_MS).toBeGreaterThanOrEqual(0.9);
      expect(ran / DAY_MS).toBeLessThanOrEqual(1.1);
      expect(nextCanary(aResult("skipped"), DAY_MS, NOW, random) - NOW).toBeLessThanOrEqual(1.1 * 3_600_000);
      expect(nextCanary(aResult("skipped"), 2_000, NOW, random) - NOW).toBeGreaterThanOrEqual(900);
      expect(firstCanary(false, DAY_MS, NOW, random) - NOW).toBeGreaterThanOrEqual(DAY_MS / 2);
      expect(firstCanary(true, DAY_MS, NOW, random)).toBe(NOW);
    }
  });
});

describe("the owner", () => {
  it("is told of an unhealthy model that nobody used for 90 days, once", () => {
    const bad = stateOf("failed", "failed", "failed");
    expect(isForsaken(bad, NOW, NOW + UNUSED_MS)).toBe(true);
    expect(isForsaken(bad, NOW, NOW + UNUSED_MS - 1)).toBe(false);
    expect(isForsaken({ ...bad, told_at: NOW }, NOW, NOW + 2 * UNUSED_MS)).toBe(false);
    expect(isForsaken(stateOf("failed"), NOW, NOW + UNUSED_MS)).toBe(false);
  });
});
