/**
 * Writes the events of one attempt to the journal, numbered and in the model's order: one that names files waits until the edge has the files, and what comes
 * after it waits behind it. After a step that failed no other is taken.
 */
import { performance } from "node:perf_hooks";
import { EVENT_VALUE_BYTES_MAX } from "../schema/origin-protocol.ts";
import type { AttemptKey, Journal } from "./journal.ts";

type Step = () => void | Promise<void>;

export interface WriterHost {
  journal: Pick<Journal, "appendEvent">;
  wakePush: (isLazy: boolean) => void;
}

export class EventWriter {
  readonly #key: AttemptKey;
  readonly #host: WriterHost;
  /** of the monotonic clock: events tell when they were since then */
  readonly #acceptedAt: number;
  #nextEvent = 0;
  #isClosed = false;
  #steps: Step[] = [];
  #isStepping = false;
  #onDone: (() => void) | null = null;
  #failure: { code: string; error: string } | null = null;

  constructor(key: AttemptKey, host: WriterHost, acceptedAt: number) {
    this.#key = key;
    this.#host = host;
    this.#acceptedAt = acceptedAt;
  }

  /** -1 before the first. */
  get last_i(): number {
    return this.#nextEvent - 1;
  }

  /** Why an output could not be stored; later outputs are of no use then. */
  get failure(): { code: string; error: string } | null {
    return this.#failure;
  }

  /** The first failure is kept. */
  fail(code: string, error: string): void {
    this.#failure ??= { code, error };
  }

  /** Nothing is written from now on. */
  close(): void {
    this.#isClosed = true;
  }

  /** False where it is not written: it is too large, which is the failure then, or nothing is written any more. */
  append(event: Record<string, unknown> & { type: string }, isLazy = false): boolean {
    if (this.#isClosed) return false;
    const i = this.#nextEvent;
    const t_ms = Math.round((performance.now() - this.#acceptedAt) * 10) / 10;
    const body = JSON.stringify({ i, t_ms, ...event });
    if (body.length > EVENT_VALUE_BYTES_MAX) {
      const error = `An output value is larger than ${EVENT_VALUE_BYTES_MAX} bytes; return a file instead.`;
      this.fail("output.too_large", error);
      return false;
    }
    this.#nextEvent += 1;
    this.#host.journal.appendEvent(this.#key, i, body, event.type === "log");
    this.#host.wakePush(isLazy);
    return true;
  }

  /** Takes a step behind those before it; at once, where none of them waits. */
  inOrder(step: Step): void {
    this.#steps.push(step);
    if (!this.#isStepping) this.#work();
  }

  /** Resolves when no step waits. */
  async done(): Promise<void> {
    if (!this.#isStepping) return;
    await new Promise<void>((resolve) => {
      this.#onDone = resolve;
    });
  }

  #work(): void {
    for (let step = this.#steps.shift(); step !== undefined; step = this.#steps.shift()) {
      const pending = this.#failure === null ? step() : undefined;
      if (!(pending instanceof Promise)) continue;
      this.#isStepping = true;
      const next = (): void => {
        this.#isStepping = false;
        this.#work();
      };
      pending.then(next, (error: unknown) => {
        this.fail("output.upload_failed", error instanceof Error ? error.message : String(error));
        next();
      });
      return;
    }
    this.#onDone?.();
  }
}
