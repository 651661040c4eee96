/** What predictions cost, over the real routes and objects: by the prices of their creation, within what caller, budget and balance allow. */
import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { accountStub } from "../durable-objects/stubs.ts";
import type { LedgerEntry } from "../schema/ledger.ts";
import type { StoredTerms } from "../schema/tables/accounts.ts";
import { addHardwarePrice } from "./storage/prices.ts";
import {
  anAccount,
  anAnnounce,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
  type WirePrediction,
} from "./testing/edge.ts";

const WAIT = { timeout: 10_000 };
/** What a first minute on `cpu` holds, micro-dollars. */
const MINUTE_MICROS = 6_000;

let origin: FakeOrigin;
let version: string;
let official: string;
/** official, and paid by the prediction: its cost is known before it ever ran */
let fixed: string;
beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  official = await origin.announce("painter", anAnnounce({ official: { unit: "images", price_micros: 500 } }, {}));
  fixed = await origin.announce("oracle", anAnnounce({ official: { unit: "prediction", price_micros: 1_000 } }));
});

/** An account with these terms, before anybody remembers it without. */
async function withTerms(terms: StoredTerms): Promise<{ id: string; username: string; token: string }> {
  const account = await anAccount({ creates_per_minute: 100_000 });
  await env.DB.prepare("UPDATE accounts SET terms = ? WHERE id = ?").bind(JSON.stringify(terms), account.id).run();
  return account;
}

function create(token: string, of = version, headers: Record<string, string> = {}): Promise<Response> {
  return call("POST", "/v1/predictions", { token, body: { version: of, input: { text: "x" } }, headers });
}

async function get(token: string, id: string): Promise<WirePrediction> {
  return predictionOf(await call("GET", `/v1/predictions/${id}`, { token }));
}

/** As {@link create} asks, for many at once. */
function aRequest(token: string): Request {
  const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
  const body = JSON.stringify({ version, input: { text: "x" } });
  return new Request(`${PUBLIC_URL}/v1/predictions`, { method: "POST", headers, body });
}

/** Its charges, once its account has heard of its end. */
function charged(accountId: string, id: string): Promise<LedgerEntry[]> {
  return vi.waitFor(async () => {
    const { entries } = await accountStub(env, accountId).ledger({ after_seq: 0, limit: 1_000 });
    const own = entries.filter(({ subject }) => subject === `prediction:${id}`);
    if (own.length === 0) throw new Error("nothing was booked yet");
    return own;
  }, WAIT);
}

describe("the cost of a prediction", () => {
  it("is null until its end, then whole micro-dollars and text, in answers, lists and the ledger alike", async () => {
    const { id: account, token } = await anAccount();
    const made = await predictionOf(await create(token));
    expect(made).toMatchObject({ cost: null, cost_usd: null });
    await origin.succeed(made.id, "y");
    expect(await get(token, made.id)).toMatchObject({ cost: 10, cost_usd: "0.000010" });
    expect(await charged(account, made.id)).toMatchObject([
      { kind: "second", amount_micros: 10, credit: "revenue:active", hardware: "cpu", model: "cogway/echo" },
    ]);
    const page = await (await call("GET", "/v1/predictions", { token })).json<{ results: WirePrediction[] }>();
    expect(page.results).toMatchObject([{ id: made.id, cost: 10, cost_usd: "0.000010" }]);
  });

  it("is what an official model made, and nothing on a deployment, whose instances are paid for", async () => {
    const { token, username, id: account } = await anAccount();
    const picture = {
      $cogway_file: { n: 0, name: "a.png", content_type: "image/png", size_bytes: 1, sha256: "0".repeat(64) },
    };
    const painted = await predictionOf(await create(token, official));
    await origin.succeed(painted.id, [picture, picture, "text"]);
    expect((await get(token, painted.id))["cost"]).toBe(1_000);
    expect(await charged(account, painted.id)).toMatchObject([
      { kind: "image", credit: "revenue:output", line: { quantity: 2 } },
    ]);
    const bounds = { hardware: "cpu", min_instances: 0, max_instances: 1 };
    await call("POST", "/v1/deployments", { token, body: { name: "own", model: "cogway/echo", version, ...bounds } });
    const path = `/v1/deployments/${username}/own/predictions`;
    const own = await predictionOf(await call("POST", path, { token, body: { input: { text: "x" } } }));
    await origin.succeed(own.id, "y");
    expect(await get(token, own.id)).toMatchObject({ status: "succeeded", cost: 0, cost_usd: "0.000000" });
  });
});

