/**
 * Money over the real system: what runs cost appears on them, caps hold under parallel creates, Cogway-Max-Cost refuses and stops, alerts arrive signed, and the bill
 * is computed again from its CSV by the formula of docs/billing.md alone. A second costs a cent here, so that short runs cost something.
 */
import { readFileSync } from "node:fs";
import { validateWebhook } from "replicate";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Api, Prediction, Problem } from "./lib/api.ts";
import { computeFormula } from "./lib/formula.ts";
import { WebhookReceiver } from "./lib/receiver.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const DOLLAR = 1_000_000;
/** Micro-dollars of a second. */
const SECOND_MICROS = 10_000;
/** Of a version, before its history counts; and until it is known to who asks. */
const KNOWN_RUNS = 5;
const SOON_MS = 30_000;
const CREATES = 500;

type Priced = Prediction & { cost: number | null; cost_usd: string | null };
interface Billing {
  spent: { day_micros: number };
  reserved_micros: number;
  alerts: { type: string; percent?: number; state: string }[];
}

let system: System;
let receiver: WebhookReceiver;
beforeAll(async () => {
  receiver = await WebhookReceiver.start();
  system = await System.start({ models: ["noop", "tokens"], env: { COGWAY_ALLOW_PRIVATE_URLS: "127.0.0.1/32" } });
  const price = await system.api.request("POST", "/admin/v1/prices", {
    body: { sku: "cpu", price_micros: SECOND_MICROS },
  });
  expect(price.status).toBe(201);
});
afterAll(async () => {
  await system?.stop();
  receiver?.stop();
});

let accounts = 0;
async function anAccount(): Promise<{ api: Api; username: string }> {
  accounts += 1;
  const username = `payer-${accounts}`;
  return { api: await system.api.newAccount(username), username };
}

/** Runs that last some half a second each. */
const slow = { count: 10, delay_ms: 50 };
/** Runs longer than anybody here waits. */
const endless = { count: 2_000, delay_ms: 50 };

async function billing(api: Api): Promise<Billing> {
  return (await api.request<Billing>("GET", "/v1/account/billing")).body;
}

/** Once nothing is held, all that ended was booked. */
function untilBooked(api: Api): Promise<Billing> {
  return waitFor("everything is booked", SOON_MS, async () => {
    const now = await billing(api);
    return now.reserved_micros === 0 ? now : null;
  });
}

