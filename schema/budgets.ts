/**
 * Whether something may be spent, and what is spent. Pure over {@link Books}, which are SQLite in the AccountObject and maps in tests and in the simulator:
 * every function runs inside one transaction, so nothing passes a cap however many creates come together.
 *
 * What may be spent is reserved first, and counts as spent until its end: then the real cost takes its place. Nobody books more than was reserved, so sums
 * of the booked never pass a cap either.
 */
import {
  type AccountTerms,
  type BookedCredit,
  type Budget,
  type Charge,
  type CreditEntry,
  chargeEntries,
  creditEntry,
  creditUse,
  type DaySum,
  dayOf,
  endOfDay,
  endOfMonth,
  expiryEntry,
  lateUseEntry,
  monthOf,
  type NewEntry,
  WELCOME_CREDIT,
  welcomeCredit,
} from "./ledger.ts";
import { usd } from "./pricing.ts";

/** The account as a whole; a token's own sums are in `token:<id>`. */
export const ACCOUNT_SCOPE = "account";

export interface Reservation {
  micros: number;
  /** the token that asked, with its cap */
  token: { id: string; budget: Budget | null } | null;
}

/** Where an account's money is kept. */
export interface Books {
  /** spent in the days (`2026-11-25`) or months (`2026-11`) from `period` on, and of `scope` */
  spentSince(scope: string, period: string): number;
  /** spent by the account ever */
  spentEver(): number;
  /** and in each day from `from` to before `to` (null: all later ones), oldest first */
  spentIn(from: string, to: string | null): DaySum[];
  addSpent(scope: string, day: string, month: string, micros: number): void;
  reserved(scope: string): number;
  addReserved(scope: string, micros: number): void;
  reservation(id: string): Reservation | null;
  /** null takes it away */
  setReservation(id: string, reservation: Reservation | null): void;
  /** its end was booked */
  isSettled(id: string): boolean;
  /** False when there is one of its subject and kind: nothing changes then. */
  insert(entry: NewEntry): boolean;
  hasEntry(subject: string, kind: string): boolean;
  credits(): BookedCredit[];
  addCredit(credit: BookedCredit): void;
}

/** Of an admission: what it may cost at most, and against what that is held. */
export interface SpendRequest {
  /** 0 where no cap is in force, and for what costs nothing here */
  reserve_micros: number;
  terms: AccountTerms;
  /** the token's id (schema/tokens.ts) and its own cap; null for what no token asked for */
  token: { id: string; budget: Budget | null } | null;
  model: string;
  deployment: string | null;
}

/** Why spending was refused, for a 402. `resets_at`: when the cap's day or month ends; null for a balance. */
export interface SpendRefusal {
  kind: "over_budget";
  code: "billing.budget_exceeded" | "billing.balance_exhausted";
  detail: string;
  resets_at: number | null;
  /** the cap that refused it: `scope` is `account` or `token:<id>`; absent for a balance */
  cap?: { scope: string; length: "day" | "month" };
}

/** Whether anything bounds what is spent: only then something is reserved. */
export function isCapped(terms: AccountTerms, token: Budget | null): boolean {
  const has = (budget: Budget | null) =>
    budget !== null && (budget.day_micros !== null || budget.month_micros !== null);
  return terms.billing === "prepaid" || has(terms.budget) || has(token);
}

/**
 * Reserves `micros` in all for `id`, a prediction or an instance; at least, since a repeat of an earlier call must not take back what was held since.
 * Idempotent. What costs nothing by itself (0) is refused only where nothing is left at all. An end that was booked stays: nothing is reserved behind it.
 */
export function reserve(
  books: Books,
  id: string,
  micros: number,
  { terms, token }: Pick<SpendRequest, "terms" | "token">,
  now: number,
): SpendRefusal | null {
  if (books.isSettled(id)) return null;
  const known = books.reservation(id)?.micros ?? 0;
  if (known > 0 && micros <= known) return null;
  const refusal = refusalOf(books, micros - known, terms, token, now);
  if (refusal === null) setReserved(books, id, { micros, token });
  return refusal;
}

/** Its reservation ends: it was settled, or never began. Idempotent. */
export function release(books: Books, id: string): void {
  setReserved(books, id, null);
}

function setReserved(books: Books, id: string, reservation: Reservation | null): void {
  const before = books.reservation(id);
  const held = reservation !== null && reservation.micros > 0 ? reservation : null;
  for (const [of, sign] of [
    [before, -1],
    [held, 1],
  ] as const) {
    if (of === null) continue;
    for (const scope of scopesOf(of.token?.id ?? null)) books.addReserved(scope, sign * of.micros);
  }
  if (before !== null || held !== null) books.setReservation(id, held);
}

function scopesOf(tokenId: string | null): string[] {
  return tokenId === null ? [ACCOUNT_SCOPE] : [ACCOUNT_SCOPE, `token:${tokenId}`];
}

