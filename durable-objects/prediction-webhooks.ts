/**
 * Tells receivers how predictions go on. An event is recorded in the transaction of its cause and sent after the commit; one call at a time for each
 * prediction, in the order of the events, so that nothing but retries of `completed` follows it.
 *
 * | event            | is tried                                       | its body is the prediction                                       |
 * | ---------------- | ---------------------------------------------- | ---------------------------------------------------------------- |
 * | start            | once                                           | as it is when it is sent, before its end                         |
 * | output, logs     | once, 500 ms after the last one was answered   | the same: what came meanwhile is told together                   |
 * | completed        | until it was taken, by the schedule, for 72 h  | as it ended. Kept beside the event where the data goes before it |
 *
 * After an eviction the alarm finds what is due: a call whose answer was lost is made again, with the same id.
 */

import { isTerminal } from "../schema/prediction-lifecycle.ts";
import type { StoredEvent } from "../schema/prediction-log.ts";
import { renderPrediction, viewOf } from "../schema/render-prediction.ts";
import { parseTraceparent, predictionContext, traceparent } from "../schema/tracing.ts";
import {
  isWanted,
  nextAttemptAt,
  signedHeaders,
  WEBHOOK_GIVE_UP_MS,
  WEBHOOK_THROTTLE_MS,
  type WebhookEvent,
  webhookBody,
} from "../schema/webhooks.ts";
import type { ReplayResult, WebhookLogEntry } from "./prediction-contract.ts";
import { loadDocument, loadRunningDocument } from "./prediction-document.ts";
import { LOG_ROW_BYTES_MAX, NEVER, type PredictionRow, type PredictionStore } from "./prediction-store.ts";
import { accountStub } from "./stubs.ts";
import { type CallResult, callWebhook } from "./webhook-call.ts";
import { WebhookLanes } from "./webhook-lanes.ts";
import { type WebhookRow, WebhookStore } from "./webhook-store.ts";

/** An event that is due and was not answered is looked for again after this: longer than a call and its wait for a place. */
const LOOK_AGAIN_MS = 30_000;
/** After a fault of our own, such as keys that cannot be read. */
const FAULT_RETRY_MS = 5_000;
/** A rotated key is used by then. */
const KEYS_TTL_MS = 5_000;
const KEYS_ACCOUNTS_MAX = 1_000;
/** Predictions whose events wait in memory for their turn; more wait in their rows, for a later alarm. */
const SENDING_MAX = 20_000;
/** Events of a prediction and attempts of an event that its log keeps. */
const EVENTS_KEPT = 100;
const ATTEMPTS_KEPT = 25;
/** Replays of a prediction's events in this time. */
const REPLAYS_MAX = 10;
const REPLAYS_WINDOW_MS = 60_000;

export interface WebhooksHost {
  env: Env;
  predictions: PredictionStore;
  /** Runs `write` in the next commit. */
  commit<T>(write: () => T): Promise<T>;
  /** The object shall call `wake` at this time. Joins the current commit. */
  wakeAt(dueAt: number): void;
  later(work: Promise<unknown>): void;
  /** Inside a commit: a call was made. */
  count(isTaken: boolean): void;
  /** `completed` was taken by its receiver. */
  completedTaken(id: string): void;
}

export class PredictionWebhooks {
  readonly #host: WebhooksHost;
  readonly #store: WebhookStore;
  readonly #lanes = new WebhookLanes();
  /** predictions whose events are being sent */
  readonly #sending = new Map<string, Promise<void>>();
  /** events whose body was made: what comes now is told by the next one */
  readonly #taken = new Set<string>();
  readonly #keys = new Map<string, { read_at: number; keys: string[] }>();

  constructor(host: WebhooksHost, sql: SqlStorage) {
    this.#host = host;
    this.#store = new WebhookStore(sql);
  }

  forget(): void {
    this.#store.forget();
  }

  // ---- inside a commit

