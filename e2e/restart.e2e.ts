/** `npm start` as a user has it: ended, killed, and started again on the same data. */
import { rmSync } from "node:fs";
import { afterAll, expect, test } from "vitest";
import type { Page, Prediction } from "./lib/api.ts";
import { isAlive, killHard } from "./lib/processes.ts";
import { type Ports, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const END_WITHIN_MS = 40_000;
const data = temporaryFolder();
const models = ["noop", "slow"];
let system: System | null = null;

async function start(ports: Ports): Promise<System> {
  system = await System.start({ models, data, byNpm: true, ports });
  return system;
}

async function listed(running: System): Promise<Prediction[]> {
  return (await running.api.request<Page<Prediction>>("GET", "/v1/predictions")).body.results;
}

/** Everything that was started, and everything that names the data folder, is gone. */
async function nothingRuns(running: System, pids: number[]): Promise<void> {
  await waitFor("the end of every process", END_WITHIN_MS, () =>
    pids.filter(isAlive).length + running.leftovers().length === 0 ? true : null,
  );
}

afterAll(async () => {
  await system?.stop();
  rmSync(data, { recursive: true, force: true });
});

test("kill -9 of the launcher, SIGTERM to npm, SIGINT to its group: nothing is lost, nothing is left running", async () => {
  const ports = await System.freePorts();
  const first = await start(ports);
  const yesterday = await first.api.run("noop", { text: "yesterday" });
  const before = first.processes().map(({ pid }) => pid);
  killHard(first.launcher().pid);

  // The next start finds what the killed one left, ends it, and takes the same ports.
  const second = await start(ports);
  await waitFor("the end of what the killed launcher left", END_WITHIN_MS, () => {
    const now = second.processes().map(({ pid }) => pid);
    const left = second.leftovers().filter(({ pid }) => !now.includes(pid));
    return before.filter(isAlive).length + left.length === 0 ? true : null;
  });
  expect((await listed(second)).find(({ id }) => id === yesterday.id)).toEqual(yesterday);
  expect(await second.api.run("noop", { text: "today" })).toMatchObject({ status: "succeeded", output: "today" });

  // SIGTERM drains: who waits for a short prediction gets it.
  const drained = second.api.create("slow", { seconds: 3 }, { wait: 60 });
  await waitFor("the running prediction", 30_000, async () =>
    (await listed(second)).find(({ status }) => status === "processing"),
  );
  const secondPids = second.processes().map(({ pid }) => pid);
  const asked = performance.now();
  await second.signal("SIGTERM");
  expect(await drained).toMatchObject({ status: "succeeded", output: "done" });
  await nothingRuns(second, secondPids);
  expect(performance.now() - asked).toBeLessThan(END_WITHIN_MS);

  const third = await start(ports);
  expect((await listed(third)).map(({ output }) => output)).toEqual(["done", "today", "yesterday"]);
  const thirdPids = third.processes().map(({ pid }) => pid);
  await third.signal("SIGINT", "group");
  await nothingRuns(third, thirdPids);
}, 300_000);
