/**
 * Records what a release leaves on disk, for the test that a later one opens it:
 *   node e2e/previous/record.ts CHECKOUT
 * CHECKOUT is a clone at the release's commit, with its packages installed. Its system runs there, is used, and is killed while predictions run and wait;
 * its data folder, its models and what callers had seen become e2e/previous/state.tar.gz.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Api, type Model, type Prediction, streamUrl } from "../lib/api.ts";
import { killHard, processTree } from "../lib/processes.ts";
import { mustRun } from "../lib/run.ts";
import { StreamReader } from "../lib/sse.ts";
import { CACHE, freePort, modelFolder } from "../lib/system.ts";
import { waitFor } from "../lib/wait.ts";
import { DEPLOYMENT, MODELS, OWNER, PUBLIC_URL, type Recorded, STATE } from "./recorded.ts";

/** What is made anew at a start, or is of no use to another machine. */
const LEFT_OUT = ["cache", "logs", "run", "tmp", "versions", "blobs"];
const START_MS = 300_000;
/** They end only in the release that opens the state. */
const RUNNING = { count: 600, delay_ms: 20 };
const RUN_FOREVER = { headers: { "cogway-retention": "forever" } };

const checkout = process.argv[2];
if (checkout === undefined) throw new Error("node e2e/previous/record.ts CHECKOUT");
const folder = mkdtempSync(join(tmpdir(), "cogway-record-"));
const [data, models] = [join(folder, "data"), join(folder, "models")];
const url = `http://127.0.0.1:${await freePort()}`;
let launcher: ChildProcess | null = null;
try {
  mkdirSync(data);
  for (const name of MODELS) cpSync(modelFolder(name), join(models, name), { recursive: true });
  launcher = start();
  const recorded = await use();
  writeFileSync(
    join(folder, "recorded.json"),
    JSON.stringify({ ...recorded, commit: await commitOf(checkout) }, null, 1),
  );
  killAll();
  const excluded = LEFT_OUT.map((name) => `--exclude=data/${name}`);
  await mustRun("tar", [
    ...excluded,
    "--exclude=*-shm",
    "-czf",
    STATE,
    "-C",
    folder,
    "data",
    "models",
    "recorded.json",
  ]);
} finally {
  killAll();
  rmSync(folder, { recursive: true, force: true });
}

function start(): ChildProcess {
  return spawn(process.execPath, [join(resolve(checkout ?? ""), "gpu-origin/cli/start.ts"), "--no-wait"], {
    cwd: checkout,
    env: {
      ...process.env,
      COGWAY_PORT: new URL(url).port,
      COGWAY_ORIGIN_PORT: String(Number(new URL(url).port) + 1),
      COGWAY_DATA: data,
      COGWAY_CACHE: CACHE,
      COGWAY_MODELS: MODELS.map((name) => join(models, name)).join(","),
      COGWAY_PUBLIC_URL: PUBLIC_URL,
      // One instance: what is created beside a long prediction waits.
      COGWAY_INSTANCES_MAX: "1",
    },
    stdio: ["ignore", "inherit", "inherit"],
  });
}

/** Uses the system as an account does; returns what it saw. */
async function use(): Promise<Omit<Recorded, "commit">> {
  const operator = await waitFor("the system", START_MS, async () => {
    const { status } = await fetch(`${url}/healthz`);
    return status === 200 ? new Api(url, readFileSync(join(data, "token"), "utf8").trim()) : null;
  });
  for (const name of MODELS) {
    await waitFor(`model ${name}`, START_MS, async () => {
      const { body } = await operator.request<Model>("GET", `/v1/models/cogway/${name}`);
      return body.latest_version;
    });
  }
  const caller = await operator.newAccount(OWNER);
  const { body: tokens } = await caller.request<Model>("GET", "/v1/models/cogway/tokens");
  const narrow = await caller.request<{ token: string }>("POST", "/v1/tokens", {
    body: { name: "reader", scopes: ["predictions:read"] },
  });
  const deployment = await caller.request("POST", "/v1/deployments", {
    body: {
      name: DEPLOYMENT,
      model: "cogway/tokens",
      version: tokens.latest_version?.id,
      hardware: "cpu",
      min_instances: 0,
      max_instances: 1,
    },
  });
  if (narrow.status !== 201 || deployment.status !== 200) throw new Error(`${narrow.text} ${deployment.text}`);
  const make = async (model: string, input: Record<string, unknown>): Promise<Prediction> =>
    caller.untilEnd(await caller.create(model, input, RUN_FOREVER));
  const ended = [
    await make("noop", { text: "kept" }),
    await make("tokens", { count: 30 }),
    await make("files", { size: 1_000 }),
  ];
  const deployed = await caller.request<Prediction>("POST", `/v1/deployments/${OWNER}/${DEPLOYMENT}/predictions`, {
    body: { input: { count: 3 } },
    ...RUN_FOREVER,
  });
  ended.push(await caller.untilEnd(deployed.body));
  const [, streamed, filed] = ended;
  if (streamed === undefined || filed === undefined) throw new Error("nothing ended");
  const running = await caller.create("idempotent-tokens", RUNNING, RUN_FOREVER);
  await caller.untilRunning(running);
  const waiting = [
    await caller.create("noop", { text: "waited" }, RUN_FOREVER),
    await caller.create("tokens", { count: 4 }, RUN_FOREVER),
  ];
  return {
    token: caller.token,
    narrow_token: narrow.body.token,
    ended,
    stream: (await StreamReader.readAll(here(streamUrl(streamed)))).wire,
    file: await (await fetch(here(String(filed.output)))).text(),
    running,
    waiting,
  };
}

/** An address that the system gave out, on the port where it really is. */
function here(given: string): string {
  return given.replace(PUBLIC_URL, url);
}

function killAll(): void {
  if (launcher?.pid === undefined) return;
  for (const { pid } of processTree(launcher.pid)) killHard(pid);
  launcher = null;
}

async function commitOf(folder: string): Promise<string> {
  return (await mustRun("git", ["-C", folder, "rev-parse", "HEAD"])).trim();
}
