import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it, vi } from "vitest";
import type { AccountTerms, Charge } from "../schema/ledger.ts";
import { amountMicros, type CostLine, sumMicros } from "../schema/pricing.ts";
import { AccountObject } from "./account.ts";
import type { AdmitResult, Settlement } from "./account-contract.ts";
import type { SpendRequest } from "./ledger-contract.ts";
import { accountStub } from "./stubs.ts";
import {
  aDocument,
  anAdmit,
  aPredictionId,
  aSettlement,
  envWith,
  freshName,
  passTime,
  START,
  stopClockInEachTest,
  withObject,
} from "./testing/harness.ts";

stopClockInEachTest();

const DAY_MS = 86_400_000;
const LIMITS = { creates_per_minute: 100_000 };

function terms(change: Partial<AccountTerms> = {}): AccountTerms {
  const budget = { day_micros: null, month_micros: null };
  return { billing: "postpaid", budget, alert_webhook: null, free_credits_micros: 0, ...change };
}
const capped = (day_micros: number) => terms({ budget: { day_micros, month_micros: null } });

function spend(reserve_micros: number, of: AccountTerms, token: SpendRequest["token"] = null): SpendRequest {
  return { reserve_micros, terms: of, token, model: "cogway/test", deployment: null };
}

function aCharge(id: string, micros: number, change: Partial<Charge> = {}): Charge {
  const line = {
    unit: "second" as const,
    quantity: micros * 10_000,
    price_micros: 100,
    per: 1_000_000,
    discount_ppm: 0,
  };
  const lines: CostLine[] = [{ ...line, amount_micros: amountMicros(line.quantity, line, 0) }];
  const of = { model: "cogway/test", version: "v1", hardware: "cpu", token_id: null, deployment: null };
  return { subject: `prediction:${id}`, at: Date.now(), basis: "active", ...of, lines, ...change };
}

function anEnd(id: string, micros: number, change: Partial<Charge> = {}): Settlement {
  return aSettlement(aDocument({ id }), { charge: aCharge(id, micros, change) });
}

/** An account whose PredictionObjects know the predictions in `existing`. `restart` drops its memory. */
function withAccount(
  test: (world: {
    account: AccountObject;
    restart: () => AccountObject;
    existing: Set<string>;
    /** what was told of instances' time for metrics; `isAway`: nobody takes it */
    online: { told: number[]; isAway: boolean };
    state: DurableObjectState;
  }) => Promise<void>,
): Promise<void> {
  return withObject("ACCOUNTS", freshName(), async (state) => {
    const existing = new Set<string>();
    const online = { told: [] as number[], isAway: false };
    const predictions = {
      getMany: async (ids: string[]) => ids.map((id) => (existing.has(id) ? aDocument({ id }) : null)),
      countOnline: async (_accountId: string, micros: number) => {
        if (online.isAway) throw new Error("away");
        online.told.push(micros);
      },
    };
    const restart = () => new AccountObject(state as never, envWith({ predictions }));
    await test({ account: restart(), restart, existing, online, state });
  });
}

async function admitted(account: AccountObject, of: SpendRequest): Promise<{ id: string; result: AdmitResult }> {
  const id = aPredictionId();
  return { id, result: await account.admit(anAdmit({ prediction_id: id, limits: LIMITS, spend: of })) };
}

