import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  amountMicros,
  cappedLines,
  costLines,
  type PriceItem,
  paidQuantity,
  type Rates,
  sumMicros,
  usd,
} from "./pricing.ts";

const CPU: PriceItem = { unit: "second", price_micros: 100, per: 1_000_000 };

describe("prices", () => {
  it("round each line once, half up, and never disagree with exact fractions", () => {
    fc.assert(
      fc.property(
        fc.nat(90_000_000_000),
        fc.nat(100_000),
        fc.integer({ min: 1, max: 1_000_000 }),
        fc.nat(1_000_000),
        (quantity, price_micros, per, discount_ppm) => {
          const amount = BigInt(amountMicros(quantity, { unit: "second", price_micros, per }, discount_ppm));
          const exact = BigInt(quantity) * BigInt(price_micros) * BigInt(1_000_000 - discount_ppm);
          const unit = BigInt(per) * 1_000_000n;
          // amount - 1/2 <= exact / unit < amount + 1/2
          expect((2n * amount - 1n) * unit <= 2n * exact).toBe(true);
          expect(2n * exact < (2n * amount + 1n) * unit).toBe(true);
        },
      ),
    );
    expect(amountMicros(1_500_000, CPU, 0)).toBe(150);
    expect(amountMicros(5_000, CPU, 0)).toBe(1);
    expect(amountMicros(4_999, CPU, 0)).toBe(0);
    expect(usd(1_234_567)).toBe("1.234567");
    expect(usd(-5)).toBe("-0.000005");
  });

  it("cost nothing where somebody else pays for the time: the instance, the operator, or the platform that failed", () => {
    const rates: Rates = { basis: "active", hardware: "cpu", items: [CPU], discount_ppm: 0 };
    const meter = { predict_time_s: 2.5, platform_failure: false };
    expect(costLines(meter, rates)).toMatchObject([{ quantity: 2_500_000, amount_micros: 250 }]);
    expect(costLines(meter, { ...rates, basis: "online" })).toEqual([]);
    expect(costLines(meter, { ...rates, basis: "free" })).toEqual([]);
    expect(costLines({ ...meter, platform_failure: true }, rates)).toEqual([]);
  });

  it("find the most units that a sum pays for", () => {
    fc.assert(
      fc.property(fc.nat(1_000_000), fc.nat(1_000), fc.integer({ min: 1, max: 1_000 }), (micros, price_micros, per) => {
        const item = { unit: "image" as const, price_micros, per, discount_ppm: 0 };
        const most = paidQuantity(micros, item, 10_000);
        expect(amountMicros(most, item, 0)).toBeLessThanOrEqual(micros);
        if (most < 10_000) expect(amountMicros(most + 1, item, 0)).toBeGreaterThan(micros);
      }),
    );
  });

  it("keep a capped bill at its cap, each line still its quantity times its price", () => {
    const rates: Rates = {
      basis: "output",
      hardware: "",
      discount_ppm: 0,
      items: [
        { unit: "input_token", price_micros: 3_000_000, per: 1_000_000 },
        { unit: "output_token", price_micros: 3_750_000, per: 1_000_000 },
        { unit: "image", price_micros: 40_000, per: 1 },
      ],
    };
    fc.assert(
      fc.property(
        fc.nat(100_000),
        fc.nat(100_000),
        fc.nat(20),
        fc.nat(2_000_000),
        (input_token, output_token, image, cap) => {
          const units = { input_token, output_token, image };
          const all = costLines({ predict_time_s: 1, platform_failure: false, units }, rates);
          const lines = cappedLines(all, cap);
          expect(sumMicros(lines)).toBeLessThanOrEqual(cap);
          for (const line of lines)
            expect(line.amount_micros).toBe(amountMicros(line.quantity, line, line.discount_ppm));
          if (sumMicros(all) <= cap) expect(lines).toEqual(all);
        },
      ),
    );
  });
});
