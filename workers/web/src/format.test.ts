import { expect, it } from "vitest";
import { ago, bytes, dollars, duration, number, words } from "./format.ts";

it.each([
  [0, "0.0 s"],
  [40, "40 ms"],
  [420, "0.4 s"],
  [12_300, "12 s"],
  [185_000, "3 min 5 s"],
  [3_600_000, "1 h"],
  [7_800_000, "2 h 10 min"],
  [-50, "0.0 s"],
])("%d ms is %s", (ms, text) => {
  expect(duration(ms)).toBe(text);
});

it.each([
  [5, "just now"],
  [60, "1 min ago"],
  [3_700, "1 h ago"],
])("%d s past is %s", (seconds, text) => {
  const now = Date.parse("2026-11-24T12:00:00Z");
  expect(ago(new Date(now - seconds * 1_000).toISOString(), now)).toBe(text);
});

it.each([
  [500, "$0.0005"],
  [2_000_000, "$2.00"],
  [1, "$0.000001"],
  [10_500, "$0.0105"],
  [123_456_789_012_345, "$123,456,789.012345"],
])("%d millionths of a dollar are %s", (micros, text) => {
  expect(dollars(micros)).toBe(text);
});

it("writes numbers, sizes and names for people", () => {
  expect(number(0.1 + 0.2)).toBe("0.3");
  expect(number(1_234_567)).toBe("1,234,567");
  expect(number(0.000012345)).toBe("1.234e-5");
  expect(bytes(11 * 1024 * 1024)).toBe("11.0 MiB");
  expect(words("max_new_tokens")).toBe("Max new tokens");
});
