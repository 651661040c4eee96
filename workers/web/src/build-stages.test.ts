import { expect, it } from "vitest";
import type { Build } from "./api.ts";
import { stageInWords, stageTimes } from "./build-stages.ts";

const at = (seconds: number) => new Date(seconds * 1_000).toISOString();
const build = {
  created_at: at(0),
  completed_at: null,
  status: "building",
  stage: "resolve",
  waiting_for: null,
  stages: [
    { name: "fetch", started_at: at(2) },
    { name: "resolve", started_at: at(5) },
  ],
} as unknown as Build;

const timesOf = (change: Partial<Build>, now = 9_000) =>
  stageTimes({ ...build, ...change }, now).map(({ name, state, took_ms }) => [name, state, took_ms]);

it("counts the wait and each stage, the last one until now or the end", () => {
  const before = [
    ["Wait for an origin", "done", 2_000],
    ["Take the source", "done", 3_000],
  ];
  expect(timesOf({})).toEqual([...before, ["Resolve requirements", "now", 4_000]]);
  expect(timesOf({ status: "failed", completed_at: at(6) })).toEqual([
    ...before,
    ["Resolve requirements", "failed", 1_000],
  ]);
  expect(timesOf({ status: "succeeded", completed_at: at(7) }).at(-1)).toEqual(["Resolve requirements", "done", 2_000]);
  // A reader's clock may be behind.
  expect(timesOf({}, 4_000).at(-1)).toEqual(["Resolve requirements", "now", 0]);
  expect(timesOf({ stages: [] }, 1_000)).toEqual([["Wait for an origin", "now", 1_000]]);
});

it("says why it waits, else what it does", () => {
  expect(stageInWords({ stage: null, waiting_for: null })).toBe("Waiting for an origin");
  expect(stageInWords({ stage: "fetch", waiting_for: "The origin builds others first." })).toBe(
    "The origin builds others first.",
  );
  expect(stageInWords({ stage: "unheard_of", waiting_for: null })).toBe("Unheard of");
});
