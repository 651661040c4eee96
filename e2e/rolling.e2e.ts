/**
 * A rolling restart under load: each of two hosts is drained, ended and started again, then workerd twice. Callers of a version that may run again do what a
 * usual client does (the same request with the same key, later, where the connection broke or the answer was 503) and none of their predictions fails.
 */
import { setTimeout as pause } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Caller } from "./chaos/caller.ts";
import { isEnd } from "./chaos/history.ts";
import type { Api, Model, Prediction } from "./lib/api.ts";
import { printCounts } from "./lib/counts.ts";
import { isAlive, type Process, processesNaming } from "./lib/processes.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const CLIENTS = 6;
/** So much must have succeeded before the first restart and after each. */
const SUCCEEDED_BETWEEN = 20;
const TOKENS = 20;
const EXPECTED = Array.from({ length: TOKENS }, (_, n) => `token ${n}\n`);
const STEP_MS = 120_000;
const POLL_MS = 100;
/** What callers may be told on their way; 409: the first request with the key is still answered. */
const ANSWERS = ["200", "201", "202", "409", "503"];
/** So begins how a caller counts a connection that was refused or cut. */
const BROKEN = "broken";
const UNLIMITED = 1_000_000;

let system: System;
let api: Api;
beforeAll(async () => {
  system = await System.start({ models: ["idempotent-tokens"], origins: 2 });
  await system.untilPrepared(1);
  api = await system.api.newAccount("rolling", { creates_per_minute: UNLIMITED, reads_per_minute: UNLIMITED });
});
afterAll(() => system?.stop());

/** Callers that create and wait in a loop, and what each of their predictions came to. */
class Load {
  readonly caller = new Caller(system.url, api.token);
  readonly ended = new Map<string, string>();
  succeeded = 0;
  #made = 0;
  #isOver = false;
  readonly #clients = Array.from({ length: CLIENTS }, () => this.#loop());

  async #loop(): Promise<void> {
    while (!this.#isOver) {
      const key = `rolling-${this.#made++}`;
      const outcome = await this.#once(key).catch((error: unknown) => String(error));
      this.ended.set(key, outcome);
      if (outcome === "succeeded") this.succeeded++;
    }
  }

  async #once(key: string): Promise<string> {
    const body = { input: { count: TOKENS, delay_ms: 20 } };
    const headers = { prefer: "wait=60", "idempotency-key": key };
    const answer = await this.caller.call("POST", "/v1/deployments/rolling/pair/predictions", body, headers);
    if (answer.status !== 201 && answer.status !== 202) return `${answer.status} ${answer.text}`;
    let now = JSON.parse(answer.text) as Prediction;
    while (!isEnd(now)) {
      await pause(POLL_MS);
      const read = await this.caller.call("GET", `/v1/predictions/${now.id}`);
      if (read.status !== 200) return `${read.status} ${read.text}`;
      now = JSON.parse(read.text) as Prediction;
    }
    const isWhole = JSON.stringify(now.output) === JSON.stringify(EXPECTED);
    return now.status === "succeeded" && isWhole ? "succeeded" : `${now.status} ${now.error_code} ${now.error}`;
  }

  async more(when: string): Promise<void> {
    const until = this.succeeded + SUCCEEDED_BETWEEN;
    await waitFor(`${SUCCEEDED_BETWEEN} predictions ${when}`, STEP_MS, () => (this.succeeded >= until ? true : null));
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#clients);
  }
}

interface Host {
  id: string;
  url: string;
  state: string;
  instances: number;
}

async function hosts(): Promise<Host[]> {
  return (await system.api.request<{ results: Host[] }>("GET", "/admin/v1/origins")).body.results;
}

function host(id: string, what: string, isIt: (host: Host) => boolean): Promise<Host> {
  return waitFor(`host ${id}: ${what}`, STEP_MS, async () =>
    (await hosts()).find((each) => each.id === id && isIt(each)),
  );
}

/** Its process, by the port where it listens. */
function processOf({ url }: Host): Process {
  const port = new URL(url).port;
  const named = new Set(processesNaming(`COGWAY_ORIGIN_PORT=${port}`).map(({ pid }) => pid));
  const found = system.origins().find(({ pid }) => named.has(pid));
  if (found === undefined) throw new Error(`no gpu-origin at ${url}`);
  return found;
}

async function restartHost({ id }: Host): Promise<void> {
  const at = `/admin/v1/origins/${id}`;
  expect((await system.api.request("POST", `${at}/drain`)).status).toBe(200);
  const drained = await host(id, "is drained", ({ state }) => state === "drained");
  expect(drained.instances).toBe(0);
  const { pid } = processOf(drained);
  process.kill(pid, "SIGTERM");
  await waitFor("the next gpu-origin", STEP_MS, () => (isAlive(pid) ? null : processOf(drained)));
  expect((await system.api.request("POST", `${at}/undrain`)).status).toBe(200);
  await host(id, "takes work", ({ state }) => state === "ready");
}

test("each host and the edge are restarted under load: no prediction of an idempotent version fails", async () => {
  const model = await system.api.request<Model>("GET", "/v1/models/cogway/idempotent-tokens");
  const made = await api.request("POST", "/v1/deployments", {
    body: {
      ...{ name: "pair", model: "cogway/idempotent-tokens", version: model.body.latest_version?.id },
      ...{ hardware: "cpu", min_instances: 2, max_instances: 4 },
    },
  });
  expect(made.status, made.text).toBe(200);
  const both = await waitFor("an instance on each of two hosts", STEP_MS, async () => {
    const found = await hosts();
    return found.length === 2 && found.every(({ state, instances }) => state === "ready" && instances > 0)
      ? found
      : null;
  });
  const load = new Load();
  const took_ms: Record<string, number> = {};
  const step = async (name: string, restart: () => Promise<void>): Promise<void> => {
    const began = performance.now();
    await restart();
    took_ms[name] = Math.round(performance.now() - began);
    await load.more(`after: ${name}`);
  };
  await load.more("before a restart");
  for (const [n, each] of both.entries()) await step(`host ${n}`, () => restartHost(each));
  await step("edge", () => system.restartEdge());
  await step("edge again", () => system.restartEdge());
  await load.end();
  const failed = [...load.ended].filter(([, outcome]) => outcome !== "succeeded");
  const listed = await waitFor("every end in the list", STEP_MS, async () => {
    const rows = await api.all<Prediction>("/v1/predictions");
    return rows.every(isEnd) ? rows : null;
  });
  printCounts("rolling", {
    clients: CLIENTS,
    predictions: load.ended.size,
    failed: failed.length,
    took_ms,
    answers: Object.fromEntries(load.caller.counts),
  });
  expect(failed).toEqual([]);
  expect(listed).toHaveLength(load.ended.size);
  expect(listed.filter(({ status }) => status !== "succeeded")).toEqual([]);
  // Requests were open when the edge went.
  const answers = [...load.caller.counts.keys()];
  expect(answers.filter((answer) => answer.startsWith(BROKEN))).not.toEqual([]);
  expect(answers.filter((answer) => !answer.startsWith(BROKEN) && !ANSWERS.includes(answer))).toEqual([]);
}, 400_000);
