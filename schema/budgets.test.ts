import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  ACCOUNT_SCOPE,
  availableMicros,
  book,
  bookCredit,
  expire,
  isCapped,
  release,
  reserve,
  standing,
  welcome,
} from "./budgets.ts";
import {
  type AccountTerms,
  type Charge,
  type CreditEntry,
  dayOf,
  endOfDay,
  monthOf,
  WELCOME_CREDIT,
} from "./ledger.ts";
import { type CostLine, costLines, type Rates } from "./pricing.ts";
import { MemoryBooks } from "./testing/memory-books.ts";

const NOW = Date.UTC(2026, 10, 25, 12);
const DAY_MS = 86_400_000;

function terms(change: Partial<AccountTerms> = {}): AccountTerms {
  const budget = { day_micros: null, month_micros: null };
  return { billing: "postpaid", budget, alert_webhook: null, free_credits_micros: 0, ...change };
}
const capped = (day_micros: number | null, month_micros: number | null = null) =>
  terms({ budget: { day_micros, month_micros } });

function charge(id: string, amount_micros: number, change: Partial<Charge> = {}): Charge {
  const line: CostLine = {
    unit: "image",
    quantity: amount_micros,
    price_micros: 1,
    per: 1,
    discount_ppm: 0,
    amount_micros,
  };
  const of = { model: "a/b", version: "v", hardware: "cpu", token_id: null, deployment: null };
  return { subject: `prediction:${id}`, at: NOW, basis: "output", ...of, lines: [line], ...change };
}

/** As the AccountObject settles: once. */
function settle(books: MemoryBooks, id: string, told: Charge | null): void {
  if (books.settled.has(id)) return;
  books.settled.add(id);
  release(books, id);
  if (told !== null) book(books, told);
}

