/** Money as callers see it, over the real routes and objects: estimates, usage, the ledger, invoices that a spreadsheet computes again, budgets, terms and prices. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { accountStub } from "../durable-objects/stubs.ts";
import type { Charge } from "../schema/ledger.ts";
import { amountMicros, type Unit } from "../schema/pricing.ts";
import { anAccount, anAnnounce, aToken, call, FakeOrigin, problemOf, theOperator } from "./testing/edge.ts";

let operator: string;
let version: string;
/** Yesterday, UTC. */
const DAY = new Date(Date.now() - 86_400_000).toISOString().slice(0, 10);
const MONTH = DAY.slice(0, 7);

beforeAll(async () => {
  operator = await theOperator();
  const origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
});

/** A charge of one line, at noon of {@link DAY}. */
function aCharge(n: number, unit: Unit, quantity: number, price_micros: number, per: number, discount_ppm = 0): Charge {
  const amount_micros = amountMicros(quantity, { unit, price_micros, per }, discount_ppm);
  return {
    subject: `prediction:${n}`,
    at: Date.parse(`${DAY}T12:00:00Z`) + n,
    basis: unit === "second" ? "active" : "output",
    model: n % 2 === 0 ? "cogway/echo" : "cogway/other",
    version: "v",
    hardware: "gpu-h100",
    token_id: n % 3 === 0 ? "t1" : null,
    deployment: n % 5 === 0 ? 'me/d, "quoted"' : null,
    lines: [{ unit, quantity, price_micros, per, discount_ppm, amount_micros }],
  };
}

const charges = [
  ...Array.from({ length: 40 }, (_, n) => aCharge(n, "second", 1_234_567 + n * 7_919, 1_525, 1_000_000)),
  ...Array.from({ length: 10 }, (_, n) => aCharge(100 + n, "second", 500_000 * (2 * n + 1), 225, 1_000_000, 100_000)),
  aCharge(200, "image", 3, 40_000, 1),
  aCharge(201, "output_token", 1_333, 3_750_000, 1_000_000, 333_333),
  aCharge(202, "second", 3_600_000_000, 12_200, 1_000_000),
];
const sum = charges.reduce((total, { lines }) => total + (lines[0]?.amount_micros ?? 0), 0);

