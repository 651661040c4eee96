/** gpu-origin is killed while predictions run: each reaches an end that says what happened, or runs again where that is safe. Nothing hangs. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { streamUrl } from "./lib/api.ts";
import { isAlive } from "./lib/processes.ts";
import { StreamReader } from "./lib/sse.ts";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

let system: System;
beforeAll(async () => {
  system = await System.start({ models: ["tokens", "idempotent-tokens", "slow", "noop"] });
});
afterAll(() => system?.stop());

/** Kills gpu-origin, as if the host's memory had run out; returns the processes of models that it had. */
async function killOrigin(): Promise<number[]> {
  const { pid } = system.origin();
  // Those that outlived an earlier one are no children of it.
  const models = system
    .leftovers()
    .filter(({ command }) => command.includes("cog.server.http") || command.includes("coglet"))
    .map((process) => process.pid);
  expect(models.length).toBeGreaterThan(0);
  system.killOrigin();
  await waitFor("another gpu-origin", 60_000, () => (system.origin().pid === pid ? null : true));
  return models;
}

test("a running stream ends with origin.lost, and a queued prediction runs on what goes on: no model is loaded anew", async () => {
  const { api } = system;
  const running = await api.create("tokens", { count: 3000, delay_ms: 20 });
  const reader = StreamReader.open(streamUrl(running));
  await reader.untilOutputs(20);
  const queued = await api.create("tokens", { count: 5 });
  const models = await killOrigin();
  await reader.untilEnded();
  const [error, done] = reader.events.slice(-2);
  expect(error?.event).toBe("error");
  expect(done).toMatchObject({ event: "done", data: '{"reason":"error"}' });
  const end = await api.untilEnd(running);
  expect(end).toMatchObject({ status: "failed", error_code: "origin.lost", output: reader.outputs() });
  expect(end.error).toBeTruthy();
  expect(await api.untilEnd(queued)).toMatchObject({ status: "succeeded" });
  // What ran there was canceled, since its reader was gone.
  expect(models.filter(isAlive)).toEqual(models);
  await system.untilHealthy();
  expect(await api.run("noop", { text: "after" })).toMatchObject({ status: "succeeded", output: "after" });
});

test("an idempotent version runs again, and its readers see each token once", async () => {
  const count = 150;
  const prediction = await system.api.create("idempotent-tokens", { count, delay_ms: 20 });
  const reader = StreamReader.open(streamUrl(prediction));
  await reader.untilOutputs(30);
  await killOrigin();
  await reader.untilEnded();
  const expected = Array.from({ length: count }, (_, i) => `token ${i}\n`);
  expect(reader.outputs()).toEqual(expected);
  expect(reader.events.at(-1)).toMatchObject({ event: "done", data: "{}" });
  expect(await system.api.untilEnd(prediction)).toMatchObject({ status: "succeeded", output: expected });
  expect((await StreamReader.readAll(streamUrl(prediction))).wire).toEqual(reader.wire);
});

test("an idempotent version that gives other output the second time fails, and keeps what was sent", async () => {
  const prediction = await system.api.create("idempotent-tokens", { count: 200, delay_ms: 20, stamp: true });
  const reader = StreamReader.open(streamUrl(prediction));
  await reader.untilOutputs(30);
  await killOrigin();
  await reader.untilEnded();
  const end = await system.api.untilEnd(prediction);
  expect(end).toMatchObject({ status: "failed", error_code: "origin.lost", output: reader.outputs() });
});

test("a cancel while the origin is gone still reaches an end", async () => {
  const prediction = await system.api.create("slow", { seconds: 100 });
  await system.api.untilRunning(prediction);
  const restarted = killOrigin();
  const answer = await system.api.cancel(prediction);
  await restarted;
  expect(answer.status).toBe(200);
  const end = await system.api.untilEnd(prediction);
  expect(["canceled", "failed"]).toContain(end.status);
  expect(answer.body).toEqual(end);
});
