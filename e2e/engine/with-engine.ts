/**
 * Runs a command with a Docker engine of its own (README.md). This is the outer half: it prepares the machine, starts the inner half (inside.ts) as the
 * first process of new namespaces, gives their network a way out, and removes what namespaces do not end: the folder and the control groups.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { baseArchive } from "./base-image.ts";
import { engineEnv, NoEngine, prepareMachine } from "./machine.ts";

/** EX_TEMPFAIL: the command was not run; the last line of stderr, `no engine: …`, says why. */
const NO_ENGINE = 75;
const START_TIMEOUT_MS = 10_000;
const POLL_MS = 20;
/** The engine makes these whatever its folder is; inside, each is hidden behind an empty one. */
const FIXED_FOLDERS = ["/etc/docker", "/run/docker"];
const PREFIX = "cogway-engine-";
/** A younger folder without an engine is one whose engine starts. */
const STALE_AFTER_MS = 10 * 60_000;
/** Control groups are busy for a moment after their last process. */
const GROUPS_TIMEOUT_MS = 5_000;

async function main(command: string[]): Promise<number> {
  if (command.length === 0) throw new NoEngine("no command was given: node e2e/engine/with-engine.ts COMMAND…");
  const given = process.env["COGWAY_TEST_DOCKER_HOST"];
  if (given !== undefined && given !== "") return runHere(command, given);
  prepareMachine(say);
  const archive = baseArchive(say);
  await removeStale();
  const folder = mkdtempSync(join(tmpdir(), PREFIX));
  const made = FIXED_FOLDERS.filter((path) => !existsSync(path));
  for (const path of made) mkdirSync(path, { recursive: true });
  try {
    return await runInside(folder, archive, command);
  } finally {
    await remove(folder);
    for (const path of made) rmdirSync(path);
  }
}

async function runHere(command: string[], host: string): Promise<number> {
  const [program = "", ...args] = command;
  const child = spawn(program, args, { stdio: "inherit", env: { ...process.env, DOCKER_HOST: host } });
  passSignals(() => child.pid ?? null);
  return exitCode(child);
}

async function runInside(folder: string, archive: string, command: string[]): Promise<number> {
  const inside = [process.execPath, join(import.meta.dirname, "inside.ts"), folder, archive, ...command];
  // Ends with this process too, however that ends: unshare by setpriv, the first process inside by unshare.
  const spaces = ["--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
  const args = ["--pdeathsig", "KILL", "unshare", ...spaces, "tini", "--", ...inside];
  const child = spawn("setpriv", args, { stdio: "inherit", env: engineEnv() });
  const ended = exitCode(child);
  const first = await firstInside(child);
  if (first !== null) {
    passSignals(() => first);
    const network = spawn(
      "slirp4netns",
      ["--configure", "--mtu=65520", "--disable-host-loopback", "--exit-fd=3", String(first), "tap0"],
      {
        stdio: ["ignore", "ignore", "ignore", "pipe"],
        env: engineEnv(),
      },
    );
    const closed = exitCode(network);
    try {
      return await ended;
    } finally {
      network.stdio[3]?.destroy();
      await closed;
    }
  }
  return ended;
}

/** Process id, as seen from here, of the first process inside; null when unshare ended before. */
async function firstInside(child: ChildProcess): Promise<number | null> {
  const until = performance.now() + START_TIMEOUT_MS;
  while (child.exitCode === null && child.signalCode === null && performance.now() < until) {
    const children = childrenOf(child.pid ?? 0);
    if (children.length > 0) return children[0] ?? null;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  return null;
}

function childrenOf(pid: number): number[] {
  try {
    const text = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim();
    return text === "" ? [] : text.split(" ").map(Number);
  } catch {
    return [];
  }
}

function passSignals(target: () => number | null): void {
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      const pid = target();
      try {
        if (pid !== null) process.kill(pid, name);
      } catch {
        // It has ended.
      }
    });
  }
}

/** As a shell tells it: 128 and the number for a signal. */
function exitCode(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(code ?? (signal === "SIGKILL" ? 137 : 143)));
  });
}

/** What a run left that was killed: its processes are gone, its folder is not. Whether an engine runs is asked at its socket: ids of processes differ between namespaces. */
async function removeStale(): Promise<void> {
  for (const name of readdirSync(tmpdir()).filter((each) => each.startsWith(PREFIX))) {
    const folder = join(tmpdir(), name);
    if (Date.now() - statSync(folder).mtimeMs < STALE_AFTER_MS) continue;
    if (!(await answers(join(folder, "docker.sock")))) await remove(folder);
  }
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(socket);
    connection.once("connect", () => resolve(true));
    connection.once("error", () => resolve(false));
    connection.once("connect", () => connection.destroy());
  });
}

async function remove(folder: string): Promise<void> {
  await removeGroups(basename(folder));
  rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
}

/** The groups of the engine's containers, in each hierarchy; the kernel keeps them when their processes were killed. */
async function removeGroups(name: string): Promise<void> {
  const hierarchies = ["/sys/fs/cgroup", ...foldersIn("/sys/fs/cgroup")];
  const until = performance.now() + GROUPS_TIMEOUT_MS;
  for (const group of hierarchies.map((hierarchy) => join(hierarchy, name)).filter(existsSync)) {
    while (!isGroupRemoved(group) && performance.now() < until)
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    if (existsSync(group)) say(`a control group is left: ${group}`);
  }
}

/** Deepest first: a group with groups in it cannot be removed. */
function isGroupRemoved(group: string): boolean {
  try {
    for (const inner of foldersIn(group)) isGroupRemoved(inner);
    rmdirSync(group);
  } catch {
    // Still busy.
  }
  return !existsSync(group);
}

function foldersIn(path: string): string[] {
  return readdirSync(path, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(path, entry.name));
}

function say(line: string): void {
  process.stderr.write(`engine: ${line}\n`);
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof NoEngine)) throw error;
  process.stderr.write(`no engine: ${error.message}\n`);
  process.exitCode = NO_ENGINE;
}
