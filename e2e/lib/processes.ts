/** The processes below one that was started, read from /proc: who runs, how much memory and CPU they use, and a kill by id. */
import { readdirSync, readFileSync } from "node:fs";

const PAGE_BYTES = 4096;
const TICKS_PER_SECOND = 100;

export interface Process {
  pid: number;
  parent: number;
  /** short name, such as `workerd` */
  name: string;
  /** whole command line, arguments joined by spaces */
  command: string;
  rss_mb: number;
  cpu_s: number;
}

function readProcess(pid: number): Process | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const close = stat.lastIndexOf(")");
    const fields = stat.slice(close + 2).split(" ");
    if (fields[0] === "Z") return null;
    return {
      pid,
      parent: Number(fields[1]),
      name: stat.slice(stat.indexOf("(") + 1, close),
      command: readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").join(" ").trim(),
      rss_mb: (Number(fields[21]) * PAGE_BYTES) / 1e6,
      cpu_s: (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND,
    };
  } catch {
    // It ended between the listing and the read.
    return null;
  }
}

function allProcesses(): Process[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry))
    .map((entry) => readProcess(Number(entry)))
    .filter((process) => process !== null);
}

/** The process and everything below it that is alive; zombies are not. */
export function processTree(root: number): Process[] {
  const all = allProcesses();
  const found = all.filter(({ pid }) => pid === root);
  for (const process of found) found.push(...all.filter(({ parent }) => parent === process.pid));
  return found;
}

/** Every live process that has `text` in its command line or its environment: how orphans of a data folder are found. */
export function processesNaming(text: string): Process[] {
  return allProcesses().filter(({ pid, command }) => {
    if (pid === process.pid) return false;
    if (command.includes(text)) return true;
    try {
      return readFileSync(`/proc/${pid}/environ`, "utf8").includes(text);
    } catch {
      return false;
    }
  });
}

export function isAlive(pid: number): boolean {
  return readProcess(pid) !== null;
}

/** kill -9 by id; one that has ended already is no fault. */
export function killHard(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "ESRCH")) throw error;
  }
}

/** How many files, sockets and pipes a live process holds open. */
export function openFiles(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}
