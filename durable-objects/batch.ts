/**
 * Owns one batch: its inputs, which of them run, and their results. The Worker loads the inputs, then seals it; from there on it needs nobody: it keeps
 * up to `max_concurrency` of them going, hears of each end from the PredictionObject's outbox, starts the next, and writes the file of results.
 *
 * An input is run once, whatever is killed meanwhile: its prediction gets its id in a commit before it is created, and creating is idempotent by id.
 *
 * | what is lost                              | what finds it                                                              |
 * | ----------------------------------------- | -------------------------------------------------------------------------- |
 * | the create of a prediction, or its answer | the check: creates it again, or reads its end                              |
 * | the word of an end                        | the PredictionObject's outbox says it again; repeats are no-ops            |
 * | the file of results, half written         | the check: writes it again from the rows                                   |
 * | the Worker that loads the inputs          | a batch that is not sealed in time is dropped; the caller never had its id |
 */
import { DurableObject } from "cloudflare:workers";
import { BATCH_MAX_MS, type BatchDocument } from "../schema/batches.ts";
import { newPredictionId } from "../schema/ids.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { isTerminal } from "../schema/prediction-lifecycle.ts";
import { viewOf } from "../schema/render-prediction.ts";
import { seal, unseal } from "../schema/sealed.ts";
import { ownTrace, traceparent } from "../schema/tracing.ts";
import { Alarms } from "./alarms.ts";
import type { BatchApi, BatchInput, BatchSettlement, CreateBatch } from "./batch-contract.ts";
import { RESULT_ROW_BYTES_MAX, refusedLine, resultKey, resultLine, writeResults } from "./batch-results.ts";
import { BatchStore, type InputRow, type InputState } from "./batch-store.ts";
import { GroupCommit } from "./group-commit.ts";
import { accountStub, predictionStub } from "./stubs.ts";

/** Inputs are read within one request; a batch that is not sealed by then has lost its Worker. */
const LOAD_MAX_MS = 600_000;
/** What runs is looked after this often. */
const CHECK_MS = 20_000;
/** A running input that is this old and not heard of is asked about. */
const ASK_AFTER_MS = 60_000;
/** The account has booked an end that the batch has heard of: many times what its outbox lingers. */
const BOOKED_AFTER_MS = 1_000;
/** A cancel is answered by then, with what is left still running. */
const CANCEL_ANSWER_MS = 10_000;
/** Calls to predictions side by side. */
const CALLS_AT_ONCE = 20;
/** Keys that one R2 call deletes at most. */
const R2_DELETE_MAX = 1_000;

type Deadline = "load" | "check" | "finish" | "expire" | "end";