describe("budgets", () => {
  it("guarantee that what is booked never passes a cap, whatever comes in whatever order", () => {
    const command = fc.record({
      id: fc.nat(40).map(String),
      kind: fc.constantFrom("reserve", "reserve", "more", "settle", "release", "hour"),
      micros: fc.nat(400),
      share: fc.nat(100),
      token: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(command, { maxLength: 200 }), fc.nat(2_000), fc.nat(1_000), (commands, cap, tokenCap) => {
        const books = new MemoryBooks();
        const held = new Map<string, { micros: number; token: boolean }>();
        let now = NOW;
        for (const { id, kind, micros, share, token } of commands) {
          const asked = held.get(id) ?? { micros: 0, token };
          const of = asked.token ? { id: "t", budget: { day_micros: tokenCap, month_micros: null } } : null;
          const wanted = kind === "more" ? asked.micros + micros : micros;
          if (kind === "hour") now += 3_600_000;
          else if (kind === "settle") {
            // Never more than was held, and of any time since.
            const cost = Math.floor((asked.micros * share) / 100);
            settle(books, id, charge(id, cost, { at: now, token_id: asked.token ? "t" : null }));
            held.delete(id);
          } else if (kind === "release") {
            release(books, id);
            held.delete(id);
          } else if (
            reserve(books, id, wanted, { terms: capped(cap), token: of }, now) === null &&
            !books.settled.has(id)
          ) {
            held.set(id, { micros: Math.max(wanted, asked.micros), token: asked.token });
          }
          const reserved = [...held.values()];
          const sum = (rows: typeof reserved) => rows.reduce((total, row) => total + row.micros, 0);
          expect(books.reserved(ACCOUNT_SCOPE)).toBe(sum(reserved));
          expect(books.reserved("token:t")).toBe(sum(reserved.filter((row) => row.token)));
          expect(books.spentSince(ACCOUNT_SCOPE, dayOf(now)) + books.reserved(ACCOUNT_SCOPE)).toBeLessThanOrEqual(cap);
          expect(books.spentSince("token:t", dayOf(now)) + books.reserved("token:t")).toBeLessThanOrEqual(tokenCap);
        }
      }),
      { numRuns: 300 },
    );
  });

  it("count days and months apart, say what is missing, and when it will be there again", () => {
    const books = new MemoryBooks();
    book(books, charge("old", 900, { at: NOW - DAY_MS }));
    expect(reserve(books, "a", 500, { terms: capped(500), token: null }, NOW)).toBeNull();
    expect(reserve(books, "b", 1, { terms: capped(500), token: null }, NOW)).toMatchObject({
      kind: "over_budget",
      code: "billing.budget_exceeded",
      detail: expect.stringContaining("budget of $0.000500 for this day"),
      resets_at: Date.UTC(2026, 10, 26),
    });
    const month = reserve(books, "b", 1, { terms: capped(null, 1_400), token: null }, NOW);
    expect(month).toMatchObject({
      detail: expect.stringContaining("for this month"),
      resets_at: Date.UTC(2026, 11, 1),
    });
    expect(reserve(books, "b", 1, { terms: capped(501, 1_401), token: null }, NOW)).toBeNull();
  });

  it("part what is spent: what ends on the stroke of midnight is the next day's", () => {
    const books = new MemoryBooks();
    const midnight = endOfDay(NOW);
    book(books, charge("before", 60, { at: midnight - 1 }));
    book(books, charge("after", 50, { at: midnight }));
    const spend = { terms: capped(100), token: null };
    expect(reserve(books, "a", 41, spend, midnight - 1)).toMatchObject({ resets_at: midnight });
    expect(reserve(books, "a", 50, spend, midnight)).toBeNull();
  });

  it("are in force where the account or the token has a cap, or nothing runs that is not paid before", () => {
    const day = { day_micros: 1, month_micros: null };
    const none = { day_micros: null, month_micros: null };
    expect([isCapped(terms(), null), isCapped(terms(), none)]).toEqual([false, false]);
    expect([isCapped(capped(1), null), isCapped(capped(null, 1), null)]).toEqual([true, true]);
    expect([isCapped(terms(), day), isCapped(terms({ billing: "prepaid" }), null)]).toEqual([true, true]);
  });

  it("refuse what costs nothing by itself only where nothing is left", () => {
    const books = new MemoryBooks();
    const nothing = { terms: capped(100), token: null };
    expect(reserve(books, "a", 0, nothing, NOW)).toBeNull();
    book(books, charge("x", 100));
    expect(reserve(books, "b", 0, nothing, NOW)).toMatchObject({ code: "billing.budget_exceeded" });
    expect(reserve(books, "b", 0, { terms: terms(), token: null }, NOW)).toBeNull();
  });

  it("hold nothing behind an end, and take nothing back for a repeat of an older call", () => {
    const books = new MemoryBooks();
    const spend = { terms: capped(1_000), token: null };
    expect(reserve(books, "a", 100, spend, NOW)).toBeNull();
    expect(reserve(books, "a", 300, spend, NOW)).toBeNull();
    expect(reserve(books, "a", 100, spend, NOW)).toBeNull();
    expect(books.reserved(ACCOUNT_SCOPE)).toBe(300);
    settle(books, "a", charge("a", 250));
    expect(reserve(books, "a", 400, spend, NOW)).toBeNull();
    expect([books.reserved(ACCOUNT_SCOPE), books.spentEver()]).toEqual([0, 250]);
  });
});

