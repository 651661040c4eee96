/** What a model compiles in its setup is kept at the edge: the next cold setup of the version, on a host that has nothing of it, takes it from there. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import type { Api } from "./lib/api.ts";
import { printCounts } from "./lib/counts.ts";
import { modelFolder, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

const NAME = "trend-forecast";
/** Ten functions are compiled, beside everything else that the machine does. */
const SETUP_WITHIN_MS = 240_000;
const KEPT_WITHIN_MS = 30_000;

const data = temporaryFolder();
let system: System | null = null;
afterAll(async () => {
  await system?.stop();
  rmSync(data, { recursive: true, force: true });
});

interface Setup {
  functions: number;
  seconds: number;
  hits: number;
}

/** Starts the system, runs the model on an instance that boots for it, and says how its setup went. */
async function coldSetup(): Promise<{ setup: Setup; output: unknown }> {
  system = await System.start({ models: [NAME], data });
  const { api } = system;
  const prediction = await api.untilEnd(await api.create(NAME, example(), { wait: 60 }), SETUP_WITHIN_MS);
  expect(prediction.status).toBe("succeeded");
  return { setup: await setupOf(api), output: prediction.output };
}

const example = (): Record<string, unknown> =>
  JSON.parse(readFileSync(join(modelFolder(NAME), "example.json"), "utf8")) as Record<string, unknown>;

async function setupOf(api: Api): Promise<Setup> {
  const { body } = await api.request<{ results: { logs: string }[] }>("GET", `/v1/models/cogway/${NAME}/setup-logs`);
  const line = /compiled (\d+) functions in ([\d.]+) s, (\d+) out of the cache/.exec(body.results[0]?.logs ?? "");
  expect(line, JSON.stringify(body)).not.toBeNull();
  const [functions = 0, seconds = 0, hits = 0] = (line ?? []).slice(1).map(Number);
  return { functions, seconds, hits };
}

const logged = (message: string): boolean =>
  readFileSync(join(data, "logs", "gpu-origin.log"), "utf8").includes(message);

test("the second cold setup takes at most half of the first one's time to compile, and the model says the same", async () => {
  const first = await coldSetup();
  expect(first.setup.hits).toBe(0);
  await waitFor("the cache at the edge", KEPT_WITHIN_MS, () => (logged("a compile cache was kept") ? true : null));
  await system?.stop();
  // A host that has nothing of it.
  rmSync(join(data, "compile-caches"), { recursive: true });

  const second = await coldSetup();
  expect(logged("a compile cache was restored")).toBe(true);
  const ratio = second.setup.seconds / first.setup.seconds;
  printCounts("compile time", {
    functions: first.setup.functions,
    first_s: first.setup.seconds,
    second_s: second.setup.seconds,
    ratio,
  });
  expect(second.setup.hits).toBeGreaterThanOrEqual(first.setup.functions);
  expect(ratio).toBeLessThanOrEqual(0.5);
  expect(second.output).toEqual(first.output);
}, 600_000);
