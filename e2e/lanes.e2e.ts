/**
 * A deployment that leases more slots a second than one object shall serve: it is divided into lanes, which share its slots, and folds back when the load is
 * over. Callers see nothing of that, whatever is canceled meanwhile and though the edge is killed.
 */
import { cpSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { Caller } from "./chaos/caller.ts";
import type { Api, Model, Prediction } from "./lib/api.ts";
import { modelFolder, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

/** Of the one instance: room for half as many lanes. */
const SLOTS = 8;
/** So low that a busy machine is above it in any case. */
const LEASES_PER_S = 2;
const CALLERS = 16;
const TOKENS = 3;
const OUTPUT = Array.from({ length: TOKENS }, (_, n) => `token ${n}\n`).join("");
/** So long one holds its slot that others shall wait for. */
const LONG_MS = 4_000;
/** Ended before something is done to the system, and after. */
const ENDED_BETWEEN = 30;
const STEP_MS = 60_000;
const UNLIMITED = 1_000_000;
const PATH = "/v1/deployments/crowd/lanes";

const folder = join(temporaryFolder(), "shared-slots");
let system: System;
let api: Api;
beforeAll(async () => {
  cpSync(modelFolder("tokens-async"), folder, { recursive: true });
  const predictor = join(folder, "predict.py");
  writeFileSync(
    predictor,
    readFileSync(predictor, "utf8").replace(/@concurrent\(max=\d+\)/, `@concurrent(max=${SLOTS})`),
  );
  const env = { COGWAY_MODELS: folder, COGWAY_LANE_LEASES_PER_S: String(LEASES_PER_S) };
  system = await System.start({ models: [], env });
  api = await system.api.newAccount("crowd", { creates_per_minute: UNLIMITED, reads_per_minute: UNLIMITED });
});
afterAll(async () => {
  await system?.stop();
  rmSync(join(folder, ".."), { recursive: true, force: true });
});

async function lanes(): Promise<number> {
  const { body, text } = await api.request<{ current: { lanes?: number } | null }>("GET", `${PATH}/scaling`);
  if (body.current?.lanes === undefined) throw new Error(text);
  return body.current.lanes;
}

/** Objects of deployments that ever were. */
function deploymentObjects(): number {
  const files = readdirSync(join(system.data, "edge"), { recursive: true, encoding: "utf8" });
  return files.filter((path) => /DeploymentObject\/[0-9a-f]+\.sqlite$/.test(path)).length;
}

/** Callers that create and wait in a loop; what each of their predictions came to. */
class Load {
  readonly ended = new Map<string, Prediction>();
  readonly #caller = new Caller(system.url, api.token);
  #made = 0;
  #isOver = false;
  readonly #callers = Array.from({ length: CALLERS }, () => this.#loop());

  async #loop(): Promise<void> {
    while (!this.#isOver) {
      const key = `lanes-${this.#made++}`;
      const body = { input: { count: TOKENS, delay_ms: 10 } };
      const { text } = await this.#caller.call("POST", `${PATH}/predictions`, body, {
        ...{ prefer: "wait=60", "idempotency-key": key },
      });
      this.ended.set(key, await api.untilEnd(JSON.parse(text) as Prediction));
    }
  }

  async more(when: string): Promise<void> {
    const until = this.ended.size + ENDED_BETWEEN;
    await waitFor(`${ENDED_BETWEEN} predictions ${when}`, STEP_MS, () => (this.ended.size >= until ? true : null));
  }

  async end(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#callers);
  }
}

/** Each takes a slot for {@link LONG_MS}. */
function createLong(count: number): Promise<Prediction[]> {
  const one = async (): Promise<Prediction> => {
    const body = { input: { count: TOKENS, start_delay_ms: LONG_MS } };
    const answer = await api.request<Prediction>("POST", `${PATH}/predictions`, { body });
    if (answer.status !== 201) throw new Error(answer.text);
    return answer.body;
  };
  return Promise.all(Array.from({ length: count }, one));
}

/** Resolves when so many of these run as there are slots: with those that wait. */
function untilAllSlotsRun(long: Prediction[]): Promise<Prediction[]> {
  return waitFor("all slots are used at once", LONG_MS, async () => {
    const now = await Promise.all(long.map((each) => api.get(each)));
    const running = now.filter(({ status }) => status === "processing");
    return running.length === SLOTS ? now.filter((each) => !running.includes(each)) : null;
  });
}

test("lanes come under load and go after it: each prediction ends once, over cancels and a kill of the edge", async () => {
  const model = await waitFor("the model", STEP_MS, async () => {
    const { body } = await system.api.request<Model>("GET", "/v1/models/cogway/shared-slots");
    return body.latest_version === null ? null : body;
  });
  const made = await api.request("POST", "/v1/deployments", {
    body: {
      ...{ name: "lanes", model: "cogway/shared-slots", version: model.latest_version?.id },
      ...{ hardware: "cpu", min_instances: 1, max_instances: 1 },
    },
  });
  expect(made.status, made.text).toBe(200);
  const load = new Load();
  await waitFor("as many lanes as the slots allow", STEP_MS, async () => ((await lanes()) === SLOTS / 2 ? true : null));
  await load.more("in lanes");
  expect(deploymentObjects()).toBe(SLOTS / 2);

  await system.restartEdge();
  await load.more("after the kill");
  await load.end();
  for (const each of load.ended.values()) expect(each).toMatchObject({ status: "succeeded", output: OUTPUT });

  const long = await createLong(2 * SLOTS);
  const waiting = await untilAllSlotsRun(long);
  expect((await Promise.all(waiting.map((each) => api.cancel(each)))).map(({ status }) => status)).toEqual(
    waiting.map(() => 200),
  );
  for (const each of await Promise.all(long.map((one) => api.untilEnd(one)))) {
    const canceled = { status: "canceled", started_at: null };
    const isCanceled = waiting.some(({ id }) => id === each.id);
    expect(each).toMatchObject(isCanceled ? canceled : { status: "succeeded", output: OUTPUT });
  }

  await waitFor("one lane", STEP_MS, async () => ((await lanes()) === 1 ? true : null));
  const last = await createLong(SLOTS);
  expect(await untilAllSlotsRun(last)).toEqual([]);
  for (const each of last) expect(await api.untilEnd(each)).toMatchObject({ status: "succeeded", output: OUTPUT });

  // None was made twice, and none was counted as two runs; one whose slot was lost in the kill may miss in that count.
  const ran = load.ended.size + SLOTS + last.length;
  expect(await api.all<Prediction>("/v1/predictions")).toHaveLength(ran + waiting.length);
  const counted = await waitFor(`about ${ran} runs of the model`, STEP_MS, async () => {
    const { body } = await system.api.request<Model>("GET", "/v1/models/cogway/shared-slots");
    if (body.run_count < ran - SLOTS) throw new Error(`${body.run_count} so far`);
    return body.run_count;
  });
  expect(counted).toBeLessThanOrEqual(ran);
}, 240_000);
