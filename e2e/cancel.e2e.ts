import { beforeAll, expect, test } from "vitest";
import { type Api, streamUrl } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";
import { StreamReader } from "./lib/sse.ts";

let caller: Api;
beforeAll(async () => {
  caller = await newCaller("cancel");
});

test("a cancel while running is answered when the model has stopped", async () => {
  const prediction = await caller.create("slow", { seconds: 100 });
  await caller.untilRunning(prediction);
  const answer = await caller.cancel(prediction);
  expect(answer.status).toBe(200);
  expect(answer.body).toMatchObject({ status: "canceled", error: null, output: null, logs: "begun\n" });
  expect(answer.body.completed_at).toBeTruthy();
  expect(await caller.get(prediction)).toEqual(answer.body);
  expect(await caller.run("slow", { seconds: 0 })).toMatchObject({ status: "succeeded" });
});

test("a cancel in the middle of a stream keeps what came, and the stream says why it ends", async () => {
  const prediction = await caller.create("tokens", { count: 10_000, delay_ms: 20 });
  const reader = StreamReader.open(streamUrl(prediction));
  await reader.untilOutputs(10);
  const { body } = await caller.cancel(prediction);
  await reader.untilEnded();
  expect(reader.events.at(-1)).toMatchObject({ event: "done", data: '{"reason":"canceled"}' });
  expect(body).toMatchObject({ status: "canceled", output: reader.outputs() });
});

test("a cancel while queued never starts the model", async () => {
  const running = await caller.create("slow", { seconds: 100 });
  await caller.untilRunning(running);
  const queued = await caller.create("slow", { seconds: 100 });
  const answer = await caller.cancel(queued);
  expect(answer).toMatchObject({ status: 200, body: { status: "canceled", started_at: null, logs: "" } });
  expect((await caller.get(running)).status).toBe("processing");
  await caller.cancel(running);
});

test("a model that does not listen is ended by force, and the next prediction works", async () => {
  const prediction = await caller.create("uncancellable", { seconds: 100 });
  await caller.untilRunning(prediction);
  expect(await caller.cancel(prediction)).toMatchObject({ status: 200, body: { status: "canceled" } });
  expect(await caller.run("uncancellable", { seconds: 0 })).toMatchObject({ status: "succeeded" });
});

test("a cancel of a finished prediction changes nothing", async () => {
  const prediction = await caller.run("noop", {});
  const answer = await caller.cancel(prediction);
  expect([answer.status, answer.body]).toEqual([200, prediction]);
});

test("Cancel-After ends a prediction that runs too long", async () => {
  const prediction = await caller.create("slow", { seconds: 100 }, { headers: { "cancel-after": "5s" } });
  expect(Date.parse(prediction.deadline ?? "") - Date.parse(prediction.created_at)).toBe(5_000);
  const end = await caller.untilEnd(prediction);
  expect(end.status).toBe("canceled");
  const lasted = Date.parse(end.completed_at ?? "") - Date.parse(end.created_at);
  expect(lasted).toBeGreaterThanOrEqual(4_900);
  const short = await caller.tryCreate("noop", {}, { headers: { "cancel-after": "soon" } });
  expect(short.status).toBeGreaterThanOrEqual(400);
});
