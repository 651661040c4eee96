/**
 * Runs coglet as a process group of this host, on a loopback port of its own. It isolates nothing. A group, since a busy worker outlives its killed
 * server until its prediction ends: only a signal to all of them ends it.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { InstanceRecord } from "../journal.ts";
import type { Driver, StartResult, StartSpec, StopResult } from "./driver.ts";

/** Another program may take a free port between our look and coglet's start; coglet then exits, and the instance tries again. */
const PORT_TRIES = 5;
/** After SIGKILL processes are gone as soon as the kernel has freed them. */
const KILL_WAIT_MS = 5_000;
const POLL_MS = 20;

interface Group {
  record: InstanceRecord;
  /** absent for an adopted one */
  child?: ChildProcess;
  tmpDir: string;
}

export class ProcessDriver implements Driver {
  readonly name = "process";
  readonly #groups = new Map<string, Group>();
  readonly #tmpRoot: string;
  /** environment of this process that models get: nothing of ours, no credentials */
  readonly #inherited: Record<string, string>;

  constructor(tmpRoot: string, env: Record<string, string | undefined>) {
    this.#tmpRoot = tmpRoot;
    const kept = ["HOME", "LANG", "LC_ALL", "TZ", "PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE"];
    this.#inherited = Object.fromEntries(kept.flatMap((name) => (env[name] === undefined ? [] : [[name, env[name]]])));
  }

  async start(spec: StartSpec): Promise<StartResult> {
    const port = await freePort();
    if (port === null) return { kind: "failed", reason: "no_port", detail: "no free loopback port was found" };
    const tmpDir = join(this.#tmpRoot, spec.instance_id);
    rmSync(tmpDir, { recursive: true, force: true });
    mkdirSync(tmpDir, { recursive: true, mode: 0o700 });
    const child = spawn(join(spec.binDir, "python"), ["-m", "cog.server.http", "--host", "127.0.0.1", ...spec.args], {
      cwd: spec.cwd,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        ...this.#inherited,
        ...spec.env,
        // coglet starts its worker as the bare word `python`.
        PATH: `${spec.binDir}:${this.#inherited.PATH ?? "/usr/bin:/bin"}`,
        TMPDIR: tmpDir,
        PORT: String(port),
      },
    });
    const { pid } = child;
    if (pid === undefined) {
      const detail = await new Promise<string>((resolve) => child.once("error", (error) => resolve(error.message)));
      rmSync(tmpDir, { recursive: true, force: true });
      return { kind: "failed", reason: "spawn", detail };
    }
    const { instance_id, version_id, deployment_key } = spec;
    const record = { instance_id, version_id, deployment_key, pid, start_ticks: startTicks(pid) ?? "", port };
    this.#groups.set(instance_id, { record, child, tmpDir });
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on("line", spec.onLine);
    }
    child.on("error", () => {});
    child.once("exit", (code, signal) => {
      // Its worker may live on; without its server it is of no use.
      signalGroup(pid, "SIGKILL");
      if (this.#groups.get(instance_id)?.child === child) this.#forget(instance_id);
      spec.onExit({ code, signal });
    });
    return { kind: "started", record };
  }

  async stop(instanceId: string, graceMs: number): Promise<StopResult> {
    const group = this.#groups.get(instanceId);
    if (group === undefined) return { kind: "gone" };
    const { pid } = group.record;
    if (graceMs > 0) {
      signalGroup(pid, "SIGTERM");
      await untilGone(pid, graceMs);
    }
    signalGroup(pid, "SIGKILL");
    await untilGone(pid, KILL_WAIT_MS);
    if (this.#groups.get(instanceId) === group) this.#forget(instanceId);
    return { kind: "stopped" };
  }

  async list(): Promise<InstanceRecord[]> {
    return [...this.#groups.values()]
      .map((group) => group.record)
      .filter((record) => groupMembers(record.pid).length > 0);
  }

  async adopt(record: InstanceRecord): Promise<{ kind: "adopted" } | { kind: "gone" }> {
    const tmpDir = join(this.#tmpRoot, record.instance_id);
    // The server may be dead while its worker lives on in the group: then the worker's environment tells whose it is. A server's number that was
    // given to a younger process means that the group had ended.
    const ticks = startTicks(record.pid);
    const isOurs =
      ticks === null
        ? groupMembers(record.pid).some((pid) => environmentOf(pid).includes(`TMPDIR=${tmpDir}\0`))
        : ticks === record.start_ticks;
    if (!isOurs) {
      rmSync(tmpDir, { recursive: true, force: true });
      return { kind: "gone" };
    }
    this.#groups.set(record.instance_id, { record, tmpDir });
    return { kind: "adopted" };
  }

  async memoryBytes(instanceId: string): Promise<number | null> {
    const group = this.#groups.get(instanceId);
    if (group === undefined) return null;
    return groupMembers(group.record.pid).reduce((sum, pid) => sum + residentBytes(pid), 0);
  }

  #forget(instanceId: string): void {
    const group = this.#groups.get(instanceId);
    this.#groups.delete(instanceId);
    if (group !== undefined) rmSync(group.tmpDir, { recursive: true, force: true });
  }
}

/** A port that is free now. */
async function freePort(): Promise<number | null> {
  for (let tries = 0; tries < PORT_TRIES; tries++) {
    const port = await new Promise<number | null>((resolve) => {
      const server = createServer();
      server.once("error", () => resolve(null));
      server.listen(0, "127.0.0.1", () => {
        const address = server.address();
        server.close(() => resolve(typeof address === "object" && address !== null ? address.port : null));
      });
    });
    if (port !== null) return port;
  }
  return null;
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch {
    // None is left.
  }
}

async function untilGone(pid: number, timeoutMs: number): Promise<void> {
  const end = Date.now() + timeoutMs;
  while (groupMembers(pid).length > 0 && Date.now() < end) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** Members 3 onwards of /proc/<pid>/stat (0 is the state); null when there is no such process. The name before them may hold spaces and brackets. */
function statOf(pid: number): string[] | null {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "utf8");
    return text.slice(text.lastIndexOf(")") + 2).split(" ");
  } catch {
    return null;
  }
}

/** Null for a process that is gone or only waits for its parent. */
function startTicks(pid: number): string | null {
  const stat = statOf(pid);
  return stat === null || stat[0] === "Z" ? null : (stat[19] ?? null);
}

function environmentOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return "";
  }
}

/** Living processes of a group; those that ended and wait for their parent do not count. */
function groupMembers(group: number): number[] {
  const members: number[] = [];
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const stat = statOf(pid);
    if (stat !== null && stat[2] === String(group) && stat[0] !== "Z" && stat[0] !== "X") members.push(pid);
  }
  return members;
}

function residentBytes(pid: number): number {
  try {
    const pages = Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]);
    return pages * 4096;
  } catch {
    return 0;
  }
}