describe("a cap", () => {
  it("holds under 500 parallel creates and evictions between them, and all of it can be spent", async () => {
    vi.useRealTimers();
    const name = freshName();
    const account = accountStub(env, name);
    const reserve = 7;
    const cap = 1_000;
    const results: { id: string; result: AdmitResult }[] = [];
    const create = async (): Promise<void> => {
      const id = aPredictionId();
      const request = anAdmit({ prediction_id: id, limits: LIMITS, spend: spend(reserve, capped(cap)) });
      results.push({ id, result: await account.admit(request) });
    };
    await Promise.all(Array.from({ length: 250 }, create));
    await evictDurableObject(env.ACCOUNTS.getByName(name));
    await Promise.all(Array.from({ length: 250 }, create));
    const won = results.filter(({ result }) => result.kind === "admitted");
    expect(won).toHaveLength(Math.floor(cap / reserve));
    const lost = results.filter(({ result }) => result.kind === "over_budget");
    expect(lost).toHaveLength(500 - won.length);
    const balance = await account.balance(terms());
    expect(balance).toMatchObject({ reserved_micros: won.length * reserve, spent: { day_micros: 0 } });
    // Half of them cost less than was held: what is left over can be spent by others. Told twice, each counts once.
    const ends = won.map(({ id }, n) => anEnd(id, n % 2 === 0 ? reserve : 3));
    await Promise.all([...ends, ...ends].map((end) => account.settle([end])));
    await evictDurableObject(env.ACCOUNTS.getByName(name));
    await account.settle(ends);
    await Promise.all(Array.from({ length: 500 }, create));
    const again = results.slice(500).filter(({ result }) => result.kind === "admitted");
    const spent = ends.reduce((sum, { charge }) => sum + sumMicros(charge?.lines ?? []), 0);
    expect(again).toHaveLength(Math.floor((cap - spent) / reserve));
    expect(await account.balance(terms())).toMatchObject({
      reserved_micros: again.length * reserve,
      spent: { day_micros: spent },
    });
    const { entries } = await account.ledger({ after_seq: 0, limit: 1_000 });
    expect(new Set(entries.map(({ subject, kind }) => `${subject} ${kind}`)).size).toBe(ends.length);
    expect(entries.map(({ seq }) => seq)).toEqual(entries.map((_, n) => n + 1));
  });

  it("of a token holds beside the account's, with what the token itself spent", () =>
    withAccount(async ({ account }) => {
      const token = { id: "t1", budget: { day_micros: 100, month_micros: null } };
      const first = await admitted(account, spend(60, capped(1_000), token));
      expect(first.result).toMatchObject({ kind: "admitted" });
      expect((await admitted(account, spend(60, capped(1_000), token))).result).toMatchObject({
        kind: "over_budget",
        code: "billing.budget_exceeded",
        detail: expect.stringContaining("This token's budget"),
      });
      expect((await admitted(account, spend(60, capped(1_000), { id: "t2", budget: null }))).result.kind).toBe(
        "admitted",
      );
      await account.settle([anEnd(first.id, 90, { token_id: "t1" })]);
      expect((await admitted(account, spend(10, capped(1_000), token))).result.kind).toBe("admitted");
      expect((await admitted(account, spend(1, capped(1_000), token))).result.kind).toBe("over_budget");
    }));

  it("gets back what was held for creates that failed, and for those that nobody ever confirmed", () =>
    withAccount(async ({ account, restart, existing }) => {
      const failed = await admitted(account, spend(400, capped(1_000)));
      const died = await admitted(account, spend(300, capped(1_000)));
      const lives = await admitted(account, spend(300, capped(1_000)));
      existing.add(lives.id);
      expect((await admitted(account, spend(1, capped(1_000)))).result.kind).toBe("over_budget");
      await account.unadmit(failed.id);
      await account.unadmit(failed.id);
      expect((await account.balance(terms())).reserved_micros).toBe(600);
      passTime(30_001);
      await restart().alarm();
      await restart().unadmit(lives.id);
      expect((await restart().balance(terms())).reserved_micros).toBe(300);
      await restart().settle([anEnd(lives.id, 250)]);
      // An end of one that was taken back all the same: it ran, so it is booked.
      await restart().settle([anEnd(died.id, 100)]);
      expect(await restart().balance(terms())).toMatchObject({ reserved_micros: 0, spent: { day_micros: 350 } });
    }));

  it("still holds what was answered while its prediction was asked about", () =>
    withObject("ACCOUNTS", freshName(), async (state) => {
      const create = anAdmit({
        limits: LIMITS,
        idempotency: { key: "k", body_sha256: "1" },
        spend: spend(400, capped(1_000)),
      });
      const getMany = async (ids: string[]) => {
        await account.answered("k", { status: 201, headers: [], body: "" });
        return ids.map(() => null);
      };
      const account: AccountObject = new AccountObject(state as never, envWith({ predictions: { getMany } }));
      await account.admit(create);
      passTime(30_000);
      await account.alarm();
      expect((await account.balance(terms())).reserved_micros).toBe(400);
      const { rows } = await account.list({ kind: "prediction", limit: 9 });
      expect(rows.map(({ prediction_id }) => prediction_id)).toEqual([create.prediction_id]);
    }));

  it("lets a running prediction hold more while there is room, and nothing once it ended", () =>
    withAccount(async ({ account, restart }) => {
      const { id } = await admitted(
        account,
        spend(100, capped(500), { id: "t1", budget: { day_micros: 300, month_micros: null } }),
      );
      expect(await account.hold([{ id, reserve_micros: 250 }])).toEqual([null]);
      const [refusal] = await restart().hold([{ id, reserve_micros: 301 }]);
      expect(refusal).toMatchObject({ detail: expect.stringContaining("This token's budget") });
      expect((await account.balance(terms())).reserved_micros).toBe(250);
      await account.settle([anEnd(id, 240, { token_id: "t1" })]);
      expect(await account.hold([{ id, reserve_micros: 400 }])).toEqual([null]);
      expect(await account.balance(terms())).toMatchObject({ reserved_micros: 0, spent: { day_micros: 240 } });
    }));

  it("is none where nothing is capped: nothing is held, whatever is asked", () =>
    withAccount(async ({ account }) => {
      const { id, result } = await admitted(account, spend(0, terms()));
      expect(result.kind).toBe("admitted");
      expect((await account.balance(terms())).reserved_micros).toBe(0);
      await account.settle([anEnd(id, 10)]);
      expect((await account.balance(terms())).spent.day_micros).toBe(10);
    }));
});

