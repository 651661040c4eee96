/**
 * Trainings from end to end: a trainer without machine learning on real coglet, its data set by URL, data URI and upload; the version that comes of it, in
 * both ways in which models get their weights; and every way in which a training ends early.
 */
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { zipOf } from "../gpu-origin/testing/zip.ts";
import { type Api, type Model, type Page, type Prediction, type Problem, streamUrl, TERMINAL } from "./lib/api.ts";
import { killHard } from "./lib/processes.ts";
import { WebhookReceiver } from "./lib/receiver.ts";
import { StreamReader } from "./lib/sse.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

interface Training extends Prediction {
  destination: string;
}

const ZIP = zipOf({ "a.txt": "roses", "b.txt": "violets" });
const DATA_URI = `data:application/zip;base64,${ZIP.toString("base64")}`;
const END_MS = 60_000;

let system: System;
let receiver: WebhookReceiver;
let host: Server;
let caller: Api;
beforeAll(async () => {
  receiver = await WebhookReceiver.start();
  host = createServer((_request, response) => response.writeHead(200, { "content-type": "application/zip" }).end(ZIP));
  await new Promise<void>((done) => host.listen(0, "127.0.0.1", done));
  system = await System.start({
    models: ["trainer", "trainer-setup", "noop"],
    env: { COGWAY_ALLOW_PRIVATE_URLS: "127.0.0.1/32" },
  });
  caller = await system.api.newAccount("gardener");
});
afterAll(async () => {
  await system?.stop();
  receiver?.stop();
  host.close();
});

let count = 0;
/** A private model of the caller, without a version. */
async function aDestination(): Promise<string> {
  const name = `garden-${count++}`;
  const body = { owner: "gardener", name, visibility: "private", hardware: "cpu" };
  const answer = await caller.request("POST", "/v1/models", { body });
  if (answer.status !== 201) throw new Error(`${answer.status}: ${answer.text}`);
  return `gardener/${name}`;
}

async function versionOf(model: string): Promise<string> {
  const { body } = await caller.request<Model>("GET", `/v1/models/${model}`);
  return body.latest_version?.id ?? "";
}

async function tryTrain<T = Training>(model: string, body: unknown, headers: Record<string, string> = {}) {
  const path = `/v1/models/cogway/${model}/versions/${await versionOf(`cogway/${model}`)}/trainings`;
  return caller.request<T>("POST", path, { body, headers });
}

async function train(
  input: Record<string, unknown>,
  { model = "trainer", headers = {} as Record<string, string>, more = {} } = {},
): Promise<Training> {
  const body = { destination: await aDestination(), input, ...more };
  const answer = await tryTrain(model, body, headers);
  if (answer.status !== 201) throw new Error(`${answer.status}: ${answer.text}`);
  return answer.body;
}

const until = (training: Training, what: string, isWanted: (now: Training) => boolean): Promise<Training> =>
  waitFor(`training ${training.id} ${what}`, END_MS, async () => {
    const { body } = await caller.request<Training>("GET", `/v1/trainings/${training.id}`);
    return isWanted(body) ? body : null;
  });
const untilEnd = (training: Training): Promise<Training> =>
  until(training, "ends", ({ status }) => TERMINAL.includes(status));
const untilLogs = (training: Training, line: string): Promise<Training> =>
  until(training, `logs ${line}`, ({ logs }) => logs.includes(line));

/** What the version that a training made answers. */
async function runVersion(training: Training): Promise<unknown> {
  const version = (training.output as { version: string } | null)?.version;
  if (version === undefined) throw new Error(`${training.status}: ${training.error}`);
  const answer = await caller.request<Prediction>("POST", "/v1/predictions", {
    body: { version, input: { text: "hi" } },
    headers: { prefer: "wait" },
  });
  if (answer.status !== 201) throw new Error(`${answer.status}: ${answer.text}`);
  const prediction = await caller.untilEnd(answer.body);
  expect(prediction.input).toEqual({ text: "hi", ...(training.model === "cogway/trainer" ? {} : { mode: "plain" }) });
  return prediction.output;
}

