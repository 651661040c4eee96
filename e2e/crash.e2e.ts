import { beforeAll, expect, test } from "vitest";
import type { Api } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";

let caller: Api;
beforeAll(async () => {
  caller = await newCaller("crash");
});

test.each(["exit", "segv", "kill"])(
  "a model process that dies (%s) fails its prediction alone, with its last words",
  async (how) => {
    const crashed = await caller.run("crash", { how, pause_s: 0.3 });
    expect(crashed).toMatchObject({ status: "failed", output: null, logs: `about to ${how}\n` });
    expect(crashed.error).toBeTruthy();
    const next = await caller.run("crash", { how: "none" });
    expect(next).toMatchObject({ status: "succeeded", error: null, logs: "about to none\n" });
  },
);

test("what a model raises is the prediction's error, in the model's words", async () => {
  const failed = await caller.run("crash", { how: "raise" });
  expect(failed).toMatchObject({ status: "failed", error: "ValueError: boom", logs: "about to raise\n" });
  expect(await caller.run("crash", {})).toMatchObject({ status: "succeeded" });
});
