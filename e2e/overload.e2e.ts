/**
 * Ten times what the system can do, for a minute: what it accepts ends and nothing else is left behind, the rest is told when to come again and is admitted
 * then, reads do not stand in the line of creates, and memory stays bounded. COGWAY_OVERLOAD=300 makes the flood as many seconds.
 */
import { setTimeout as pause } from "node:timers/promises";
import { afterAll, beforeAll, expect, onTestFinished, test } from "vitest";
import { isEnd } from "./chaos/history.ts";
import type { Api, Page, Prediction } from "./lib/api.ts";
import { printCounts } from "./lib/counts.ts";
import { countAnswers, kept, latencies, openLoop, percentile, type Reply, send } from "./lib/load.ts";
import { System } from "./lib/system.ts";

const FLOOD_S = Number(process.env["COGWAY_OVERLOAD"] ?? 60);
const FLOOD_TIMES = 10;
const ACCOUNTS = 10;
const UNLIMITED = 10_000_000;
const LIMITS = { creates_per_minute: UNLIMITED, reads_per_minute: UNLIMITED };
/** Of the flood's minute: with what an account may ask for at once, and what comes back meanwhile, all that is accepted can run in as long as it came. */
const QUOTAS_IN_FLOOD = 1 + FLOOD_S / 60;
const SUSTAINED_S = 5;
const SUSTAINED_CLIENTS = 16;
/** Callers of the flood that are connected at once: more than the edge lets wait (600 and 24), so that it must refuse. */
const CONNECTIONS = 800;
const TRIES_MAX = 5;
const READ_EVERY_MS = 50;
const OBEDIENT_EVERY_MS = 250;
/** Creates a minute of an account that has used them before and asks for more: one comes back every 10 s, so no answer may tell it to wait longer. */
const QUOTA = 6;
const QUOTA_WAIT_MAX_S = 10;
/** At once, of an account without a quota: more than its share of the places to wait (600 between 11), less than twice that. */
const BURST = 80;
const WATCH_EVERY_MS = 500;
const END_MS = 150_000;
const LOOK_EVERY_MS = 1_000;
/** What waits, in lines and queue, may take this much of each; nothing grows with what was refused. */
const MEMORY_MORE_MB = 300;

const noop = { input: { text: "flood" } };
const PATH = "/v1/models/cogway/noop/predictions";

let system: System;
/** that flood */
let accounts: Api[];
beforeAll(async () => {
  system = await System.start({ models: ["noop"] });
});
afterAll(() => system?.stop());

const agents = { flood: kept(CONNECTIONS), calm: kept(200) };
afterAll(() => {
  agents.flood.destroy();
  agents.calm.destroy();
});

function rss(): { edge_mb: number; origin_mb: number } {
  return { edge_mb: Math.round(system.edge().rss_mb), origin_mb: Math.round(system.origin().rss_mb) };
}

/**
 * What workerd has not read within 15 s it closes: the machine has no time for it. That is no answer, so it is asked again, and counted. A create that
 * had been taken all the same would stand in the lists as unknown.
 */
let closed = 0;
async function ask(agent: typeof agents.calm, path: string, options: Parameters<typeof send>[2]): Promise<Reply> {
  for (let tries = 1; ; tries++) {
    const reply = await send(agent, system.url + path, options);
    if (reply.status !== 0 || tries === TRIES_MAX) return reply;
    closed++;
  }
}

function create(agent: typeof agents.calm, { token }: Api, headers: Record<string, string> = {}): Promise<Reply> {
  return ask(agent, PATH, { method: "POST", token, body: noop, headers });
}

function idOf({ body }: Reply): string {
  return (JSON.parse(body) as Prediction).id;
}

function tookOf(replies: readonly Reply[]): number[] {
  return replies.map(({ took_ms }) => took_ms);
}

/** Predictions a second that clients get who wait for each. */
async function sustainableRate(by: Api): Promise<number> {
  const until = performance.now() + SUSTAINED_S * 1_000;
  let ended = 0;
  const client = async (): Promise<void> => {
    while (performance.now() < until) if ((await create(agents.calm, by, { prefer: "wait" })).status === 201) ended++;
  };
  await Promise.all(Array.from({ length: SUSTAINED_CLIENTS }, client));
  return ended / SUSTAINED_S;
}