describe("Cogway-Max-Cost", () => {
  it("refuses what is expected to cost more, leaves nothing of it, and repeats what was created before", async () => {
    const { token } = await anAccount();
    const refused = await create(token, fixed, { "cogway-max-cost": "0.000999" });
    expect(refused.status).toBe(402);
    const problem = await problemOf(refused);
    expect(problem).toMatchObject({ code: "billing.max_cost", detail: expect.stringContaining("$0.001000") });
    const page = await (await call("GET", "/v1/predictions", { token })).json<{ results: WirePrediction[] }>();
    expect(page.results).toEqual([]);
    const key = { "idempotency-key": "k" };
    const made = await create(token, fixed, { ...key, "cogway-max-cost": "0.001" });
    expect(made.status).toBe(201);
    const again = await create(token, fixed, { ...key, "cogway-max-cost": "0" });
    expect([again.status, await again.text()]).toEqual([201, await made.text()]);
  });

  it.each(["", "-1", "1e3", "0.0000001", "free", "1,5"])(
    "is dollars with six decimals at most: not %j",
    async (text) => {
      const { token } = await anAccount();
      const answer = await create(token, version, { "cogway-max-cost": text });
      expect([answer.status, (await problemOf(answer)).code]).toEqual([400, "request.header_invalid"]);
    },
  );

  it("bounds what is booked", async () => {
    const { token, id: account } = await anAccount();
    const { id } = await predictionOf(await create(token, version, { "cogway-max-cost": "$0.001" }));
    await origin.attemptOf(id);
    const finished = { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 30 } as const;
    await origin.events(id, 0, [{ type: "started" }, finished]);
    expect(await get(token, id)).toMatchObject({ status: "succeeded", cost: 1_000, cost_usd: "0.001000" });
    expect(await charged(account, id)).toMatchObject([{ amount_micros: 1_000 }]);
  });
});

describe("a budget", () => {
  it("holds for each input of a batch too", async () => {
    const { token } = await withTerms({ day_micros: MINUTE_MICROS + 20 });
    const inputs = Array.from({ length: 4 }, (_, n) => ({ text: `n${n}` }));
    const made = await call("POST", "/v1/batches", { token, body: { version, inputs, max_concurrency: 4 } });
    const batch = await made.json<{ id: string }>();
    const seen = new Set<string>();
    // One at a time: each holds a minute until its end.
    for (let n = 0; n < 3; n++) {
      const id = await vi.waitFor(async () => {
        await origin.bringUp();
        const next = origin.attempts.find(
          (attempt) => String(attempt.input?.["text"]).startsWith("n") && !seen.has(attempt.prediction_id),
        );
        if (next === undefined) throw new Error("none started yet");
        return next.prediction_id;
      }, WAIT);
      expect(origin.attempts.filter(({ input }) => String(input?.["text"]).startsWith("n"))).toHaveLength(n + 1);
      seen.add(id);
      await origin.succeed(id, "y");
    }
    // Thrice 10 micro-dollars are spent: a minute fits no more, and nothing runs whose end would make room.
    const over = await vi.waitFor(async () => {
      const shown = await (await call("GET", `/v1/batches/${batch.id}`, { token })).json<Record<string, unknown>>();
      if (shown["status"] !== "succeeded") throw new Error(`it is ${String(shown["status"])}`);
      return shown;
    }, WAIT);
    expect(over["counts"]).toMatchObject({ succeeded: 3, failed: 1 });
    const lines = (await (await call("GET", `/v1/batches/${batch.id}/results`, { token })).text()).trim().split("\n");
    expect(lines.map((line) => JSON.parse(line) as Record<string, unknown>)).toMatchObject([
      { status: "succeeded", cost: 10 },
      { status: "succeeded", cost: 10 },
      { status: "succeeded", cost: 10 },
      { status: "failed", error_code: "billing.budget_exceeded", cost: 0 },
    ]);
  });

  it("of a prepaid account is its balance: nothing runs that it does not cover", async () => {
    const { token, id: account } = await withTerms({ billing: "prepaid", free_credits_micros: MINUTE_MICROS });
    const first = await predictionOf(await create(token));
    const refused = await create(token);
    expect([refused.status, (await problemOf(refused)).code]).toEqual([402, "billing.balance_exhausted"]);
    await origin.succeed(first.id, "y");
    await charged(account, first.id);
    expect((await problemOf(await create(token))).detail).toContain("$0.005990 is available");
  });
});

