/** Room for one instance, two models: each boots when it is asked for, and goes when the other needs the room. */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { System } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

let system: System;
beforeAll(async () => {
  system = await System.start({ models: ["noop", "slow"], env: { COGWAY_INSTANCES_MAX: "1" } });
});
afterAll(() => system?.stop());

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

/** Whether a process stands still: the letter behind its name in /proc. */
function isStopped(pid: number | undefined): boolean {
  return / T /.test(/\)( \S )/.exec(readFileSync(`/proc/${pid}/stat`, "utf8"))?.[1] ?? "");
}

/** An instance that no more is known of stays for half a minute. */
const PAUSED_WITHIN_MS = 90_000;

test("an idle instance stands still in memory, goes on without a boot when it is wanted, and makes room for others", async () => {
  expect(await system.api.run("noop", { text: "before" })).toMatchObject({ status: "succeeded" });
  const [server] = instances();
  await waitFor("the idle instance stands still", PAUSED_WITHIN_MS, () => (isStopped(server) ? true : null));
  const asked = performance.now();
  expect(await system.api.run("noop", { text: "on" })).toMatchObject({ status: "succeeded", output: "on" });
  process.stderr.write(`scale: an answer of a paused instance after ${Math.round(performance.now() - asked)} ms\n`);
  expect([instances(), isStopped(server)]).toEqual([[server], false]);

  // Whether it stands still again by then depends on what its deployment has learned of the gaps between its requests.
  expect(await system.api.run("slow", { seconds: 0.1 })).toMatchObject({ status: "succeeded" });
  await waitFor("it made room", 30_000, () => (instances().includes(server ?? 0) ? null : true));
}, 240_000);