/** An account that keeps asking for so many at once, and comes again with what was refused exactly when it was told to. */
class Obedient {
  readonly first: Reply[] = [];
  readonly again: { waited_s: number; reply: Reply }[] = [];
  readonly #asking: Promise<void>;
  #isOver = false;

  constructor(api: Api, atOnce: number) {
    this.#asking = this.#ask(api, atOnce);
  }

  async #ask(api: Api, atOnce: number): Promise<void> {
    while (!this.#isOver) {
      await Promise.all(Array.from({ length: atOnce }, () => this.#askOnce(api)));
      await pause(OBEDIENT_EVERY_MS);
    }
  }

  async #askOnce(api: Api): Promise<void> {
    const reply = await create(agents.calm, api);
    this.first.push(reply);
    if (reply.status === 201) return;
    const waited_s = reply.retry_after_s ?? Number.NaN;
    await pause(waited_s * 1_000);
    this.again.push({ waited_s, reply: await create(agents.calm, api) });
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#asking;
  }

  accepted(): Set<string> {
    const replies = [...this.first, ...this.again.map(({ reply }) => reply)];
    return new Set(replies.filter(({ status }) => status === 201).map(idOf));
  }

  counts(): Record<string, unknown> {
    const again = this.again.map(({ reply }) => reply);
    const waited_s = percentile(
      this.again.map((each) => each.waited_s),
      0.5,
    );
    return {
      first: countAnswers(this.first),
      waited_s,
      again: countAnswers(again),
      again_in: latencies(tookOf(again)),
    };
  }
}

