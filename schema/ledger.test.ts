import { describe, expect, it } from "vitest";
import { dayOf, endOfDay, endOfMonth, monthAfter, monthOf, volumeDiscount, volumeParts } from "./ledger.ts";

describe("days and months", () => {
  it("begin and end at midnight UTC, to the millisecond, over ends of years and in leap years", () => {
    for (const [day, next] of [
      ["2026-11-25", "2026-11-26"],
      ["2026-12-31", "2027-01-01"],
      ["2028-02-28", "2028-02-29"],
      ["2028-02-29", "2028-03-01"],
    ] as const) {
      const [first, end] = [Date.parse(`${day}T00:00:00Z`), Date.parse(`${next}T00:00:00Z`)];
      expect([dayOf(first), dayOf(end - 1), dayOf(end)]).toEqual([day, day, next]);
      expect([endOfDay(first), endOfDay(end - 1)]).toEqual([end, end]);
      expect([monthOf(first), monthOf(end - 1), monthOf(end)]).toEqual([day, day, next].map((of) => of.slice(0, 7)));
    }
    expect([monthAfter("2026-11"), monthAfter("2026-12")]).toEqual(["2026-12", "2027-01"]);
    const december = Date.UTC(2026, 11, 1);
    expect([endOfMonth(december - 1), endOfMonth(december)]).toEqual([december, Date.UTC(2027, 0, 1)]);
  });
});

describe("volume discounts", () => {
  const tiers = [
    { from_micros: 2_000, discount_ppm: 200_000 },
    { from_micros: 0, discount_ppm: 0 },
    { from_micros: 1_000, discount_ppm: 100_000 },
  ];

  it("are of each part by itself, whatever the order of the tiers, and rounded half up", () => {
    expect(volumeDiscount(1_000, tiers)).toBe(0);
    expect(volumeDiscount(1_004, tiers)).toBe(0);
    expect(volumeDiscount(1_005, tiers)).toBe(1);
    expect(volumeParts(3_000, tiers)).toEqual([
      { part_micros: 1_000, discount_ppm: 100_000, discount_micros: 100 },
      { part_micros: 1_000, discount_ppm: 200_000, discount_micros: 200 },
    ]);
  });
});
