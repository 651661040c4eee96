/**
 * Ten times what the system can do: what it accepts ends, the rest is told when to come again and is then admitted, memory stays bounded, reads stay
 * answered. And one account at a hundred times its quota does not show to ten others. COGWAY_OVERLOAD=60 makes the flood as many seconds.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { isEnd } from "./chaos/history.ts";
import type { Api, Page, Prediction } from "./lib/api.ts";
import { countAnswers, kept, latencies, openLoop, type Reply, send } from "./lib/load.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const FLOOD_S = Number(process.env["COGWAY_OVERLOAD"] ?? 15);
const FLOOD_TIMES = 10;
const ACCOUNTS = 10;
const UNLIMITED = 10_000_000;
const LIMITS = { creates_per_minute: UNLIMITED, reads_per_minute: UNLIMITED };
const SUSTAINED_S = 5;
const SUSTAINED_CLIENTS = 16;
/** Callers of the flood that are connected at once. */
const CONNECTIONS = 400;
const READ_EVERY_MS = 50;
const PROBES = 6;
const END_MS = 180_000;
/** What is waiting may take this much of each; nothing grows with what was refused. */
const MEMORY_MORE_MB = 300;

const noop = { input: { text: "flood" } };
const PATH = "/v1/models/cogway/noop/predictions";

let system: System;
let accounts: Api[];
beforeAll(async () => {
  system = await System.start({ models: ["noop"] });
  accounts = [];
  for (let n = 0; n < ACCOUNTS; n++) accounts.push(await system.api.newAccount(`flooder-${n}`, LIMITS));
});
afterAll(() => system?.stop());

function rss(): { edge_mb: number; origin_mb: number } {
  return { edge_mb: system.edge().rss_mb, origin_mb: system.origin().rss_mb };
}

/** Predictions a second that clients get who wait for each. */
async function sustainableRate(): Promise<number> {
  const until = performance.now() + SUSTAINED_S * 1_000;
  const agent = kept(SUSTAINED_CLIENTS);
  let ended = 0;
  const client = async (n: number): Promise<void> => {
    const { token } = accounts[n % ACCOUNTS] as Api;
    while (performance.now() < until) {
      const reply = await send(agent, system.url + PATH, {
        method: "POST",
        token,
        body: noop,
        headers: { prefer: "wait" },
      });
      if (reply.status === 201) ended++;
    }
  };
  await Promise.all(Array.from({ length: SUSTAINED_CLIENTS }, (_, n) => client(n)));
  agent.destroy();
  return ended / SUSTAINED_S;
}

test(`${FLOOD_TIMES} times what it can do: the accepted end, the rest come again in time, reads stay fast, memory is bounded`, async () => {
  await system.api.run("noop", { text: "warm" });
  const rate = await sustainableRate();
  const idle = rss();
  const reader = await system.api.newAccount("reader", LIMITS);
  const known = await reader.run("noop", { text: "read" });
  const prober = await system.api.newAccount("prober", LIMITS);
  const flood = kept(CONNECTIONS);
  const calm = kept(8);
  const replies: Reply[] = [];
  const accepted: string[] = [];
  const reads: Reply[] = [];
  const peak = { ...idle };
  const watch = setInterval(() => {
    const now = rss();
    peak.edge_mb = Math.max(peak.edge_mb, now.edge_mb);
    peak.origin_mb = Math.max(peak.origin_mb, now.origin_mb);
  }, 500);
  const reading = setInterval(() => {
    void send(calm, `${system.url}/v1/predictions/${known.id}`, { token: reader.token }).then((reply) =>
      reads.push(reply),
    );
  }, READ_EVERY_MS);
  let isFlooding = true;
  const probes: { waited_s: number; status: number }[] = [];
  const probe = async (): Promise<void> => {
    while (isFlooding && probes.length < PROBES) {
      const first = await send(calm, system.url + PATH, { method: "POST", token: prober.token, body: noop });
      if (first.status === 201) {
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      const waited_s = first.retry_after_s ?? Number.NaN;
      await new Promise((resolve) => setTimeout(resolve, waited_s * 1_000));
      const second = await send(calm, system.url + PATH, { method: "POST", token: prober.token, body: noop });
      probes.push({ waited_s, status: second.status });
    }
  };
  const probing = probe();
  const { sent, unsent } = await openLoop(rate * FLOOD_TIMES, FLOOD_S, CONNECTIONS, async (n) => {
    const { token } = accounts[n % ACCOUNTS] as Api;
    const reply = await send(flood, system.url + PATH, { method: "POST", token, body: noop });
    replies.push(reply);
    if (reply.status === 201) accepted.push((JSON.parse(reply.body) as Prediction).id);
  });
  isFlooding = false;
  await probing;
  clearInterval(reading);
  const floodedAt = performance.now();
  const ends = await allEnd(new Set(accepted));
  const drained_s = (performance.now() - floodedAt) / 1_000;
  clearInterval(watch);
  flood.destroy();
  calm.destroy();
  const refused = replies.filter(({ status }) => status !== 201);
  console.log(
    JSON.stringify(
      {
        sustainable_a_second: Math.round(rate),
        offered_a_second: Math.round(rate * FLOOD_TIMES),
        sent,
        unsent,
        answers: countAnswers(replies),
        answered_in: latencies(replies.map(({ took_ms }) => took_ms)),
        ends,
        drained_s: Math.round(drained_s),
        reads: { ...countAnswers(reads), took: latencies(reads.map(({ took_ms }) => took_ms)) },
        probes,
        memory_mb: { idle, peak },
      },
      null,
      1,
    ),
  );
  expect(replies.filter(({ status }) => ![201, 429, 503].includes(status))).toEqual([]);
  expect(refused.every(({ retry_after_s }) => retry_after_s !== null && retry_after_s >= 1)).toBe(true);
  expect(ends).toEqual({ succeeded: accepted.length });
  expect(probes.every(({ status }) => status === 201)).toBe(true);
  expect(reads.every(({ status }) => status === 200)).toBe(true);
  expect(peak.edge_mb - idle.edge_mb).toBeLessThan(MEMORY_MORE_MB);
  expect(peak.origin_mb - idle.origin_mb).toBeLessThan(MEMORY_MORE_MB);
}, 400_000);

/** How the accepted ended, by the lists of their accounts, once all did or none is expected to any more. */
async function allEnd(accepted: ReadonlySet<string>): Promise<Record<string, number>> {
  const ended = new Map<string, string>();
  await waitFor(`${accepted.size} ends`, END_MS, async () => {
    for (const account of accounts) {
      for (let at: string | null = "/v1/predictions"; at !== null; ) {
        const { pathname, search } = new URL(at, system.url);
        const page: Page<Prediction> = (await account.request<Page<Prediction>>("GET", pathname + search)).body;
        for (const each of page.results) if (accepted.has(each.id) && isEnd(each)) ended.set(each.id, each.status);
        at = page.next;
      }
    }
    return ended.size === accepted.size ? true : null;
  }).catch((error: unknown) => console.error(String(error)));
  const counts: Record<string, number> = {};
  for (const status of ended.values()) counts[status] = (counts[status] ?? 0) + 1;
  return counts;
}
