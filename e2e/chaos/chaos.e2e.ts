/**
 * Nothing is lost, whatever is killed: predictions of every kind over two origins, while an origin or workerd is killed every 5 s, connections between all
 * parts are reset, and the receiver of webhooks fails. What callers, readers and the receiver saw is then compared with what is stored, and the money with
 * what the documents say (history.ts, checks.ts). 300 predictions; COGWAY_CHAOS=10000 makes it as many, COGWAY_CHAOS_SEED=2 other ones.
 */
import { setTimeout as pause } from "node:timers/promises";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, expect, test } from "vitest";
import { zipOf } from "../../gpu-origin/testing/zip.ts";
import type { Api, Model, Prediction } from "../lib/api.ts";
import { printCounts } from "../lib/counts.ts";
import { type WebhookCall, WebhookReceiver } from "../lib/receiver.ts";
import { freePort, System } from "../lib/system.ts";
import { Toxiproxy } from "../lib/toxiproxy.ts";
import { waitFor } from "../lib/wait.ts";
import { Caller } from "./caller.ts";
import {
  type Books,
  checkEnds,
  checkListed,
  checkMoney,
  checkStreams,
  checkWebhooks,
  costOf,
  isTold,
  type LedgerRow,
  type Life,
} from "./checks.ts";
import { Faults, failingReceiver } from "./faults.ts";
import { checkHistory, isEnd } from "./history.ts";
import { type Planned, planned } from "./plan.ts";
import { type ReadStream, readResuming } from "./resumed-stream.ts";

const PREDICTIONS = Number(process.env["COGWAY_CHAOS"] ?? 300);
const SEED = Number(process.env["COGWAY_CHAOS_SEED"] ?? 1);
const CALLERS = 12;
const RESET_SHARE = 0.01;
const ORIGINS = 2;
/** A poll of a caller that waits for an end. */
const POLL_MS = 400;
/** From the last kill: leases end after 20 s, boots wait for each other, webhooks are tried again after 1, 5, 15 and 60 s. */
const SETTLED_WITHIN_MS = 150_000;
/** What has not ended by then is lost. */
const LOST_AFTER_MS = 180_000;
const RUN_TIMEOUT_MS = 360_000 + Math.max(0, PREDICTIONS - 300) * 1_000;
const DATA = `data:application/zip;base64,${zipOf({ "a.txt": "roses" }).toString("base64")}`;
const ACCOUNT = "chaos";
/** Micro-dollars of a second, so that what runs for milliseconds costs something. */
const SECOND_MICROS = 10_000;

let system: System;
let toxiproxy: Toxiproxy | null;
let receiver: WebhookReceiver;
let webhookUrl: string;
let api: Api;
let caller: Caller;
let trainerPath: string;
const proxies = ["edge to origin 0", "edge to origin 1", "origins to edge"];

