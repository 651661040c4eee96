/** The check of histories finds what it is for: each history here is right but for one thing. */
import { expect, test } from "vitest";
import type { Prediction } from "../lib/api.ts";
import { type Call, checkHistory } from "./history.ts";

const CREATED = { id: "a", status: "starting", created_at: "2026-01-01T00:00:00.000Z", started_at: null };
const RUNNING = { ...CREATED, status: "processing", started_at: "2026-01-01T00:00:01.000Z" };
const ENDED = { ...RUNNING, status: "succeeded", completed_at: "2026-01-01T00:00:02.000Z", output: "done" };

function call(kind: Call["kind"], at: number, document: object | null, took = 1): Call {
  const whole = { completed_at: null, error: null, output: null, ...document } as unknown as Prediction;
  return {
    kind,
    key: 0,
    start: at,
    end: at + took,
    status: document === null ? 404 : 200,
    document: document && whole,
  };
}

const right = [call("create", 0, CREATED), call("get", 2, CREATED), call("get", 4, RUNNING), call("get", 6, ENDED)];

test("a history of one life is right, and calls that overlap may be seen in any order", () => {
  expect(checkHistory(right)).toEqual([]);
  expect(checkHistory([...right, call("get", 3, CREATED, 9), call("cancel", 5, ENDED, 9)])).toEqual([]);
  // A create that is replayed says what its first answer said.
  expect(checkHistory([...right, call("create", 9, CREATED)])).toEqual([]);
});

test.each([
  ["did not find it", call("get", 2, null)],
  ["starting after processing", call("get", 6, CREATED)],
  ["processing after succeeded", call("get", 9, RUNNING)],
  ["its end changed", call("get", 9, { ...ENDED, output: "other" })],
  ["several predictions of one idempotency key", call("create", 9, { ...CREATED, id: "b" })],
  ["started_at", call("get", 6, { ...RUNNING, started_at: "2026-01-01T00:00:00.500Z" })],
  ["succeeded with completed_at null", call("get", 9, { ...ENDED, completed_at: null })],
  ["times out of order", call("get", 5, { ...RUNNING, started_at: "2025-01-01T00:00:00.000Z" })],
  ["its output became shorter", call("get", 9, { ...ENDED, output: [] }), call("get", 6, { ...ENDED, output: ["a"] })],
  ["succeeded with an error, or no output", call("get", 9, { ...ENDED, error: "none" })],
  ["its end changed", call("create", 9, { ...ENDED, logs: "more" })],
  ["failed without an error", call("get", 9, { ...ENDED, status: "failed", output: null })],
] satisfies [string, ...Call[]][])("%s: found", (what: string, ...planted: Call[]) => {
  const found = checkHistory([...right, ...planted]);
  expect(found.map((anomaly) => anomaly.what).join()).toContain(what);
});
