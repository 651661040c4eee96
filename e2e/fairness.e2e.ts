/**
 * One account asks a hundred times as often as its quota allows, for the same version as ten others: none of them is told to come later, and all that they
 * asked for ends. How much slower their answers became is printed: quiet and flooded spells take turns, so that both meet the same machine.
 * COGWAY_FAIRNESS=600 makes the quota what an account has where nothing else is said, and the flood 1,000 a second.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Api, Page, Prediction } from "./lib/api.ts";
import { printCounts } from "./lib/counts.ts";
import { countAnswers, kept, latencies, openLoop, percentile, type Reply, send } from "./lib/load.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

/** Creates a minute of the account that floods. */
const QUOTA = Number(process.env["COGWAY_FAIRNESS"] ?? 60);
const FLOOD_TIMES = 100;
const OTHERS = 10;
/** Of all the others together: each stays below its own quota. */
const OTHERS_A_SECOND = 20;
const ROUNDS = 3;
const SPELL_S = 10;
/** Connections of the flooder. */
const CONNECTIONS = 100;
const END_MS = 120_000;

const PATH = "/v1/models/cogway/noop/predictions";

let system: System;
let flooder: Api;
let others: Api[];
beforeAll(async () => {
  system = await System.start({ models: ["noop"] });
  flooder = await system.api.newAccount("flooder", { creates_per_minute: QUOTA });
  others = [];
  for (let n = 0; n < OTHERS; n++) others.push(await system.api.newAccount(`other-${n}`));
});
afterAll(() => system?.stop());

const agents = { flooder: kept(CONNECTIONS), others: kept(OTHERS_A_SECOND * SPELL_S) };
afterAll(() => {
  agents.flooder.destroy();
  agents.others.destroy();
});

/** The others, each as often as it always asks, for one spell: each of them waits for the end of what it asked for. */
async function spell(replies: Reply[]): Promise<void> {
  await openLoop(OTHERS_A_SECOND, SPELL_S, OTHERS_A_SECOND * SPELL_S, async (n) => {
    const { token } = others[n % OTHERS] as Api;
    const request = { method: "POST", token, body: { input: { text: `other ${n}` } }, headers: { prefer: "wait=60" } };
    replies.push(await send(agents.others, system.url + PATH, request));
  });
}

/** Until each of what the flooder got in has ended: the next quiet spell is quiet. */
async function floodEnded(): Promise<void> {
  await waitFor("the end of the flood", END_MS, async () => {
    const { results } = (await flooder.request<Page<Prediction>>("GET", "/v1/predictions")).body;
    return results.every(({ status }) => status === "succeeded") ? true : null;
  });
}

test(`one account at ${FLOOD_TIMES} times its quota: ${OTHERS} others see no 429, and all that they asked for ends`, async () => {
  await system.api.run("noop", { text: "warm" });
  const quiet: Reply[] = [];
  const flooded: Reply[] = [];
  const flood: Reply[] = [];
  let unsent = 0;
  const began = performance.now();
  await spell([]);
  for (let round = 0; round < ROUNDS; round++) {
    await spell(quiet);
    const [sums] = await Promise.all([
      openLoop((QUOTA / 60) * FLOOD_TIMES, SPELL_S, CONNECTIONS, async () => {
        const request = { method: "POST", token: flooder.token, body: { input: { text: "flood" } } };
        flood.push(await send(agents.flooder, system.url + PATH, request));
      }),
      spell(flooded),
    ]);
    unsent += sums.unsent;
    await floodEnded();
  }
  const p99 = (replies: Reply[]): number =>
    percentile(
      replies.map(({ took_ms }) => took_ms),
      0.99,
    );
  const took = (replies: Reply[]): string => latencies(replies.map(({ took_ms }) => took_ms));
  printCounts("fairness", {
    flooder: { ...countAnswers(flood), unsent, took: took(flood) },
    others_quiet: { ...countAnswers(quiet), took: took(quiet) },
    others_flooded: { ...countAnswers(flooded), took: took(flooded) },
    p99_to_quiet: Number((p99(flooded) / p99(quiet)).toFixed(2)),
  });
  for (const { status, body } of [...quiet, ...flooded]) {
    expect(status, body).toBe(201);
    expect((JSON.parse(body) as Prediction).status).toBe("succeeded");
  }
  const spells_s = ROUNDS * SPELL_S;
  expect(quiet).toHaveLength(OTHERS_A_SECOND * spells_s);
  expect(flooded).toHaveLength(OTHERS_A_SECOND * spells_s);
  // It was a flood, and its quota held: what it has at once, and what comes back while it asks.
  const admitted = flood.filter(({ status }) => status === 201).length;
  const minutes = (performance.now() - began) / 60_000;
  expect(admitted).toBeGreaterThanOrEqual(QUOTA);
  expect(admitted).toBeLessThanOrEqual(QUOTA * (1 + minutes));
  const refused = flood.filter(({ status }) => status !== 201);
  expect(refused.length).toBeGreaterThan(admitted);
  expect(refused.filter(({ status, retry_after_s }) => status !== 429 || (retry_after_s ?? 0) < 1)).toEqual([]);
}, 400_000);
