/**
 * The ledger of an account: what is booked, and what follows from it. Pure. Amounts are whole micro-dollars, each row names itself by (subject, kind) and is
 * booked once however often it is told, and everything else is a sum of rows: no order of arrival makes a difference.
 *
 * | what happens                     | subject             | kind                | debit            | credit           |
 * | -------------------------------- | ------------------- | ------------------- | ---------------- | ---------------- |
 * | a prediction ends, an hour runs  | `prediction:<id>` … | the line's unit     | customer         | revenue:<basis>  |
 * | free credits are given           | `credit:<id>`       | free                | promotion        | customer         |
 * | what is left of them ends        | `credit:<id>`       | expired             | customer         | promotion        |
 * | a charge from before comes later | `credit:<id>`       | expired:<subject>   | promotion        | customer         |
 * | somebody pays                    | `credit:<id>`       | payment             | bank             | customer         |
 * | the operator corrects            | `credit:<id>`       | adjustment          | adjustment       | customer         |
 */
import type { CostLine, Rates } from "./pricing.ts";

/** A cap on what is spent in a calendar day and month (UTC). Null is no cap. */
export interface Budget {
  day_micros: number | null;
  month_micros: number | null;
}

/** What an account's row says about money; goes along with each admission, since no object reads D1. */
export interface AccountTerms {
  /** `prepaid`: nothing runs that its credits and payments do not cover */
  billing: "postpaid" | "prepaid";
  budget: Budget;
  /** called (signed as the account's other webhooks) at 50, 80 and 100 % of each cap, and about deployments left idle */
  alert_webhook: string | null;
  /** one-time credits of a new account; granted by its first admission */
  free_credits_micros: number;
}

/** What is to be booked of one ended prediction, or of a piece of an instance's online time. Idempotent by `subject` and the line's unit. */
export interface Charge {
  /** `prediction:<id>`, `instance:<id>:<hour>` … */
  subject: string;
  /** when it ended: decides its day and invoice */
  at: number;
  basis: Rates["basis"];
  model: string;
  version: string;
  hardware: string;
  token_id: string | null;
  deployment: string | null;
  lines: CostLine[];
}

export interface LedgerEntry {
  /** rises by one */
  seq: number;
  at: number;
  /** names the entry for ever: subject and kind, such as `prediction:<id>` and `second` */
  subject: string;
  kind: string;
  /** double entry: what `debit` owes more and `credit` less. Such as `customer` and `revenue:active` */
  debit: string;
  credit: string;
  amount_micros: number;
  line: CostLine | null;
  model: string | null;
  version: string | null;
  hardware: string | null;
  token_id: string | null;
  deployment: string | null;
}
export type NewEntry = Omit<LedgerEntry, "seq">;

/** A grant of free credits, a payment, or a correction by the operator (negative takes away). Idempotent by id. */
export interface CreditEntry {
  id: string;
  kind: "free" | "payment" | "adjustment";
  amount_micros: number;
  expires_at: number | null;
  note: string;
}
export interface BookedCredit extends CreditEntry {
  at: number;
}

/** What usage is summed by. */
export const USAGE_GROUPS = ["day", "model", "token", "deployment", "hardware", "unit"] as const;
export type UsageGroup = (typeof USAGE_GROUPS)[number];

const DAY_MS = 86_400_000;
/** Free credits of a new account end after this. */
const FREE_CREDITS_LIFE_MS = 90 * DAY_MS;
/** Id of the free credits that every new account gets, once. */
export const WELCOME_CREDIT = "welcome";

/** `2026-11-25` (UTC). */
export function dayOf(at: number): string {
  return new Date(at).toISOString().slice(0, 10);
}

/** `2026-11` (UTC). */
export function monthOf(at: number): string {
  return new Date(at).toISOString().slice(0, 7);
}

export function monthAfter(month: string): string {
  return monthOf(Date.UTC(Number(month.slice(0, 4)), Number(month.slice(5)), 1));
}

/** When the day and the month of `now` end. */
export function endOfDay(now: number): number {
  return (Math.floor(now / DAY_MS) + 1) * DAY_MS;
}
export function endOfMonth(now: number): number {
  return Date.parse(`${monthAfter(monthOf(now))}-01T00:00:00Z`);
}

/** The credits that a new account starts with. They end with a day, so that which charges they pay is a sum of days. */
export function welcomeCredit(amount_micros: number, now: number): CreditEntry {
  return {
    id: WELCOME_CREDIT,
    kind: "free",
    amount_micros,
    expires_at: endOfDay(now + FREE_CREDITS_LIFE_MS),
    note: "free credits of a new account",
  };
}

const NOTHING = { line: null, model: null, version: null, hardware: null, token_id: null, deployment: null };