beforeAll(async () => {
  receiver = await WebhookReceiver.start(failingReceiver(SEED));
  toxiproxy = await Toxiproxy.start("the part of the chaos run that resets connections");
  const ports = await System.freePorts(ORIGINS);
  const proxied = { callers: await freePort(), webhooks: await freePort(), edge: await freePort(), origins: [0, 0] };
  proxied.origins = [await freePort(), await freePort()];
  const env: Record<string, string> = { COGWAY_ALLOW_PRIVATE_URLS: "127.0.0.1/32" };
  webhookUrl = receiver.url;
  if (toxiproxy !== null) {
    const receiverPort = Number(new URL(receiver.url).port);
    await toxiproxy.add("callers to edge", proxied.callers, ports.edge, RESET_SHARE);
    await toxiproxy.add("edge to receiver", proxied.webhooks, receiverPort, RESET_SHARE);
    await toxiproxy.add("origins to edge", proxied.edge, ports.edge, RESET_SHARE);
    for (const [n, port] of proxied.origins.entries()) {
      await toxiproxy.add(`edge to origin ${n}`, port, ports.origin + n, RESET_SHARE);
    }
    env["COGWAY_PROXY_PORTS"] = [proxied.edge, ...proxied.origins].join(",");
    env["COGWAY_PUBLIC_URL"] = `http://127.0.0.1:${proxied.callers}`;
    webhookUrl = `http://127.0.0.1:${proxied.webhooks}`;
  }
  system = await System.start({
    models: ["noop", "tokens", "idempotent-tokens", "slow", "trainer"],
    origins: ORIGINS,
    ports,
    env,
  });
  const price = await system.api.request("POST", "/admin/v1/prices", {
    body: { sku: "cpu", price_micros: SECOND_MICROS },
  });
  expect(price.status).toBe(201);
  const limits = { creates_per_minute: 1_000_000, reads_per_minute: 1_000_000 };
  api = await system.api.newAccount(ACCOUNT, limits);
  caller = new Caller(toxiproxy === null ? system.url : `http://127.0.0.1:${proxied.callers}`, api.token);
  const { body } = await api.request<Model>("GET", "/v1/models/cogway/trainer");
  trainerPath = `/v1/models/cogway/trainer/versions/${body.latest_version?.id}/trainings`;
});
afterAll(async () => {
  await system?.stop();
  await toxiproxy?.stop();
  receiver?.stop();
});

interface Made {
  plan: Planned;
  id: string;
  path: string;
  streamUrl: string | undefined;
  stream: ReadStream | null;
}

/** One prediction as its caller lives it: to its end, or to its cancel. */
async function live(plan: Planned): Promise<Made> {
  const { key, kind } = plan;
  const events = { webhook: `${webhookUrl}/${key}`, webhook_events_filter: plan.events };
  const headers: Record<string, string> = { "idempotency-key": `chaos-${key}` };
  if (plan.wait_s > 0) headers["prefer"] = `wait=${plan.wait_s}`;
  let path = `/v1/models/cogway/${plan.model}/predictions`;
  let body: unknown = { input: plan.input, ...events };
  if (kind === "training") {
    await makeDestination(key);
    path = trainerPath;
    body = { destination: `${ACCOUNT}/${destinationOf(key)}`, input: { ...plan.input, train_data: DATA }, ...events };
  }
  const created = await caller.ask("create", key, "POST", path, body, headers);
  const createdAt = performance.now();
  const at = `/v1/${kind === "training" ? "trainings" : "predictions"}/${created.id}`;
  const made: Made = { plan, id: created.id, path: at, streamUrl: created.urls.stream, stream: null };
  const reading = kind === "streamed" && made.streamUrl !== undefined ? readResuming(made.streamUrl, plan.cuts) : null;
  if (plan.cancel_after_ms !== null) {
    await pause(plan.cancel_after_ms);
    await caller.ask("cancel", key, "POST", `${at}/cancel`);
  }
  for (;;) {
    const now = await caller.ask("get", key, "GET", at);
    if (isEnd(now)) break;
    const age_ms = performance.now() - createdAt;
    if (age_ms > LOST_AFTER_MS) throw new Error(`${created.id} is lost: ${now.status} after ${Math.round(age_ms)} ms`);
    await pause(POLL_MS);
  }
  made.stream = await reading;
  return made;
}

function destinationOf(key: number): string {
  return `garden-${key}`;
}

async function makeDestination(key: number): Promise<void> {
  const model = { owner: ACCOUNT, name: destinationOf(key), visibility: "private", hardware: "cpu" };
  const made = await caller.call("POST", "/v1/models", model);
  // The first try may have made it before its answer was lost.
  if (made.status !== 201 && !made.text.includes("model.name_taken")) throw new Error(`${made.status}: ${made.text}`);
}

