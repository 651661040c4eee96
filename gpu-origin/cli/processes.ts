/**
 * Who runs below the launcher: one file per process, so that a start after `kill -9` finds and ends what was left. A process id alone may have been given to
 * another process since, so each file also holds when its process started.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { SetupFault } from "./settings.ts";

export type ProcessName = "launcher" | "workerd" | OriginName;
/** The first has no number, as the only one of earlier releases had none. */
type OriginName = "gpu-origin" | `gpu-origin-${number}`;

export function originName(index: number): OriginName {
  return index === 0 ? "gpu-origin" : `gpu-origin-${index}`;
}

/** A launcher whose npm was killed ends itself within this time of being told, or says that it is ending. */
const LAUNCHER_NOTICE_MS = 3_000;
/** Longer than the longest drain. */
const LAUNCHER_END_MS = 45_000;
const KILL_TIMEOUT_MS = 5_000;
const POLL_MS = 50;
const CLAIM_MS = 100;

/** A text that no other process with this id ever has; null when there is no such process. */
export function startMark(pid: number): string | null {
  try {
    if (process.platform !== "linux")
      return execFileSync("ps", ["-o", "lstart=", "-p", String(pid)], { encoding: "utf8" }).trim();
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z") return null;
    // Field 22 of the file: ticks since the boot, which the boot's id makes unique.
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()}/${fields[19]}`;
  } catch {
    return null;
  }
}

/** The files of one data folder. Each holds `<pid> <start mark>`. */
export class ProcessFiles {
  readonly #folder: string;

  constructor(dataDir: string) {
    this.#folder = join(dataDir, "run");
    mkdirSync(this.#folder, { recursive: true });
  }

  path(name: ProcessName): string {
    return join(this.#folder, `${name}.pid`);
  }

  write(name: ProcessName, pid: number): void {
    const part = `${this.path(name)}.${process.pid}`;
    writeFileSync(part, `${pid} ${startMark(pid) ?? ""}\n`);
    renameSync(part, this.path(name));
  }

  remove(name: ProcessName): void {
    rmSync(this.path(name), { force: true });
  }

  /** The id of the recorded process if that very process still runs. */
  running(name: ProcessName): number | null {
    try {
      const [pid = "", mark = ""] = readFileSync(this.path(name), "utf8").trim().split(/ (.*)/);
      return mark !== "" && startMark(Number(pid)) === mark ? Number(pid) : null;
    } catch {
      return null;
    }
  }

  /** This process is the folder's launcher. */
  get isOwner(): boolean {
    return this.running("launcher") === process.pid;
  }

  /** Makes this process the folder's launcher: refuses while another one lives, ends what a dead one left. Returns how many were ended. */
  async takeOver(): Promise<number> {
    const began = performance.now();
    while (!this.isOwner) {
      const other = this.running("launcher");
      if (other === null) {
        this.write("launcher", process.pid);
        // Two starts may get here at the same moment: the file tells whose it is.
        await pause(CLAIM_MS);
      } else if (performance.now() - began > (existsSync(this.#endingPath) ? LAUNCHER_END_MS : LAUNCHER_NOTICE_MS)) {
        throw new SetupFault(
          `Cogway runs already on this data folder (process ${other}); stop it, or choose other ports and another COGWAY_DATA.`,
        );
      } else await pause(POLL_MS);
    }
    rmSync(this.#endingPath, { force: true });
    return this.killAll();
  }

  /** Ends all but the launcher. Returns how many ran. */
  async killAll(): Promise<number> {
    // What is there, not what this start would make: an earlier one may have had more origins.
    const origins = readdirSync(this.#folder).flatMap((file) => /^(gpu-origin(?:-\d+)?)\.pid$/.exec(file)?.[1] ?? []);
    const killed = await Promise.all([...(origins as OriginName[]), "workerd" as const].map((name) => this.kill(name)));
    return killed.filter((ran) => ran).length;
  }

  /** Tells a launcher that comes next that this one is on its way out. */
  markEnding(): void {
    writeFileSync(this.#endingPath, "");
  }

  get #endingPath(): string {
    return join(this.#folder, "ending");
  }

  /** True when it ran. */
  async kill(name: ProcessName): Promise<boolean> {
    const pid = this.running(name);
    if (pid !== null) {
      signal(pid, "SIGKILL");
      const until = performance.now() + KILL_TIMEOUT_MS;
      while (this.running(name) === pid && performance.now() < until) await pause(POLL_MS);
    }
    this.remove(name);
    return pid !== null;
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A process that has ended already is no fault. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

/** Rejects with a clear line when something listens on the port, and still does after `patienceMs`. */
export async function requireFreePort(port: number, variable: string, patienceMs = 0): Promise<void> {
  const began = performance.now();
  for (;;) {
    const code = await listenCode(port);
    if (code === null) return;
    if (code === "EADDRINUSE" && performance.now() - began < patienceMs) {
      await pause(POLL_MS);
      continue;
    }
    const why = code === "EADDRINUSE" ? "is taken" : `cannot be used (${code})`;
    throw new SetupFault(
      `Port ${port} (${variable}) ${why}; stop what listens there, or choose another with ${variable}=<port>.`,
    );
  }
}

/** Listens for a moment: null when that works. */
async function listenCode(port: number): Promise<string | null> {
  const server = createServer();
  const code = await new Promise<string | null>((resolve) => {
    server.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    server.listen(port, "127.0.0.1", () => resolve(null));
  });
  if (code === null) await new Promise((resolve) => server.close(resolve));
  return code;
}

/** A port that is free now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  return typeof address === "object" && address !== null ? address.port : 0;
}