function refusalOf(
  books: Books,
  more: number,
  terms: AccountTerms,
  token: SpendRequest["token"],
  now: number,
): SpendRefusal | null {
  const fits = (left: number): boolean => (more === 0 ? left > 0 : left >= more);
  const holders = [
    { scope: ACCOUNT_SCOPE, budget: terms.budget, whose: "The account's" },
    ...(token?.budget == null ? [] : [{ scope: `token:${token.id}`, budget: token.budget, whose: "This token's" }]),
  ];
  for (const { scope, budget, whose } of holders) {
    for (const [cap, period, length, resets_at] of [
      [budget.day_micros, dayOf(now), "day", endOfDay(now)],
      [budget.month_micros, monthOf(now), "month", endOfMonth(now)],
    ] as const) {
      if (cap === null) continue;
      const spent = books.spentSince(scope, period);
      const reserved = books.reserved(scope);
      if (fits(cap - spent - reserved)) continue;
      const detail = `${whose} budget of $${usd(cap)} for this ${length} does not allow it: $${usd(spent)} is spent and $${usd(reserved)} is held for what runs, and this needs up to $${usd(more)}. Raise the budget, wait until ${new Date(resets_at).toISOString()}, or bound it by a shorter Cancel-After or a Cogway-Max-Cost.`;
      return { kind: "over_budget", code: "billing.budget_exceeded", detail, resets_at, cap: { scope, length } };
    }
  }
  if (terms.billing === "prepaid") {
    const available = availableMicros(books, now);
    if (!fits(available)) {
      const detail = `The account's balance does not cover it: $${usd(Math.max(0, available))} is available, and this needs up to $${usd(more)}. Add to the balance, or bound it by a shorter Cancel-After or a Cogway-Max-Cost.`;
      return { kind: "over_budget", code: "billing.balance_exhausted", detail, resets_at: null };
    }
  }
  return null;
}

/** What a prepaid account may still spend: what was paid, with free credits that have not ended, less charges and reservations. */
export function availableMicros(books: Books, now: number): number {
  const { credits, balance_micros } = standing(books, now);
  const left = credits.reduce((sum, { left_micros }) => sum + left_micros, 0);
  return balance_micros + left - books.reserved(ACCOUNT_SCOPE);
}

/** Where the account stands: free credits that are left, and payments less what was charged beyond credits. */
export function standing(
  books: Books,
  now: number,
): { credits: { id: string; left_micros: number; expires_at: number | null }[]; balance_micros: number } {
  const booked = books.credits();
  const uses = creditUse(booked, (from, to) => books.spentIn(from, to));
  const paid = booked.reduce((sum, { kind, amount_micros }) => sum + (kind === "free" ? 0 : amount_micros), 0);
  const used = uses.reduce((sum, { used_micros }) => sum + used_micros, 0);
  return {
    credits: uses
      .filter(({ credit }) => credit.expires_at === null || credit.expires_at > now)
      .map(({ credit, used_micros }) => ({
        id: credit.id,
        left_micros: credit.amount_micros - used_micros,
        expires_at: credit.expires_at,
      })),
    balance_micros: paid + used - books.spentEver(),
  };
}

/**
 * Books a charge, once, and answers how much that added: 0 for a repeat. Credits that had ended when it came, and not when it was made, pay for it as they
 * would have.
 */
export function book(books: Books, charge: Charge): number {
  const ended = books
    .credits()
    .filter(
      ({ id, expires_at }) =>
        expires_at !== null && expires_at > charge.at && books.hasEntry(`credit:${id}`, "expired"),
    );
  const usedOf = () =>
    new Map(
      creditUse(books.credits(), (from, to) => books.spentIn(from, to)).map(({ credit, used_micros }) => [
        credit.id,
        used_micros,
      ]),
    );
  const before = ended.length === 0 ? null : usedOf();
  let added = 0;
  for (const entry of chargeEntries(charge)) {
    if (!books.insert(entry)) continue;
    added += entry.amount_micros;
    for (const scope of scopesOf(charge.token_id)) {
      books.addSpent(scope, dayOf(charge.at), monthOf(charge.at), entry.amount_micros);
    }
  }
  if (before === null) return added;
  const after = usedOf();
  for (const credit of ended) {
    const late = (after.get(credit.id) ?? 0) - (before.get(credit.id) ?? 0);
    if (late > 0) books.insert(lateUseEntry(credit, charge, late));
  }
  return added;
}

/** Books a credit, once. Free ones end with a day. */
export function bookCredit(books: Books, credit: CreditEntry, now: number): void {
  const expires_at = credit.expires_at === null ? null : endOfDay(credit.expires_at - 1);
  const booked = { ...credit, expires_at, at: now };
  if (books.insert(creditEntry(booked))) books.addCredit(booked);
}

/** The free credits of a new account, once; false when it has them. */
export function welcome(books: Books, terms: AccountTerms, now: number): boolean {
  if (terms.free_credits_micros === 0 || books.credits().some(({ id }) => id === WELCOME_CREDIT)) return false;
  bookCredit(books, welcomeCredit(terms.free_credits_micros, now), now);
  return true;
}

/** Books what is left of credits that ended by `now`. Answers when the next ones end; null for never. Idempotent. */
export function expire(books: Books, now: number): number | null {
  let next: number | null = null;
  for (const { credit, used_micros } of creditUse(books.credits(), (from, to) => books.spentIn(from, to))) {
    if (credit.expires_at === null) continue;
    if (credit.expires_at > now) next = Math.min(next ?? credit.expires_at, credit.expires_at);
    else books.insert(expiryEntry(credit, credit.amount_micros - used_micros));
  }
  return next;
}