test(`${FLOOD_TIMES} times what it can do: the accepted end, the rest come again in time, reads stay fast, memory is bounded`, async () => {
  const reader = await system.api.newAccount("reader", LIMITS);
  const known = await reader.run("noop", { text: "read" });
  const rate = await sustainableRate(reader);
  accounts = [];
  const creates_per_minute = Math.ceil((rate * FLOOD_S) / ACCOUNTS / QUOTAS_IN_FLOOD);
  for (let n = 0; n < ACCOUNTS; n++) {
    accounts.push(await system.api.newAccount(`flooder-${n}`, { ...LIMITS, creates_per_minute }));
  }
  const idle = rss();
  const peak = { ...idle };
  const watch = setInterval(() => {
    const now = rss();
    peak.edge_mb = Math.max(peak.edge_mb, now.edge_mb);
    peak.origin_mb = Math.max(peak.origin_mb, now.origin_mb);
  }, WATCH_EVERY_MS);
  onTestFinished(() => clearInterval(watch));
  const reads: Reply[] = [];
  const reading = setInterval(() => {
    const read = ask(agents.calm, `/v1/predictions/${known.id}`, { token: reader.token });
    void read.then((reply) => reads.push(reply));
  }, READ_EVERY_MS);
  onTestFinished(() => clearInterval(reading));
  const withQuota = await system.api.newAccount("limited", { creates_per_minute: QUOTA });
  for (let n = 0; n < QUOTA; n++) await create(agents.calm, withQuota);
  const limited = new Obedient(withQuota, 1);
  const burster = await system.api.newAccount("bursting", LIMITS);
  const bursting = new Obedient(burster, BURST);
  for (const each of [limited, bursting]) onTestFinished(() => each.stop());
  const accepted = new Map<Api, Set<string>>(accounts.map((account) => [account, new Set()]));
  const replies: Reply[] = [];
  const floodedFrom = performance.now();
  const { sent, unsent } = await openLoop(rate * FLOOD_TIMES, FLOOD_S, CONNECTIONS, async (n) => {
    const account = accounts[n % ACCOUNTS] as Api;
    const reply = await create(agents.flood, account);
    replies.push(reply);
    if (reply.status === 201) accepted.get(account)?.add(idOf(reply));
  });
  const flooded_s = (performance.now() - floodedFrom) / 1_000;
  clearInterval(reading);
  const drainedFrom = performance.now();
  await Promise.all([limited.stop(), bursting.stop()]);
  accepted.set(burster, bursting.accepted());
  const ends = await allEnd(accepted);
  const drained_s = (performance.now() - drainedFrom) / 1_000;
  clearInterval(watch);
  const refused = replies.filter(({ status }) => status !== 201);
  const admitted = replies.filter(({ status }) => status === 201);
  const told_s = refused.map(({ retry_after_s }) => retry_after_s ?? Number.NaN);
  const restarts = system.output.match(/.*started again.*/g) ?? [];
  printCounts("overload", {
    sustainable_a_second: Math.round(rate),
    offered: Math.round(rate * FLOOD_TIMES * FLOOD_S),
    sent,
    unsent,
    sent_a_second: Math.round(sent / flooded_s),
    flooded_s: Math.round(flooded_s),
    answers: countAnswers(replies),
    admitted_in: latencies(tookOf(admitted)),
    refused_in: latencies(tookOf(refused)),
    told_to_wait_s: [0, 0.5, 1].map((share) => percentile(told_s, share)).join(" / "),
    limited: limited.counts(),
    bursting: bursting.counts(),
    ends,
    drained_s: Math.round(drained_s),
    reads: { ...countAnswers(reads), took: latencies(tookOf(reads)) },
    memory_mb: { idle, peak },
    closed,
    restarts,
  });
  // It was a flood.
  expect(sent + unsent).toBeGreaterThanOrEqual(Math.floor(rate * FLOOD_TIMES * FLOOD_S));
  expect(refused.length + unsent).toBeGreaterThan(admitted.length);
  expect(refused.length).toBeGreaterThan(0);
  expect(restarts).toEqual([]);
  // Nothing but these two refusals, each with a time.
  expect(replies.filter(({ status }) => ![201, 429, 503].includes(status))).toEqual([]);
  expect(refused.filter(({ retry_after_s }) => !Number.isInteger(retry_after_s) || (retry_after_s ?? 0) < 1)).toEqual(
    [],
  );
  // The time is true: what comes then is admitted. (How many of the bursts are refused depends on how full the lines are.)
  expect(limited.again.length).toBeGreaterThan(0);
  expect(limited.again.filter(({ waited_s }) => waited_s > QUOTA_WAIT_MAX_S)).toEqual([]);
  const refusedAgain = [...limited.again, ...bursting.again].filter(({ reply }) => reply.status !== 201);
  expect(refusedAgain).toEqual([]);
  // What was accepted is there and has succeeded; what was refused has left nothing.
  const total = [...accepted.values()].reduce((sum, { size }) => sum + size, 0);
  expect(ends).toEqual({ succeeded: total });
  // Reads do not stand in line with the creates, however slow the machine is.
  expect(reads.length).toBeGreaterThan(FLOOD_S);
  expect(reads.filter(({ status }) => status !== 200)).toEqual([]);
  expect(percentile(tookOf(reads), 0.5)).toBeLessThan(percentile(tookOf(admitted), 0.5) / 2);
  expect(percentile(tookOf(reads), 0.99)).toBeLessThan(percentile(tookOf(admitted), 0.99));
  expect(peak.edge_mb - idle.edge_mb).toBeLessThan(MEMORY_MORE_MB);
  expect(peak.origin_mb - idle.origin_mb).toBeLessThan(MEMORY_MORE_MB);
}, 400_000);

/** How everything ended that the accounts have, by their lists, once nothing new is expected; what was not accepted counts as `unknown`. */
async function allEnd(accepted: ReadonlyMap<Api, ReadonlySet<string>>): Promise<Record<string, number>> {
  const until = performance.now() + END_MS;
  const counts: Record<string, number> = {};
  for (const [account, ids] of accepted) {
    let rows = await account.all<Prediction>("/v1/predictions");
    while (performance.now() < until && (rows.length < ids.size || !rows.every(isEnd))) {
      await pause(LOOK_EVERY_MS);
      // The newest end last.
      const newest = await account.request<Page<Prediction>>("GET", "/v1/predictions");
      if (newest.body.results.every(isEnd)) rows = await account.all<Prediction>("/v1/predictions");
    }
    for (const { id, status } of rows) {
      const name = ids.has(id) ? status : "unknown";
      counts[name] = (counts[name] ?? 0) + 1;
    }
  }
  return counts;
}