  /** Records what is to be told of log entries that are stored now. */
  record({ id, request, stage }: PredictionRow, stored: readonly StoredEvent[], now: number): void {
    const filter = request.webhook_events_filter;
    const isEnd = isTerminal(stage.life.state);
    const happened: [WebhookEvent, boolean][] = [
      ["start", stored.some(({ type }) => type === "started")],
      ["output", stored.some((entry) => entry.type === "output" && entry.silent !== true)],
      ["logs", stored.some(({ type }) => type === "log")],
      ["completed", isEnd],
    ];
    for (const [event, has] of happened) {
      if (!has || !isWanted(event, filter)) continue;
      const last = this.#store.newest(id, event);
      if (event === "start" && last !== null) continue;
      const isThrottled = event === "output" || event === "logs";
      // One that waits tells this too.
      if (isThrottled && last !== null && last.due_at !== NEVER && !this.#taken.has(keyOf(last))) continue;
      const due_at = isThrottled ? Math.max(now, this.#freeAt(last, now)) : now;
      this.#store.add(id, event, due_at, now);
      this.#host.wakeAt(due_at > now ? due_at : now + LOOK_AGAIN_MS);
    }
    if (isEnd && isWanted("completed", filter)) this.#dropSuperseded(id, now);
  }

  /** When the next event of a throttled kind may be sent. */
  #freeAt(last: WebhookRow | null, now: number): number {
    if (last === null) return 0;
    const attempt = last.record.attempts.at(-1);
    if (attempt === undefined) return this.#taken.has(keyOf(last)) ? now + WEBHOOK_THROTTLE_MS : 0;
    return attempt.at + attempt.duration_ms + WEBHOOK_THROTTLE_MS;
  }

  /** What would have to wait is told by `completed`. */
  #dropSuperseded(id: string, now: number): void {
    for (const row of this.#store.pending(id)) {
      if (row.event !== "completed" && row.due_at > now && !this.#taken.has(keyOf(row))) {
        this.#store.remove(id, row.n);
      }
    }
  }

  /** The prediction's row goes. Answers keys of R2 objects to delete. */
  removeAll(id: string): string[] {
    const refs = this.#store.all(id).flatMap(({ record }) => (record.body_ref === null ? [] : [record.body_ref]));
    this.#store.removeAll(id);
    return refs;
  }

  // ---- sending

  /** Sends what is due of a prediction, unless that is being done. */
  send(id: string): void {
    if (this.#sending.has(id)) return;
    void this.#start(id, () => this.#sendAll(id));
  }

  #start(id: string, work: () => Promise<void>): Promise<void> {
    const running = work()
      .catch((error: unknown) => {
        console.error(JSON.stringify({ event: "webhook_fault", prediction_id: id, error: String(error) }));
        return this.#host.commit(() => this.#postpone(id));
      })
      .finally(() => {
        this.#sending.delete(id);
        // What was recorded after the last look and before this.
        const next = this.#store.pending(id)[0];
        if (next !== undefined && next.due_at <= Date.now()) this.send(id);
      });
    this.#sending.set(id, running);
    this.#host.later(running);
    return running;
  }