/** One row for each line: a kind is a unit. */
export function chargeEntries(charge: Charge): NewEntry[] {
  const { subject, at, basis, model, version, hardware, token_id, deployment } = charge;
  return charge.lines.map((line) => ({
    at,
    subject,
    kind: line.unit,
    debit: "customer",
    credit: `revenue:${basis}`,
    amount_micros: line.amount_micros,
    line,
    model,
    version,
    hardware,
    token_id,
    deployment,
  }));
}

const GIVES: Record<CreditEntry["kind"], string> = { free: "promotion", payment: "bank", adjustment: "adjustment" };

export function creditEntry({ id, kind, amount_micros, at }: BookedCredit): NewEntry {
  const subject = `credit:${id}`;
  const [debit, credit] = amount_micros < 0 ? ["customer", GIVES[kind]] : [GIVES[kind], "customer"];
  return { ...NOTHING, at, subject, kind, debit, credit, amount_micros: Math.abs(amount_micros) };
}

/** What is left of credits that ended. */
export function expiryEntry(credit: BookedCredit, left_micros: number): NewEntry {
  const at = credit.expires_at ?? credit.at;
  const subject = `credit:${credit.id}`;
  const amount_micros = left_micros;
  return { ...NOTHING, at, subject, kind: "expired", debit: "customer", credit: "promotion", amount_micros };
}

/** Part of that was used after all: a charge from before the end was booked after it. */
export function lateUseEntry(credit: BookedCredit, charge: Charge, amount_micros: number): NewEntry {
  const kind = `expired:${charge.subject}`;
  const { at } = charge;
  const subject = `credit:${credit.id}`;
  return { ...NOTHING, at, subject, kind, debit: "promotion", credit: "customer", amount_micros };
}

/** Free credits, those that end first before others. */
export function freeCredits(credits: readonly BookedCredit[]): BookedCredit[] {
  return credits
    .filter((credit) => credit.kind === "free")
    .sort(
      (a, b) =>
        (a.expires_at ?? Number.MAX_SAFE_INTEGER) - (b.expires_at ?? Number.MAX_SAFE_INTEGER) || (a.id < b.id ? -1 : 1),
    );
}

export interface DaySum {
  day: string;
  micros: number;
}

/**
 * How much of each free credit is used by the charges of the days before `until` (null for all). A credit pays for the days from its own until its end, and
 * those that end first are used first: sums of days decide, so charges may come in any order, and one more charge never makes another use less.
 */
export function creditUse(
  credits: readonly BookedCredit[],
  chargedIn: (from: string, to: string | null) => readonly DaySum[],
  until: string | null = null,
): { credit: BookedCredit; used_micros: number }[] {
  const uses = freeCredits(credits).map((credit) => ({
    credit,
    from: dayOf(credit.at),
    to: credit.expires_at === null ? null : dayOf(credit.expires_at),
    used_micros: 0,
  }));
  const first = uses.map(({ from }) => from).sort()[0];
  if (first === undefined) return [];
  for (const { day, micros } of chargedIn(first, until)) {
    let left = micros;
    for (const use of uses) {
      if (day < use.from || (use.to !== null && day >= use.to)) continue;
      const used = Math.min(left, use.credit.amount_micros - use.used_micros);
      use.used_micros += used;
      left -= used;
    }
  }
  return uses.map(({ credit, used_micros }) => ({ credit, used_micros }));
}

/** A part of a month's charges above `from_micros` is cheaper by `discount_ppm`, up to where the next part begins. */
export interface VolumeTier {
  from_micros: number;
  discount_ppm: number;
}

/** Graduated: each part of the charges has the discount of its own tier, rounded half up. Parts without a discount are left out. */
export function volumeParts(
  charges_micros: number,
  tiers: readonly VolumeTier[],
): { part_micros: number; discount_ppm: number; discount_micros: number }[] {
  const sorted = [...tiers].sort((a, b) => a.from_micros - b.from_micros);
  return sorted.flatMap(({ from_micros, discount_ppm }, i) => {
    const to = Math.min(sorted[i + 1]?.from_micros ?? Number.POSITIVE_INFINITY, charges_micros);
    const part_micros = Math.max(0, to - from_micros);
    const twice = BigInt(part_micros) * BigInt(discount_ppm) * 2n;
    const discount_micros = Number((twice + 1_000_000n) / 2_000_000n);
    return discount_micros === 0 ? [] : [{ part_micros, discount_ppm, discount_micros }];
  });
}

export function volumeDiscount(charges_micros: number, tiers: readonly VolumeTier[]): number {
  return volumeParts(charges_micros, tiers).reduce((sum, { discount_micros }) => sum + discount_micros, 0);
}
