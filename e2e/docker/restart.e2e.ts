/** The engine restarts below the started system. In a project of its own, after all others, since it takes everybody's containers with it. */
import { spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { System } from "../lib/system.ts";
import { waitFor } from "../lib/wait.ts";
import { instanceContainers, startDockerSystem } from "./lib/docker-system.ts";

let system: System;
beforeAll(async () => {
  system = await startDockerSystem({ models: ["noop"] });
});
afterAll(() => system?.stop());

const containers = async (): Promise<string[]> => (await instanceContainers(system)).map(({ id }) => id);

// Ours to restart is only the engine that with-engine.ts started.
const own = process.env["COGWAY_TEST_ENGINE"];
if (own !== undefined) {
  test("an engine that restarts takes its containers with it, the origin goes on, and the next prediction runs", async () => {
    await system.api.run("noop", {});
    const { pid } = system.origin();
    const before = await containers();
    const pidFile = join(own, "dockerd.pid");
    const engineProcess = Number(readFileSync(pidFile, "utf8"));
    process.kill(engineProcess, "SIGTERM");
    await waitFor("the engine's end", 60_000, () =>
      existsSync(`/proc/${engineProcess}/cmdline`) && readFileSync(`/proc/${engineProcess}/cmdline`, "utf8") !== ""
        ? null
        : true,
    );
    const meanwhile = await system.api.create("noop", { text: "meanwhile" });
    const log = openSync(join(own, "dockerd.log"), "a");
    const restarted = spawn("dockerd", ["--config-file", join(own, "daemon.json")], {
      stdio: ["ignore", log, log],
      detached: true,
    });
    restarted.unref();
    closeSync(log);
    expect(await system.api.untilEnd(meanwhile)).toMatchObject({ status: "succeeded", output: "meanwhile" });
    expect(system.origin().pid).toBe(pid);
    const after = await containers();
    expect(after).toHaveLength(1);
    expect(after).not.toEqual(before);
  });
}

if (own === undefined) {
  test("an engine that is not ours is left alone: its models run", async () => {
    expect(await system.api.run("noop", { text: "x" })).toMatchObject({ status: "succeeded" });
  });
}
