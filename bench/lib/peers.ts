/** Other serving layers with the same two models, each in one process or replica, from one Python environment that is made once in the cache. None keeps a record of a request. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CACHE, freePort } from "../../e2e/lib/system.ts";
import { waitFor } from "../../e2e/lib/wait.ts";

const FOLDER = join(import.meta.dirname, "../peers");
const ENVIRONMENT = join(CACHE, "peers");
/** Ray starts a cluster of its own. */
const START_MS = 120_000;

export interface Peer {
  name: string;
  url: URL;
  stop(): Promise<void>;
}

interface Kind {
  name: string;
  command: (port: number) => string[];
}

export const PEERS: Kind[] = [
  { name: "LitServe", command: (port) => ["python", join(FOLDER, "litserve_app.py"), String(port)] },
  {
    name: "BentoML",
    command: (port) => ["bentoml", "serve", "bentoml_app:Service", "--host", "127.0.0.1", "--port", String(port)],
  },
  { name: "Ray Serve", command: (port) => ["python", join(FOLDER, "rayserve_app.py"), String(port)] },
];

/** Makes the environment where it is missing: about 400 MB, minutes the first time. */
export function installPeers(): void {
  const done = join(ENVIRONMENT, "done");
  if (existsSync(done)) return;
  console.log("installing LitServe, BentoML and Ray Serve into the cache …");
  rmSync(ENVIRONMENT, { recursive: true, force: true });
  execFileSync("python3", ["-m", "venv", ENVIRONMENT], { stdio: "inherit" });
  const pip = join(ENVIRONMENT, "bin/pip");
  execFileSync(pip, ["install", "--quiet", "-r", join(FOLDER, "requirements.txt")], { stdio: "inherit" });
  execFileSync("touch", [done]);
}

export async function startPeer({ name, command }: Kind): Promise<Peer> {
  const port = await freePort();
  const [program = "", ...args] = command(port);
  const temporary = mkdtempSync(join(tmpdir(), "cogway-peer-"));
  const child = spawn(join(ENVIRONMENT, "bin", program), args, {
    cwd: FOLDER,
    detached: true,
    stdio: "ignore",
    env: {
      ...process.env,
      PATH: `${join(ENVIRONMENT, "bin")}:${process.env["PATH"]}`,
      PYTHONDONTWRITEBYTECODE: "1",
      BENTOML_HOME: temporary,
      BENTOML_DO_NOT_TRACK: "True",
      RAY_USAGE_STATS_ENABLED: "0",
      RAY_TMPDIR: temporary,
    },
  });
  const url = new URL(`http://127.0.0.1:${port}/predict`);
  const stop = async (): Promise<void> => {
    await endGroup(child);
    rmSync(temporary, { recursive: true, force: true, maxRetries: 5 });
  };
  try {
    await waitFor(name, START_MS, async () => {
      if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}`);
      const answer = await fetch(url, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ input: { text: "hello" } }),
      });
      return answer.ok && (await answer.text()).includes("hello") ? true : null;
    });
  } catch (error) {
    await stop();
    throw error;
  }
  return { name, url, stop };
}

/** The group, and what Ray put into groups of its own below it. */
async function endGroup(child: ChildProcess): Promise<void> {
  if (child.pid === undefined) return;
  const ended = child.exitCode === null ? new Promise((done) => child.once("exit", done)) : Promise.resolve();
  for (const pid of [...descendants(child.pid)].reverse()) kill(pid);
  kill(-child.pid);
  await ended;
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It is gone already.
  }
}

function descendants(pid: number): number[] {
  const listing = execFileSync("ps", ["-eo", "pid=,ppid="], { encoding: "utf8" });
  const parents = listing
    .trim()
    .split("\n")
    .map((line) => line.trim().split(/\s+/).map(Number));
  const below = (parent: number): number[] =>
    parents.flatMap(([child = 0, of]) => (of === parent ? [child, ...below(child)] : []));
  return below(pid);
}
