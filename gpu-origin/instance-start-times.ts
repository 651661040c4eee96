/** How long an instance took to be ready: until its server answered, and from there to the end of setup. Each start of its server is measured anew. */
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import type { ColdStart } from "./attempt-trace.ts";

export class StartTimes {
  #bootStartedAt = 0;
  #setupStartedAt = 0;
  #bootMs: number | null = null;
  #setupMs: number | null = null;
  #isTold = false;

  begin(): void {
    this.#bootStartedAt = performance.now();
    this.#setupStartedAt = 0;
  }

  /** It goes on with a server that an earlier process of the origin started: how long that took is not known. */
  adopted(): void {
    this.#bootStartedAt = performance.now();
    this.#setupStartedAt = this.#bootStartedAt;
  }

  /** The server answers: setup begins with its first answer. */
  answered(): void {
    if (this.hasAnswered) return;
    this.#setupStartedAt = performance.now();
    this.#bootMs = Math.round(this.#setupStartedAt - this.#bootStartedAt);
  }

  ready(): void {
    this.#setupMs = Math.round(this.setupElapsedMs);
    this.#isTold = false;
  }

  get hasAnswered(): boolean {
    return this.#setupStartedAt !== 0;
  }

  /** Since the start began. */
  get elapsedMs(): number {
    return performance.now() - this.#bootStartedAt;
  }

  /** Since the server answered first. */
  get setupElapsedMs(): number {
    return performance.now() - this.#setupStartedAt;
  }

  status(): Pick<InstanceStatus, "boot_ms" | "setup_ms"> {
    return {
      ...(this.#bootMs === null ? {} : { boot_ms: this.#bootMs }),
      ...(this.#setupMs === null ? {} : { setup_ms: this.#setupMs }),
    };
  }

  /** Told once, to the first attempt after it, which is who waited for it. */
  takeColdStart(): ColdStart | null {
    if (this.#isTold || this.#bootMs === null || this.#setupMs === null) return null;
    this.#isTold = true;
    return { boot_started_at: Date.now() - this.elapsedMs, boot_ms: this.#bootMs, setup_ms: this.#setupMs };
  }
}
