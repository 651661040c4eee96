/** Room for one instance, two models: each boots when it is asked for, and goes when the other needs the room. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

let system: System;
beforeAll(async () => {
  system = await System.start({ models: ["noop", "slow"], env: { COGWAY_INSTANCES_MAX: "1" } });
});
afterAll(() => system.stop());

/** coglet's servers, one for each instance */
function instances(): number[] {
  return system
    .processes()
    .filter(({ command }) => command.includes("cog.server.http"))
    .map(({ pid }) => pid);
}

test("nothing runs until it is asked for; one model makes room for the other, and comes back", async () => {
  expect(instances()).toEqual([]);
  expect(await system.api.run("noop", { text: "cold" })).toMatchObject({ status: "succeeded", output: "cold" });
  const [first] = instances();
  expect(await system.api.run("noop", { text: "warm" })).toMatchObject({ status: "succeeded" });
  expect(instances()).toEqual([first]);
  expect(await system.api.run("slow", { seconds: 0.1 })).toMatchObject({ status: "succeeded" });
  await waitFor("one instance, another one", 30_000, () =>
    instances().length === 1 && instances()[0] !== first ? true : null,
  );
  expect(await system.api.run("noop", { text: "again" })).toMatchObject({ status: "succeeded", output: "again" });
});

test("a prediction that waits says why, and a busy instance is not taken from who uses it", async () => {
  const running = await system.api.create("slow", { seconds: 4 });
  await system.api.untilRunning(running);
  const waiting = await system.api.create("noop", { text: "after" });
  const shown = await system.api.until(
    waiting,
    "says that it waits for room",
    ({ waiting_for }) => waiting_for?.reason === "capacity",
  );
  expect(shown.status).toBe("starting");
  expect(shown.waiting_for).toMatchObject({ queue_position: 1, elapsed_ms: expect.any(Number) });
  expect(await system.api.untilEnd(running)).toMatchObject({ status: "succeeded", output: "done" });
  expect(await system.api.untilEnd(waiting)).toMatchObject({ status: "succeeded", output: "after" });
});
