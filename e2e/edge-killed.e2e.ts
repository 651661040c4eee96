/**
 * The edge (workerd) is killed while streams run. Beside it a prediction is silent for 90 s with no reader: its object is gone in between, with the killed
 * process and again by being idle, and everything must still arrive.
 */
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Prediction, streamUrl } from "./lib/api.ts";
import { StreamReader } from "./lib/sse.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const SILENCE_MS = 90_000;

let system: System;
let silent: Prediction;
beforeAll(async () => {
  system = await System.start({ models: ["tokens", "tokens-async", "slow", "noop"] });
  silent = await system.api.create("tokens-async", { count: 3, start_delay_ms: SILENCE_MS });
  await system.api.untilRunning(silent);
});
afterAll(() => system?.stop());

test("a stream that the kill cut is byte-equal after resuming", async () => {
  const count = 500;
  const prediction = await system.api.create("tokens", { count, delay_ms: 20 });
  const url = streamUrl(prediction);
  const cut = StreamReader.open(url);
  await cut.untilOutputs(50);
  await system.restartEdge();
  await cut.untilEnded();
  expect(cut.ended).toBe("cut");
  const kept = cut.wire;
  const resumed = await StreamReader.readAll(url, { lastEventId: cut.ids[kept.length - 1] ?? "" });
  const whole = await StreamReader.readAll(url);
  expect(whole.outputs()).toEqual(Array.from({ length: count }, (_, i) => `token ${i}\n`));
  expect([...kept, ...resumed.wire]).toEqual(whole.wire);
  expect(whole.events.at(-1)).toMatchObject({ event: "done", data: "{}" });
  expect(await system.api.get(prediction)).toMatchObject({ status: "succeeded", output: whole.outputs() });
});

test("a caller whose wait was cut finds the end by asking; queued predictions run", async () => {
  const cutWait = system.api.tryCreate("slow", { seconds: 4 }, { wait: 60 }).catch(() => "cut");
  const running = await waitFor("the running prediction", 30_000, async () => {
    const { body } = await system.api.request<{ results: Prediction[] }>("GET", "/v1/predictions");
    return body.results.find(({ model, status }) => model === "cogway/slow" && status === "processing");
  });
  const queued = await system.api.create("slow", { seconds: 0.1 });
  await system.restartEdge();
  expect(await cutWait).toBe("cut");
  expect(await system.api.untilEnd(running)).toMatchObject({ status: "succeeded", output: "done" });
  expect(await system.api.untilEnd(queued)).toMatchObject({ status: "succeeded", output: "done" });
});

test("a prediction that ended before the kill is unchanged after it", async () => {
  const ended = await system.api.run("noop", { text: "kept" });
  await system.restartEdge();
  expect(await system.api.get(ended)).toEqual(ended);
  expect(await system.api.run("noop", { text: "new" })).toMatchObject({ status: "succeeded", output: "new" });
});

test("90 silent seconds with no reader, the object gone in between, lose nothing", async () => {
  // Nobody asks for the prediction, so its object is idle until its events come.
  const end = Date.parse(silent.created_at) + SILENCE_MS;
  await waitFor("the end of the silence", SILENCE_MS + 10_000, () => (Date.now() > end ? true : null));
  const done = await system.api.untilEnd(silent);
  expect(done).toMatchObject({ status: "succeeded", output: "token 0\ntoken 1\ntoken 2\n" });
  expect(done.metrics["predict_time"]).toBeGreaterThanOrEqual(SILENCE_MS / 1000 - 1);
  const reader = await StreamReader.readAll(streamUrl(silent));
  expect(reader.text).toBe(done.output);
});