test("a training tells its log while it runs, calls its webhook, and makes a version that runs on the base's instances", async () => {
  const { port } = host.address() as AddressInfo;
  const training = await train(
    { train_data: `http://127.0.0.1:${port}/flowers.zip`, steps: 20, pause_s: 0.2 },
    { more: { webhook: receiver.url, webhook_events_filter: ["start", "completed"] } },
  );
  expect(training).toMatchObject({ status: "starting", model: "cogway/trainer", output: null });
  expect(training.urls.get).toBe(`${caller.url}/v1/trainings/${training.id}`);
  const reader = StreamReader.open(streamUrl(training));
  const running = await untilLogs(training, "step 2/20");
  expect(running).toMatchObject({ status: "processing", metrics: { loss: expect.any(Number) } });

  const ended = await untilEnd(training);
  expect(ended).toMatchObject({
    status: "succeeded",
    destination: training.destination,
    logs: expect.stringContaining("step 20/20"),
    metrics: { loss: 1 / 20, predict_time: expect.any(Number) },
    output: {
      version: `${training.destination}:${await versionOf(training.destination)}`,
      weights: expect.stringContaining(`/outputs/${training.id}/0/`),
    },
  });
  const weights = await fetch((ended.output as { weights: string }).weights);
  expect(await weights.text()).toBe("roses violets");
  await reader.untilEnded();
  expect(reader.events.filter(({ event }) => event === "logs").length).toBeGreaterThan(2);
  const calls = await waitFor("both webhooks", END_MS, () => {
    const all = receiver.about(training.id);
    return all.length >= 2 ? all : null;
  });
  expect(calls.map(({ body }) => body.status)).toEqual(["processing", "succeeded"]);
  expect(calls.at(-1)?.body).toEqual(ended);

  expect(await runVersion(ended)).toBe("hi from roses violets");
  expect((await caller.run("trainer", { text: "hi" })).output).toBe("hi from the base");
});

test("a version whose base loads weights in setup gets instances of its own", async () => {
  const training = await untilEnd(await train({ word: "lilies" }, { model: "trainer-setup" }));
  expect(await runVersion(training)).toBe("hi from lilies");
  expect((await caller.run("trainer-setup", { text: "hi" })).output).toBe("hi from the base");
});

test("a data set may be an uploaded file", async () => {
  const form = new FormData();
  form.set("content", new File([new Uint8Array(ZIP)], "flowers.zip", { type: "application/zip" }));
  const headers = { authorization: `Bearer ${caller.token}` };
  const answer = await fetch(new URL("/v1/files", caller.url), { method: "POST", headers, body: form });
  const file = (await answer.json()) as { urls: { get: string } };
  const training = await untilEnd(await train({ train_data: file.urls.get }));
  expect(await runVersion(training)).toBe("hi from roses violets");
});

test("the version is as private as its model, and the training its caller's alone", async () => {
  const training = await untilEnd(await train({ train_data: DATA_URI }));
  const other = await system.api.newAccount(`neighbour-${training.id.slice(0, 8)}`);
  for (const path of [
    `/v1/trainings/${training.id}`,
    `/v1/predictions/${training.id}`,
    `/v1/models/${training.destination}`,
  ]) {
    expect((await other.request("GET", path)).status).toBe(404);
  }
  expect((await other.request("POST", `/v1/trainings/${training.id}/cancel`)).status).toBe(404);
  const { version } = training.output as { version: string };
  const body = { version, input: {} };
  expect((await other.request("POST", "/v1/predictions", { body })).status).toBe(404);
  const { results } = (await caller.request<Page<Training>>("GET", "/v1/trainings")).body;
  expect(results[0]).toMatchObject({ id: training.id, destination: training.destination, status: "succeeded" });
});