test(`${PREDICTIONS} predictions through kills every 5 s: none lost, none changed, none billed twice`, {
  timeout: RUN_TIMEOUT_MS + SETTLED_WITHIN_MS,
}, async () => {
  const faults = new Faults();
  const began = performance.now();
  const mades: Made[] = [];
  const lost: string[] = [];
  const signatures = await verifiedOnArrival();
  faults.start(system, toxiproxy, proxies);
  const keys = Array.from({ length: PREDICTIONS }, (_, key) => key);
  const lived = byCallers(keys, async (key) => {
    try {
      mades.push(await live(planned(key, SEED)));
    } catch (error) {
      lost.push(`${key}: ${error}`);
    }
  });
  await lived.finally(() => faults.stop());
  const took_s = (performance.now() - began) / 1000;
  await system.untilHealthy();

  const isAllTold = (): true | null => {
    const calls = Map.groupBy(receiver.calls, ({ path }) => path);
    return mades.every(({ plan: { key } }) => isTold({ told: calls.get(`/${key}`) ?? [] })) || null;
  };
  // What is late is found by the checks, with its name.
  await waitFor("every end to be told", SETTLED_WITHIN_MS, isAllTold).catch(() => undefined);
  await waitFor("nothing to be held", SETTLED_WITHIN_MS, async () =>
    (await billing()).reserved_micros === 0 ? true : null,
  ).catch(() => undefined);
  const lives = await byCallers(mades, lifeOf);
  const books = await readBooks(lives);
  const listed = await listedNow(lives);
  const found = {
    lost,
    "not in order, or changed after the end": checkHistory(caller.calls),
    "not the end that it must have": checkEnds(lives),
    "not in the list": checkListed(lives, listed),
    money: checkMoney(lives, books, SECOND_MICROS),
    webhooks: checkWebhooks(lives, signatures),
    streams: checkStreams(lives),
  };
  const streams = mades.flatMap(({ stream }) => stream ?? []);
  printCounts("chaos", {
    seed: SEED,
    predictions: mades.length,
    kinds: count(mades, ({ plan }) => plan.kind),
    ends: count(lives, ({ document: { status, error_code } }) => status + (error_code ? ` ${error_code}` : "")),
    took_s: Math.round(took_s),
    faults: faults.counts,
    recoveries_ms: faults.recoveries_ms.join(" "),
    answers: Object.fromEntries([...caller.counts].toSorted()),
    compared: caller.calls.length,
    webhooks: {
      calls: receiver.calls.length,
      refused: receiver.calls.filter(({ taken }) => !taken).length,
      "ends told": lives.filter(isTold).length,
    },
    streams: {
      read: streams.length,
      equal: streams.length - new Set(found.streams.map((fault) => fault.split(":")[0])).size,
      resumes: streams.reduce((sum, { resumes }) => sum + resumes, 0),
    },
    money: {
      rows: books.rows.length,
      micros: books.spent_micros,
      "micros by documents": lives.reduce((sum, { document }) => sum + costOf(document, SECOND_MICROS), 0),
    },
    found: Object.fromEntries(Object.entries(found).map(([what, each]) => [what, each.length])),
  });
  for (const [what, each] of Object.entries(found)) expect(each, what).toEqual([]);
  // There was something to find: every stream was read, and faults of each kind happened.
  expect(streams).toHaveLength(mades.filter(({ plan }) => plan.kind === "streamed").length);
  expect(streams.reduce((sum, { resumes }) => sum + resumes, 0)).toBeGreaterThan(0);
  expect(receiver.calls.filter(({ taken }) => !taken).length).toBeGreaterThan(0);
  if (toxiproxy !== null) expect(faults.counts["proxies cut"]).toBeGreaterThan(1);
  expect(faults.counts["gpu-origin killed"]).toBeGreaterThan(1);
  expect(faults.counts["workerd killed"]).toBeGreaterThan(1);
});