export class BatchObject extends DurableObject<Env> implements BatchApi {
  readonly #store = new BatchStore(this.ctx.storage.sql);
  readonly #alarms = new Alarms<Deadline>(this.ctx.storage);
  readonly #writes = new GroupCommit(this.ctx.storage, () => {
    this.#store.forget();
    this.#alarms.forget();
  });
  readonly #waiters = new Set<() => void>();

  // ---- loading

  create(request: CreateBatch): Promise<void> {
    return this.#writes.run(() => {
      if (this.#store.get() !== null) return;
      this.#store.create(request);
      this.#alarms.set("load", Date.now() + LOAD_MAX_MS);
    });
  }

  append(inputs: BatchInput[]): Promise<void> {
    return this.#writes.run(() => {
      if (this.#store.get()?.state !== "loading") throw new Error("this batch takes no more inputs");
      for (const { index, custom_id, input, shown_input, log_lines } of inputs) {
        this.#store.addInput({
          i: index,
          custom_id,
          // An input with secrets lies in no store in clear.
          input: shown_input === null ? JSON.stringify(input) : seal(this.env.SIGNING_SECRET, JSON.stringify(input)),
          shown_input: shown_input === null ? null : JSON.stringify(shown_input),
          log_lines: log_lines.length === 0 ? null : JSON.stringify(log_lines),
        });
      }
    });
  }

  async seal(): Promise<BatchDocument> {
    await this.#writes.run(() => {
      const row = this.#store.get();
      if (row === null) throw new Error("there is no batch to seal");
      if (row.state !== "loading") return;
      const now = Date.now();
      this.#store.change({ state: "processing", started_at: now });
      this.#alarms.clear("load");
      this.#alarms.set("check", now + CHECK_MS);
      this.#alarms.set("end", now + BATCH_MAX_MS);
    });
    this.#later(this.#startNext());
    return this.#document();
  }

  async drop(): Promise<void> {
    await this.#writes.run(() => {
      if (this.#store.get()?.state !== "loading") return;
      this.#store.drop();
      this.#alarms.clear("load");
    });
  }

  // ---- reads, cancel

  async get(accountId: string): Promise<BatchDocument | null> {
    const row = this.#store.get();
    return row === null || row.state === "loading" || row.request.account_id !== accountId ? null : this.#document();
  }

  #document(): BatchDocument {
    const row = this.#store.get();
    if (row === null) throw new Error("there is no batch here");
    const { id, account_id, spec, shown_version, max_concurrency, created_at } = row.request;
    return {
      id,
      account_id,
      model: spec.model,
      version: shown_version,
      state: row.state,
      max_concurrency,
      counts: this.#store.counts(),
      created_at,
      started_at: row.started_at,
      completed_at: row.completed_at,
      expires_at: row.expires_at,
      data_removed: row.removed_at !== null,
    };
  }

  async cancel(accountId: string): Promise<BatchDocument | null> {
    const known = await this.get(accountId);
    if (known === null || known.state === "succeeded" || known.state === "canceled") return known;
    await this.#cancelAll();
    await this.#untilOver(CANCEL_ANSWER_MS);
    return this.#document();
  }

  async predictions(accountId: string, from: number, limit: number): Promise<{ ids: string[]; next: number | null }> {
    if (this.#store.get()?.request.account_id !== accountId) return { ids: [], next: null };
    return this.#store.predictions(from, limit);
  }

  async erase(accountId: string): Promise<boolean> {
    const row = this.#store.get();
    if (row === null || row.request.account_id !== accountId) return true;
    if (row.state !== "succeeded" && row.state !== "canceled") return false;
    await this.#removeData();
    await this.#writes.run(() => this.#store.dropNames());
    return true;
  }

  async #cancelAll(): Promise<void> {
    const running = await this.#writes.run(() => {
      if (this.#store.get()?.state !== "processing") return [];
      this.#store.change({ state: "canceling" });
      this.#store.cancelPending();
      this.#alarms.set("check", Date.now() + CHECK_MS);
      this.#finishIfDone();
      return this.#store.inputs("running", Number.MAX_SAFE_INTEGER);
    });
    this.#later(this.#each(running, (input) => this.#cancelOne(input)));
  }

  async #cancelOne({ i, prediction_id }: InputRow): Promise<void> {
    const row = this.#store.get();
    if (row === null || prediction_id === null) return;
    const document = await predictionStub(this.env, prediction_id).cancel(prediction_id, row.request.account_id);
    if (document === null) await this.#writes.run(() => this.#ended(i, "canceled", null, null));
    else await this.settled([{ index: i, prediction_id, document }]);
  }

  #untilOver(timeoutMs: number): Promise<void> {
    const state = this.#store.get()?.state;
    if (state === "succeeded" || state === "canceled") return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiters.delete(done);
        resolve();
      };
      const timer = setTimeout(done, timeoutMs);
      this.#waiters.add(done);
    });
  }

  // ---- running

  /** Names the predictions of the next inputs in one commit, then creates them. */
  async #startNext(isLastTry = false): Promise<void> {
    const named = await this.#writes.run(() => {
      const row = this.#store.get();
      if (row?.state !== "processing") return [];
      const count = Math.max(0, row.request.max_concurrency - this.#store.running());
      const now = Date.now();
      return this.#store.inputs("pending", count).map((input) => {
        const prediction_id = newPredictionId(this.env.SIGNING_SECRET, Number(this.env.PREDICTION_POOL_SIZE));
        this.#store.start(input.i, prediction_id, now);
        return { ...input, prediction_id, started_at: now };
      });
    });
    await this.#each(await this.#allowed(named, isLastTry), (input) => this.#createOne(input));
  }

  /**
   * Those that may cost something: all that is reserved for them is reserved together. The others wait while inputs run whose end makes room, and a moment
   * longer, since the account books an end a little after the batch hears of it; then they fail. What dies in between is done again by the check.
   */
  async #allowed(named: InputRow[], isLastTry = false): Promise<InputRow[]> {
    const request = this.#store.get()?.request;
    if (named.length === 0 || request?.spend === undefined) return named;
    const { spend, account_id } = request;
    const { reserve_micros } = spend;
    const holds = named.map(({ prediction_id }) => ({ id: prediction_id ?? "", reserve_micros, spend }));
    const refusals = await accountStub(this.env, account_id).hold(holds);
    const refused = named.flatMap((input, n) => {
      const refusal = refusals[n] ?? null;
      return refusal === null ? [] : [{ ...input, refusal }];
    });
    if (refused.length === 0) return named;
    const runsNothing = await this.#writes.run(() => {
      const runsNone = this.#store.running() === refused.length;
      for (const { i, prediction_id, custom_id, refusal } of refused) {
        if (runsNone && isLastTry) this.#ended(i, "failed", refusedLine(i, custom_id, refusal), null);
        else this.#store.unstart(i, prediction_id ?? "");
      }
      return runsNone;
    });
    if (runsNothing)
      this.#later((isLastTry ? Promise.resolve() : this.#afterBooking()).then(() => this.#startNext(true)));
    return named.filter((_, n) => (refusals[n] ?? null) === null);
  }

  #afterBooking(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, BOOKED_AFTER_MS));
  }

  async #createOne(input: InputRow): Promise<void> {
    const row = this.#store.get();
    if (row === null || input.prediction_id === null || input.input === null) return;
    const { id, account_id, spec, shown_version, stream_kind, retention_ms, source, rates, spend, token_id } =
      row.request;
    const { document } = await predictionStub(this.env, input.prediction_id).create({
      id: input.prediction_id,
      account_id,
      kind: "prediction",
      spec,
      shown_version,
      destination: null,
      deployment: null,
      batch: { batch_id: id, index: input.i },
      is_listed: false,
      input: JSON.parse(unseal(this.env.SIGNING_SECRET, input.input)) as Record<string, unknown>,
      input_ref: null,
      shown_input: input.shown_input === null ? null : (JSON.parse(input.shown_input) as Record<string, unknown>),
      created_at: input.started_at ?? Date.now(),
      deadline_at: null,
      // Files of the first inputs must be there when the last one has ended.
      retention_ms: retention_ms === null ? null : retention_ms + BATCH_MAX_MS,
      source,
      webhook: null,
      webhook_events_filter: null,
      stream_kind,
      log_lines: input.log_lines === null ? [] : (JSON.parse(input.log_lines) as string[]),
      wait_ms: 0,
      ...(rates === undefined ? {} : { rates }),
      reserved_micros: spend?.reserve_micros ?? null,
      token_id: token_id ?? null,
      traceparent: traceparent(ownTrace(input.prediction_id, row.request.traceparent)),
    });
    if (isTerminal(document.state)) {
      await this.settled([{ index: input.i, prediction_id: document.id, document }]);
    }
  }

  async settled(settlements: BatchSettlement[]): Promise<void> {
    const row = this.#store.get();
    if (row === null) return;
    const view = viewOf(this.env);
    const ends = await Promise.all(
      settlements.map(async ({ index, prediction_id, document }) => {
        const known = this.#store.input(index);
        if (known?.state !== "running" || known.prediction_id !== prediction_id) return null;
        const line = resultLine(index, known.custom_id, document, view);
        if (line.length <= RESULT_ROW_BYTES_MAX) return { index, document, line, ref: null };
        const ref = resultKey(row.request.id, index);
        await this.env.FILES.put(ref, line);
        return { index, document, line: null, ref };
      }),
    );
    await this.#writes.run(() => {
      for (const end of ends) if (end !== null) this.#ended(end.index, stateOf(end.document), end.line, end.ref);
    });
    this.#later(this.#startNext());
  }

  #ended(index: number, state: InputState, line: string | null, ref: string | null): void {
    this.#store.end(index, state, line, ref);
    this.#finishIfDone();
  }

  #finishIfDone(): void {
    const state = this.#store.get()?.state;
    if (state !== "processing" && state !== "canceling") return;
    if (this.#store.isDone()) this.#alarms.setNoLaterThan("finish", Date.now());
  }

  // ---- deadlines

  override async alarm(): Promise<void> {
    await this.#alarms.run(async (name) => {
      if (name === "load") await this.drop();
      else if (name === "check") await this.#check();
      else if (name === "finish") await this.#finish();
      else if (name === "end") await this.#cancelAll();
      else await this.#removeData();
    });
  }

  /** Creates again what may not exist, asks about what is silent, and starts what may start. */
  async #check(): Promise<void> {
    const row = this.#store.get();
    if (row === null || (row.state !== "processing" && row.state !== "canceling")) return;
    const before = Date.now() - ASK_AFTER_MS;
    const old = this.#store
      .inputs("running", Number.MAX_SAFE_INTEGER)
      .filter((input) => (input.started_at ?? 0) <= before || row.state === "canceling");
    const look = row.state === "canceling" ? this.#cancelOne : this.#createOne;
    await this.#each(row.state === "canceling" ? old : await this.#allowed(old), (input) => look.call(this, input));
    await this.#startNext();
    await this.#writes.run(() => {
      this.#finishIfDone();
      this.#alarms.set("check", Date.now() + CHECK_MS);
    });
  }

  async #finish(): Promise<void> {
    const row = this.#store.get();
    if (row === null || (row.state !== "processing" && row.state !== "canceling")) return;
    await writeResults(this.env.FILES, row.request.id, this.#store, viewOf(this.env));
    await this.#writes.run(() => {
      const now = Date.now();
      const { retention_ms } = row.request;
      const expires_at = retention_ms === null ? null : now + retention_ms;
      const state = row.state === "canceling" ? "canceled" : "succeeded";
      this.#store.change({ state, completed_at: now, expires_at });
      this.#store.dropResults();
      this.#alarms.clear("check");
      this.#alarms.clear("end");
      if (expires_at !== null) this.#alarms.set("expire", expires_at);
    });
    for (const done of [...this.#waiters]) done();
    await this.#removeObjects(`batches/${row.request.id}/results/`);
  }

  async #removeData(): Promise<void> {
    const row = this.#store.get();
    if (row === null) return;
    await this.#removeObjects(`batches/${row.request.id}/`);
    await this.#writes.run(() => this.#store.change({ removed_at: Date.now() }));
  }

  async #removeObjects(prefix: string): Promise<void> {
    for (;;) {
      const { objects } = await this.env.FILES.list({ prefix, limit: R2_DELETE_MAX });
      if (objects.length === 0) return;
      await this.env.FILES.delete(objects.map((object) => object.key));
    }
  }

  /** Does `work` for all, a bounded number side by side. One that fails is found by the check. */
  async #each(inputs: InputRow[], work: (input: InputRow) => Promise<void>): Promise<void> {
    const waiting = [...inputs];
    const next = async (): Promise<void> => {
      for (let input = waiting.shift(); input !== undefined; input = waiting.shift()) {
        await work(input).catch((error: unknown) => report("batch_input_failed", error));
      }
    };
    await Promise.all(Array.from({ length: CALLS_AT_ONCE }, next));
  }

  #later(work: Promise<unknown>): void {
    this.ctx.waitUntil(work.catch((error: unknown) => report("batch_follow_up_failed", error)));
  }
}

function stateOf(document: PredictionDocument): InputState {
  if (document.state === "succeeded") return "succeeded";
  return document.state === "failed" ? "failed" : "canceled";
}

function report(event: string, error: unknown): void {
  console.error(JSON.stringify({ event, error: String(error) }));
}
