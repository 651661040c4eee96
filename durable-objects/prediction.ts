/**
 * Owns predictions: each one's state, its log, its readers, what its end owes to others, and its deadlines. Many share an object (the first character of an
 * id names it). A call loads, lets pure code decide (schema/prediction-lifecycle.ts, schema/attempt-events.ts), saves everything in one commit that
 * calls which arrive together share, and only then acts.
 *
 * Nothing here is needed in memory: after an eviction the alarm, the next batch or the next call finds all of it in SQLite.
 */
import { DurableObject } from "cloudflare:workers";
import { type Applied, applyAttemptEvents, applyLifecycle } from "../schema/attempt-events.ts";
import { laneName } from "../schema/lanes.ts";
import type { AttemptAck, AttemptBatch } from "../schema/origin-protocol.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { isTerminal, type LifecycleEvent } from "../schema/prediction-lifecycle.ts";
import { viewOf } from "../schema/render-prediction.ts";
import { encodeComment, encodeStored, positionAfter } from "../schema/stream-events.ts";
import type { Settlement } from "./account-contract.ts";
import { Alarms } from "./alarms.ts";
import type { Lease, LeaseKey } from "./deployment-contract.ts";
import { GroupCommit } from "./group-commit.ts";
import { PredictionAttempts } from "./prediction-attempts.ts";
import type { CreatePrediction, PredictionApi, ReplayResult, WebhookLog } from "./prediction-contract.ts";
import { PredictionCounts, type PredictionFigures } from "./prediction-counts.ts";
import { PredictionDeadlines } from "./prediction-deadlines.ts";
import { loadDocument, loadPage, outputsOf, settledDocument } from "./prediction-document.ts";
import { PredictionIntake } from "./prediction-intake.ts";
import { appendLog, spillLarge } from "./prediction-log-writer.ts";
import { owedBy, PredictionOutbox } from "./prediction-outbox.ts";
import { PredictionRetention } from "./prediction-retention.ts";
import { predictionSpan } from "./prediction-spans.ts";
import { chargeOf, PredictionSpending } from "./prediction-spending.ts";
import { NEVER, type OutboxRow, type PredictionRow, PredictionStore, type Stage } from "./prediction-store.ts";
import { PredictionWaiters } from "./prediction-waiters.ts";
import { PredictionWebhooks } from "./prediction-webhooks.ts";
import { READERS_PER_PREDICTION_MAX, StreamReaders } from "./stream-readers.ts";
import { deploymentStub } from "./stubs.ts";
import { isTracing, recordSpan } from "./telemetry.ts";
import { publishTraining, withdrawVersion } from "./training-publish.ts";

/** What others did not take is sent again after this. */
const OUTBOX_RETRY_MS = 5_000;
const OUTBOX_BATCH_MAX = 500;
/** A cancel is answered by then, whatever the origin does: polite for 5 s, by force, and given up on at 8 s. */
const CANCEL_ANSWER_MS = 12_000;

type Deadline = "check" | "due" | "outbox" | "webhooks";
type Change = Pick<Applied, "progress" | "stored" | "effects">;

interface Committed {
  row: PredictionRow;
  change: Change;
  outbox: OutboxRow[];
}

