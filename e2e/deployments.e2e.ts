/** A deployment over its life: warm without predictions, a new version while predictions run, disabled, and gone. */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Api, Model, Problem } from "./lib/api.ts";
import { modelFolder, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

interface Deployment {
  owner: string;
  name: string;
  current_release: { number: number; version: string };
  status?: { instances: { ready: number; draining: number }; older_instances: number; queue_length: number };
}

const data = temporaryFolder();
const folder = join(temporaryFolder(), "counted");
const path = "/v1/deployments/cogway/service";
let system: System;
let api: Api;
let first: string;
let second: string;

/** Starts the system with a model that answers `word`; gives its version. What it was before stays a version of the model. */
async function startWith(word: string): Promise<string> {
  const predictor = readFileSync(join(modelFolder("slow"), "predict.py"), "utf8");
  mkdirSync(folder, { recursive: true });
  cpSync(modelFolder("slow"), folder, { recursive: true });
  writeFileSync(join(folder, "predict.py"), predictor.replace('"done"', JSON.stringify(word)));
  const before = first;
  system = await System.start({ models: [], data, env: { COGWAY_MODELS: folder } });
  ({ api } = system);
  return waitFor("its version", 120_000, async () => {
    const { body } = await api.request<Model>("GET", "/v1/models/cogway/counted");
    const id = body.latest_version?.id;
    return id === undefined || id === before ? null : id;
  });
}

beforeAll(async () => {
  first = await startWith("one");
  await system.stop();
  second = await startWith("two");
});
afterAll(async () => {
  await system?.stop();
  for (const made of [data, join(folder, "..")]) rmSync(made, { recursive: true, force: true });
});

/** coglet's servers, one for each instance */
function instances(): number[] {
  return system
    .processes()
    .filter(({ command }) => command.includes("cog.server.http"))
    .map(({ pid }) => pid);
}

async function create(seconds: number) {
  const answer = await api.request("POST", `${path}/predictions`, { body: { input: { seconds } } });
  if (answer.status !== 201) throw new Error(answer.text);
  return answer.body as Awaited<ReturnType<Api["create"]>>;
}

async function untilStatus(what: string, isIt: (status: NonNullable<Deployment["status"]>) => boolean) {
  return waitFor(what, 60_000, async () => {
    const { status } = (await api.request<Deployment>("GET", path)).body;
    return status !== undefined && isIt(status) ? status : null;
  });
}

test("a minimum instance is warm before any prediction", async () => {
  const configuration = { hardware: "cpu", min_instances: 1, max_instances: 1 };
  const body = { name: "service", model: "cogway/counted", version: first, ...configuration };
  const made = await api.request<Deployment>("POST", "/v1/deployments", { body });
  expect(made.status).toBe(200);
  expect(made.body.current_release).toMatchObject({ number: 1, version: first });
  await untilStatus("is warm", ({ instances: { ready } }) => ready === 1);
  expect(instances()).toHaveLength(1);
  const prediction = await api.untilEnd(await create(0.1));
  expect(prediction).toMatchObject({
    status: "succeeded",
    output: "one",
    version: first,
    deployment: "cogway/service",
  });
});

test("another version comes while predictions run: none is killed, each runs what it shows, the old instance goes", async () => {
  const [old] = instances();
  const running = await create(4);
  await api.untilRunning(running);
  const waiting = await create(0.5);
  const updated = await api.request<Deployment>("PATCH", path, { body: { version: second } });
  expect(updated.body.current_release).toMatchObject({ number: 2, version: second });
  const newer = await create(0.1);
  expect(newer.version).toBe(second);
  expect(await api.untilEnd(running)).toMatchObject({ status: "succeeded", output: "one", version: first });
  expect(await api.untilEnd(waiting)).toMatchObject({ status: "succeeded", output: "one", version: first });
  expect(await api.untilEnd(newer)).toMatchObject({ status: "succeeded", output: "two", version: second });
  await untilStatus("only the new version is warm", ({ instances, older_instances }) => {
    return instances.ready === 1 && instances.draining === 0 && older_instances === 0;
  });
  await waitFor("the old process is gone", 30_000, () => (instances().includes(old ?? 0) ? null : true));
  expect(instances()).toHaveLength(1);
});

test("a minimum instance comes back by itself after its host was killed", async () => {
  const before = instances();
  // The origin first: it is not to see its model end, and a model that lives would be taken over by the next origin.
  system.killOrigin();
  for (const pid of before) process.kill(pid, "SIGKILL");
  await waitFor("another process", 60_000, () => (instances().some((pid) => !before.includes(pid)) ? true : null));
  await untilStatus("is warm again", ({ instances: { ready } }) => ready === 1);
  expect(await api.untilEnd(await create(0.1))).toMatchObject({ status: "succeeded", output: "two" });
});

test("min and max of 0 cancel what runs and waits, and leave nothing running", async () => {
  const running = await create(60);
  await api.untilRunning(running);
  const waiting = await create(1);
  const disabled = await api.request("PATCH", path, { body: { min_instances: 0, max_instances: 0 } });
  expect(disabled.status).toBe(200);
  for (const prediction of [running, waiting]) {
    expect(await api.untilEnd(prediction)).toMatchObject({ status: "canceled" });
  }
  const refused = await api.request<Problem>("POST", `${path}/predictions`, { body: { input: {} } });
  expect(refused.status).toBe(409);
  expect(refused.body).toMatchObject({ code: "deployment.disabled" });
  await waitFor("nothing runs", 30_000, () => (instances().length === 0 ? true : null));
});

test("it is deleted 15 minutes after its last prediction, one that was never used at once", async () => {
  await untilStatus("has no instances", ({ instances: { ready, draining } }) => ready + draining === 0);
  const refused = await api.request<Problem>("DELETE", path);
  expect(refused.status).toBe(409);
  expect(refused.body).toMatchObject({ code: "deployment.in_use" });
  expect(refused.body.retry_after).toBeGreaterThan(800);
  const configuration = { hardware: "cpu", min_instances: 0, max_instances: 1 };
  const body = { name: "unused", model: "cogway/counted", version: second, ...configuration };
  expect((await api.request("POST", "/v1/deployments", { body })).status).toBe(200);
  expect((await api.request("DELETE", "/v1/deployments/cogway/unused")).status).toBe(204);
  const { body: page } = await api.request<{ results: Deployment[] }>("GET", "/v1/deployments");
  expect(page.results.map(({ name }) => name)).toEqual(["service"]);
});
