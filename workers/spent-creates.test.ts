import { describe, expect, it } from "vitest";
import { noteSpent, spentFor } from "./domain/spent-creates.ts";

describe("an account whose creates are used up", () => {
  it("is refused until the next one is admitted, and no other account is", () => {
    noteSpent("a", 100, 5_000);
    expect([spentFor("a", 5_000), spentFor("a", 5_099), spentFor("b", 5_050)]).toEqual([100, 1, null]);
    expect([spentFor("a", 5_100), spentFor("a", 5_050)]).toEqual([null, null]);
  });

  it("is asked about again after a second: its limit may have been raised", () => {
    noteSpent("a", 30_000, 5_000);
    expect([spentFor("a", 5_999), spentFor("a", 6_000)]).toEqual([29_001, null]);
  });

  it("is asked about again where the clock went back", () => {
    noteSpent("a", 30_000, 5_000);
    expect(spentFor("a", 4_999)).toBeNull();
  });

  it("is forgotten where too many are remembered, the oldest first", () => {
    for (let n = 0; n <= 10_000; n++) noteSpent(`many-${n}`, 500, 5_000);
    expect([spentFor("many-0", 5_000), spentFor("many-1", 5_000)]).toEqual([null, 500]);
  });
});