/** The formula that people are told to use. */
const FORMULA = /^=ROUND\(.*$/m.exec(readFileSync("docs/billing.md", "utf8"))?.[0] ?? "";

/** As a spreadsheet does it: the guide's formula over the columns of each row, and nothing else of the system. */
function recompute(csv: string): { rows: number; total: number; wrong: string[] } {
  const [head = "", ...lines] = csv.trimEnd().split("\r\n");
  const names = head.split(",");
  let total = 0;
  const wrong: string[] = [];
  for (const line of lines) {
    const cells = line.split(",");
    const value = (name: string): number => {
      const text = cells[names.indexOf(name)] ?? "";
      if (!/^-?\d+$/.test(text)) throw new Error(`no whole number in ${name} of ${line}`);
      return Number(text);
    };
    const amount = computeFormula(FORMULA, value);
    if (amount !== value("amount_micros")) wrong.push(line);
    total += amount;
  }
  return { rows: lines.length, total, wrong };
}

async function csvOf(api: Api, path: string): Promise<string> {
  return (await api.request("GET", path, { headers: { accept: "text/csv" } })).text;
}

test("a prediction carries its cost, which is the sum of the ledger, of usage and of the invoice", async () => {
  const { api } = await anAccount();
  const before = (
    await api.request<{ expected: number; worst: number }>("POST", "/v1/estimates", {
      body: { model: "cogway/tokens", input: slow, cancel_after: "60s" },
    })
  ).body;
  expect(before.worst).toBeGreaterThanOrEqual(before.expected);
  const ended: Priced[] = [];
  for (const model of ["tokens", "noop", "tokens"]) {
    ended.push((await api.run(model, model === "tokens" ? slow : {})) as Priced);
  }
  for (const { cost, cost_usd, metrics } of ended) {
    expect(cost).toBe(
      Math.round((Math.round(Number(metrics["predict_time"]) * 1_000_000) * SECOND_MICROS) / 1_000_000),
    );
    expect(cost_usd).toBe(((cost ?? 0) / DOLLAR).toFixed(6));
  }
  const total = ended.reduce((sum, { cost }) => sum + (cost ?? 0), 0);
  await waitFor("the account's books", SOON_MS, async () =>
    (await billing(api)).spent.day_micros === total ? true : null,
  );
  const day = new Date().toISOString().slice(0, 10);
  const csv = await csvOf(api, `/v1/ledger?from=${day.slice(0, 8)}01&to=${day}`);
  const { rows, total: sum, wrong } = recompute(csv);
  expect({ rows, sum, wrong }).toEqual({ rows: ended.length, sum: total, wrong: [] });
  // One micro-dollar more is seen.
  expect(
    recompute(csv.replace(/(\d+),(-?\d+\.\d{6})\r\n$/, (_, n, dollars) => `${Number(n) + 1},${dollars}\r\n`)).wrong,
  ).toHaveLength(1);
  process.stderr.write(`billing: ${rows} rows of the day by ${FORMULA} are $${(sum / DOLLAR).toFixed(6)}, as billed\n`);
  const usage = await api.request<{ total_micros: number }>("GET", "/v1/usage?group_by=model");
  expect(usage.body.total_micros).toBe(total);
  const month = day.slice(0, 7);
  const invoice = await api.request<{ due_micros: number; charges_micros: number }>("GET", `/v1/invoices/${month}`);
  expect(invoice.body.charges_micros).toBe(total);
  expect(recompute((await api.request("GET", `/v1/invoices/${month}.csv`)).text)).toMatchObject({
    total: invoice.body.due_micros,
    wrong: [],
  });
});

/** The version's runs are known, so that what is held for one is little more than it costs. */
async function untilKnown(api: Api): Promise<void> {
  const runs = await Promise.all(Array.from({ length: KNOWN_RUNS }, () => api.create("tokens", slow)));
  for (const run of runs) await api.untilEnd(run);
  await waitFor("the version's history", SOON_MS, async () => {
    const body = { model: "cogway/tokens", input: slow };
    const { basis } = (await api.request<{ basis: { runs: number } }>("POST", "/v1/estimates", { body })).body;
    return basis.runs >= KNOWN_RUNS ? true : null;
  });
}

test("a cap is never passed by creates that come together, and its alerts arrive signed", async () => {
  const { api } = await anAccount();
  await untilKnown(system.api);
  const cap = DOLLAR / 10;
  const webhook = `${receiver.url}/alerts`;
  await api.request("PATCH", "/v1/account/billing", {
    body: { budget: { day_micros: cap, month_micros: null }, alert_webhook: webhook },
  });
  const answers = await Promise.all(
    Array.from({ length: CREATES }, () => api.tryCreate<Priced & Problem>("tokens", slow, { wait: 30 })),
  );
  const refused = answers.filter(({ status }) => status === 402);
  expect(refused.length).toBeGreaterThan(0);
  expect(refused[0]?.body).toMatchObject({ code: "billing.budget_exceeded" });
  const accepted = answers.filter(({ status }) => status === 201).map(({ body }) => body);
  expect(accepted.length).toBeGreaterThan(0);
  expect(accepted.length + refused.length).toBe(CREATES);
  const ended = await Promise.all(accepted.map((prediction) => api.untilEnd(prediction) as Promise<Priced>));
  const { spent } = await untilBooked(api);
  expect(spent.day_micros).toBe(ended.reduce((sum, { cost }) => sum + (cost ?? 0), 0));
  expect(spent.day_micros).toBeLessThanOrEqual(cap);
  // What is left is spent until the cap itself refuses.
  await waitFor("the cap refuses a run by itself", SOON_MS, async () => {
    const { status, body } = await api.tryCreate<Priced>("tokens", slow, { wait: 30 });
    if (status === 201) await api.untilEnd(body);
    return status === 402 ? true : null;
  });
  expect((await untilBooked(api)).spent.day_micros).toBeLessThanOrEqual(cap);
  const calls = await waitFor("the alert of the cap", SOON_MS, () => {
    const about = receiver.calls.filter(({ path }) => path === "/alerts");
    return about.length >= 3 ? about : null;
  });
  const bodies = calls.map(
    ({ text }) => JSON.parse(text) as { type: string; data: { percent: number; cap_micros: number } },
  );
  expect(bodies.map(({ data }) => data.percent).sort((a, b) => a - b)).toEqual([50, 80, 100]);
  const { key } = (await api.request<{ key: string }>("GET", "/v1/webhooks/default/secret")).body;
  for (const { headers, text, id } of calls) {
    const [timestamp, signature] = [String(headers["webhook-timestamp"]), String(headers["webhook-signature"])];
    expect(await validateWebhook({ id, timestamp, body: text, secret: key, signature })).toBe(true);
    expect(headers["cogway-event"]).toBe("budget.threshold");
  }
  await waitFor("the alerts are known to be delivered", SOON_MS, async () => {
    const { alerts } = await billing(api);
    return alerts.length === 3 && alerts.every(({ state }) => state === "delivered") ? true : null;
  });
});

test("Cogway-Max-Cost refuses what is expected to cost more, and stops what has cost as much", async () => {
  const { api } = await anAccount();
  await untilKnown(api);
  const refusal = await waitFor("a run that is too dear is refused", SOON_MS, async () => {
    const answer = await api.tryCreate<Problem>("tokens", slow, { headers: { "cogway-max-cost": "0.0001" } });
    return answer.status === 402 ? answer.body : null;
  });
  expect(refusal).toMatchObject({ code: "billing.max_cost" });
  const long = await api.create("tokens", endless, { headers: { "cogway-max-cost": "0.02" } });
  const ended = (await api.untilEnd(long)) as Priced;
  expect(ended).toMatchObject({ status: "failed", error_code: "billing.max_cost_reached" });
  expect(ended.cost).toBeLessThanOrEqual(0.02 * DOLLAR);
  expect(ended.cost).toBeGreaterThan(0.01 * DOLLAR);
});

test("a deployment pays for the whole life of its instances, to the microsecond", async () => {
  const { api, username } = await anAccount();
  const { body } = await api.request<{ latest_version: { id: string } }>("GET", "/v1/models/cogway/noop");
  const configuration = {
    ...{ name: "kept", model: "cogway/noop", version: body.latest_version.id, hardware: "cpu" },
    ...{ min_instances: 1, max_instances: 1 },
  };
  expect((await api.request("POST", "/v1/deployments", { body: configuration })).status).toBe(200);
  const path = `/v1/deployments/${username}/kept`;
  const run = await api.request<Priced>("POST", `${path}/predictions`, {
    body: { input: {} },
    headers: { prefer: "wait" },
  });
  const ended = (await api.untilEnd(run.body)) as Priced;
  expect(ended).toMatchObject({ status: "succeeded", cost: 0 });
  await api.request("PATCH", path, { body: { min_instances: 0, max_instances: 0 } });
  const spent = await waitFor("the instance's life is booked", SOON_MS, async () => {
    const { day_micros } = (await billing(api)).spent;
    return day_micros > 0 ? day_micros : null;
  });
  const day = new Date().toISOString().slice(0, 10);
  const csv = await csvOf(api, `/v1/ledger?day=${day}`);
  expect(recompute(csv)).toMatchObject({ total: spent, wrong: [] });
  expect(csv).toContain(`,${username}/kept,`);
});