/** The rows of a CSV by their header: quotes as RFC 4180 has them. */
function parseCsv(text: string): Record<string, string>[] {
  const [head = [], ...rows] = text
    .trimEnd()
    .split("\r\n")
    .map((line) =>
      [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map((m) => m[1]?.replaceAll('""', '"') ?? m[2] ?? ""),
    );
  return rows.map((cells) => Object.fromEntries(head.map((name, i) => [name, cells[i] ?? ""])));
}

/** As a spreadsheet does it: doubles, shown to 15 digits before they are rounded, half away from zero. */
function spreadsheet(row: Record<string, string>): number {
  const n = (name: string) => Number(row[name]);
  const value = (n("quantity") * n("price_micros") * (1_000_000 - n("discount_ppm"))) / (n("per") * 1_000_000);
  const shown = Number(value.toPrecision(15));
  return Math.sign(shown) * Math.floor(Math.abs(shown) + 0.5);
}

async function anAccountWithBill() {
  const account = await anAccount();
  await accountStub(env, account.id).charge(charges);
  return account;
}

describe("a bill", () => {
  it("of a day is computed again from its CSV alone, to the micro-dollar", async () => {
    const { token } = await anAccountWithBill();
    const answer = await call("GET", `/v1/ledger?day=${DAY}`, { token, headers: { accept: "text/csv" } });
    expect(answer.headers.get("content-type")).toContain("text/csv");
    const rows = parseCsv(await answer.text());
    expect(rows).toHaveLength(charges.length);
    for (const row of rows) expect(spreadsheet(row)).toBe(Number(row["amount_micros"]));
    expect(rows.reduce((total, row) => total + spreadsheet(row), 0)).toBe(sum);
    const usage = await call("GET", `/v1/usage?from=${DAY}&to=${DAY}`, { token });
    expect(await usage.json()).toMatchObject({ total_micros: sum });
  });

  it("of a month adds up to what is due, with volume discounts, credits and payments as rows of the same form", async () => {
    const { id, username, token } = await anAccountWithBill();
    const volume = [
      { from_micros: 0, discount_ppm: 0 },
      { from_micros: 1_000_000, discount_ppm: 123_457 },
      { from_micros: 20_000_000, discount_ppm: 250_000 },
    ];
    await call("PATCH", `/admin/v1/accounts/${username}/terms`, { token: operator, body: { volume } });
    const credits = `/admin/v1/accounts/${username}/credits`;
    await call("POST", credits, { token: operator, body: { id: "f", kind: "free", amount_micros: 5_000_001 } });
    await call("POST", credits, { token: operator, body: { id: "p", kind: "payment", amount_micros: 7 } });
    const invoice = await (await call("GET", `/v1/invoices/${MONTH}`, { token })).json<Record<string, number>>();
    const csv = await (await call("GET", `/v1/invoices/${MONTH}.csv`, { token })).text();
    const rows = parseCsv(csv);
    for (const row of rows) expect(spreadsheet(row)).toBe(Number(row["amount_micros"]));
    expect(rows.reduce((total, row) => total + spreadsheet(row), 0)).toBe(invoice["due_micros"]);
    expect(invoice).toMatchObject({ charges_micros: sum, account: username, month: MONTH });
    expect(rows.filter((row) => row["kind"] === "volume_discount")).toHaveLength(2);
    expect(await accountStub(env, id).months()).toContain(MONTH);
  });

  it("lists months, and says which have no invoice", async () => {
    const { token } = await anAccountWithBill();
    const { results } = await (await call("GET", "/v1/invoices", { token })).json<{ results: { month: string }[] }>();
    expect(results.map(({ month }) => month)).toContain(MONTH);
    const problem = await problemOf(await call("GET", "/v1/invoices/2020-01", { token }));
    expect(problem).toMatchObject({ code: "invoice.not_found", status: 404 });
    expect((await problemOf(await call("GET", "/v1/invoices/2020-13", { token }))).status).toBe(400);
  });

  it("sums usage by what is asked for, and as a table", async () => {
    const { token } = await anAccountWithBill();
    const query = `/v1/usage?from=${DAY}&to=${DAY}&group_by=model,unit`;
    const usage = await (await call("GET", query, { token })).json<{
      results: { amount_micros: number; model: string }[];
    }>();
    expect(usage.results.reduce((total, row) => total + row.amount_micros, 0)).toBe(sum);
    const rows = parseCsv(await (await call("GET", query, { token, headers: { accept: "text/csv" } })).text());
    expect(rows.map((row) => row["model"])).toEqual(usage.results.map(({ model }) => model));
    expect((await problemOf(await call("GET", "/v1/usage?group_by=colour", { token }))).detail).toContain("colour");
    expect((await problemOf(await call("GET", "/v1/usage?from=2026-11-02&to=2026-11-01", { token }))).status).toBe(400);
  });

  it("pages the ledger in the order of booking", async () => {
    const { id, token } = await anAccountWithBill();
    await accountStub(env, id).charge(
      Array.from({ length: 100 }, (_, n) => aCharge(1_000 + n, "second", 1_000_000, 100, 1_000_000)),
    );
    const page = async (path: string) =>
      (await call("GET", path, { token })).json<{ next: string | null; results: { seq: number }[] }>();
    const first = await page(`/v1/ledger?day=${DAY}`);
    const second = await page(first.next?.replace(/^https?:\/\/[^/]+/, "") ?? "");
    const seqs = [...first.results, ...second.results].map(({ seq }) => seq);
    expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
    expect(seqs).toHaveLength(charges.length + 100);
    expect(new Set(seqs).size).toBe(seqs.length);
    expect(second.next).toBeNull();
  });

  it("is not for tokens that are bound to models", async () => {
    const { token } = await anAccount();
    const made = await call("POST", "/v1/tokens", {
      token,
      body: { name: "bound", scopes: ["billing:read"], allowed_models: ["cogway/echo"] },
    });
    const bound = (await made.json<{ token: string }>()).token;
    for (const path of ["/v1/account/billing", "/v1/usage", "/v1/ledger", "/v1/invoices"]) {
      expect((await problemOf(await call("GET", path, { token: bound }))).code).toBe("auth.forbidden");
    }
  });
});

describe("terms", () => {
  it("are the account's to change where they are budgets, and the operator's where they are not", async () => {
    const { id, username, token } = await anAccount();
    const body = { budget: { day_micros: 5_000_000 }, alert_webhook: "https://alerts.example/x" };
    const changed = await call("PATCH", "/v1/account/billing", { token, body });
    expect(await changed.json()).toMatchObject({
      budget: { day_micros: 5_000_000, month_micros: null },
      alert_webhook: body.alert_webhook,
    });
    await call("PATCH", "/v1/account/billing", { token, body: { budget: { month_micros: 9 } } });
    const terms = await (await call("GET", `/admin/v1/accounts/${username}/terms`, { token: operator })).json();
    expect(terms).toMatchObject({ day_micros: 5_000_000, month_micros: 9, billing: "postpaid" });
    await call("PATCH", "/v1/account/billing", { token, body: { budget: { day_micros: null } } });
    expect(await (await call("GET", "/v1/account/billing", { token })).json()).toMatchObject({
      budget: { day_micros: null, month_micros: 9 },
    });
    const inner = await problemOf(
      await call("PATCH", "/v1/account/billing", { token, body: { alert_webhook: "http://127.0.0.1/" } }),
    );
    expect(inner.invalid_fields?.[0]?.field).toBe("alert_webhook");
    const reader = await aToken(id, ["billing:read"]);
    expect((await call("PATCH", "/v1/account/billing", { token: reader, body: {} })).status).toBe(403);
  });

  it("count a payment once, however often it is sent", async () => {
    const { username } = await anAccount();
    const path = `/admin/v1/accounts/${username}/credits`;
    const body = { id: "invoice-7", kind: "payment", amount_micros: 25_000_000, note: "thanks" };
    for (const _ of [1, 2]) {
      const balance = await (await call("POST", path, { token: operator, body })).json();
      expect(balance).toMatchObject({ balance_micros: 25_000_000, balance_usd: "25.000000" });
    }
    expect((await call("POST", path, { token: operator, body: { ...body, id: "x", amount_micros: -1 } })).status).toBe(
      422,
    );
    const nobody = await call("POST", "/admin/v1/accounts/nobody/credits", { token: operator, body });
    expect((await problemOf(nobody)).code).toBe("account.not_found");
  });
});

describe("prices", () => {
  it("are added with a date that is not in the past, and never changed", async () => {
    const sku = `sku-${crypto.randomUUID()}`;
    const at = new Date(Date.now() + 60_000).toISOString();
    const body = { sku, price_micros: 77, valid_from: at };
    expect((await call("POST", "/admin/v1/prices", { token: operator, body })).status).toBe(201);
    expect(
      (await call("POST", "/admin/v1/prices", { token: operator, body: { ...body, price_micros: 1 } })).status,
    ).toBe(422);
    const past = { ...body, valid_from: "2020-01-01T00:00:00Z" };
    expect((await problemOf(await call("POST", "/admin/v1/prices", { token: operator, body: past }))).detail).toContain(
      "retroactive",
    );
    const { results } = await (await call("GET", "/admin/v1/prices", { token: operator })).json<{
      results: { sku: string }[];
    }>();
    expect(results.filter((row) => row.sku === sku)).toHaveLength(1);
  });
});

describe("an estimate", () => {
  it("tells expected and worst cost, and what they rest on", async () => {
    const { token } = await anAccount();
    const body = { version, input: { text: "x" }, cancel_after: "60s" };
    const estimate = await (await call("POST", "/v1/estimates", { token, body })).json<Record<string, unknown>>();
    expect(estimate).toMatchObject({
      currency: "usd",
      basis: { billing: "active", runs: 0, deadline_s: 60, hardware: "cpu" },
    });
    expect([estimate["expected"], estimate["worst"]]).toEqual([10 * 100, 60 * 100]);
  });

  it("refuses what a prediction would refuse", async () => {
    const { token } = await anAccount();
    expect((await call("POST", "/v1/estimates", { token, body: { version, input: { text: 1 } } })).status).toBe(422);
    expect((await call("POST", "/v1/estimates", { token, body: { input: {} } })).status).toBe(422);
    expect((await call("POST", "/v1/estimates", { token, body: { version, model: "a/b", input: {} } })).status).toBe(
      422,
    );
    expect((await call("POST", "/v1/estimates", { token, body: { deployment: "a/b", input: {} } })).status).toBe(404);
    const late = await call("POST", "/v1/estimates", {
      token,
      body: { version, input: { text: "x" }, cancel_after: "1s" },
    });
    expect((await problemOf(late)).code).toBe("request.header_invalid");
  });
});

describe("a token's budget", () => {
  it("is set, changed and taken away by tokens that have none", async () => {
    const { token } = await anAccount();
    const budget = { day_micros: 10, month_micros: null };
    const made = await call("POST", "/v1/tokens", {
      token,
      body: { name: "capped", scopes: ["tokens:admin"], budget: { day_micros: 10 } },
    });
    const capped = await made.json<{ id: string; token: string; budget: unknown }>();
    expect(capped.budget).toEqual(budget);
    const path = `/v1/tokens/${capped.id}`;
    expect((await call("PATCH", path, { token: capped.token, body: { budget: null } })).status).toBe(403);
    expect(
      (await call("POST", "/v1/tokens", { token: capped.token, body: { name: "x", scopes: ["tokens:admin"] } })).status,
    ).toBe(403);
    expect(await (await call("PATCH", path, { token, body: { budget: null, name: "free" } })).json()).toMatchObject({
      budget: null,
      name: "free",
    });
  });
});
