/**
 * What must hold, whatever happens: looked at after each commit, at each message that leaves, at what clients and receivers see, and at rest. Each
 * violation names its rule.
 */
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { isTerminal, type PredictionLife, TRANSITIONS } from "../../schema/prediction-lifecycle.ts";
import type { ObjectSlot } from "./object-life.ts";
import type { AttemptKey } from "./origin-journal.ts";

/** Of a prediction's row in its object's storage. */
interface Stage {
  life: PredictionLife;
  next_seq: number;
  output_count: number;
}

/** What a client or receiver saw of an end. */
type Seen = Pick<PredictionDocument, "state" | "output" | "error" | "logs" | "completed_at" | "started_at">;

interface Ended {
  status: string;
  outputs: unknown[];
  predict_time_s: number;
}

export interface Known {
  id: string;
  account_id: string;
  /** a client was told that it exists */
  isAcknowledged: boolean;
  webhook: boolean;
  filter: string[] | null;
  deadline_at: number | null;
  isIdempotent: boolean;
}

export interface Delivery {
  prediction_id: string;
  event: string;
  webhook_id: string;
  body: string;
  isTaken: boolean;
}

/** A deadline is kept within this, whatever breaks meanwhile: alarms that come late, crashes, a cancel that is forced. */
const DEADLINE_GRACE_MS = 45_000;

/** States that a state can lead to, over any number of steps. */
const FOLLOWS = new Map(
  Object.entries(TRANSITIONS).map(([from]) => {
    const reached = new Set<string>([from]);
    for (const state of reached) {
      for (const targets of Object.values(TRANSITIONS[state as keyof typeof TRANSITIONS])) {
        for (const target of targets) reached.add(target);
      }
    }
    return [from, reached];
  }),
);

export class Checks {
  readonly violations: string[] = [];
  readonly known = new Map<string, Known>();
  /** durable states of predictions: as of the last commit */
  readonly #texts = new Map<string, string>();
  readonly stages = new Map<string, Stage>();
  /** documents of ends, as first seen, and when */
  readonly #ends = new Map<string, { text: string; at: number }>();
  readonly #completed = new Map<string, { webhook_id: string; body: string; isTaken: boolean }>();
  readonly #finished = new Map<string, Ended>();
  /** webhook calls in flight, with the object that made them */
  readonly #calling = new Map<string, object>();
  readonly trace: (line: string) => void;

  readonly #now: () => number;

  constructor(trace: (line: string) => void, now: () => number) {
    this.trace = trace;
    this.#now = now;
  }

  violation(rule: string, detail: string): void {
    this.trace(`VIOLATION ${rule}: ${detail}`);
    if (this.violations.length < 20) this.violations.push(`${rule}: ${detail}`);
  }

  // ---- after commits

  committedPredictions(slot: ObjectSlot): void {
    if (!slot.hasTable("outbox")) return;
    for (const { id, progress } of slot.read<{ id: string; progress: string }>(
      "SELECT id, progress FROM predictions",
    )) {
      if (this.#texts.get(id) === progress) continue;
      this.#texts.set(id, progress);
      const before = this.stages.get(id);
      const stage = JSON.parse(progress) as Stage;
      this.stages.set(id, stage);
      this.#stageChanged(slot, id, before, stage);
    }
  }

  #stageChanged(
    slot: ObjectSlot,
    id: string,
    before: Stage | undefined,
    { life, next_seq, output_count }: Stage,
  ): void {
    const say = (rule: string, detail: string): void => this.violation(rule, `${id}: ${detail}`);
    const isEnd = isTerminal(life.state);
    if (isEnd !== (life.completed_at !== null)) say("completed_at is set exactly at the end", life.state);
    if (life.started_at !== null && life.started_at < life.created_at)
      say("times are in order", "started before created");
    if (life.completed_at !== null && life.completed_at < (life.started_at ?? life.created_at)) {
      say("times are in order", "completed before started");
    }
    if ((life.state === "failed") !== (life.error !== null && life.error !== ""))
      say("failed has an error, others none", life.state);
    if (before === undefined) return;
    const was = before.life;
    if (life.attempt < was.attempt) say("attempts only rise", `${was.attempt} to ${life.attempt}`);
    // What may have started outside without a word of it here is run again: then nobody knows better.
    if (life.attempt > was.attempt && was.attempt_started && this.known.get(id)?.isIdempotent === false) {
      say("what is not idempotent starts once", `attempt ${was.attempt} had started`);
    }
    // A retry goes back to the queue; everything else goes on.
    if (FOLLOWS.get(was.state)?.has(life.state) !== true) say("states go on", `${was.state} to ${life.state}`);
    if (was.started_at !== null && life.started_at !== was.started_at)
      say("started_at never changes", `${was.started_at}`);
    if (next_seq < before.next_seq || output_count < before.output_count) say("the log only grows", `${next_seq}`);
    if (!isTerminal(was.state)) {
      if (isEnd) this.#isOwed(slot, id, life);
      const deadline = this.known.get(id)?.deadline_at ?? Number.POSITIVE_INFINITY;
      if ((life.completed_at ?? 0) > deadline + DEADLINE_GRACE_MS)
        say("deadlines are kept", `${life.completed_at} for ${deadline}`);
      return;
    }
    if (JSON.stringify(was) !== JSON.stringify(life))
      say("an end never changes", `${JSON.stringify(was)} to ${JSON.stringify(life)}`);
    if (next_seq !== before.next_seq) say("nothing is added after the end", `${before.next_seq} to ${next_seq}`);
  }