/** Breaks the commit that stores it: SQLite takes no value of this size. */
const TOO_LARGE = "x".repeat(3_000_000);

describe("a commit that breaks", () => {
  it("leaves nothing behind in memory: tables, terms and free credits are made by the next one", () =>
    withAccount(async ({ account, restart }) => {
      const prepaid = terms({ billing: "prepaid", free_credits_micros: 500 });
      const create = anAdmit({ limits: LIMITS, spend: spend(100, prepaid) });
      const idempotency = { key: "k", body_sha256: TOO_LARGE };
      await expect(account.admit({ ...create, idempotency })).rejects.toThrow("too big");
      expect(await account.admit(create)).toMatchObject({ kind: "admitted" });
      expect(await restart().balance(prepaid)).toMatchObject({ credits: [{ left_micros: 500 }], reserved_micros: 100 });
      const [refusal] = await restart().hold([{ id: create.prediction_id, reserve_micros: 501 }]);
      expect(refusal).toMatchObject({ code: "billing.balance_exhausted" });
    }));
});

describe("a prepaid account", () => {
  it("starts with its free credits once, and spends credits and payments, not more", () =>
    withAccount(async ({ account, restart }) => {
      const prepaid = terms({ billing: "prepaid", free_credits_micros: 500 });
      const before = await account.balance(prepaid);
      expect(before.credits).toMatchObject([{ left_micros: 500 }]);
      const one = await admitted(account, spend(500, prepaid));
      expect(one.result.kind).toBe("admitted");
      expect((await admitted(restart(), spend(1, prepaid))).result).toMatchObject({
        code: "billing.balance_exhausted",
      });
      const payment = { id: "p1", kind: "payment", amount_micros: 200, expires_at: null, note: "card" } as const;
      await account.credit(payment, prepaid);
      expect(await account.credit(payment, prepaid)).toMatchObject({ balance_micros: 200, reserved_micros: 500 });
      await account.settle([anEnd(one.id, 450)]);
      const two = await admitted(restart(), spend(250, prepaid));
      expect(two.result.kind).toBe("admitted");
      await restart().settle([anEnd(two.id, 250)]);
      const left = await account.balance(prepaid);
      expect(left).toMatchObject({ balance_micros: 0, credits: [{ left_micros: 0 }] });
      // Instances of a deployment cost while they live: a prediction on them is refused too.
      expect((await admitted(account, spend(0, prepaid))).result.kind).toBe("over_budget");
      const { entries } = await account.ledger({ after_seq: 0, limit: 10 });
      expect(entries.filter(({ kind }) => kind === "free")).toHaveLength(1);
    }));

  it("loses what is left of its credits after 90 days, as a row of the ledger, by itself", () =>
    withAccount(async ({ account, restart }) => {
      const prepaid = terms({ billing: "prepaid", free_credits_micros: 500 });
      const { id } = await admitted(account, spend(100, prepaid));
      await account.settle([anEnd(id, 100)]);
      const expires_at = START + 91 * DAY_MS;
      expect((await account.balance(prepaid)).credits).toEqual([{ id: "welcome", left_micros: 400, expires_at }]);
      passTime(91 * DAY_MS);
      await restart().alarm();
      const { entries } = await restart().ledger({ after_seq: 0, limit: 10 });
      expect(entries.at(-1)).toMatchObject({
        subject: "credit:welcome",
        kind: "expired",
        amount_micros: 400,
        debit: "customer",
      });
      expect(await restart().balance(prepaid)).toMatchObject({ credits: [], balance_micros: 0 });
      expect((await admitted(restart(), spend(1, prepaid))).result.kind).toBe("over_budget");
    }));
});

