/** Runs one program of a build: lines as they come, within a time, and with everything it has started ended when it is given up. */
import { spawn } from "node:child_process";
import { readLines } from "../drivers/lines.ts";

/** The last lines, which are where a program says why it failed. */
const TAIL_LINES = 40;
/** Of one line of a log; compilers print longer ones, which nobody reads. */
const LINE_CHARACTERS_SHOWN = 2_000;
/** For a program to end by itself after it was asked to. */
const TERM_GRACE_MS = 2_000;
/** What was written last may still be on its way when the end is told. */
const LAST_LINES_MS = 1_000;

export interface ToolOptions {
  cwd: string;
  env: Record<string, string | undefined>;
  signal?: AbortSignal | undefined;
  /** what it reads */
  input?: string;
  onLine?: (line: string, stream: "stdout" | "stderr") => void;
}

export type ToolEnd =
  | { kind: "done"; tail: string[] }
  /** `how`: such as "exit code 1" */
  | { kind: "failed"; how: string; tail: string[] }
  | { kind: "aborted" };

export async function runTool(command: string, args: string[], options: ToolOptions): Promise<ToolEnd> {
  const { cwd, signal, onLine } = options;
  if (signal?.aborted === true) return { kind: "aborted" };
  const env = Object.fromEntries(
    Object.entries(options.env).filter((pair): pair is [string, string] => pair[1] !== undefined),
  );
  const tail: string[] = [];
  // A group of its own, so that what it has started ends with it.
  const child = spawn(command, args, { cwd, env, detached: true, stdio: ["pipe", "pipe", "pipe"] });
  // One that ends before it has read it says by its end what was wrong.
  child.stdin.on("error", () => undefined);
  child.stdin.end(options.input ?? "");
  for (const name of ["stdout", "stderr"] as const) {
    readLines(child[name], (text) => {
      const line = text.slice(0, LINE_CHARACTERS_SHOWN);
      tail.push(line);
      if (tail.length > TAIL_LINES) tail.shift();
      onLine?.(line, name);
    });
  }
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  const exited = new Promise<{ how: string | null }>((resolve) => {
    child.once("error", (error) => resolve({ how: error.message }));
    child.once("exit", (code, by) =>
      resolve({ how: code === 0 ? null : code === null ? `signal ${by}` : `exit code ${code}` }),
    );
  });
  let killing: NodeJS.Timeout | null = null;
  const end = (): void => {
    killGroup(child.pid, "SIGTERM");
    killing = setTimeout(() => killGroup(child.pid, "SIGKILL"), TERM_GRACE_MS);
  };
  signal?.addEventListener("abort", end, { once: true });
  const { how } = await exited;
  signal?.removeEventListener("abort", end);
  if (killing !== null) clearTimeout(killing);
  // What it left in the background has nobody who waits for it, and would hold the output open.
  killGroup(child.pid, "SIGKILL");
  await Promise.race([closed, new Promise<void>((resolve) => setTimeout(resolve, LAST_LINES_MS).unref())]);
  child.stdout.destroy();
  child.stderr.destroy();
  // Killed, though whoever gave it up may have been late by a moment.
  if (killing !== null) return { kind: "aborted" };
  return how === null ? { kind: "done", tail } : { kind: "failed", how, tail };
}

function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // Nobody is left in it.
  }
}
