/**
 * Sends events of all attempts, and changes of instance states, to the edge: one batch in flight, the next when it is acknowledged. So the first
 * event goes at once, and under load the batches grow by themselves. Batches are read from the journal, so a restart sends what was left.
 *
 * A batch that was stored but whose acknowledgement was lost is sent again; its events have the same indexes, and repeats are no-ops at the edge.
 *
 * A batch that the edge can never take, for what is in it, is sent in halves until the part is found that it cannot take: that attempt ends with this as its
 * reason, or that state is given up, and everything else goes on. So one bad value never holds up an origin.
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

/** What an answer says that finds fault with the content: the same content is refused each time. Others (401, 404) are about the caller or the address. */
const CONTENT_REFUSED = new Set([400, 413, 422]);
const REFUSED_CODE = "origin.event_refused";

type PushEdge = Pick<EdgeClient, "postEvents">;
type PushJournal = Pick<Journal, "nextBatch" | "acknowledge" | "forgetEvents" | "hasEvents" | "appendEvent">;

export class EventPush {
  readonly #journal: PushJournal;
  readonly #edge: PushEdge;
  readonly #log: Log;
  /** the edge does not want this attempt any more: stop its model, without further events */
  readonly #onUnwanted: (key: AttemptKey) => void;
  readonly #statuses = new Map<string, InstanceStatus>();
  readonly #heldUntil = new Map<string, number>();
  /** attempts that were ended here, since the edge cannot take what they said */
  readonly #ended = new Set<string>();
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
    if (answer.kind === "refused" && CONTENT_REFUSED.has(answer.status)) {
      return this.#narrow(attempts, statuses, answer.detail);
    }
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

  /** Goes on with halves of what was refused; a part that cannot be halved is given up. False when the edge went away meanwhile. */
  async #narrow(attempts: PendingAttempt[], statuses: InstanceStatus[], detail: string): Promise<boolean> {
    const [attempt] = attempts;
    const [status] = statuses;
    if (attempts.length > 0 && statuses.length > 0) {
      return (await this.#post(attempts, [])) && this.#post([], statuses);
    }
    if (attempts.length > 1) {
      const half = attempts.length >>> 1;
      return (await this.#post(attempts.slice(0, half), [])) && this.#post(attempts.slice(half), []);
    }
    if (statuses.length > 1) {
      const half = statuses.length >>> 1;
      return (await this.#post([], statuses.slice(0, half))) && this.#post([], statuses.slice(half));
    }
    if (attempt !== undefined && attempt.events.length > 1) {
      // In their order: what comes behind the bad one is not sent any more once it is found.
      const half = attempt.events.length >>> 1;
      if (!(await this.#post([{ ...attempt, events: attempt.events.slice(0, half) }], []))) return false;
      if (this.#ended.has(nameOf(attempt))) return true;
      return this.#post([{ ...attempt, events: attempt.events.slice(half) }], []);
    }
    if (attempt !== undefined) this.#refused(attempt, detail);
    if (status !== undefined) {
      const { instance_id, state } = status;
      this.#log.error(
        { instance_id, state, detail },
        "the edge can never take this state of an instance: it is given up",
      );
      if (this.#statuses.get(instance_id) === status) this.#statuses.delete(instance_id);
    }
    return true;
  }

  /** Ends an attempt in place of its event that the edge can never take. */
  #refused(attempt: PendingAttempt, detail: string): void {
    const { prediction_id, attempt: number, events } = attempt;
    const name = nameOf(attempt);
    this.#log.error({ prediction_id, attempt: number, detail }, "the edge can never take this event: its attempt ends");
    const { i = 0, t_ms = 0 } = JSON.parse(events[0] ?? "{}") as { i?: number; t_ms?: number };
    this.#onUnwanted(attempt);
    this.#journal.forgetEvents(attempt);
    // The end itself was refused: the edge asks about the attempt when its lease ends.
    if (this.#ended.delete(name)) return;
    this.#ended.add(name);
    const error = `What the model gave cannot be taken: ${detail}`;
    const end = {
      i,
      t_ms,
      type: "finished",
      status: "failed",
      code: REFUSED_CODE,
      error,
      metrics: {},
      predict_time_s: 0,
    };
    this.#journal.appendEvent(attempt, i, JSON.stringify(end), false);
  }

  #apply(key: AttemptKey, outcome: "stored" | "fenced" | "unknown" | "retry", throughI: number): void {
    switch (outcome) {
      case "stored":
        // The only event that an ended attempt has is its end.
        this.#ended.delete(nameOf(key));
        this.#journal.acknowledge(key, throughI);
        break;
      case "retry":
        this.#hold(key);
        break;
      case "fenced":
      case "unknown":
        this.#ended.delete(nameOf(key));
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