describe("what comes together and what comes later", () => {
  // Through the whole edge; that the account holds under 500 at once is in durable-objects/account-money.test.ts. The time here grows with more than the square
  // of the requests under way: 500 took up to a minute, in which the origin counted as lost.
  it("keeps a budget under 100 creates at once, to the micro-dollar, though each run wants more than was held", async () => {
    const cap = 10 * MINUTE_MICROS + 5_000;
    const { token, id: account } = await withTerms({ day_micros: cap });
    const answers = await Promise.all(Array.from({ length: 100 }, () => exports.default.fetch(aRequest(token))));
    const won = await Promise.all(answers.filter(({ status }) => status === 201).map(predictionOf));
    expect(won).toHaveLength(10);
    const refused = answers.filter(({ status }) => status === 402);
    expect(refused).toHaveLength(90);
    expect(await problemOf(refused[0] ?? new Response())).toMatchObject({ code: "billing.budget_exceeded" });
    // A minute and a half each, half a minute more than is held: all of them together would cost 90,000.
    const finished = { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 90 } as const;
    for (const { id } of won) {
      await origin.attemptOf(id);
      await origin.events(id, 0, [{ type: "started" }, finished]);
    }
    const rows = (await Promise.all(won.map(({ id }) => charged(account, id)))).flat();
    const sum = rows.reduce((total, { amount_micros }) => total + amount_micros, 0);
    expect(sum).toBeLessThanOrEqual(cap);
    // The first end had room for what it wanted, the others for what was held.
    expect(rows.map(({ amount_micros }) => amount_micros).sort()).toEqual([...Array<number>(9).fill(6_000), 9_000]);
    const balance = await accountStub(env, account).balance({} as never);
    expect(balance).toMatchObject({ reserved_micros: 0, spent: { day_micros: sum } });
    expect((await create(token)).status).toBe(402);
  });

  it("lets others use what was held and not spent", async () => {
    const { token, id: account } = await withTerms({ day_micros: MINUTE_MICROS + 10 });
    const first = await predictionOf(await create(token));
    expect((await create(token)).status).toBe(402);
    await origin.succeed(first.id, "y");
    await charged(account, first.id);
    expect((await create(token)).status).toBe(201);
  });

  it("costs by the prices of its creation, whatever becomes of them", async () => {
    const { token } = await anAccount();
    const announce = anAnnounce();
    const priced = { ...announce, version: announce.version && { ...announce.version, hardware: "cpu" } };
    await origin.announce("priced", priced);
    const before = await predictionOf(await create(token, announce.version?.id));
    await addHardwarePrice(env.DB, { sku: "cpu", price_micros: 700, valid_from: Date.now() });
    const after = await predictionOf(await create(token, announce.version?.id));
    await env.DB.prepare("DELETE FROM hardware_prices WHERE valid_from > 0").run();
    for (const { id } of [before, after]) await origin.succeed(id, "y");
    expect((await get(token, before.id))["cost"]).toBe(10);
    expect((await get(token, after.id))["cost"]).toBe(70);
  });
});
