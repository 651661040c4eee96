/**
 * Starts the real system (`npm start`'s own code) with test models on free ports, and a raw coglet beside it as the floor: both run the same model folder
 * with the same Python environment, one after the other in one run.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { Agent } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { send } from "./load.ts";

const ROOT = resolve(import.meta.dirname, "../..");
const MODELS = join(ROOT, "e2e/models");
/** Environments are kept between runs; the folder is ignored by git. */
const CACHE = join(ROOT, ".cogway-test/cache");

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** Polls `probe` every 50 ms until it gives a value, at most `timeoutMs`. */
export async function waitFor<T>(what: string, timeoutMs: number, probe: () => Promise<T | null>): Promise<T> {
  const until = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe().catch(() => null);
    if (value !== null) return value;
    if (performance.now() > until) throw new Error(`${what}: not within ${timeoutMs} ms`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Resident memory of a process and everything below it, in MB (shared pages count more than once), and its CPU seconds. */
export function processTree(pid: number): { rss_mb: number; cpu_s: number; names: string[] } {
  const children = new Map<number, number[]>();
  const stats = new Map<number, { rss: number; cpu: number; name: string }>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const text = readFileSync(`/proc/${entry}/stat`, "utf8");
      const close = text.lastIndexOf(")");
      const fields = text.slice(close + 2).split(" ");
      const parent = Number(fields[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
      stats.set(Number(entry), {
        rss: (Number(fields[21]) * 4096) / 1e6,
        cpu: (Number(fields[11]) + Number(fields[12])) / 100,
        name: text.slice(text.indexOf("(") + 1, close),
      });
    } catch {
      // The process ended between the listing and the read.
    }
  }
  const total = { rss_mb: 0, cpu_s: 0, names: [] as string[] };
  const visit = (id: number) => {
    const own = stats.get(id);
    if (own !== undefined) {
      total.rss_mb += own.rss;
      total.cpu_s += own.cpu;
      total.names.push(`${own.name}=${own.rss.toFixed(0)}`);
    }
    for (const child of children.get(id) ?? []) visit(child);
  };
  visit(pid);
  return total;
}

export interface System {
  url: string;
  token: string;
  pid: number;
  data: string;
  /** headers of an authorized JSON request */
  headers: Record<string, string>;
  stop(): Promise<void>;
}

/** Starts Cogway with these test models and a raised create limit, and waits until each of them is ready. */
export async function startSystem(models: string[]): Promise<System> {
  const data = mkdtempSync(join(tmpdir(), "cogway-bench-"));
  mkdirSync(CACHE, { recursive: true });
  const port = await freePort();
  const originPort = await freePort();
  const child = spawn(process.execPath, [join(ROOT, "gpu-origin/cli/start.ts"), "--no-wait"], {
    cwd: ROOT,
    env: {
      ...process.env,
      COGWAY_PORT: String(port),
      COGWAY_ORIGIN_PORT: String(originPort),
      COGWAY_DATA: data,
      COGWAY_CACHE: CACHE,
      COGWAY_MODELS: models.map((name) => join(MODELS, name)).join(","),
    },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const url = `http://127.0.0.1:${port}`;
  const agent = new Agent({ keepAlive: true });
  const operator = await waitFor(
    "the operator's token",
    300_000,
    async () => readFileSync(join(data, "token"), "utf8").trim() || null,
  );
  const asOperator = { authorization: `Bearer ${operator}`, "content-type": "application/json" };
  for (const name of models) {
    await waitFor(`model ${name}`, 300_000, async () => {
      const answer = await send(agent, new URL(`${url}/v1/models/cogway/${name}`), {
        method: "GET",
        headers: asOperator,
      });
      const model = JSON.parse(answer.body) as { latest_version: unknown };
      return model.latest_version ? true : null;
    });
  }
  // An account with a raised create limit: the limiter is not what is measured.
  const created = await send(agent, new URL(`${url}/admin/v1/accounts`), {
    method: "POST",
    headers: asOperator,
    body: JSON.stringify({
      type: "user",
      username: "bench",
      name: "Bench",
      limits: { creates_per_minute: 10_000_000 },
    }),
  });
  if (created.status !== 201) throw new Error(`creating the bench account: ${created.status} ${created.body}`);
  const { token } = JSON.parse(created.body) as { token: string };
  agent.destroy();
  return {
    url,
    token,
    pid: child.pid ?? 0,
    data,
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    async stop() {
      await endProcess(child);
      rmSync(data, { recursive: true, force: true });
    },
  };
}

async function endProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  const ended = new Promise((done) => child.once("exit", done));
  child.kill("SIGTERM");
  await ended;
}

/**
 * The floor: coglet alone on the same model folder and environment. `version` is the prepared copy of the model that the system above made, so the
 * schema file is there too.
 */
export async function startRawCoglet(
  system: System,
  model: string,
  slots: number,
): Promise<{ url: string; stop(): Promise<void> }> {
  const versions = join(system.data, "versions");
  const folder = readdirSync(versions)
    .map((id) => join(versions, id))
    .find(
      (path) =>
        readFileSync(join(path, "predict.py"), "utf8") === readFileSync(join(MODELS, model, "predict.py"), "utf8"),
    );
  if (folder === undefined) throw new Error(`no prepared version of ${model}`);
  const environments = join(CACHE, "environments");
  const python = readdirSync(environments)
    .map((id) => join(environments, id, "bin/python"))
    .find((path) => readdirSync(join(path, "..")).includes("python"));
  if (python === undefined) throw new Error("no Python environment");
  const port = await freePort();
  const yaml = readFileSync(join(folder, "cog.yaml"), "utf8");
  const reference = /^(?:run|predict):\s*["']?([^"'\n]+)/m.exec(yaml)?.[1]?.trim() ?? "predict.py:Runner";
  const child = spawn(python, ["-m", "cog.server.http", "--host", "127.0.0.1"], {
    cwd: folder,
    env: {
      ...process.env,
      PATH: `${join(python, "..")}:${process.env["PATH"]}`,
      PORT: String(port),
      COG_PREDICT_TYPE_STUB: reference,
      COG_MAX_CONCURRENCY: String(slots),
      COG_LOG_LEVEL: "error",
      COG_STREAM_HISTORY_CAPACITY: "65536",
    },
    stdio: "ignore",
    detached: true,
  });
  const url = `http://127.0.0.1:${port}`;
  const agent = new Agent();
  await waitFor("raw coglet", 30_000, async () => {
    const answer = await send(agent, new URL(`${url}/health-check`), { method: "GET" });
    return (JSON.parse(answer.body) as { status: string }).status === "READY" ? true : null;
  });
  agent.destroy();
  return { url, stop: () => endProcess(child) };
}
