/**
 * Nothing is lost, whatever is killed: predictions of every kind over two origins, while an origin or workerd is killed every 5 s, connections between all
 * parts are reset, and the receiver of webhooks fails. What callers, readers and the receiver saw is then compared with what is stored, and the money with
 * what the documents say. 300 predictions; COGWAY_CHAOS=10000 makes it as many.
 */
import { setTimeout as pause } from "node:timers/promises";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, expect, test } from "vitest";
import { zipOf } from "../../gpu-origin/testing/zip.ts";
import type { Api, Model, Page, Prediction } from "../lib/api.ts";
import { type WebhookCall, WebhookReceiver } from "../lib/receiver.ts";
import { freePort, System } from "../lib/system.ts";
import { Toxiproxy } from "../lib/toxiproxy.ts";
import { waitFor } from "../lib/wait.ts";
import { Caller } from "./caller.ts";
import { Faults, failingReceiver } from "./faults.ts";
import { checkHistory, isEnd } from "./history.ts";
import { type Planned, planned } from "./plan.ts";
import { outputsOf, type ReadStream, readResuming } from "./resumed-stream.ts";

const PREDICTIONS = Number(process.env["COGWAY_CHAOS"] ?? 300);
const CALLERS = 12;
const RESET_SHARE = 0.01;
const ORIGINS = 2;
/** A poll of a caller that waits for an end. */
const POLL_MS = 400;
/** From the last kill: leases end after 20 s, boots wait for each other, webhooks are tried again after 1, 5, 15 and 60 s. */
const SETTLED_WITHIN_MS = 150_000;
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
  receiver = await WebhookReceiver.start(failingReceiver());
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
    const destination = `garden-${key}`;
    const model = { owner: ACCOUNT, name: destination, visibility: "private", hardware: "cpu" };
    const made = await caller.call("POST", "/v1/models", model);
    // The first try may have made it before its answer was lost.
    if (made.status !== 201 && !made.text.includes("model.name_taken")) throw new Error(`${made.status}: ${made.text}`);
    path = trainerPath;
    body = { destination: `${ACCOUNT}/${destination}`, input: { ...plan.input, train_data: DATA }, ...events };
  }
  const created = await caller.ask("create", key, "POST", path, body, headers);
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
    await pause(POLL_MS);
  }
  made.stream = await reading;
  return made;
}

function count<T>(values: Iterable<T>, nameOf: (value: T) => string): Record<string, number> {
  const counts = Map.groupBy([...values], nameOf);
  return Object.fromEntries([...counts].map(([name, all]) => [name, all.length]).toSorted());
}

test(`${PREDICTIONS} predictions through kills every 5 s: none lost, none changed, none billed twice`, {
  timeout: RUN_TIMEOUT_MS + SETTLED_WITHIN_MS,
}, async () => {
  const faults = new Faults();
  const began = performance.now();
  const mades: Made[] = [];
  const problems: string[] = [];
  let next = 0;
  const liveAll = async (): Promise<void> => {
    for (let key = next++; key < PREDICTIONS; key = next++) {
      try {
        mades.push(await live(planned(key)));
      } catch (error) {
        problems.push(`${key}: ${error}`);
      }
    }
  };
  faults.start(system, toxiproxy, proxies);
  await Promise.all(Array.from({ length: CALLERS }, liveAll)).finally(() => faults.stop());
  const took_s = (performance.now() - began) / 1000;
  await system.untilHealthy();

  const documents = new Map<number, Prediction>();
  for (const { plan, path } of mades) {
    const start = performance.now();
    const { status, body } = await api.request<Prediction>("GET", path);
    caller.calls.push({ kind: "get", key: plan.key, start, end: performance.now(), status, document: body });
    documents.set(plan.key, body);
  }
  const anomalies = checkHistory(caller.calls);

  const completed = await deliveries(mades);
  const streams = await compareStreams(mades, documents);
  const money = await reconcile(mades, documents);
  const outcome = count(documents.values(), ({ status, error_code }) => status + (error_code ? ` ${error_code}` : ""));
  console.log(
    JSON.stringify(
      {
        predictions: mades.length,
        kinds: count(mades, ({ plan }) => plan.kind),
        outcome,
        took_s: Math.round(took_s),
        faults: faults.counts,
        recoveries_ms: faults.recoveries_ms.join(" "),
        answers: Object.fromEntries(caller.counts),
        calls: caller.calls.length,
        webhooks: { ...completed.counts, calls: receiver.calls.length },
        streams: streams.counts,
        money: money.counts,
        anomalies: anomalies.length,
      },
      null,
      1,
    ),
  );
  expect(problems).toEqual([]);
  expect(anomalies).toEqual([]);
  expect(completed.faults).toEqual([]);
  expect(streams.faults).toEqual([]);
  expect(money.faults).toEqual([]);
  expect([...unexpectedEnds(mades, documents)]).toEqual([]);
  expect(await listed()).toEqual(
    mades
      .filter(isPrediction)
      .map(({ id }) => id)
      .toSorted(),
  );
});

