/**
 * The real system with test models and an account whose limits are raised (the limiter is not what is measured), and a raw coglet beside it as the
 * floor: both run the same prepared model with the same Python environment, in one run.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { processTree } from "../../e2e/lib/processes.ts";
import { CACHE, freePort, modelFolder, System } from "../../e2e/lib/system.ts";
import { waitFor } from "../../e2e/lib/wait.ts";

const REQUESTS_PER_MINUTE = 10_000_000;
const COGLET_START_MS = 30_000;

export interface BenchSystem {
  url: string;
  /** of an authorized JSON request */
  headers: Record<string, string>;
  system: System;
}

/** `env` adds to the launcher's environment. */
export async function startSystem(models: string[], env: Record<string, string> = {}): Promise<BenchSystem> {
  const system = await System.start({ models, env });
  const { token } = await system.api.newAccount("bench", {
    creates_per_minute: REQUESTS_PER_MINUTE,
    reads_per_minute: REQUESTS_PER_MINUTE,
  });
  return {
    url: system.url,
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    system,
  };
}

export interface Usage {
  /** resident memory in MB; pages that processes share count more than once */
  edge_mb: number;
  origin_mb: number;
  launcher_mb: number;
  models_mb: number;
  /** edge, origin and launcher: what Cogway itself needs */
  own_mb: number;
  own_cpu_s: number;
  models_cpu_s: number;
}

/** Memory and CPU of the whole system, by part. */
export function usage(system: System): Usage {
  const parts = { edge: [0, 0], origin: [0, 0], launcher: [0, 0], models: [0, 0] };
  for (const { name, command, rss_mb, cpu_s } of processTree(system.pid)) {
    const part =
      name === "workerd"
        ? parts.edge
        : command.includes("gpu-origin/main.ts")
          ? parts.origin
          : name.startsWith("python")
            ? parts.models
            : parts.launcher;
    part[0] = (part[0] ?? 0) + rss_mb;
    part[1] = (part[1] ?? 0) + cpu_s;
  }
  const [of, cpu] = [(part: number[]) => part[0] ?? 0, (part: number[]) => part[1] ?? 0];
  return {
    edge_mb: of(parts.edge),
    origin_mb: of(parts.origin),
    launcher_mb: of(parts.launcher),
    models_mb: of(parts.models),
    own_mb: of(parts.edge) + of(parts.origin) + of(parts.launcher),
    own_cpu_s: cpu(parts.edge) + cpu(parts.origin) + cpu(parts.launcher),
    models_cpu_s: cpu(parts.models),
  };
}

export interface RawCoglet {
  url: string;
  stop(): Promise<void>;
}

/** coglet alone on the copy of the model that the system prepared (its schema file included). */
export async function startRawCoglet(system: System, model: string, slots = 1): Promise<RawCoglet> {
  const code = readFileSync(join(modelFolder(model), "predict.py"), "utf8");
  const versions = join(system.data, "versions");
  const prepared = readdirSync(versions, { recursive: true, withFileTypes: true }).find(
    (entry) => entry.name === "predict.py" && readFileSync(join(entry.parentPath, entry.name), "utf8") === code,
  );
  if (prepared === undefined) throw new Error(`no prepared version of ${model} below ${versions}`);
  const python = pythonOf(system);
  const port = await freePort();
  const temporary = mkdtempSync(join(tmpdir(), "cogway-bench-"));
  const child = spawn(python, ["-m", "cog.server.http", "--host", "127.0.0.1"], {
    cwd: prepared.parentPath,
    env: {
      ...process.env,
      PATH: `${join(python, "..")}:${process.env["PATH"]}`,
      PORT: String(port),
      TMPDIR: temporary,
      COG_PREDICT_TYPE_STUB: "predict.py:Runner",
      COG_MAX_CONCURRENCY: String(slots),
      COG_LOG_LEVEL: "error",
      COG_STREAM_HISTORY_CAPACITY: "65536",
    },
    stdio: "ignore",
    detached: true,
  });
  const url = `http://127.0.0.1:${port}`;
  await waitFor("raw coglet", COGLET_START_MS, async () => {
    const health = (await (await fetch(`${url}/health-check`)).json()) as { status: string };
    return health.status === "READY" ? true : null;
  });
  return {
    url,
    async stop() {
      await endGroup(child);
      rmSync(temporary, { recursive: true, force: true });
    },
  };
}

/** The Python of a running instance, or of the only environment there is. */
function pythonOf(system: System): string {
  const running = system.processes().find(({ command }) => command.includes("cog.server.http"));
  const found = running?.command.split(" ")[0];
  if (found !== undefined) return found;
  const environments = join(CACHE, "environments");
  const [first] = readdirSync(environments).filter((name) => !name.endsWith(".lock"));
  if (first === undefined) throw new Error(`no Python environment below ${environments}`);
  return join(environments, first, "bin/python");
}

async function endGroup(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.pid === undefined) return;
  const ended = new Promise((done) => child.once("exit", done));
  process.kill(-child.pid, "SIGTERM");
  await ended;
}
