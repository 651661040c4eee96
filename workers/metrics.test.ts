/** What a Prometheus reads: a text that parses, sums that add up at every look, and labels that nobody can add to. */
import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import type { OnlineCharge } from "../durable-objects/ledger-contract.ts";
import { PredictionCounts } from "../durable-objects/prediction-counts.ts";
import { accountStub, predictionStub } from "../durable-objects/stubs.ts";
import { predictionObjectName } from "../schema/ids.ts";
import { prometheusText } from "../schema/prometheus.ts";
import { anAccount, anAnnounce, aToken, call, FakeOrigin, predictionOf, theOperator } from "./testing/edge.ts";

let token: string;
let scraper: string;
let origin: FakeOrigin;
let version: string;

beforeAll(async () => {
  await theOperator();
  vi.stubGlobal("fetch", async () => new Response(null, { status: 500 }));
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  ({ token } = await anAccount());
  scraper = await aToken("cogway", ["metrics:read"]);
});

/** name{labels} -> value */
async function scrape(): Promise<Map<string, number>> {
  const answer = await call("GET", "/metrics", { token: scraper });
  expect(answer.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8");
  const samples = new Map<string, number>();
  for (const line of (await answer.text()).split("\n")) {
    if (line === "" || /^# (HELP|TYPE) [a-z_]+ \S/.test(line)) continue;
    const match = /^([a-z_]+(?:\{(?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)+\})?) (-?[0-9.e+-]+)$/.exec(line);
    expect(match, line).not.toBeNull();
    const [, name = "", value] = match ?? [];
    expect(samples.has(name), `${name} twice`).toBe(false);
    samples.set(name, Number(value));
  }
  return samples;
}

function sum(samples: Map<string, number>, prefix: string): number {
  return [...samples].reduce((total, [name, value]) => total + (name.startsWith(prefix) ? value : 0), 0);
}

const addsUp = (samples: Map<string, number>): void =>
  expect(samples.get("cogway_predictions_created_total")).toBe(
    sum(samples, "cogway_predictions_ended_total{") + sum(samples, "cogway_predictions_in_flight{"),
  );

const create = async () =>
  predictionOf(
    await call("POST", "/v1/predictions", {
      token,
      body: { version, input: { text: "x" }, webhook: "https://receiver.example/" },
    }),
  );

describe("/metrics", () => {
  it("counts created = ended + in flight at every look, while predictions come, run, fail and go", async () => {
    const before = await scrape();
    addsUp(before);
    const made = await Promise.all(Array.from({ length: 9 }, create));
    addsUp(await scrape());
    const [good, bad, canceled] = made.map(({ id }) => id);
    await origin.succeed(good ?? "", "y");
    addsUp(await scrape());
    await origin.attemptOf(bad ?? "");
    await origin.events(bad ?? "", 0, [
      { type: "started" },
      { type: "finished", status: "failed", error: "no", metrics: {}, predict_time_s: 0.1 },
    ]);
    await origin.attemptOf(canceled ?? "");
    const cancel = call("POST", `/v1/predictions/${canceled}/cancel`, { token });
    await vi.waitFor(() => expect(origin.cancels).toContain(canceled));
    await origin.events(canceled ?? "", 0, [{ type: "finished", status: "canceled", metrics: {}, predict_time_s: 0 }]);
    await cancel;
    const after = await scrape();
    addsUp(after);
    const grown = (name: string): number => (after.get(name) ?? Number.NaN) - (before.get(name) ?? 0);
    expect(grown("cogway_predictions_created_total")).toBe(9);
    for (const status of ["succeeded", "failed", "canceled"]) {
      expect(grown(`cogway_predictions_ended_total{status="${status}"}`), status).toBe(1);
    }
    expect(after.get('cogway_origins{state="ready"}')).toBe(1);
    expect(sum(after, "cogway_instances{")).toBeGreaterThan(0);
    await vi.waitFor(async () =>
      expect((await scrape()).get('cogway_webhook_calls_total{outcome="failed"}')).toBeGreaterThan(0),
    );
    expect((await scrape()).get("cogway_webhooks_waiting")).toBeGreaterThan(0);
  });

  it("counts what instances' time costs once, whatever is told again or comes late", async () => {
    const { id } = await anAccount();
    const piece = (hour: number): OnlineCharge => ({
      ...{ subject: `instance:i:${hour}`, at: Date.now(), basis: "online", model: "cogway/echo", version },
      ...{ hardware: "cpu", token_id: null, deployment: null },
      lines: [
        { unit: "second", quantity: 36e8, price_micros: 100, per: 1_000_000, discount_ppm: 0, amount_micros: 360_000 },
      ],
    });
    const charged = async (): Promise<number> => (await scrape()).get("cogway_charged_micros_total") ?? Number.NaN;
    const before = await charged();
    await accountStub(env, id).charge([piece(1)]);
    await evictDurableObject(env.ACCOUNTS.getByName(id));
    await evictDurableObject(env.PREDICTIONS.getByName(predictionObjectName(id)));
    await accountStub(env, id).charge([piece(1), piece(2)]);
    await predictionStub(env, id).countOnline(id, 360_000);
    expect((await charged()) - before).toBe(720_000);
  });

  it("has labels of routes and states alone: paths, ids and queries of callers add none", async () => {
    const labels = (samples: Map<string, number>): number =>
      [...samples.keys()].filter((name) => name.startsWith("cogway_http_requests_total")).length;
    await call("GET", "/v1/predictions/unknown", { token });
    await call("GET", "/nowhere");
    const before = await scrape();
    for (let n = 0; n < 20; n++) {
      await call("GET", `/v1/predictions/unknown-${n}?q=${n}`, { token });
      await call("GET", `/nowhere-${n}`);
    }
    const after = await scrape();
    // The scrape itself is counted behind its answer.
    expect(labels(after) - labels(before)).toBeLessThanOrEqual(1);
    const route = 'cogway_http_requests_total{method="GET",route="/v1/predictions/:prediction_id",status="4xx"}';
    expect((after.get(route) ?? 0) - (before.get(route) ?? 0)).toBe(20);
    const bucket = 'cogway_http_request_duration_seconds_bucket{kind="api",le="+Inf"}';
    expect(after.get(bucket)).toBe(after.get('cogway_http_request_duration_seconds_count{kind="api"}'));
  });

  it("is for tokens of the operator with its own scope, which no other account gets", async () => {
    expect((await call("GET", "/metrics", { token })).status).toBe(403);
    expect((await call("GET", "/metrics")).status).toBe(401);
    const body = { name: "x", scopes: ["metrics:read"] };
    expect((await call("POST", "/v1/tokens", { token, body })).status).toBe(403);
  });
});

describe("Prometheus' text", () => {
  it("keeps one sample a line, whatever a label or a help holds", () => {
    const text = prometheusText([
      { name: "x_total", type: "counter", help: "a\nb\\", samples: [{ labels: { l: 'q"\n\\' }, value: 1.5 }] },
    ]);
    expect(text).toBe('# HELP x_total a\\nb\\\\\n# TYPE x_total counter\nx_total{l="q\\"\\n\\\\"} 1.5\n');
  });
});

describe("a data folder of an earlier release", () => {
  it("counts what lived there as created, so that its end adds up", async () => {
    const stub = env.AUDITS.getByName("any object that has SQLite");
    await runInDurableObject(stub, (_object, { storage: { sql } }) => {
      sql.exec("CREATE TABLE predictions (id TEXT PRIMARY KEY, progress TEXT NOT NULL, is_live INTEGER NOT NULL)");
      sql.exec("CREATE INDEX predictions_live ON predictions (id) WHERE is_live = 1");
      for (const [id, isLive] of [
        ["a", 1],
        ["b", 1],
        ["old", 0],
      ] as const) {
        sql.exec("INSERT INTO predictions VALUES (?, ?, ?)", id, '{"life":{"state":"processing"}}', isLive);
      }
      const counts = new PredictionCounts(sql);
      expect(counts.figures()).toMatchObject({ counts: { created: 0 }, in_flight: { processing: 2 } });
      counts.add("succeeded");
      sql.exec("UPDATE predictions SET is_live = 0 WHERE id = 'a'");
      expect(counts.figures()).toMatchObject({ counts: { created: 2, succeeded: 1 }, in_flight: { processing: 1 } });
    });
  });
});
