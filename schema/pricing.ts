/**
 * What a prediction or an instance costs. Pure integer arithmetic in micro-dollars: a price is a number of micro-dollars for `per` units, a quantity is a
 * whole number of units, and each line of a bill is rounded once, half up. Sums are then free of order, and a spreadsheet finds the same.
 */
import type { Meter } from "./prediction-document.ts";

/** What is counted. Time is counted in microseconds, of the model's own measure or of an instance's life. */
export const UNITS = [
  "second",
  "image",
  "video_second",
  "audio_second",
  "input_token",
  "output_token",
  "prediction",
] as const;
export type Unit = (typeof UNITS)[number];

/** A price: `price_micros` micro-dollars for `per` units (a second is a million microseconds). */
export interface PriceItem {
  unit: Unit;
  price_micros: number;
  per: number;
}

/** The prices that were in force when something was created. They travel with it: a later price never changes what it costs. */
export interface Rates {
  /**
   * `active`: the time that the model worked. `output`: what an official model made. `online`: nothing here, since the account pays for the whole life of
   * the instances that it runs on. `free`: nothing, such as the operator's own examples.
   */
  basis: "active" | "output" | "online" | "free";
  hardware: string;
  items: PriceItem[];
  /** committed-spend rate of the account, in millionths of the price */
  discount_ppm: number;
}

/** One line of a bill. */
export interface CostLine {
  unit: Unit;
  /** whole units; microseconds of time */
  quantity: number;
  price_micros: number;
  per: number;
  discount_ppm: number;
  amount_micros: number;
}

export const FREE: Rates = { basis: "free", hardware: "", items: [], discount_ppm: 0 };

/** Micro-dollars of `quantity` units, rounded half up. */
export function amountMicros(quantity: number, item: PriceItem, discount_ppm: number): number {
  const whole = BigInt(quantity) * BigInt(item.price_micros) * BigInt(1_000_000 - discount_ppm);
  const per = BigInt(item.per) * 1_000_000n;
  return Number((whole * 2n + per) / (per * 2n));
}

/** What an ended prediction costs: nothing when it never started, or when the platform failed. */
export function costLines(
  meter: Pick<Meter, "predict_time_s" | "platform_failure" | "units">,
  rates: Rates,
): CostLine[] {
  if (meter.platform_failure || rates.basis === "online" || rates.basis === "free") return [];
  return rates.items.flatMap((item) => {
    const quantity =
      item.unit === "second" ? Math.round(meter.predict_time_s * 1_000_000) : (meter.units?.[item.unit] ?? 0);
    if (quantity === 0) return [];
    const amount_micros = amountMicros(quantity, item, rates.discount_ppm);
    return [{ ...item, quantity, discount_ppm: rates.discount_ppm, amount_micros }];
  });
}

/**
 * The lines of a bill that may not be above `cap_micros`: the units that it pays for, in the order of the lines. What is beyond is given away, so that each
 * line is still its quantity times its price.
 */
export function cappedLines(lines: readonly CostLine[], cap_micros: number): CostLine[] {
  let left = cap_micros;
  return lines.flatMap((line) => {
    const quantity = line.amount_micros <= left ? line.quantity : paidQuantity(left, line, line.quantity);
    const amount_micros = amountMicros(quantity, line, line.discount_ppm);
    left -= amount_micros;
    return quantity === 0 ? [] : [{ ...line, quantity, amount_micros }];
  });
}

/** The most units, `max` at most, that cost no more than `micros`. */
export function paidQuantity(micros: number, item: PriceItem & { discount_ppm: number }, max: number): number {
  let [low, high] = [0, max];
  while (low < high) {
    const middle = low + Math.ceil((high - low) / 2);
    if (amountMicros(middle, item, item.discount_ppm) <= micros) low = middle;
    else high = middle - 1;
  }
  return low;
}

export function sumMicros(lines: readonly { amount_micros: number }[]): number {
  return lines.reduce((sum, line) => sum + line.amount_micros, 0);
}

/** Micro-dollars as dollars with six decimals, such as `0.000123`. */
export function usd(micros: number): string {
  const text = String(Math.abs(micros)).padStart(7, "0");
  return `${micros < 0 ? "-" : ""}${text.slice(0, -6)}.${text.slice(-6)}`;
}