test("a cancel ends it, and its instance goes", async () => {
  const training = await train({ train_data: DATA_URI, steps: 1000, pause_s: 0.1 });
  await untilLogs(training, "step 1/");
  const canceled = await caller.request<Training>("POST", `/v1/trainings/${training.id}/cancel`);
  expect(canceled.body).toMatchObject({ id: training.id, status: "canceled", output: null });
  expect(await versionOf(training.destination)).toBe("");
  await waitFor("no trainer", END_MS, () =>
    system.processes().some(({ command }) => command.includes("--x-mode train")) ? null : true,
  );
});

test("Cancel-After ends one that runs too long", async () => {
  const input = { train_data: DATA_URI, steps: 1000, pause_s: 0.1 };
  const training = await untilEnd(await train(input, { headers: { "cancel-after": "5s" } }));
  expect(training).toMatchObject({ status: "canceled", output: null });
});

test("a trainer that is killed, one that raises and a data set that is none end with words", async () => {
  const killed = await train({ train_data: DATA_URI, steps: 1000, pause_s: 0.1 });
  const { logs } = await untilLogs(killed, "step 1/");
  killHard(Number(/process (\d+)/.exec(logs)?.[1]));
  expect(await untilEnd(killed)).toMatchObject({
    status: "failed",
    error: "The model's process crashed.",
    error_code: "model.crashed",
    logs: expect.stringContaining("step 1/"),
  });
  const raised = await untilEnd(await train({ train_data: DATA_URI, mode: "raise" }));
  expect(raised).toMatchObject({ status: "failed", error: "ValueError: the data set is bad" });
  const broken = await untilEnd(await train({ train_data: "data:application/zip;base64,bm8gemlw" }));
  expect(broken).toMatchObject({ status: "failed", error: expect.stringContaining("not a zip file") });
  const empty = await untilEnd(await train({ mode: "no weights" }, { model: "trainer-setup" }));
  expect(empty).toMatchObject({ status: "failed", error_code: "training.no_weights", output: null });
});

test("an unknown destination, a model without a trainer and a wrong input are refused", async () => {
  const input = { train_data: DATA_URI };
  for (const destination of ["gardener/none", "cogway/trainer", "nonsense"]) {
    const { status, body } = await tryTrain<Problem>("trainer", { destination, input });
    expect({ status, code: body.code }).toEqual({ status: 404, code: "model.not_found" });
  }
  const destination = await aDestination();
  expect((await tryTrain<Problem>("noop", { destination, input })).body.code).toBe("version.invalid");
  const wrong = await tryTrain<Problem>("trainer", { destination, input: { steps: 0 } });
  expect(wrong.body.invalid_fields?.map(({ type }) => type)).toEqual(["required", "number_gte"]);
});

test("a training goes on while the edge is killed; with its origin it ends, and makes no version", async () => {
  const input = { train_data: DATA_URI, pause_s: 0.2 };
  const kept = await train({ ...input, steps: 40 });
  await untilLogs(kept, "step 2/");
  const edge = system.edge().pid;
  system.killEdge();
  await waitFor("another edge", END_MS, () => (system.edge().pid === edge ? null : true));
  const ended = await untilEnd(kept);
  expect(ended).toMatchObject({ status: "succeeded", logs: expect.stringContaining("step 39/40\nstep 40/40\n") });
  expect(await runVersion(ended)).toBe("hi from roses violets");

  const lost = await train({ ...input, steps: 1000 });
  await untilLogs(lost, "step 2/");
  const origin = system.origin().pid;
  system.killOrigin();
  await waitFor("another origin", END_MS, () => (system.origin().pid === origin ? null : true));
  expect(await untilEnd(lost)).toMatchObject({ status: "failed", error_code: "origin.lost", output: null });
  expect(await versionOf(lost.destination)).toBe("");
  await system.untilHealthy();
  expect(await runVersion(await untilEnd(await train(input)))).toBe("hi from roses violets");
});
