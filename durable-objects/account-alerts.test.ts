import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { signedHeaders } from "../schema/webhooks.ts";
import { AccountObject } from "./account.ts";
import { AccountAlerts } from "./account-alerts.ts";
import type { AccountApi } from "./account-contract.ts";
import type { AccountTerms, Charge } from "./ledger-contract.ts";
import {
  aDocument,
  anAdmit,
  aSettlement,
  envWith,
  freshName,
  passTime,
  START,
  stopClock,
  withObject,
} from "./testing/harness.ts";

const WEBHOOK = "https://alerts.example/x";
const terms = (change: Partial<AccountTerms> = {}): AccountTerms => ({
  billing: "postpaid",
  budget: { day_micros: 1_000, month_micros: null },
  alert_webhook: WEBHOOK,
  free_credits_micros: 0,
  ...change,
});

interface Call {
  headers: Record<string, string>;
  body: string;
}
let calls: Call[] = [];
let status = 204;

beforeEach(() => {
  stopClock();
  calls = [];
  status = 204;
  vi.stubGlobal("fetch", async (_url: string, init: { headers: Record<string, string>; body: string }) => {
    calls.push({ headers: init.headers, body: init.body });
    return new Response(null, { status });
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

type Account = AccountApi & { alarm(): Promise<void> };
function withAccount(test: (account: Account, restart: () => Account) => Promise<void>): Promise<void> {
  return withObject("ACCOUNTS", freshName(), (state) => {
    const restart = () => new AccountObject(state as never, envWith({})) as unknown as Account;
    return test(restart(), restart);
  });
}

let charges = 0;
function aCharge(amount_micros: number): Charge {
  charges += 1;
  const line = { unit: "prediction", quantity: amount_micros, price_micros: 1, per: 1, discount_ppm: 0 } as const;
  return {
    ...{ subject: `prediction:${charges}`, at: Date.now(), basis: "active", model: "a/b", version: "v" },
    ...{ hardware: "cpu", token_id: null, deployment: null, lines: [{ ...line, amount_micros }] },
  };
}

const told = () => calls.map(({ body }) => (JSON.parse(body) as { data: { percent: number } }).data.percent);

describe("alerts of caps", () => {
  it("come at 50, 80 and 100 %, once a period, signed", () =>
    withAccount(async (account) => {
      await account.setTerms(terms());
      for (const [amount, expected] of [
        [499, []],
        [1, [50]],
        [200, [50]],
        [100, [50, 80]],
        [200, [50, 80, 100]],
        [500, [50, 80, 100]],
      ] as const) {
        await account.charge([aCharge(amount)]);
        await account.alarm();
        expect(told()).toEqual(expected);
      }
      const { keys } = await account.webhookKeys();
      const [{ headers, body } = { headers: {}, body: "" }] = calls;
      const id = headers["webhook-id"] ?? "";
      const at = Number(headers["webhook-timestamp"]) * 1_000;
      expect(signedHeaders(keys, { id, event: "budget.threshold", body }, at)).toEqual(headers);
      passTime(86_400_000);
      await account.charge([aCharge(500)]);
      await account.alarm();
      expect(told()).toEqual([50, 80, 100, 50]);
    }));

  it("are sent again until they were taken, whatever restarts, with one id", () =>
    withAccount(async (account, restart) => {
      status = 500;
      await account.setTerms(terms());
      await account.charge([aCharge(600)]);
      for (let tries = 0; tries < 3; tries++) {
        passTime(120_000);
        await restart().alarm();
      }
      status = 204;
      passTime(3_600_000);
      await restart().alarm();
      passTime(3_600_000);
      await restart().alarm();
      expect(calls).toHaveLength(4);
      expect(new Set(calls.map(({ headers }) => headers["webhook-id"])).size).toBe(1);
      expect((await restart().alerts()).alerts).toMatchObject([{ state: "delivered", attempts: 4 }]);
    }));

  it("are recorded and sent by the next commit where one that recorded them breaks", () =>
    withAccount(async (account, restart) => {
      await account.setTerms(terms());
      // SQLite takes no value of this size.
      const broken = { ...aCharge(1), model: "x".repeat(3_000_000) };
      await expect(account.charge([aCharge(600), broken])).rejects.toThrow("too big");
      await account.charge([aCharge(600)]);
      await restart().alarm();
      expect(told()).toEqual([50]);
    }));

  it("are given up after some days, and never more than a few of them called at once", () =>
    withAccount(async (account) => {
      status = 500;
      const idle = { idle_since: Date.now(), instances: 1, hour_micros: 1 };
      await account.setTerms(terms());
      for (let n = 0; n < 12; n++) await account.deploymentIdle({ deployment: `a/d${n}`, ...idle });
      await account.alarm();
      expect(calls).toHaveLength(10);
      passTime(1);
      await account.alarm();
      expect(calls).toHaveLength(12);
      const states = async () => new Set((await account.alerts()).alerts.map(({ state }) => state));
      expect(await states()).toEqual(new Set(["pending"]));
      passTime(80 * 3_600_000);
      for (let turn = 0; turn < 2; turn++) {
        await account.alarm();
        passTime(1);
      }
      expect(await states()).toEqual(new Set(["failed"]));
    }));

  it("tell of a cap that refuses, though it is not spent to the last", () =>
    withAccount(async (account) => {
      const spend = { terms: terms(), token: null, model: "a/b", deployment: null };
      await account.admit(anAdmit({ spend: { ...spend, reserve_micros: 900 } }));
      const refused = await account.admit(anAdmit({ spend: { ...spend, reserve_micros: 200 } }));
      expect(refused).toMatchObject({ kind: "over_budget" });
      await account.alarm();
      expect(told()).toEqual([100]);
    }));

  it("come once a period, however many tokens reach caps of their own, and older ones go", () =>
    withObject("ACCOUNTS", freshName(), async ({ storage: { sql } }) => {
      const alerts = new AccountAlerts(sql);
      const reach = (scope: string, now: number) => {
        const budget = { day_micros: null, month_micros: 10 };
        alerts.check({ scope, budget, spent: { day_micros: 0, month_micros: 10 } }, null, now);
      };
      const reachAll = (now: number) => {
        reach("account", now);
        for (let n = 0; n < 200; n++) reach(`token:${n}`, now);
        reach("account", now + 1);
      };
      const idle = { deployment: "a/d", idle_since: START, instances: 1, hour_micros: 1 };
      alerts.idle(idle, WEBHOOK, START);
      reachAll(START);
      const ofAccount = sql.exec("SELECT created_at FROM alerts WHERE id LIKE 'alert_account%'").toArray();
      expect(ofAccount).toEqual(Array(3).fill({ created_at: START }));
      reachAll(START + 31 * 86_400_000);
      // One that was not sent yet stays.
      expect(sql.exec("SELECT state FROM alerts WHERE created_at = ?", START).toArray()).toEqual([
        { state: "pending" },
      ]);
    }));

  it("come with the end that was paid for, of the account and of the token that asked", () =>
    withAccount(async (account) => {
      const token = { id: "t", budget: { day_micros: 600, month_micros: null } };
      const create = anAdmit({
        spend: { terms: terms(), token, model: "a/b", deployment: null, reserve_micros: 500 },
      });
      await account.admit(create);
      const charge = { ...aCharge(500), token_id: "t" };
      await account.settle([aSettlement(aDocument({ id: create.prediction_id }), { charge })]);
      await account.alarm();
      expect(calls.map(({ body }) => (JSON.parse(body) as { data: object }).data)).toMatchObject([
        { scope: "account", percent: 50 },
        { scope: "token", percent: 50 },
        { scope: "token", percent: 80 },
      ]);
    }));

  it("of a month count all its days, and come once more in the next", () =>
    withAccount(async (account) => {
      await account.setTerms(terms({ budget: { day_micros: null, month_micros: 1_000 } }));
      for (const [amount, days, expected] of [
        [300, 0, []],
        [200, 1, [50]],
        [100, 1, [50]],
        [500, 29, [50, 50]],
      ] as const) {
        passTime(days * 86_400_000);
        await account.charge([aCharge(amount)]);
        await account.alarm();
        expect(told()).toEqual(expected);
      }
    }));

  it("of a token that refuses are not the account's", () =>
    withAccount(async (account) => {
      const token = { id: "t", budget: { day_micros: 10, month_micros: 1_000 } };
      const spend = { terms: terms(), token, model: "a/b", deployment: null, reserve_micros: 11 };
      await account.admit(anAdmit({ spend }));
      await account.alarm();
      expect(calls.map(({ body }) => (JSON.parse(body) as { data: object }).data)).toMatchObject([
        { scope: "token", period: "day", percent: 100 },
      ]);
    }));

  it("tell of a cap that was changed anew, and of a token's", () =>
    withAccount(async (account) => {
      await account.setTerms(terms());
      await account.charge([aCharge(600)]);
      await account.setTerms(terms({ budget: { day_micros: 1_200, month_micros: null } }));
      await account.charge([aCharge(1)]);
      await account.alarm();
      expect(told()).toEqual([50, 50]);
      const token = { id: "t", budget: { day_micros: 10, month_micros: null } };
      const spend = { terms: terms({ budget: { day_micros: null, month_micros: null } }), token, model: "a/b" };
      await account.admit(anAdmit({ spend: { ...spend, deployment: null, reserve_micros: 11 } }));
      await account.alarm();
      expect(calls.at(-1)?.body).toContain('"scope":"token","token_id":"t"');
    }));

  it("are only shown where there is no webhook", () =>
    withAccount(async (account) => {
      await account.setTerms(terms({ alert_webhook: null }));
      await account.charge([aCharge(1_000)]);
      await account.alarm();
      expect(calls).toEqual([]);
      expect((await account.alerts()).alerts.map(({ state }) => state)).toEqual(["shown", "shown", "shown"]);
    }));
});

describe("a deployment that is left idle", () => {
  it("is told once for each spell, and shown until it is over", () =>
    withAccount(async (account) => {
      await account.setTerms(terms());
      const idle = { deployment: "a/d", idle_since: Date.now() - 200_000_000, instances: 2, hour_micros: 720_000 };
      await account.deploymentIdle(idle);
      await account.deploymentIdle(idle);
      await account.alarm();
      expect(calls).toHaveLength(1);
      expect((await account.alerts()).idle).toEqual([idle]);
      await account.deploymentBusy("a/d");
      expect((await account.alerts()).idle).toEqual([]);
    }));
});

it("alerts of a model that fails and that nobody uses come once for each spell", () =>
  withAccount(async (account) => {
    const at = Date.now();
    const model = { model: "a/m", version: "v", unhealthy_since: at, used_at: at, error: "boom" };
    await account.modelUnhealthy(model, WEBHOOK);
    passTime(1);
    await account.modelUnhealthy(model, WEBHOOK);
    await account.modelUnhealthy({ ...model, unhealthy_since: at + 1 }, WEBHOOK);
    await account.alarm();
    const told = calls.map(({ body }) => JSON.parse(body) as { type: string; data: { unhealthy_since: string } });
    expect(told.map(({ type, data }) => [type, Date.parse(data.unhealthy_since)])).toEqual([
      ["model.unhealthy", at],
      ["model.unhealthy", at + 1],
    ]);
  }));