  /** In the commit of an end stands what it owes. */
  #isOwed(slot: ObjectSlot, id: string, life: PredictionLife): void {
    const rows = slot.read<{ message: string }>("SELECT message FROM outbox WHERE prediction_id = ?", id);
    const kinds = rows.map(({ message }) => JSON.parse(message) as { kind: string; attempt?: number });
    if (!kinds.some(({ kind }) => kind === "settle"))
      this.violation("an end is recorded with what it owes", `${id}: no settlement`);
    if (!kinds.some(({ kind, attempt }) => kind === "release" && attempt === life.attempt)) {
      this.violation("an end is recorded with what it owes", `${id}: no release`);
    }
    const known = this.known.get(id);
    if (known?.webhook !== true || (known.filter !== null && !known.filter.includes("completed"))) return;
    if (
      !slot.hasTable("webhooks") ||
      slot.read("SELECT 1 FROM webhooks WHERE prediction_id = ? AND event = 'completed'", id).length !== 1
    ) {
      this.violation("an end is recorded with what it owes", `${id}: no webhook`);
    }
  }

  // ---- messages that leave: nothing external without a durable record

  isEnded(id: string): boolean {
    const life = this.stages.get(id)?.life;
    return life !== undefined && isTerminal(life.state);
  }

  /** Whether a live attempt of this number is durable. */
  isHeld({ prediction_id, attempt }: AttemptKey): boolean {
    const life = this.stages.get(prediction_id)?.life;
    return life !== undefined && !isTerminal(life.state) && life.attempt === attempt;
  }

  settled(id: string): void {
    if (!this.isEnded(id)) this.violation("no effect without a record", `${id} is settled before its end is durable`);
  }

  released({ prediction_id, attempt }: AttemptKey): void {
    const life = this.stages.get(prediction_id)?.life;
    if (life === undefined || isTerminal(life.state) || life.attempt > attempt) return;
    this.violation("no effect without a record", `${prediction_id} attempt ${attempt} is released while it lives`);
  }

  attemptAccepted(key: AttemptKey): void {
    if (this.stages.has(key.prediction_id)) return;
    this.violation("no effect without a record", `${key.prediction_id} is at an origin before it is durable`);
  }

  /** On an instance run no more live attempts than it has slots. */
  slotsHeld(instanceId: string, slots: number, running: AttemptKey[]): void {
    const held = running.filter((key) => this.isHeld(key));
    if (held.length <= slots) return;
    const names = held.map(({ prediction_id, attempt }) => `${prediction_id}/${attempt}`).join(", ");
    this.violation("a slot is leased once", `${names} all hold ${instanceId}, which has ${slots}`);
  }

  attemptFinished({ prediction_id, attempt }: AttemptKey, end: Ended): void {
    this.#finished.set(`${prediction_id} ${attempt}`, end);
  }

  // ---- what clients see

  /** `asked`: when it was asked for; an answer may come later than that of a newer question. */
  observed(document: PredictionDocument, asked: number): void {
    const { id, state } = document;
    if (!isTerminal(state)) {
      if ((this.#ends.get(id)?.at ?? Number.POSITIVE_INFINITY) < asked)
        this.violation("an end never changes", `${id} is ${state} again`);
      return;
    }
    if (document.data_removed) return;
    const { output, error, logs, completed_at, started_at } = document;
    const seen: Seen = { state, output, error, logs, completed_at, started_at };
    const text = JSON.stringify(seen);
    const first = this.#ends.get(id);
    if (first === undefined) this.#ends.set(id, { text, at: this.#now() });
    else if (first.text !== text) this.violation("an end never changes", `${id}: ${first.text} then ${text}`);
    if (first === undefined) this.#endIsTrue(document);
  }

  /** The end is what the current attempt said, and nothing of others. */
  #endIsTrue({ id, state, output, meter, error }: PredictionDocument): void {
    const attempt = this.stages.get(id)?.life.attempt ?? 0;
    const end = this.#finished.get(`${id} ${attempt}`);
    if (state === "failed" && (error ?? "") === "") this.violation("failed has an error, others none", id);
    if (state !== "succeeded") return;
    if (end === undefined || end.status !== "succeeded") {
      this.violation("only the lease holder ends it", `${id} succeeded, and attempt ${attempt} did not`);
      return;
    }
    const outputs = Array.isArray(output) ? output : [];
    if (JSON.stringify(outputs) !== JSON.stringify(end.outputs)) {
      this.violation(
        "the output is that of its attempt",
        `${id}: ${JSON.stringify(output)}, given ${JSON.stringify(end.outputs)}`,
      );
    }
    if (meter?.predict_time_s !== end.predict_time_s) {
      this.violation(
        "the meter is that of its attempt",
        `${id}: ${meter?.predict_time_s}, given ${end.predict_time_s}`,
      );
    }
  }

  acknowledged(id: string): void {
    const known = this.known.get(id);
    if (known !== undefined) known.isAcknowledged = true;
    if (!this.stages.has(id))
      this.violation("no effect without a record", `${id} is acknowledged before it is durable`);
  }

  unreadable(id: string): void {
    this.violation("every acknowledged one is readable", `${id} is not there`);
  }

  // ---- what receivers see

  /** A call leaves, made by `sender`. */
  webhookBegins(
    { prediction_id: id, event }: Pick<Delivery, "prediction_id" | "event">,
    sender: { isAlive: boolean },
  ): void {
    if (this.#calling.get(id) === sender) this.violation("one delivery in flight for a prediction", `${id}: ${event}`);
    this.#calling.set(id, sender);
    if (event !== "completed" && this.#completed.get(id)?.isTaken === true) {
      this.violation("nothing follows a delivered completed", `${id}: ${event}`);
    }
  }

  webhookEnds(id: string, sender: object): void {
    if (this.#calling.get(id) === sender) this.#calling.delete(id);
  }

  webhookArrives({ prediction_id: id, event, webhook_id, body }: Omit<Delivery, "isTaken">): void {
    const life = this.stages.get(id)?.life;
    const known = this.known.get(id);
    if (life === undefined) {
      this.violation("no effect without a record", `${id}: ${event} is told before it is durable`);
      return;
    }
    const isTrue = event === "completed" ? isTerminal(life.state) : event === "start" ? life.started_at !== null : true;
    if (!isTrue) this.violation("no effect without a record", `${id}: ${event} is told while it is ${life.state}`);
    if (known?.filter != null && !known.filter.includes(event))
      this.violation("filtered events are never sent", `${id}: ${event}`);
    if (event !== "completed") return;
    const completed = this.#completed.get(id);
    if (completed === undefined) {
      this.#completed.set(id, { webhook_id, body, isTaken: false });
      return;
    }
    if (completed.webhook_id !== webhook_id)
      this.violation("webhook ids are stable", `${id}: ${completed.webhook_id}, ${webhook_id}`);
    if (withoutExpiry(completed.body) !== withoutExpiry(body)) {
      this.violation("a retry says the same", `${id}: ${completed.body} then ${body}`);
    }
  }

  webhookAnswered(delivery: Delivery): void {
    const completed = this.#completed.get(delivery.prediction_id);
    if (delivery.event === "completed" && delivery.isTaken && completed !== undefined) completed.isTaken = true;
  }

  /** At rest: `completed` came to each receiver that wants it, and says what the prediction is. */
  webhooksAtRest(
    documents: Map<string, PredictionDocument>,
    bodyOf: (document: PredictionDocument) => Record<string, unknown>,
  ): void {
    for (const { id, webhook, filter } of this.known.values()) {
      if (!webhook || !this.stages.has(id) || (filter !== null && !filter.includes("completed"))) continue;
      const completed = this.#completed.get(id);
      if (completed?.isTaken !== true) {
        this.violation("completed is delivered", id);
        continue;
      }
      const document = documents.get(id);
      if (document === undefined || document.data_removed) continue;
      const told = JSON.parse(completed.body) as Record<string, unknown>;
      const shown = JSON.parse(JSON.stringify(bodyOf(document))) as Record<string, unknown>;
      for (const name of ["status", "output", "error", "logs", "metrics", "completed_at", "started_at"]) {
        if (JSON.stringify(told[name]) !== JSON.stringify(shown[name])) {
          this.violation(
            "the last webhook is the document",
            `${id}.${name}: ${JSON.stringify(told[name])}, ${JSON.stringify(shown[name])}`,
          );
        }
      }
    }
  }
}

/** With retention 0 the data goes after a delivery, and not when it was first said. */
function withoutExpiry(body: string): string {
  return body.replace(/"expires_at":"[^"]*"/, "");
}