function isPrediction({ plan }: Made): boolean {
  return plan.kind !== "training";
}

/** Everything that the account's list shows, sorted: what callers never heard of would show here. */
async function listed(): Promise<string[]> {
  const ids = (await all<Prediction>("/v1/predictions")).map(({ id }) => id);
  return ids.toSorted();
}

/** Ends that nothing excuses: what may run again must succeed, and what fails may only have lost its origin. */
function* unexpectedEnds(mades: Made[], documents: Map<number, Prediction>): Generator<string> {
  for (const { plan } of mades) {
    const { id, status, output, error_code, error } = documents.get(plan.key) ?? {};
    const name = `${plan.key} (${plan.kind}, ${id}): ${status} ${error_code ?? ""} ${error ?? ""}`;
    if (status === "succeeded") {
      if (plan.expected !== null && JSON.stringify(output) !== JSON.stringify(plan.expected))
        yield `${name}: its output`;
    } else if (status === "failed") {
      if (plan.idempotent || error_code !== "origin.lost") yield name;
    } else if (status !== "canceled" || plan.cancel_after_ms === null) yield name;
  }
}

interface LedgerRow {
  subject: string;
  kind: string;
  credit: string;
  amount_micros: number;
}

/** The ledger against what each document says by itself: its cost out of its time and the price of a second, nothing where the platform failed. */
async function reconcile(mades: Made[], documents: Map<number, Prediction>): Promise<Compared> {
  const faults: string[] = [];
  const expected = new Map<string, number>();
  for (const { plan } of mades) {
    const document = documents.get(plan.key);
    if (document === undefined) continue;
    const { id, status, metrics, cost } = document as Prediction & { cost?: number };
    const time_us = Math.round(Number(metrics["predict_time"] ?? 0) * 1_000_000);
    const micros = status === "failed" ? 0 : Math.round((time_us * SECOND_MICROS) / 1_000_000);
    if (micros > 0) expected.set(`prediction:${id}`, micros);
    if ((cost ?? 0) !== micros) faults.push(`${id}: costs ${cost}, by its time ${micros}`);
  }
  const total = [...expected.values()].reduce((sum, micros) => sum + micros, 0);
  const readRows = async (): Promise<LedgerRow[]> =>
    (await all<LedgerRow>("/v1/ledger")).filter(({ subject }) => subject.startsWith("prediction:"));
  let rows = await readRows();
  await waitFor("every charge to be booked", SETTLED_WITHIN_MS, async () => {
    rows = await readRows();
    return rows.length >= expected.size ? true : null;
  }).catch((error: unknown) => faults.push(String(error)));
  const names = new Set(rows.map(({ subject, kind }) => `${subject} ${kind}`));
  if (names.size !== rows.length) faults.push(`${rows.length - names.size} rows are booked twice`);
  for (const { subject, amount_micros } of rows) {
    if (expected.get(subject) !== amount_micros)
      faults.push(`${subject}: booked ${amount_micros}, by its document ${expected.get(subject)}`);
  }
  const booked = rows.reduce((sum, { amount_micros }) => sum + amount_micros, 0);
  if (booked !== total) faults.push(`the ledger has ${booked} micro-dollars, the documents ${total}`);
  const billing = await waitFor("nothing to be held", SETTLED_WITHIN_MS, async () => {
    const { body } = await api.request<Billing>("GET", "/v1/account/billing");
    return body.reserved_micros === 0 ? body : null;
  }).catch((error: unknown) => void faults.push(String(error)));
  if (billing !== undefined && billing.spent.month_micros !== total) {
    faults.push(`the account has spent ${billing.spent.month_micros} micro-dollars, by the documents ${total}`);
  }
  return { counts: { rows: rows.length, micros: booked, by_documents: total }, faults };
}