describe("credits of an operator", () => {
  it("end by themselves, in an account that never created anything", () =>
    withAccount(async ({ account, restart }) => {
      const gift = { id: "g", kind: "free", amount_micros: 70, expires_at: START + DAY_MS, note: "" } as const;
      await account.credit(gift, terms());
      passTime(DAY_MS);
      await restart().alarm();
      const { entries } = await restart().ledger({ after_seq: 0, limit: 10 });
      expect(entries.map(({ kind, amount_micros }) => [kind, amount_micros])).toEqual([
        ["free", 70],
        ["expired", 70],
      ]);
    }));
});

describe("the time of instances", () => {
  it("is told for metrics as the sum of what was booked, whatever is told twice, fails or restarts", () =>
    withAccount(async ({ account, restart, online }) => {
      const hour = (n: number, micros: number) =>
        aCharge("", micros, { subject: `instance:i1:${n}`, basis: "online", deployment: "a/d" });
      await account.settle([anEnd(aPredictionId(), 7)]);
      await account.charge([hour(1, 100), hour(2, 20)]);
      await account.charge([hour(1, 100)]);
      online.isAway = true;
      await expect(restart().charge([hour(3, 3)])).rejects.toThrow("away");
      online.isAway = false;
      await restart().charge([hour(3, 3)]);
      // A question about money books nothing.
      await restart().charge([{ ...hour(4, 0), lines: [], hold: { id: "deployment:a/d", micros: 0 } }]);
      expect(online.told).toEqual([120, 120, 123]);
    }));

  it("is held for what comes next in place of what was held before, until nothing is; the first cap that refuses is told", () =>
    withAccount(async ({ account }) => {
      await account.setTerms(capped(1_000));
      const piece = (id: string, micros: number) => ({ ...aCharge("", 0, { lines: [] }), hold: { id, micros } });
      const held = async () => (await account.balance(terms())).reserved_micros;
      expect(await account.charge([piece("a", 600)])).toBeNull();
      expect(await account.charge([piece("a", 400)])).toBeNull();
      expect(await held()).toBe(400);
      const refusal = await account.charge([piece("b", 700), piece("c", 600)]);
      expect(refusal).toMatchObject({ detail: expect.stringContaining("needs up to $0.000700") });
      expect(await held()).toBe(1_000);
      // Nothing is left, and an end asks for nothing.
      expect(await account.charge([piece("d", 0)])).toBeNull();
      expect(await account.charge([piece("a", 0), piece("c", 0)])).toBeNull();
      expect(await held()).toBe(0);
    }));
});