describe("credits", () => {
  function credit(id: string, amount_micros: number, ends_in_days: number | null): CreditEntry {
    const expires_at = ends_in_days === null ? null : NOW + ends_in_days * DAY_MS;
    return { id, kind: "free", amount_micros, expires_at, note: "" };
  }

  it("pay only for the days from their own on, those that end first before others", () => {
    const books = new MemoryBooks();
    book(books, charge("earlier", 100, { at: NOW - DAY_MS }));
    bookCredit(books, credit("ever", 50, null), NOW);
    bookCredit(books, credit("late", 50, 30), NOW);
    bookCredit(books, credit("soon", 50, 10), NOW);
    expect(standing(books, NOW)).toMatchObject({ balance_micros: -100 });
    book(books, charge("a", 70));
    const left = standing(books, NOW).credits.map(({ id, left_micros }) => [id, left_micros]);
    expect(left).toEqual([
      ["soon", 0],
      ["late", 30],
      ["ever", 50],
    ]);
    expect(standing(books, NOW)).toMatchObject({ balance_micros: -100 });
    // A younger one is no younger for the days before it.
    book(books, charge("b", 10, { at: NOW - 2 * DAY_MS }));
    bookCredit(books, credit("older", 5, 20), NOW - DAY_MS);
    expect(standing(books, NOW)).toMatchObject({ balance_micros: -105 });
  });

  it("of an operator who takes something back are booked the other way round", () => {
    const books = new MemoryBooks();
    bookCredit(books, { id: "p", kind: "payment", amount_micros: 500, expires_at: null, note: "" }, NOW);
    bookCredit(books, { id: "x", kind: "adjustment", amount_micros: -200, expires_at: null, note: "" }, NOW);
    expect(books.entries).toMatchObject([
      { debit: "bank", credit: "customer", amount_micros: 500 },
      { debit: "customer", credit: "adjustment", amount_micros: 200 },
    ]);
    expect([customerBalance(books), standing(books, NOW).balance_micros]).toEqual([300, 300]);
  });

  it("are given once, used before paid balance, and end as a row; a prepaid account cannot spend beyond both", () => {
    const books = new MemoryBooks();
    const prepaid = terms({ billing: "prepaid", free_credits_micros: 1_000 });
    expect([welcome(books, prepaid, NOW), welcome(books, prepaid, NOW + 1)]).toEqual([true, false]);
    expect(availableMicros(books, NOW)).toBe(1_000);
    expect(reserve(books, "a", 1_001, { terms: prepaid, token: null }, NOW)).toMatchObject({
      code: "billing.balance_exhausted",
      resets_at: null,
    });
    bookCredit(books, { id: "p1", kind: "payment", amount_micros: 500, expires_at: null, note: "" }, NOW);
    expect(reserve(books, "a", 1_200, { terms: prepaid, token: null }, NOW)).toBeNull();
    settle(books, "a", charge("a", 700));
    expect(standing(books, NOW)).toEqual({
      credits: [{ id: WELCOME_CREDIT, left_micros: 300, expires_at: Date.UTC(2027, 1, 24) }],
      balance_micros: 500,
    });
    expect(expire(books, NOW)).toBe(Date.UTC(2027, 1, 24));
    expect(expire(books, Date.UTC(2027, 1, 24))).toBeNull();
    expire(books, Date.UTC(2027, 1, 25));
    expect(books.entries.filter(({ kind }) => kind === "expired")).toMatchObject([
      { subject: `credit:${WELCOME_CREDIT}`, debit: "customer", credit: "promotion", amount_micros: 300 },
    ]);
    expect(availableMicros(books, Date.UTC(2027, 1, 24))).toBe(500);
    // A charge of before comes late: the credit pays for it as it would have.
    book(books, charge("late", 100));
    book(books, charge("late", 100));
    expect(standing(books, Date.UTC(2027, 1, 25)).balance_micros).toBe(500);
    expect(customerBalance(books)).toBe(500);
  });

  it("come out the same for every order of charges and credits, and the ledger's double entries say it too", () => {
    const credit = fc.record({
      id: fc.constantFrom("c1", "c2", "c3", "c4"),
      kind: fc.constantFrom("free" as const, "free" as const, "payment" as const, "adjustment" as const),
      amount_micros: fc.integer({ min: 1, max: 2_000 }),
      expires_at: fc.option(fc.integer({ min: 1, max: 40 }).map((days) => NOW + days * DAY_MS)),
      note: fc.constant(""),
    });
    const bill = fc.record({ id: fc.nat(30).map(String), amount: fc.nat(500), day: fc.integer({ min: 0, max: 50 }) });
    fc.assert(
      fc.property(
        fc.uniqueArray(credit, { selector: ({ id }) => id, maxLength: 4 }),
        fc.uniqueArray(bill, { selector: ({ id }) => id, maxLength: 30 }),
        fc.infiniteStream(fc.nat()),
        fc.integer({ min: 0, max: 60 }),
        (credits, bills, random, expireAfter) => {
          const run = (order: (number | null)[]): MemoryBooks => {
            const books = new MemoryBooks();
            for (const entry of credits) bookCredit(books, entry, NOW);
            for (const n of order) {
              const told = n === null ? undefined : bills[n];
              if (told === undefined) expire(books, NOW + expireAfter * DAY_MS);
              else book(books, charge(told.id, told.amount, { at: NOW + told.day * DAY_MS }));
            }
            expire(books, NOW + 70 * DAY_MS);
            return books;
          };
          const inOrder = bills.map((_, n) => n);
          const reference = run(inOrder);
          const picks = [...random.take(60)]
            .map((n) => n % (bills.length + 1))
            .map((n) => (n === bills.length ? null : n));
          const other = run([...picks, ...inOrder.toReversed(), null, ...picks]);
          const at = NOW + 70 * DAY_MS;
          expect(standing(other, at)).toEqual(standing(reference, at));
          const left = standing(other, at).credits.reduce((sum, { left_micros }) => sum + left_micros, 0);
          for (const books of [reference, other]) {
            expect(customerBalance(books)).toBe(standing(books, at).balance_micros + left);
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

/** What the account has by the rows of its ledger alone. */
function customerBalance(books: MemoryBooks): number {
  return books.entries.reduce((sum, { debit, credit, amount_micros }) => {
    expect(amount_micros).toBeGreaterThanOrEqual(0);
    return sum + (credit === "customer" ? amount_micros : 0) - (debit === "customer" ? amount_micros : 0);
  }, 0);
}

describe("reconciliation", () => {
  const PREDICTIONS = 25_000;
  const EVENTS = 100_000;

  it("of 100,000 meter events, doubled, late and out of order: the ledger is what the predictions themselves say, to the micro-dollar", () => {
    const random = mulberry(20261125);
    const skus = [25, 100, 225, 975, 1_400, 1_525, 12_200];
    const facts = Array.from({ length: PREDICTIONS }, (_, n) => ({
      id: String(n),
      us: Math.floor(random() ** 4 * 600_000_000),
      price_micros: skus[Math.floor(random() * skus.length)] ?? 100,
      at: NOW + Math.floor(random() * 40) * DAY_MS,
      platform_failure: random() < 0.05,
      token: random() < 0.5 ? "t" : null,
    }));
    const books = new MemoryBooks();
    const told = Array.from({ length: EVENTS }, (_, n) => (n < PREDICTIONS ? n : Math.floor(random() * PREDICTIONS)));
    for (let i = told.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [told[i], told[j]] = [told[j] ?? 0, told[i] ?? 0];
    }
    for (const n of told) {
      const fact = facts[n];
      if (fact === undefined) continue;
      const items = [{ unit: "second" as const, price_micros: fact.price_micros, per: 1_000_000 }];
      const rates: Rates = { basis: "active", hardware: "x", items, discount_ppm: 0 };
      const meter = { predict_time_s: fact.us / 1_000_000, platform_failure: fact.platform_failure };
      const lines = costLines(meter, rates);
      settle(
        books,
        fact.id,
        lines.length === 0 ? null : charge(fact.id, 0, { at: fact.at, token_id: fact.token, lines }),
      );
    }
    // Recomputed from the facts alone, in exact fractions of a micro-dollar.
    const paid = facts.filter(({ platform_failure, us }) => !platform_failure && us > 0);
    const cost = ({ us, price_micros }: (typeof facts)[number]) =>
      Number((BigInt(us * price_micros) + 500_000n) / 1_000_000n);
    const sum = (rows: typeof facts) => rows.reduce((total, row) => total + cost(row), 0);
    expect(books.entries).toHaveLength(paid.length);
    expect(books.spentEver() - sum(paid)).toBe(0);
    expect(books.entries.reduce((total, { amount_micros }) => total + amount_micros, 0) - sum(paid)).toBe(0);
    for (const [period, of] of [
      ["2026-12", (at: number) => monthOf(at) >= "2026-12"],
      ["2026-12-01", (at: number) => dayOf(at) >= "2026-12-01"],
    ] as const) {
      expect(books.spentSince(ACCOUNT_SCOPE, period) - sum(paid.filter(({ at }) => of(at)))).toBe(0);
      const ofToken = paid.filter(({ at, token }) => token === "t" && of(at));
      expect(books.spentSince("token:t", period) - sum(ofToken)).toBe(0);
    }
    expect(books.reserved(ACCOUNT_SCOPE)).toBe(0);
  });
});

/** A small seeded generator (mulberry32), so that a failure can be seen again. */
function mulberry(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
