/**
 * Runs coglet as a process group of this host, on a loopback port of its own. It isolates nothing. A group, since a busy worker outlives its killed
 * server until its prediction ends: only a signal to all of them ends it.
 *
 * What it writes goes through a named pipe beside its temporary folder, of which it is itself a reader: so neither the death of the origin breaks its writes
 * (coglet would panic), nor does the next origin miss what comes then; meanwhile a full pipe holds it back.
 */
import { execFile, spawn } from "node:child_process";
import { closeSync, constants, mkdirSync, openSync, readdirSync, readFileSync, rmdirSync, rmSync } from "node:fs";
import { createServer, Socket } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import type {
  Adopted,
  Driver,
  Exit,
  FilesAddress,
  InstanceRecord,
  StartResult,
  StartSpec,
  StopResult,
  Watch,
} from "./driver.ts";
import { readLines } from "./lines.ts";

/** Another program may take a free port between our look and coglet's start; coglet then exits, and the instance tries again. */
const PORT_TRIES = 5;
/** After SIGKILL processes are gone as soon as the kernel has freed them. */
const KILL_WAIT_MS = 5_000;
const POLL_MS = 20;
/** The kernel tells the end of a child; an adopted process is no child and is looked at this often. */
const ADOPTED_POLL_MS = 250;
/** What was written last may still be on its way when the exit is told. */
const LAST_LINES_MS = 250;
/** Where every coglet of a host makes folders for its predictions, and never removes them. */
const COGLET_FOLDER = "/tmp/coglet/predictions";

interface Group {
  record: InstanceRecord;
  pid: number;
  tmpDir: string;
  /** of what it writes; null where an earlier release started it */
  output: Socket | null;
  watch: Watch;
  /** absent for a child, whose end the kernel tells */
  poll?: NodeJS.Timeout;
}

export class ProcessDriver implements Driver {
  readonly name = "process";
  readonly isolates = false;
  readonly #groups = new Map<string, Group>();
  readonly #tmpRoot: string;
  #isClosed = false;
  /** environment of this process that models get: nothing of ours, no credentials */
  readonly #inherited: Record<string, string>;

  constructor(tmpRoot: string, env: Record<string, string | undefined>) {
    this.#tmpRoot = tmpRoot;
    const kept = ["HOME", "LANG", "LC_ALL", "TZ", "PATH", "LD_LIBRARY_PATH", "SSL_CERT_FILE"];
    this.#inherited = Object.fromEntries(kept.flatMap((name) => (env[name] === undefined ? [] : [[name, env[name]]])));
  }

  async check(): Promise<string | null> {
    return null;
  }

  async filesAddress(): Promise<FilesAddress> {
    return { kind: "ready", host: "127.0.0.1", port: 0 };
  }

