/** Ctrl-C, SIGTERM and the end of the process that started this one. They end the command at once, unless it has something to tidy up. */
import { INTERRUPTED_EXIT } from "./fault.ts";

/** The terminal, npm and the wrapper each pass a Ctrl-C on: several within this time are one. */
const SAME_INTERRUPT_MS = 250;
const TERMINATED_EXIT = 143;

export class Interrupts {
  #handler: (() => void) | null = null;
  #last = Number.NEGATIVE_INFINITY;

  /** While `work` runs, Ctrl-C calls `handle`. */
  async during<T>(handle: () => void, work: () => Promise<T>): Promise<T> {
    const before = this.#handler;
    this.#handler = handle;
    try {
      return await work();
    } finally {
      this.#handler = before;
    }
  }

  listen(): void {
    process.on("SIGINT", () => this.#interrupt());
    for (const name of ["SIGTERM", "SIGHUP"] as const) process.on(name, () => process.exit(TERMINATED_EXIT));
    // Killed hard, the wrapper cannot pass anything on.
    process.on("disconnect", () => process.exit(TERMINATED_EXIT));
    process.channel?.unref();
  }

  #interrupt(): void {
    const now = performance.now();
    if (now - this.#last < SAME_INTERRUPT_MS) return;
    this.#last = now;
    if (this.#handler === null) process.exit(INTERRUPTED_EXIT);
    this.#handler();
  }
}
