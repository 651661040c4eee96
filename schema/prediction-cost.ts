/**
 * What a prediction costs, while it runs and at its end, and where it must stop. Pure, from its own progress and the rates of its creation, so that every
 * reader finds the same, whenever it asks.
 */
import type { Progress } from "./attempt-events.ts";
import type { Meter } from "./prediction-document.ts";
import { isTerminal, meterOf } from "./prediction-lifecycle.ts";
import {
  amountMicros,
  type CostLine,
  cappedLines,
  costLines,
  FREE,
  paidQuantity,
  type Rates,
  sumMicros,
} from "./pricing.ts";

/** What of a create is about money. */
export interface PaidBy {
  rates?: Rates;
  max_cost_micros?: number | null;
  /** held by its admission; null where no cap is in force */
  reserved_micros?: number | null;
}

/** A progress with what is held for it by now. Absent: as its admission did. */
export type PaidProgress = Progress & { reserved_micros?: number | null };

export interface CostLimit {
  micros: number;
  /** what may move: `budget` by holding more */
  reason: "max_cost" | "budget";
}

/** A model that is asked to stop needs a moment, and more is asked for before what is held is used up. */
export const HOLD_AHEAD_MS = 3_000;
/** What is asked for next, in time; the second is asked for where there is no room for the first. */
const NEXT_HOLDS_MS = [60_000, 6_000];
/** The same of what is paid by output, as shares of what is held. */
const NEXT_HOLD_SHARES = [1, 0.25];

/** A number of units that nothing reaches: a day of microseconds is less. */
const UNBOUNDED = Number.MAX_SAFE_INTEGER;

/** How much it may cost; null for any. */
export function costLimit(paid: PaidBy, progress: PaidProgress): CostLimit | null {
  const max = paid.max_cost_micros ?? null;
  const reserved = progress.reserved_micros === undefined ? (paid.reserved_micros ?? null) : progress.reserved_micros;
  if (max !== null && (reserved === null || max <= reserved)) return { micros: max, reason: "max_cost" };
  return reserved === null ? null : { micros: reserved, reason: "budget" };
}

/** What it used, once it ended; null before. Units are counted for those that pay by them. */
export function meterOfProgress({ life, made }: Progress, paid: PaidBy, hardware: string): Meter | null {
  if (paid.rates?.basis !== "output") return meterOf(life, hardware);
  return meterOf(life, hardware, { ...made, ...(life.state === "succeeded" ? { prediction: 1 } : {}) });
}

/** What its end costs; null before its end. Never more than its limit. */
export function finalLines(progress: PaidProgress, paid: PaidBy, hardware: string): CostLine[] | null {
  const meter = meterOfProgress(progress, paid, hardware);
  if (meter === null) return null;
  const lines = costLines(meter, paid.rates ?? FREE);
  const limit = costLimit(paid, progress);
  return limit === null ? lines : cappedLines(lines, limit.micros);
}

/** The same before any limit: what would have to be held for it. */
export function unboundedCost(progress: PaidProgress, paid: PaidBy, hardware: string): number {
  const meter = meterOfProgress(progress, paid, hardware);
  return meter === null ? 0 : sumMicros(costLines(meter, paid.rates ?? FREE));
}

/**
 * When its cost reaches `limit_micros`: a time that may have passed, or null for none that is known. Time is counted on the edge's clock from the model's
 * start, a little more than the model's own measure.
 */
export function reachesAt(
  progress: Progress,
  rates: Rates | undefined,
  limit_micros: number,
  now: number,
): number | null {
  const { running_since = null, life, made = {} } = progress;
  if (rates === undefined || isTerminal(life.state) || running_since === null) return null;
  if (rates.basis === "active") {
    const second = rates.items.find(({ unit }) => unit === "second");
    if (second === undefined || second.price_micros === 0) return null;
    const { discount_ppm } = rates;
    return running_since + Math.floor(paidQuantity(limit_micros, { ...second, discount_ppm }, UNBOUNDED) / 1_000);
  }
  if (rates.basis !== "output") return null;
  const cost = sumMicros(costLines({ predict_time_s: 0, platform_failure: false, units: made }, rates));
  return cost >= limit_micros ? now : null;
}

/**
 * What is held for it before it runs: the worst that its history tells, as long as that is no guess by its deadline alone; then a first minute, since more is
 * asked for while it runs.
 */
export function firstHold(rates: Rates, { worst_micros }: { worst_micros: number }, max: number | null): number {
  const second = rates.basis === "active" ? rates.items.find(({ unit }) => unit === "second") : undefined;
  const minute =
    second === undefined ? worst_micros : amountMicros((NEXT_HOLDS_MS[0] ?? 0) * 1_000, second, rates.discount_ppm);
  return Math.max(1, Math.min(worst_micros, minute, max ?? worst_micros));
}

/** How much to hold in all, once `held` is nearly used up: what is asked for first, and less. */
export function nextHolds(rates: Rates, held: number): number[] {
  const second = rates.items.find(({ unit }) => unit === "second");
  if (rates.basis !== "active" || second === undefined) {
    return NEXT_HOLD_SHARES.map((share) => held + Math.max(1, Math.ceil(held * share)));
  }
  return NEXT_HOLDS_MS.map((ms) => held + Math.max(1, amountMicros(ms * 1_000, second, rates.discount_ppm)));
}