  async start(spec: StartSpec): Promise<StartResult> {
    const { instance_id, version_id, deployment_key, launch, gpus, watch } = spec;
    if (launch.kind !== "process") {
      const detail = "the process driver runs no images; this origin needs COGWAY_DRIVER=docker for it";
      return { kind: "failed", reason: "spawn", detail };
    }
    const port = await freePort();
    if (port === null) return { kind: "failed", reason: "no_port", detail: "no free loopback port was found" };
    const tmpDir = join(this.#tmpRoot, instance_id);
    rmSync(tmpDir, { recursive: true, force: true });
    mkdirSync(tmpDir, { recursive: true, mode: 0o700 });
    rmSync(outputPath(tmpDir), { force: true });
    await promisify(execFile)("mkfifo", ["-m", "600", outputPath(tmpDir)]);
    const output = openOutput(tmpDir);
    const written = openSync(outputPath(tmpDir), constants.O_RDWR);
    const child = spawn(join(launch.binDir, "python"), ["-m", "cog.server.http", "--host", "127.0.0.1", ...spec.args], {
      cwd: launch.cwd,
      detached: true,
      stdio: ["ignore", written, written],
      env: {
        ...this.#inherited,
        ...spec.env,
        CUDA_VISIBLE_DEVICES: gpus.join(","),
        // coglet starts its worker as the bare word `python`.
        PATH: `${launch.binDir}:${this.#inherited.PATH ?? "/usr/bin:/bin"}`,
        TMPDIR: tmpDir,
        PORT: String(port),
      },
    });
    closeSync(written);
    const { pid } = child;
    if (pid === undefined) {
      const detail = await new Promise<string>((resolve) => child.once("error", (error) => resolve(error.message)));
      output?.destroy();
      removeFolders(tmpDir);
      return { kind: "failed", reason: "spawn", detail };
    }
    const handle = `${pid}:${startTicks(pid) ?? ""}`;
    const address = { host: "127.0.0.1", port };
    const record = { instance_id, version_id, deployment_key, handle, address, gpus };
    const group: Group = { record, pid, tmpDir, output, watch };
    this.#watch(group);
    child.on("error", () => {});
    child.once("exit", (code, signal) => this.#exited(group, { code, signal, isOutOfMemory: false }));
    return { kind: "started", record };
  }

  #watch(group: Group): void {
    this.#groups.set(group.record.instance_id, group);
    if (group.output !== null) readLines(group.output, group.watch.onLine);
  }

  #exited(group: Group, exit: Exit): void {
    if (this.#isClosed) return;
    // Its worker may live on; without its server it is of no use.
    signalGroup(group.pid, "SIGKILL");
    // The pipe ends when the last of the group is gone.
    const told = (): void => {
      clearTimeout(timer);
      if (this.#groups.get(group.record.instance_id) === group) this.#forget(group);
      group.watch.onExit(exit);
    };
    const { output } = group;
    const timer = setTimeout(() => output?.destroy(), LAST_LINES_MS);
    if (output === null || output.destroyed) told();
    else output.once("close", told);
  }

  async stop(instanceId: string, graceMs: number): Promise<StopResult> {
    const group = this.#groups.get(instanceId);
    if (group === undefined) return { kind: "gone" };
    const { pid } = group;
    if (graceMs > 0) {
      signalGroup(pid, "SIGTERM");
      await untilGone(pid, graceMs);
    }
    signalGroup(pid, "SIGKILL");
    await untilGone(pid, KILL_WAIT_MS);
    const isAdopted = group.poll !== undefined;
    if (this.#groups.get(instanceId) === group) this.#forget(group);
    if (isAdopted) this.#exited(group, { code: null, signal: null, isOutOfMemory: false });
    return { kind: "stopped" };
  }

  async pause(instanceId: string): Promise<boolean> {
    return this.#signalAll(instanceId, "SIGSTOP");
  }

  async resume(instanceId: string): Promise<boolean> {
    return this.#signalAll(instanceId, "SIGCONT");
  }

  #signalAll(instanceId: string, signal: NodeJS.Signals): boolean {
    const group = this.#groups.get(instanceId);
    if (group === undefined || groupMembers(group.pid).length === 0) return false;
    signalGroup(group.pid, signal);
    return true;
  }

  async release(): Promise<void> {}

  async list(): Promise<InstanceRecord[]> {
    return [...this.#groups.values()].filter(({ pid }) => groupMembers(pid).length > 0).map(({ record }) => record);
  }

  async adopt(record: InstanceRecord, watch: Watch): Promise<Adopted> {
    const tmpDir = join(this.#tmpRoot, record.instance_id);
    const [number, ticks] = record.handle.split(":");
    const pid = Number(number);
    // The server may be dead while its worker lives on in the group: then the worker's environment tells whose it is. A server's number that was
    // given to a younger process means that the group had ended.
    const found = startTicks(pid);
    const isServer = found !== null && found === ticks;
    const isOurs =
      isServer ||
      (found === null && groupMembers(pid).some((member) => environmentOf(member).includes(`TMPDIR=${tmpDir}\0`)));
    if (!isOurs) {
      removeFolders(tmpDir);
      return { kind: "gone" };
    }
    const group: Group = { record, pid, tmpDir, output: openOutput(tmpDir), watch };
    this.#watch(group);
    group.poll = setInterval(() => {
      if (startTicks(pid) === ticks) return;
      clearInterval(group.poll);
      this.#exited(group, { code: null, signal: null, isOutOfMemory: false });
    }, ADOPTED_POLL_MS);
    return { kind: "adopted" };
  }

  /** Whatever it started is in a group of which the journal told: nobody else's processes are looked for. */
  async reap(known: ReadonlySet<string>): Promise<number> {
    const unknown = [...this.#groups.keys()].filter((id) => !known.has(id));
    await Promise.all(unknown.map((id) => this.stop(id, 0)));
    return unknown.length;
  }

  async memoryBytes(instanceId: string): Promise<number | null> {
    const group = this.#groups.get(instanceId);
    if (group === undefined) return null;
    return groupMembers(group.pid).reduce((sum, pid) => sum + residentBytes(pid), 0);
  }

  isWorkerAlive(instanceId: string): boolean {
    const group = this.#groups.get(instanceId);
    return group === undefined || hasLivingChild(group.pid);
  }

  /** Nothing bounds a process of this host, so whose memory ran out when the kernel ended one is not known. */
  ranOutOfMemory(): boolean {
    return false;
  }

  /**
   * coglet leaves `inputs` and `outputs`, empty nearly always: three calls, at a quarter of the cost of a recursive removal. Synchronous: passing each to
   * another thread costs more than the call.
   */
  sweep(_instanceId: string, cogId: string): void {
    const folder = join(COGLET_FOLDER, cogId);
    try {
      rmdirSync(join(folder, "inputs"));
      rmdirSync(join(folder, "outputs"));
      rmdirSync(folder);
    } catch {
      // Not there, or not empty.
      rmSync(folder, { recursive: true, force: true });
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const { poll, output } of this.#groups.values()) {
      clearInterval(poll);
      output?.destroy();
    }
    this.#groups.clear();
  }

  #forget(group: Group): void {
    clearInterval(group.poll);
    this.#groups.delete(group.record.instance_id);
    removeFolders(group.tmpDir);
  }
}

function outputPath(tmpDir: string): string {
  return `${tmpDir}.output`;
}

function removeFolders(tmpDir: string): void {
  rmSync(tmpDir, { recursive: true, force: true });
  rmSync(outputPath(tmpDir), { force: true });
}

/** The reading end. Without waiting for a writer, and through the event loop: file streams would hold one of its few threads each. */
function openOutput(tmpDir: string): Socket | null {
  try {
    const fd = openSync(outputPath(tmpDir), constants.O_RDONLY | constants.O_NONBLOCK);
    const output = new Socket({ fd, readable: true, writable: false });
    output.on("error", () => output.destroy());
    return output;
  } catch {
    return null;
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

/** Each thread has children of its own. */
function hasLivingChild(pid: number): boolean {
  try {
    const threads = readdirSync(`/proc/${pid}/task`);
    const children = threads.flatMap((thread) =>
      readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").trim().split(" "),
    );
    return children.some((child) => child !== "" && startTicks(Number(child)) !== null);
  } catch {
    // No /proc, or it changed on the way: the setup time-out remains.
    return true;
  }
}