interface Billing {
  spent: { month_micros: number };
  reserved_micros: number;
}

/** Every row of a list, page by page. */
async function all<T>(path: string): Promise<T[]> {
  const rows: T[] = [];
  for (let at: string | null = path; at !== null; ) {
    const { pathname, search } = new URL(at, system.url);
    const page: Page<T> = (await api.request<Page<T>>("GET", pathname + search)).body;
    rows.push(...page.results);
    at = page.next;
  }
  return rows;
}

interface Compared {
  counts: Record<string, number>;
  faults: string[];
}

/** Waits for every end to have been told, then compares what was told with what is stored. */
async function deliveries(mades: Made[]): Promise<Compared> {
  const { body } = await api.request<{ key: string }>("GET", "/v1/webhooks/default/secret");
  const webhook = new Webhook(body.key);
  const endsOf = ({ plan }: Made): WebhookCall[] =>
    receiver.calls.filter(({ path, headers }) => path === `/${plan.key}` && headers["cogway-event"] === "completed");
  const isTold = (made: Made): boolean => endsOf(made).some(({ taken }) => taken);
  const faults: string[] = [];
  await waitFor("every end to be told", SETTLED_WITHIN_MS, () => mades.every(isTold) || null).catch((error: unknown) =>
    faults.push(`${error}: ${mades.filter((made) => !isTold(made)).map(({ id }) => id)}`),
  );
  for (const made of mades) {
    const calls = receiver.calls.filter(({ path }) => path === `/${made.plan.key}`);
    const ends = endsOf(made);
    const { body: stored } = await api.request<Prediction>("GET", made.path);
    if (new Set(ends.map(({ id }) => id)).size > 1) faults.push(`${made.id}: its end has several webhook ids`);
    for (const { body: told } of ends) {
      const [a, b] = [told, stored].map(({ id, status, output, error, logs, metrics }) =>
        JSON.stringify({ id, status, output, error, logs, metrics }),
      );
      if (a !== b) faults.push(`${made.id}: told ${a}, stored ${b}`);
    }
    const first = calls.findIndex(({ headers }) => headers["cogway-event"] === "completed");
    const late = calls.slice(first).filter(({ headers }) => headers["cogway-event"] !== "completed");
    if (first >= 0 && late.length > 0) faults.push(`${made.id}: ${late.length} events after its end`);
  }
  for (const { text, headers, path } of receiver.calls) {
    try {
      webhook.verify(text, headers as Record<string, string>);
    } catch (error) {
      faults.push(`${path}: ${error}`);
    }
  }
  const taken = receiver.calls.filter((call) => call.taken).length;
  return { counts: { told: mades.filter(isTold).length, refused: receiver.calls.length - taken }, faults };
}

/** What a reader put together from its connections, against the stream as one reads it now. */
async function compareStreams(mades: Made[], documents: Map<number, Prediction>): Promise<Compared> {
  const faults: string[] = [];
  let resumes = 0;
  let equal = 0;
  for (const { plan, id, stream, streamUrl } of mades) {
    if (stream === null || streamUrl === undefined) continue;
    resumes += stream.resumes;
    const whole = await readResuming(streamUrl, []);
    const isEqual = JSON.stringify(whole.wire) === JSON.stringify(stream.wire);
    if (isEqual) equal++;
    else
      faults.push(
        `${id}: read ${stream.wire.length} events in ${stream.resumes + 1} parts, the stream has ${whole.wire.length}`,
      );
    const { output } = documents.get(plan.key) ?? {};
    if (JSON.stringify(outputsOf(stream.wire)) !== JSON.stringify(output ?? []))
      faults.push(`${id}: its outputs are not its output`);
    const ids = stream.wire.map((block) => /^id: ?(.*)$/m.exec(block)?.[1]);
    if (new Set(ids).size !== ids.length) faults.push(`${id}: an event came twice`);
  }
  return { counts: { streams: mades.filter(({ stream }) => stream !== null).length, equal, resumes }, faults };
}
