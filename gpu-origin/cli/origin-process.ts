/** gpu-origin as a process below the launcher: started, read, started again when it dies, drained at the end. */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { z } from "zod";
import type { Progress } from "../log.ts";
import type { LogFile } from "./log-file.ts";
import { ROOT } from "./paths.ts";

const RESTART_FIRST_MS = 200;
const RESTART_MAX_MS = 5_000;
/** One that ran for as long starts its pauses from the first again. */
const STABLE_MS = 30_000;
/** It ends itself within 35 s; after this it hangs. */
const DRAIN_TIMEOUT_MS = 36_000;

const LAST_LINES_MS = 500;

const LineSchema = z.object({ progress: z.custom<Progress>((value) => typeof value === "object" && value !== null) });

export interface OriginParts {
  /** its whole environment */
  env: Record<string, string | undefined>;
  log: LogFile;
  onProgress: (progress: Progress) => void;
  onStart: (pid: number) => void;
  /** before it was ever known to the edge it ended with a reason: it would end so again */
  onFatal: (detail: string) => void;
  onRestart: (pauseMs: number, how: string) => void;
}

export class OriginProcess {
  readonly #parts: OriginParts;
  #child: ChildProcess | null = null;
  #restart: NodeJS.Timeout | null = null;
  #pauseMs = RESTART_FIRST_MS;
  #wasReady = false;
  #isStopping = false;

  constructor(parts: OriginParts) {
    this.#parts = parts;
  }

  start(): void {
    const startedAt = performance.now();
    // Its own group: Ctrl-C of a terminal goes to the launcher alone, which then drains it.
    const child = spawn(process.execPath, [join(ROOT, "gpu-origin/main.ts")], {
      cwd: ROOT,
      // The first one ends what a killed launcher left; those that follow it go on with what it started.
      env: { ...this.#parts.env, COGWAY_ADOPT: this.#wasReady ? "1" : "0" },
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    this.#child = child;
    if (child.pid !== undefined) this.#parts.onStart(child.pid);
    let fatal: string | null = null;
    createInterface({ input: child.stdout }).on("line", (line) => {
      this.#parts.log.write(line);
      const progress = progressOf(line);
      if (progress === null) return;
      if (progress.step === "model.ready") this.#wasReady = true;
      if (progress.step === "fatal") fatal = progress.detail ?? "gpu-origin ended.";
      else this.#parts.onProgress(progress);
    });
    createInterface({ input: child.stderr }).on("line", (line) => this.#parts.log.write(line));
    child.once("error", (error) => this.#parts.log.write(String(error)));
    const closed = new Promise<void>((resolve) => child.once("close", resolve));
    child.once("exit", (code, signal) => {
      // Its last lines may be on their way still; a process that it left must not keep us waiting for more.
      const read = Promise.race([closed, new Promise((resolve) => setTimeout(resolve, LAST_LINES_MS))]);
      void read.then(() => {
        this.#child = null;
        if (this.#isStopping) return;
        if (fatal !== null && !this.#wasReady) return this.#parts.onFatal(fatal);
        if (performance.now() - startedAt > STABLE_MS) this.#pauseMs = RESTART_FIRST_MS;
        this.#parts.onRestart(this.#pauseMs, fatal ?? `it ended with ${signal ?? code}`);
        this.#restart = setTimeout(() => this.start(), this.#pauseMs);
        this.#pauseMs = Math.min(this.#pauseMs * 2, RESTART_MAX_MS);
      });
    });
  }

  /** Lets running predictions end (30 s at most), then ends it; by force when it hangs. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    if (this.#restart !== null) clearTimeout(this.#restart);
    const child = this.#child;
    if (child === null) return;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGTERM");
    const force = setTimeout(() => child.kill("SIGKILL"), DRAIN_TIMEOUT_MS);
    await ended;
    clearTimeout(force);
  }
}

function progressOf(line: string): Progress | null {
  if (!line.includes('"progress"')) return null;
  try {
    return LineSchema.parse(JSON.parse(line)).progress;
  } catch {
    return null;
  }
}
