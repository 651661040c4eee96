/** The disk of a pretended origin: attempts, and their events that nobody has acknowledged. What the origin's own EventPush reads, it reads here. */
import type { AttemptState } from "../../schema/origin-protocol.ts";

/** What the model is told to do: the input of each prediction. */
export interface ModelPlan {
  outputs: number;
  step_ms: number;
  end: "succeeded" | "failed" | "hangs" | "crashes" | "upload fails";
  /** it goes on when it is asked to stop */
  ignores_cancel: boolean;
  /** each attempt gives other outputs */
  varies: boolean;
}

export interface AttemptKey {
  prediction_id: string;
  attempt: number;
}

export interface AttemptRecord {
  prediction_id: string;
  attempt: number;
  instance_id: string;
  plan: ModelPlan;
  state: AttemptState["state"];
  started: boolean;
  accepted_at: number;
  next_i: number;
  events: { i: number; text: string }[];
  /** all outputs that it gave */
  outputs: string[];
}

/** A part of a batch: events of one attempt, as JSON, in their order. */
interface PendingAttempt extends AttemptKey {
  events: string[];
  /** index of the last of them */
  through_i: number;
}

export class OriginJournal {
  readonly #attempts = new Map<string, AttemptRecord>();
  readonly #now: () => number;

  /** `now`: the run's clock, milliseconds */
  constructor(now: () => number) {
    this.#now = now;
  }

  attempts(): AttemptRecord[] {
    return [...this.#attempts.values()];
  }

  record({ prediction_id, attempt }: AttemptKey): AttemptRecord | null {
    return this.#attempts.get(`${prediction_id} ${attempt}`) ?? null;
  }

  add(record: AttemptRecord): void {
    this.#attempts.set(`${record.prediction_id} ${record.attempt}`, record);
  }

  append(record: AttemptRecord, event: Record<string, unknown>): void {
    const i = record.next_i++;
    const t_ms = Math.round(this.#now() - record.accepted_at);
    record.events.push({ i, text: JSON.stringify({ i, t_ms, ...event }) });
  }

  nextBatch(_bytes: number, most: number, isHeld: (key: AttemptKey) => boolean): PendingAttempt[] {
    return this.attempts()
      .filter((record) => record.events.length > 0 && !isHeld(record))
      .map(({ prediction_id, attempt, events }) => {
        const sent = events.slice(0, most);
        return { prediction_id, attempt, events: sent.map(({ text }) => text), through_i: sent.at(-1)?.i ?? -1 };
      });
  }

  /** The edge has them up to this index. */
  acknowledge(key: AttemptKey, through: number): void {
    const record = this.record(key);
    if (record !== null) record.events = record.events.filter(({ i }) => i > through);
  }

  forgetEvents(key: AttemptKey): void {
    this.acknowledge(key, Number.POSITIVE_INFINITY);
  }

  hasEvents(key: AttemptKey): boolean {
    return (this.record(key)?.events.length ?? 0) > 0;
  }

  /** Whether there is something that the edge has not acknowledged. */
  hasUnsent(): boolean {
    return this.attempts().some(({ events }) => events.length > 0);
  }
}