export class PredictionObject extends DurableObject<Env> implements PredictionApi {
  readonly #store = new PredictionStore(this.ctx.storage.sql, this.env.SIGNING_SECRET);
  readonly #counts = new PredictionCounts(this.ctx.storage.sql);
  readonly #alarms = new Alarms<Deadline>(this.ctx.storage);
  readonly #writes = new GroupCommit(this.ctx.storage, () => {
    this.#store.forget();
    this.#counts.forget();
    this.#alarms.forget();
    this.#webhooks.forget();
  });
  readonly #waiters = new PredictionWaiters();
  readonly #outbox = new PredictionOutbox(this.env, {
    settlement: (id) => this.#settlement(id),
    document: (id) => this.#document(id),
  });
  readonly #attempts = new PredictionAttempts({
    env: this.env,
    store: this.#store,
    step: (id, attempt, event) => this.#step(id, event, attempt),
    checkAt: (dueAt) => this.#alarms.setNoLaterThan("check", dueAt),
    later: (work) => this.#later(work),
  });
  readonly #intake = new PredictionIntake({
    env: this.env,
    store: this.#store,
    counts: this.#counts,
    attempts: this.#attempts,
    commit: (write) => this.#writes.run(write),
    checkAt: (time) => this.#alarms.setNoLaterThan("check", time),
    dueAt: (time) => this.#alarms.setNoLaterThan("due", time),
    later: (work) => this.#later(work),
  });
  readonly #spending = new PredictionSpending({
    env: this.env,
    store: this.#store,
    step: (id, event) => this.#step(id, event),
    change: (id, change) =>
      this.#writes.run(() => {
        const row = this.#store.get(id);
        if (row !== null && !isTerminal(row.stage.life.state)) this.#store.save(id, { ...row.stage, ...change });
      }),
  });
  readonly #webhooks = new PredictionWebhooks(
    {
      env: this.env,
      predictions: this.#store,
      commit: (write) => this.#writes.run(write),
      wakeAt: (dueAt) => this.#alarms.setNoLaterThan("webhooks", dueAt),
      later: (work) => this.#later(work),
      count: (isTaken) => this.#counts.add(isTaken ? "webhook_calls_taken" : "webhook_calls_failed"),
      completedTaken: (id) => this.#retention.delivered(id),
    },
    this.ctx.storage.sql,
  );
  readonly #view = viewOf(this.env);
  readonly #readers = new StreamReaders({
    page: (id, position, bytesMax) => loadPage(this.env, this.#store, this.#view, id, position, bytesMax),
    waitingComment: async (id) => {
      const waiting = await this.#waitingFor(id);
      return waiting === null ? null : encodeComment(`waiting ${JSON.stringify(waiting)}`);
    },
    left: (id, tookAll) => this.#retention.readerLeft(id, tookAll),
  });
  readonly #retention = new PredictionRetention({
    env: this.env,
    store: this.#store,
    webhooks: this.#webhooks,
    commit: (write) => this.#writes.run(write),
    dueAt: (time) => this.#alarms.setNoLaterThan("due", time),
    readers: (id) => this.#readers.count(id),
    owe: ({ id, request }) => {
      this.#alarms.setNoLaterThan("outbox", Date.now() + OUTBOX_RETRY_MS);
      return this.#store.addToOutbox(`account:${request.account_id}`, { kind: "removed", prediction_id: id });
    },
    send: (outbox) => this.#later(this.#outbox.send([outbox])),
    sendAgain: () => this.#sendAgain(),
    later: (work) => this.#later(work),
  });
  readonly #deadlines = new PredictionDeadlines({
    store: this.#store,
    attempts: this.#attempts,
    spending: this.#spending,
    retention: this.#retention,
    step: (id, event) => this.#step(id, event),
    commit: (write) => this.#writes.run(write),
    dueAt: (time) => this.#alarms.setNoLaterThan("due", time),
  });

  // ---- create, read, cancel

  async create(request: CreatePrediction): Promise<{ document: PredictionDocument; settled: boolean }> {
    const { id, wait_ms } = request;
    await this.#intake.take(request);
    if (wait_ms > 0) await this.#untilEnd(id, wait_ms);
    const document = await this.#existing(id);
    if (wait_ms > 0 && isTerminal(document.state)) this.#retention.delivered(id);
    return { document, settled: this.#isOver(id) };
  }

  async get(id: string, accountId: string): Promise<PredictionDocument | null> {
    if (this.#store.get(id)?.request.account_id !== accountId) return null;
    const document = await this.#document(id);
    if (document !== null && isTerminal(document.state)) this.#retention.delivered(id);
    const waiting_for = document === null ? null : await this.#waitingFor(id);
    return document === null || waiting_for == null ? document : { ...document, waiting_for };
  }

  async getMany(ids: string[], accountId: string): Promise<(PredictionDocument | null)[]> {
    const documents: (PredictionDocument | null)[] = [];
    for (const id of ids) {
      documents.push(this.#store.get(id)?.request.account_id === accountId ? await this.#document(id) : null);
    }
    return documents;
  }

  async cancel(id: string, accountId: string): Promise<PredictionDocument | null> {
    if (this.#store.get(id)?.request.account_id !== accountId) return null;
    // A lease that only memory knows of must be stopped at its origin, so it counts.
    if (this.#attempts.isLeased(id)) await this.#step(id, { type: "leased" });
    await this.#step(id, { type: "cancel" });
    await this.#untilEnd(id, CANCEL_ANSWER_MS);
    const document = await this.#document(id);
    if (document !== null && isTerminal(document.state)) this.#retention.delivered(id);
    return document;
  }

  async erase(ids: string[], accountId: string): Promise<string[]> {
    const left = await Promise.all(
      ids.map(async (id) => {
        await this.cancel(id, accountId);
        const row = this.#store.get(id);
        if (row === null || row.request.account_id !== accountId) return null;
        if (isTerminal(row.stage.life.state)) await this.#retention.erase(row);
        return this.#store.get(id)?.stage.removed_at === null ? id : null;
      }),
    );
    return left.filter((id) => id !== null);
  }

  async webhooks(id: string, accountId: string): Promise<WebhookLog | null> {
    const request = this.#store.get(id)?.request;
    if (request === undefined || request.account_id !== accountId) return null;
    return { kind: request.kind, model: request.spec.model, events: this.#webhooks.log(id) };
  }

  async replayWebhook(id: string, accountId: string, event: string): Promise<ReplayResult> {
    if (this.#store.get(id)?.request.account_id !== accountId) return { kind: "unknown" };
    return this.#webhooks.replay(id, event);
  }

  async keep(id: string, accountId: string): Promise<PredictionDocument | null> {
    if (this.#store.get(id)?.request.account_id !== accountId) return null;
    const isKept = await this.#writes.run(() => {
      const row = this.#store.get(id);
      if (row === null || row.stage.removed_at !== null || !isTerminal(row.stage.life.state)) return false;
      if (row.request.retention_ms === 0) return false;
      this.#store.save(id, { ...row.stage, expires_at: null }, NEVER);
      return true;
    });
    return isKept ? this.#document(id) : null;
  }

  async #waitingFor(id: string): Promise<PredictionDocument["waiting_for"] | null> {
    const row = this.#store.get(id);
    const state = row?.stage.life.state;
    if (row === null || (state !== "queued" && state !== "starting")) return null;
    const { spec, lane = 0 } = row.request;
    return deploymentStub(this.env, laneName(spec.deployment_key, lane))
      .waitingFor({ prediction_id: id, attempt: row.stage.life.attempt })
      .catch(() => null);
  }

  #document(id: string): Promise<PredictionDocument | null> {
    return loadDocument(this.env, this.#store, id);
  }

  async #existing(id: string): Promise<PredictionDocument> {
    const document = await this.#document(id);
    if (document === null) throw new Error("a prediction is gone while it is being created");
    return document;
  }

  #isOver(id: string): boolean {
    const state = this.#store.get(id)?.stage.life.state;
    return state === undefined || isTerminal(state);
  }

  /** Resolves at the end of the prediction, or after `timeoutMs`. */
  async #untilEnd(id: string, timeoutMs: number): Promise<void> {
    if (!this.#isOver(id)) await this.#waiters.untilEnd(id, timeoutMs);
  }

  // ---- events and steps

  async applyEvents(batches: AttemptBatch[], originId: string): Promise<AttemptAck[]> {
    return Promise.all(batches.map((batch) => this.#applyBatch(batch, originId)));
  }

  async #applyBatch(sent: AttemptBatch, originId: string): Promise<AttemptAck> {
    const { prediction_id, attempt } = sent;
    const through_i = sent.events.at(-1)?.i ?? -1;
    const known = this.#store.get(prediction_id);
    if (known === null) return { prediction_id, attempt, through_i, outcome: "unknown" };
    const isPublished = known.request.kind === "training" && this.#attempts.isHeld(sent);
    const { batch, version } = isPublished
      ? await publishTraining(this.env, known.request, sent)
      : { batch: sent, version: null };
    // What is fenced leaves nothing in R2.
    const spilled = this.#attempts.isHeld(batch) ? await spillLarge(this.env, batch) : new Map<string, string>();
    const earlier = known.stage.repeated === null ? [] : await outputsOf(this.env, this.#store, prediction_id);
    const outputAt = (n: number): unknown => earlier[n];
    const held = await this.#spending.heldFor(known, batch, outputAt);
    let ack: AttemptAck = { prediction_id, attempt, through_i, outcome: "unknown" };
    const committed = await this.#writes.run(() => {
      const row = this.#store.get(prediction_id);
      if (row === null) return null;
      const now = Date.now();
      const stage = held === null ? row.stage : { ...row.stage, reserved_micros: held };
      const applied = applyAttemptEvents(stage, batch, now, outputAt);
      ack = { prediction_id, attempt, through_i: applied.through_i, outcome: applied.outcome };
      if (applied.progress === stage) return null;
      this.#attempts.heard(prediction_id, now);
      return this.#save(row, applied, now, spilled, originId);
    });
    if (committed !== null) this.#act(committed);
    if (version !== null && this.#store.get(prediction_id)?.stage.life.state !== "succeeded") {
      await withdrawVersion(this.env, prediction_id, version);
    }
    return ack;
  }

  /** Applies a lifecycle event, unless the prediction is at another attempt than `attempt` or refuses it. */
  async #step(id: string, event: LifecycleEvent, attempt?: number): Promise<void> {
    const committed = await this.#writes.run(() => {
      const row = this.#store.get(id);
      if (row === null || (attempt !== undefined && row.stage.life.attempt !== attempt)) return null;
      const now = Date.now();
      const change = applyLifecycle(row.stage, event, now);
      return change === null ? null : this.#save(row, change, now, new Map(), null);
    });
    if (committed !== null) this.#act(committed);
  }

  /** Inside a commit: stores the change with its log entries and what it owes to others. */
  #save(
    row: PredictionRow,
    change: Change,
    now: number,
    spilled: Map<string, string>,
    originId: string | null,
  ): Committed {
    const { id, request } = row;
    const before = row.stage.life;
    const { life } = change.progress;
    const isEnd = isTerminal(life.state);
    const expires_at = isEnd ? this.#retention.expiresAt(row, life.completed_at ?? now) : null;
    let stage: Stage = {
      ...row.stage,
      ...change.progress,
      expires_at,
      origin_id: life.attempt === before.attempt ? (originId ?? row.stage.origin_id) : null,
    };
    stage = appendLog(this.#store, id, change.stored, row.stage.next_seq, stage, spilled);
    if (isEnd) {
      // Whatever an attempt without a good end uploaded is found by its prefix.
      stage.has_objects ||= life.state !== "succeeded";
      const dueAt = expires_at ?? NEVER;
      this.#counts.ended(stage, request, request.spec.hardware);
      this.#store.save(id, stage, dueAt);
      if (request.is_redacted) this.#store.dropClearInput(id);
      if (dueAt !== NEVER) this.#alarms.setNoLaterThan("due", dueAt);
    } else {
      const dueAt = this.#spending.dueAt({ ...row, stage }, now);
      if (dueAt === null) this.#store.save(id, stage);
      else this.#deadlines.set({ ...row, stage }, dueAt);
    }
    const outbox = change.effects
      .flatMap((effect) => owedBy({ ...row, stage }, effect))
      .map(({ owner, message }) => this.#store.addToOutbox(owner, message));
    this.#store.deleteFromOutbox(this.#outbox.takeSent());
    if (outbox.length > 0) this.#alarms.setNoLaterThan("outbox", now + OUTBOX_RETRY_MS);
    const saved = { ...row, stage };
    if (request.webhook !== null) this.#webhooks.record(saved, change.stored, now);
    return { row: saved, change, outbox };
  }

  /** After the commit: readers and waiters hear of it, and what it owes is sent. */
  #act({ row, change, outbox }: Committed): void {
    const { id, stage } = row;
    const isEnd = isTerminal(stage.life.state);
    if (this.#readers.count(id) > 0) {
      const first = stage.next_seq - change.stored.length;
      const text = change.stored.map((event, i) => encodeStored(id, first + i, event, this.#view)).join("");
      this.#readers.broadcast(id, text, isEnd);
    }
    if (isEnd) {
      this.#waiters.ended(id);
      this.#attempts.forget(id);
      this.#trace(row);
      const { is_redacted, input_ref } = row.request;
      if (is_redacted && input_ref !== null) this.#later(this.env.FILES.delete(input_ref));
    }
    if (row.request.webhook !== null) this.#webhooks.send(id);
    // One turn of the loop later: who waits for this end is answered first.
    const sent = new Promise((resolve) => setTimeout(resolve, 0)).then(() => this.#outbox.send(outbox));
    const isAgain = change.effects.some((effect) => effect.kind === "enqueue");
    // The old slot is released before a new one is asked for, so that a deployment does not lease on an instance that is gone.
    this.#later(isAgain ? sent.then(() => this.#attempts.dispatch(id)) : sent);
    for (const effect of change.effects) {
      if (effect.kind === "stop") this.#later(this.#attempts.stop(id, effect.reason));
    }
  }

  #trace(row: PredictionRow): void {
    const span = isTracing(this.env) ? predictionSpan(row, Date.now()) : null;
    if (span !== null) recordSpan(this.env, (work) => this.#later(work), span);
  }

  async #settlement(id: string): Promise<Settlement | null> {
    const row = this.#store.get(id);
    const charged = row === null ? null : chargeOf(row);
    if (row === null || charged === null) return null;
    const document = await settledDocument(this.env, this.#store, row);
    return { prediction_id: id, document, ...charged, is_listed: row.request.is_listed };
  }

  // ---- what deployments and origins ask

  async leasesGranted(grants: Lease[]): Promise<{ declined: LeaseKey[] }> {
    return { declined: this.#attempts.granted(grants) };
  }

  async leasesRefused(refusals: { prediction_id: string; code: string; detail: string }[]): Promise<void> {
    for (const { prediction_id, code, detail } of refusals) {
      await this.#step(prediction_id, { type: "refused", code, detail });
    }
  }

  async leasesHeld(keys: LeaseKey[]): Promise<boolean[]> {
    return keys.map((key) => this.#attempts.claims(key));
  }

  async inputOf(id: string): ReturnType<PredictionApi["inputOf"]> {
    const row = this.#store.get(id);
    if (row === null || isTerminal(row.stage.life.state)) return null;
    const { input_ref, is_redacted } = row.request;
    return { input: this.#store.inputs(id).input, input_ref, is_sealed: is_redacted };
  }

  countOnline(accountId: string, micros: number): Promise<void> {
    return this.#writes.run(() => this.#counts.online(accountId, micros));
  }

  async figures(): Promise<PredictionFigures> {
    return this.#counts.figures();
  }

  // ---- streams

  override async fetch(request: Request): Promise<Response> {
    const id = new URL(request.url).pathname.split("/")[2] ?? "";
    const row = this.#store.get(id);
    if (row === null) return new Response(null, { status: 404 });
    if (row.stage.removed_at !== null) return new Response(null, { status: 410 });
    if (this.#readers.count(id) >= READERS_PER_PREDICTION_MAX) return new Response(null, { status: 429 });
    const position = positionAfter(id, request.headers.get("last-event-id"), row.stage.next_seq);
    return new Response(this.#readers.open(id, position, request.signal), {
      headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store" },
    });
  }

  // ---- deadlines

  override async alarm(): Promise<void> {
    await this.#alarms.run(async (name) => {
      if (name === "check") await this.#check();
      else if (name === "due") await this.#deadlines.handle();
      else if (name === "webhooks") await this.#webhooks.wake();
      else await this.#sendAgain();
    });
  }

  async #check(): Promise<void> {
    const next = await this.#attempts.check();
    if (next !== null) this.#alarms.setNoLaterThan("check", next);
  }

  async #sendAgain(): Promise<void> {
    await this.#outbox.send(this.#store.outbox(OUTBOX_BATCH_MAX));
    await this.#writes.run(() => {
      this.#store.deleteFromOutbox(this.#outbox.takeSent());
      if (this.#store.outbox(1).length > 0) this.#alarms.setNoLaterThan("outbox", Date.now() + OUTBOX_RETRY_MS);
    });
  }

  #later(work: Promise<unknown>): void {
    this.ctx.waitUntil(
      work.catch((error: unknown) =>
        console.error(JSON.stringify({ event: "follow_up_failed", error: String(error) })),
      ),
    );
  }
}