/** Signatures are looked at when their calls come, since each is good for five minutes. What is answered throws for a call whose signature was not right. */
async function verifiedOnArrival(): Promise<(call: WebhookCall) => void> {
  const { body: secret } = await api.request<{ key: string }>("GET", "/v1/webhooks/default/secret");
  const webhook = new Webhook(secret.key);
  const { answer } = receiver;
  const verdicts = new Map<WebhookCall, unknown>();
  receiver.answer = (call, response) => {
    try {
      webhook.verify(call.text, call.headers as Record<string, string>);
      verdicts.set(call, null);
    } catch (error) {
      verdicts.set(call, error);
    }
    return answer(call, response);
  };
  return (call) => {
    const verdict = verdicts.get(call);
    if (verdict !== null) throw verdict ?? new Error("nobody looked at its signature");
  };
}

/** In the order of `items`, one for each caller at once: ten thousand at once would be a flood. */
async function byCallers<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const done: R[] = [];
  const left = items.entries();
  const one = async (): Promise<void> => {
    for (const [n, item] of left) done[n] = await work(item);
  };
  await Promise.all(Array.from({ length: CALLERS }, one));
  return done;
}

function count<T>(values: Iterable<T>, nameOf: (value: T) => string): Record<string, number> {
  const counts = Map.groupBy([...values], nameOf);
  return Object.fromEntries([...counts].map(([name, all]) => [name, all.length] as const).toSorted());
}

function callsOf({ key }: Planned): typeof receiver.calls {
  return receiver.calls.filter(({ path }) => path === `/${key}`);
}

/** Read when everything has settled, long after its end: what callers saw of it is compared with this too. */
async function lifeOf({ plan, id, path, stream, streamUrl }: Made): Promise<Life> {
  const start = performance.now();
  const { status, body: document } = await api.request<Life["document"]>("GET", path);
  caller.calls.push({ kind: "get", key: plan.key, start, end: performance.now(), status, document });
  const whole = stream === null || streamUrl === undefined ? null : (await readResuming(streamUrl, [])).wire;
  return {
    plan,
    id,
    document,
    told: callsOf(plan),
    stream: stream === null || whole === null ? null : { read: stream.wire, whole },
    published: plan.kind === "training" ? await versionsOf(destinationOf(plan.key)) : null,
  };
}

async function versionsOf(model: string): Promise<string[]> {
  return (await api.all<{ id: string }>(`/v1/models/${ACCOUNT}/${model}/versions`)).map(({ id }) => id);
}

/** Everything that the account's lists show, in its last status: what is told to a list may be a moment late, and is waited for. */
async function listedNow(lives: Life[]): Promise<string[]> {
  let listed: string[] = [];
  await waitFor("the lists", SETTLED_WITHIN_MS, async () => {
    const rows = [...(await api.all<Prediction>("/v1/predictions")), ...(await api.all<Prediction>("/v1/trainings"))];
    listed = rows.map(({ id, status }) => `${id} ${status}`);
    return checkListed(lives, listed).length === 0 ? true : null;
  }).catch(() => undefined);
  return listed;
}

interface Billing {
  spent: { month_micros: number };
  reserved_micros: number;
}

async function billing(): Promise<Billing> {
  return (await api.request<Billing>("GET", "/v1/account/billing")).body;
}

/** The account's books, once they have as many charges as the documents ask for. */
async function readBooks(lives: Life[]): Promise<Books> {
  const owing = lives.filter(({ document }) => costOf(document, SECOND_MICROS) > 0).length;
  let rows: LedgerRow[] = [];
  await waitFor("every charge", SETTLED_WITHIN_MS, async () => {
    rows = await api.all<LedgerRow>("/v1/ledger");
    return rows.filter(({ subject }) => subject.startsWith("prediction:")).length >= owing ? true : null;
  }).catch(() => undefined);
  const { spent, reserved_micros } = await billing();
  const { body: usage } = await api.request<{ total_micros: number }>("GET", "/v1/usage");
  return { rows, spent_micros: spent.month_micros, used_micros: usage.total_micros, reserved_micros };
}
