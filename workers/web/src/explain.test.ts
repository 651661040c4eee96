import { expect, it } from "vitest";
import { ApiError, type Prediction } from "./api.ts";
import { explainEnd, explainError, explainRetention, explainWait } from "./explain.ts";

const prediction = (change: object): Prediction =>
  ({ status: "starting", error: null, logs: "", metrics: {}, ...change }) as Prediction;
const waiting = (change: object) =>
  prediction({ waiting_for: { reason: "slot", queue_position: null, elapsed_ms: 0, estimate_ms: null, ...change } });

it.each([
  [prediction({}), "Waiting to start"],
  [waiting({ queue_position: 1 }), "Next in the queue"],
  [waiting({ queue_position: 4, estimate_ms: 9_400 }), "Waiting: 3 ahead in the queue, usually about 10 s"],
  [waiting({ reason: "boot", estimate_ms: 4_000 }), "Starting the model, usually about 4.0 s"],
  [waiting({ reason: "setup", last_error: "setup" }), "Loading the model's weights (the last try failed in setup)"],
])("says why a prediction waits", (waits, words) => {
  expect(explainWait(waits)).toBe(words);
});

it("says how a prediction ended, and nothing of one that succeeded", () => {
  expect(explainEnd(prediction({ status: "failed", error: "too long" }))).toEqual({
    title: "The model failed",
    detail: "too long",
  });
  expect(explainEnd(prediction({ status: "failed", error_code: "origin.lost" }))?.detail).toContain("Run it again");
  expect(explainEnd(prediction({ status: "succeeded" }))).toBeNull();
});

it("says how long data is kept", () => {
  const now = Date.parse("2026-01-02T03:04:05.000Z");
  expect(explainRetention(prediction({ data_removed: false }), now)).toBeNull();
  expect(explainRetention(prediction({ data_removed: false, expires_at: null }), now)).toBe("For ever");
  const soon = explainRetention(prediction({ data_removed: false, expires_at: "2026-01-02T03:34:05.000Z" }), now);
  expect(soon).toMatch(/^Until .*\(30 min left\)$/);
  expect(explainRetention(prediction({ data_removed: true, expires_at: null }), now)).toBeNull();
});

it("tells what to do about a refusal", () => {
  const limited = {
    type: "",
    title: "Too many requests",
    status: 429,
    detail: "",
    code: "rate.limited",
    retry_after: 12,
  } as const;
  expect(explainError(new ApiError(429, limited)).detail).toContain("in 12 s");
  expect(explainError(new ApiError(0, null)).title).toBe("The server cannot be reached");
});
