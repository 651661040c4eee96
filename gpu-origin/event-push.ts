/**
 * Sends events of all attempts, and changes of instance states, to the edge: one batch in flight, the next when it is acknowledged. So the first
 * event goes at once, and under load the batches grow by themselves. Batches are read from the journal, so a restart sends what was left.
 *
 * A batch that was stored but whose acknowledgement was lost is sent again; its events have the same indexes, and repeats are no-ops at the edge.
 */
import {
  EVENT_BATCH_BYTES_MAX,
  EVENT_BATCH_EVENTS_MAX,
  type InstanceStatus,
  ORIGIN_PROTOCOL_VERSION,
} from "../schema/origin-protocol.ts";
import type { EdgeClient } from "./edge-client.ts";
import type { AttemptKey, Journal, PendingAttempt } from "./journal.ts";
import type { Log } from "./log.ts";

/** Pause after the first failed batch, doubled up to the maximum, each with jitter. It never gives up: the journal is bounded instead. */
const RETRY_FIRST_MS = 50;
const RETRY_MAX_MS = 5_000;
/**
 * An attempt's `started` waits this long for company. A short prediction then ends in its first batch, and its end does not wait for the
 * acknowledgement of a batch that said nothing but `started`.
 */
const STARTED_LINGER_MS = 5;
/** An attempt that the edge asked to send again waits this long; others go on. */
const HOLD_MS = 250;

type PushEdge = Pick<EdgeClient, "postEvents">;
type PushJournal = Pick<Journal, "nextBatch" | "acknowledge" | "forgetEvents" | "hasEvents">;

export class EventPush {
  readonly #journal: PushJournal;
  readonly #edge: PushEdge;
  readonly #log: Log;
  /** the edge does not want this attempt any more: stop its model, without further events */
  readonly #onUnwanted: (key: AttemptKey) => void;
  readonly #statuses = new Map<string, InstanceStatus>();
  readonly #heldUntil = new Map<string, number>();
  #isRunning = false;
  #isSending = false;
  #isWoken = false;
  #linger: NodeJS.Timeout | null = null;
  #failures = 0;
  /** since the start */
  readonly #counts = { batches: 0, failures: 0 };
  #retry: NodeJS.Timeout | null = null;
  #idle: (() => void)[] = [];

  constructor(journal: PushJournal, edge: PushEdge, log: Log, onUnwanted: (key: AttemptKey) => void) {
    this.#journal = journal;
    this.#edge = edge;
    this.#log = log;
    this.#onUnwanted = onUnwanted;
  }

  /** Begins to send, once the edge knows this origin. */
  start(): void {
    this.#isRunning = true;
    this.wake();
  }

  /** The newest state of an instance; an older one that was not sent yet is replaced. */
  pushStatus(status: InstanceStatus): void {
    this.#statuses.set(status.instance_id, status);
    this.wake();
  }

  /** Something was appended. What is appended in the same turn goes in the same batch. */
  wake(): void {
    if (!this.#isRunning || this.#isSending || this.#isWoken || this.#retry !== null) return;
    this.#isWoken = true;
    queueMicrotask(() => {
      this.#isWoken = false;
      this.#send();
    });
  }

  /** Something was appended that may wait for company. */
  wakeSoon(): void {
    this.#linger ??= setTimeout(() => {
      this.#linger = null;
      this.wake();
    }, STARTED_LINGER_MS);
  }

  /** Resolves when everything was acknowledged, or after `timeoutMs`. */
  async flushed(timeoutMs: number): Promise<void> {
    if (!this.#isRunning) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#idle.push(() => {
        clearTimeout(timer);
        resolve();
      });
      this.wake();
      this.wakeSoon();
    });
  }

  /** For metrics. */
  counts(): { batches: number; failures: number } {
    return { ...this.#counts };
  }

  stop(): void {
    this.#isRunning = false;
    if (this.#linger !== null) clearTimeout(this.#linger);
    if (this.#retry !== null) clearTimeout(this.#retry);
  }

  #send(): void {
    if (!this.#isRunning || this.#isSending || this.#retry !== null) return;
    const now = Date.now();
    for (const [name, until] of this.#heldUntil) if (until <= now) this.#heldUntil.delete(name);
    const attempts = this.#journal.nextBatch(EVENT_BATCH_BYTES_MAX, EVENT_BATCH_EVENTS_MAX, (key) =>
      this.#heldUntil.has(nameOf(key)),
    );
    const statuses = [...this.#statuses.values()];
    if (attempts.length === 0 && statuses.length === 0) {
      if (this.#heldUntil.size > 0) this.#retryIn(HOLD_MS);
      else for (const resolve of this.#idle.splice(0)) resolve();
      return;
    }
    if (this.#linger !== null) clearTimeout(this.#linger);
    this.#linger = null;
    this.#isSending = true;
    void this.#post(attempts, statuses).then((isStored) => {
      this.#isSending = false;
      if (isStored) this.wake();
      else this.#retryIn(Math.min(RETRY_FIRST_MS * 2 ** (this.#failures - 1), RETRY_MAX_MS) * (0.5 + Math.random()));
    });
  }

  #retryIn(ms: number): void {
    if (!this.#isRunning) return;
    this.#retry = setTimeout(() => {
      this.#retry = null;
      this.wake();
    }, ms);
  }

  async #post(attempts: PendingAttempt[], statuses: InstanceStatus[]): Promise<boolean> {
    // The events are JSON texts already: the batch is joined, not encoded again.
    const parts = attempts.map(
      ({ prediction_id, attempt, events }) =>
        `{"prediction_id":${JSON.stringify(prediction_id)},"attempt":${attempt},"events":[${events.join(",")}]}`,
    );
    const body = `{"protocol":${ORIGIN_PROTOCOL_VERSION},"attempts":[${parts.join(",")}],"instances":${JSON.stringify(statuses)}}`;
    const answer = await this.#edge.postEvents(body);
    if (answer.kind !== "ok") {
      this.#failures = Math.min(this.#failures + 1, 20);
      this.#counts.failures += 1;
      if (this.#failures === 1 || answer.kind === "refused") {
        this.#log.warn({ attempts: attempts.length, detail: answer.detail }, "events were not stored, trying again");
      }
      return false;
    }
    this.#failures = 0;
    this.#counts.batches += 1;
    for (const status of statuses) {
      if (this.#statuses.get(status.instance_id) === status) this.#statuses.delete(status.instance_id);
    }
    for (const ack of answer.value.acks) this.#apply(ack, ack.outcome, ack.through_i);
    // An attempt without an acknowledgement was not stored: it is held, or the same batch would go round at full speed.
    const acked = new Set(answer.value.acks.map(nameOf));
    for (const attempt of attempts) if (!acked.has(nameOf(attempt))) this.#hold(attempt);
    return true;
  }

  #apply(key: AttemptKey, outcome: "stored" | "fenced" | "unknown" | "retry", throughI: number): void {
    switch (outcome) {
      case "stored":
        this.#journal.acknowledge(key, throughI);
        break;
      case "retry":
        this.#hold(key);
        break;
      case "fenced":
      case "unknown":
        this.#onUnwanted(key);
        this.#journal.forgetEvents(key);
        break;
    }
  }

  #hold(key: AttemptKey): void {
    this.#heldUntil.set(nameOf(key), Date.now() + HOLD_MS);
  }
}

function nameOf(key: AttemptKey): string {
  return `${key.prediction_id} ${key.attempt}`;
}