  async #sendAll(id: string): Promise<void> {
    for (;;) {
      const row = this.#store.pending(id)[0];
      if (row === undefined || row.due_at > Date.now()) return;
      if (!(await this.#isThrottled(row))) await this.#attempt(row, false);
    }
  }

  /** Puts an event off whose kind was answered a moment ago, or drops it where `completed` tells the same. */
  async #isThrottled(row: WebhookRow): Promise<boolean> {
    if (row.event !== "output" && row.event !== "logs") return false;
    const { prediction_id: id } = row;
    const before = this.#store.all(id).findLast(({ event, n }) => event === row.event && n < row.n) ?? null;
    const due_at = this.#freeAt(before, Date.now());
    if (due_at <= Date.now()) return false;
    await this.#host.commit(() => {
      if (this.#store.pending(id).some(({ event }) => event === "completed")) this.#store.remove(id, row.n);
      else {
        this.#store.save({ ...row, due_at });
        this.#host.wakeAt(due_at);
      }
    });
    return true;
  }

  /** After a fault of our own nothing counts as tried. */
  #postpone(id: string): void {
    const due_at = Date.now() + FAULT_RETRY_MS;
    const row = this.#store.pending(id)[0];
    if (row !== undefined) this.#store.save({ ...row, due_at });
    this.#host.wakeAt(due_at);
  }

  /** One call, and its outcome stored. */
  async #attempt(row: WebhookRow, isReplay: boolean): Promise<void> {
    const { prediction_id: id, n } = row;
    const request = this.#host.predictions.get(id)?.request;
    const url = request?.webhook ?? null;
    if (request === undefined || url === null) {
      await this.#host.commit(() => this.#store.removeAll(id));
      return;
    }
    await this.#lanes.run(url, async () => {
      const keys = await this.#keysOf(request.account_id);
      // Its data may have gone meanwhile, and with it what it had to tell.
      if (this.#store.get(id, n) === null) return true;
      this.#taken.add(keyOf(row));
      try {
        const body = await this.#bodyOf(row, isReplay);
        const message = { id: webhookId(row), event: row.event, body };
        const trace = parseTraceparent(request.traceparent);
        const traced: Record<string, string> =
          trace === null ? {} : { traceparent: traceparent(predictionContext(trace, id)) };
        const result = await callWebhook(url, { ...signedHeaders(keys, message, Date.now()), ...traced }, body);
        await this.#settle(row, result, isReplay);
        return result.status !== null;
      } finally {
        this.#taken.delete(keyOf(row));
      }
    });
    if (this.#store.get(id, n)?.record.state === "delivered" && row.event === "completed")
      this.#host.completedTaken(id);
  }

  async #settle({ prediction_id: id, n, event }: WebhookRow, result: CallResult, is_replay: boolean): Promise<void> {
    const { at, duration_ms, status, error, retry_after_ms } = result;
    const ref = await this.#host.commit(() => {
      const row = this.#store.get(id, n);
      if (row === null) return null;
      const { record } = row;
      const attempts = [...record.attempts, { at, duration_ms, status, error, is_replay }].slice(-ATTEMPTS_KEPT);
      const tried = record.tried + (is_replay ? 0 : 1);
      const isRetried = event === "completed" && record.state === "pending" && error !== null;
      let due_at = NEVER;
      if (isRetried && is_replay) due_at = row.due_at;
      else if (isRetried) {
        const failure = { now: Date.now(), error, retryAfterMs: retry_after_ms };
        due_at = nextAttemptAt({ created_at: record.created_at, tried }, failure, Math.random()) ?? NEVER;
      }
      const wasTaken = error === null || record.state === "delivered";
      const state = wasTaken ? "delivered" : due_at === NEVER ? "failed" : "pending";
      const isOver = state !== "pending";
      if (isOver) this.#store.setBody(id, n, null);
      const body_ref = isOver ? null : record.body_ref;
      this.#store.save({ ...row, due_at, record: { ...record, state, tried, attempts, body_ref } });
      this.#host.count(error === null);
      this.#store.trim(id, EVENTS_KEPT);
      if (due_at !== NEVER) this.#host.wakeAt(due_at);
      return isOver ? record.body_ref : null;
    });
    if (ref !== null) await this.#host.env.FILES.delete(ref);
  }

  async #bodyOf(row: WebhookRow, isReplay: boolean): Promise<string> {
    const { env, predictions } = this.#host;
    const { prediction_id: id, n } = row;
    const { body_ref } = this.#store.get(id, n)?.record ?? row.record;
    const kept = body_ref === null ? this.#store.body(id, n) : await env.FILES.get(body_ref).then((o) => o?.text());
    if (kept != null) return kept;
    const isWhole = row.event === "completed" || isReplay;
    const document = await (isWhole ? loadDocument : loadRunningDocument)(env, predictions, id);
    if (document === null) throw new Error("a prediction is gone before its webhook was sent");
    return webhookBody(renderPrediction(document, viewOf(env)));
  }

  async #keysOf(accountId: string): Promise<string[]> {
    const known = this.#keys.get(accountId);
    const now = Date.now();
    if (known !== undefined && now - known.read_at < KEYS_TTL_MS) return known.keys;
    const { keys } = await accountStub(this.#host.env, accountId).webhookKeys();
    this.#keys.delete(accountId);
    if (this.#keys.size >= KEYS_ACCOUNTS_MAX) this.#keys.delete(this.#keys.keys().next().value ?? "");
    this.#keys.set(accountId, { read_at: now, keys });
    return keys;
  }

  // ---- deadlines

  /** The alarm: sends all that is due, and asks to be woken for the rest. Nothing is waited for. */
  async wake(): Promise<void> {
    const now = Date.now();
    this.#store.eachDue(now, (id) => {
      if (this.#sending.size >= SENDING_MAX) return false;
      this.send(id);
      return true;
    });
    const next = this.#store.nextDueAt();
    if (next !== null) await this.#host.commit(() => this.#host.wakeAt(next > now ? next : now + LOOK_AGAIN_MS));
  }

  /** Whether an event of it still waits, within the time that it is tried. */
  isWaiting(id: string): boolean {
    const oldest = Date.now() - WEBHOOK_GIVE_UP_MS - LOOK_AGAIN_MS;
    return this.#store.pending(id).some(({ record }) => record.created_at > oldest);
  }

  /** The data goes, and nothing may outlive it: `completed` then tells the prediction without it, other events have nothing left to tell. */
  async giveUp(id: string): Promise<void> {
    for (const row of this.#store.pending(id)) {
      if (row.event !== "completed") await this.#host.commit(() => this.#store.remove(id, row.n));
    }
  }

  /** The data goes: bodies of what is still to be delivered are kept, and other events have nothing left to tell. */
  async keepBodies(id: string): Promise<void> {
    const { env, commit } = this.#host;
    for (const row of this.#store.pending(id)) {
      if (row.event !== "completed") {
        await commit(() => this.#store.remove(id, row.n));
        continue;
      }
      const body = await this.#bodyOf(row, false);
      const isLarge = new TextEncoder().encode(body).byteLength > LOG_ROW_BYTES_MAX;
      const body_ref = isLarge ? `webhooks/${id}/${row.n}` : null;
      if (body_ref !== null) await env.FILES.put(body_ref, body, { httpMetadata: { contentType: "application/json" } });
      const isKept = await commit(() => {
        const now = this.#store.get(id, row.n);
        if (now === null || now.record.state !== "pending") return false;
        if (body_ref === null) this.#store.setBody(id, row.n, body);
        else this.#store.save({ ...now, record: { ...now.record, body_ref } });
        return true;
      });
      if (!isKept && body_ref !== null) await env.FILES.delete(body_ref);
    }
  }

  // ---- the log and replays

  log(id: string): WebhookLogEntry[] {
    return this.#store.all(id).map(logEntry);
  }

  /** Sends an event again, now: `which` is its id, or the name of a kind for the newest of it. */
  async replay(id: string, which: string): Promise<ReplayResult> {
    const rows = this.#store.all(id);
    const row = rows.findLast((each) => webhookId(each) === which || each.event === which);
    if (row === undefined) return { kind: "unknown" };
    const since = Date.now() - REPLAYS_WINDOW_MS;
    const replays = rows
      .flatMap(({ record }) => record.attempts)
      .filter(({ at, is_replay }) => is_replay && at > since);
    const oldest = replays.at(-REPLAYS_MAX);
    if (oldest !== undefined) return { kind: "limited", retry_after_ms: oldest.at - since };
    for (let running = this.#sending.get(id); running !== undefined; running = this.#sending.get(id)) await running;
    await this.#start(id, () => this.#attempt(row, true));
    const after = this.#store.get(id, row.n);
    return after === null ? { kind: "unknown" } : { kind: "sent", event: logEntry(after) };
  }
}

function keyOf({ prediction_id, n }: WebhookRow): string {
  return `${prediction_id}/${n}`;
}

/** The same on every retry and replay: receivers tell repeats by it. */
function webhookId({ prediction_id, n }: WebhookRow): string {
  return `msg_${prediction_id}_${n}`;
}

function logEntry(row: WebhookRow): WebhookLogEntry {
  const { state, created_at, tried, attempts } = row.record;
  return {
    id: webhookId(row),
    event: row.event,
    state,
    created_at,
    tried,
    attempts,
    next_attempt_at: row.due_at === NEVER ? null : row.due_at,
  };
}