describe("the ledger", () => {
  it("is the sum of what was told, in any order, twice and late; usage, invoice and pages say the same", () =>
    withAccount(async ({ account, restart }) => {
      const at = (day: number) => START + day * DAY_MS;
      const ends = Array.from({ length: 60 }, (_, n) =>
        anEnd(aPredictionId(), n + 1, {
          at: at(n % 40),
          model: n % 2 === 0 ? "a/even" : "a/odd",
          token_id: n % 3 === 0 ? null : `t${n % 3}`,
          hardware: n % 5 === 0 ? "gpu-t4" : "cpu",
          deployment: n % 7 === 0 ? "a/d" : null,
        }),
      );
      const hour = aCharge("x", 1_000, { subject: "instance:i1:0", basis: "online", at: at(3), deployment: "a/d" });
      for (const end of ends.toReversed()) await account.settle([end]);
      await restart().settle(ends);
      expect(await account.charge([hour])).toBeNull();
      await restart().charge([hour]);
      const month = ends.filter(({ charge }) => (charge?.at ?? 0) < START + 31 * DAY_MS);
      const sum = (of: Settlement[]) => of.reduce((total, { charge }) => total + sumMicros(charge?.lines ?? []), 0);
      const everything = { from: 0, to: Number.MAX_SAFE_INTEGER };
      const [all] = await account.usage({ ...everything, group_by: [] });
      expect(all).toEqual({
        key: {},
        amount_micros: sum(ends) + 1_000,
        predictions: 60,
        time_us: (sum(ends) + 1_000) * 10_000,
      });
      for (const group of ["day", "model", "token", "deployment", "hardware", "unit"] as const) {
        const rows = await account.usage({ ...everything, group_by: [group] });
        expect(rows.reduce((total, row) => total + row.amount_micros, 0)).toBe(sum(ends) + 1_000);
        expect(new Set(rows.map(({ key }) => key[group])).size).toBe(rows.length);
      }
      const day = await account.usage({ from: at(3), to: at(4), group_by: ["day", "model"] });
      const third = ends.filter(({ charge }) => charge?.at === at(3));
      expect(day.reduce((total, row) => total + row.amount_micros, 0)).toBe(sum(third) + 1_000);
      const volume = [
        { from_micros: 0, discount_ppm: 0 },
        { from_micros: 1_000, discount_ppm: 100_000 },
      ];
      const invoice = await account.invoice("2090-01", { volume, commitment_micros: 5_000 });
      const charges_micros = sum(month) + 1_000;
      expect(invoice).toMatchObject({ month: "2090-01", charges_micros, commitment_shortfall_micros: 0 });
      expect(invoice.lines.reduce((total, line) => total + line.amount_micros, 0)).toBe(charges_micros);
      expect(invoice.volume_discount_micros).toBe(Math.floor((charges_micros - 1_000) / 10 + 0.5));
      expect(invoice.due_micros).toBe(charges_micros - invoice.volume_discount_micros);
      passTime(40 * DAY_MS);
      const later = await account.invoice("2090-01", { volume, commitment_micros: 5_000 });
      expect(later.commitment_shortfall_micros).toBe(5_000 - invoice.due_micros);
      expect(later.due_micros).toBe(5_000);
      expect(await account.months()).toEqual(["2090-02", "2090-01"]);
      const seqs: number[] = [];
      for (let after_seq = 0; ; ) {
        const page = await account.ledger({ after_seq, limit: 7 });
        seqs.push(...page.entries.map(({ seq }) => seq));
        after_seq = page.entries.at(-1)?.seq ?? 0;
        if (!page.more) break;
      }
      expect(seqs).toEqual(Array.from({ length: 61 }, (_, n) => n + 1));
    }));

  it("takes free credits off an invoice, of the month that used them", () =>
    withAccount(async ({ account }) => {
      const free = terms({ free_credits_micros: 300 });
      const { id } = await admitted(account, spend(0, free));
      await account.settle([anEnd(id, 200), anEnd(aPredictionId(), 250, { at: START + 40 * DAY_MS })]);
      const none = { volume: [], commitment_micros: 0 };
      expect(await account.invoice("2090-01", none)).toMatchObject({
        charges_micros: 200,
        credits_used_micros: 200,
        due_micros: 0,
      });
      expect(await account.invoice("2090-02", none)).toMatchObject({ credits_used_micros: 100, due_micros: 150 });
      expect(await account.invoice("2089-12", none)).toMatchObject({ lines: [], due_micros: 0 });
    }));

  it("ends where it is asked to: pages, months and days hold no more, and no time but of what is paid by time", () =>
    withAccount(async ({ account }) => {
      const line = {
        unit: "image" as const,
        quantity: 3,
        price_micros: 10,
        per: 1,
        discount_ppm: 0,
        amount_micros: 30,
      };
      const next = START + DAY_MS;
      await account.settle([
        anEnd(aPredictionId(), 100),
        anEnd(aPredictionId(), 0, { lines: [line] }),
        anEnd(aPredictionId(), 70, { at: next }),
        anEnd(aPredictionId(), 7, { at: START + 40 * DAY_MS }),
      ]);
      const page = await account.ledger({ after_seq: 0, limit: 2, to: next });
      expect([page.entries.map(({ amount_micros }) => amount_micros), page.more]).toEqual([[100, 30], false]);
      expect(await account.ledger({ after_seq: 0, limit: 1, to: next })).toMatchObject({ more: true });
      const [sum] = await account.usage({ from: 0, to: next, group_by: [] });
      expect(sum).toMatchObject({ amount_micros: 130, time_us: 100 * 10_000, predictions: 2 });
      // The clock of whoever tells an end may be ahead: no month that has not begun has an invoice.
      expect(await account.months()).toEqual(["2090-01"]);
      const back = { id: "x", kind: "adjustment", amount_micros: 40, expires_at: null, note: "" } as const;
      await account.credit(back, terms());
      const invoice = await account.invoice("2090-01", { volume: [], commitment_micros: 0 });
      expect(invoice).toMatchObject({ charges_micros: 200, adjustments_micros: 40, due_micros: 160 });
    }));

  it("counts an end that a faster clock books in the next day against the running day's cap too", () =>
    withAccount(async ({ account }) => {
      await account.settle([anEnd(aPredictionId(), 80, { at: START + DAY_MS })]);
      expect((await admitted(account, spend(21, capped(100)))).result.kind).toBe("over_budget");
      expect((await admitted(account, spend(20, capped(100)))).result.kind).toBe("admitted");
    }));

  it("begins beside the rows of an earlier release, and books nothing for ends that it recorded", () =>
    withAccount(async ({ account, restart, state }) => {
      await account.admit(anAdmit());
      const { prediction_id: old, meter } = aSettlement(aDocument());
      state.storage.sql.exec("INSERT INTO meters VALUES (?, ?)", old, JSON.stringify(meter));
      for (const table of ["ledger", "spent", "reserved", "reservations", "credits", "terms"]) {
        state.storage.sql.exec(`DROP TABLE IF EXISTS ${table}`);
      }
      expect(await restart().ledger({ after_seq: 0, limit: 10 })).toEqual({ entries: [], more: false });
      await restart().settle([anEnd(old, 100)]);
      expect((await restart().balance(terms())).spent.day_micros).toBe(0);
      const { id, result } = await admitted(restart(), spend(10, capped(100)));
      expect(result.kind).toBe("admitted");
      await restart().settle([anEnd(id, 10)]);
      expect((await restart().balance(terms())).spent.day_micros).toBe(10);
    }));
});
