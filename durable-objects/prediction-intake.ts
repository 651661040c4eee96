/**
 * Takes new predictions in: their first row, stored in one commit, and the start of their first attempt. The slot for it is asked for meanwhile, so that a
 * warm create waits for the slower of the two and not for both.
 */
import { newProgress } from "../schema/attempt-events.ts";
import { newLife } from "../schema/prediction-lifecycle.ts";
import type { StoredEvent } from "../schema/prediction-log.ts";
import type { PredictionAttempts } from "./prediction-attempts.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import type { PredictionCounts } from "./prediction-counts.ts";
import { endsBy } from "./prediction-deadlines.ts";
import { appendLog } from "./prediction-log-writer.ts";
import { LOG_ROW_BYTES_MAX, type PredictionStore, type Stage } from "./prediction-store.ts";

/** A live prediction is looked after at least this often. */
const CHECK_MS = 20_000;

export interface IntakeHost {
  env: Env;
  store: PredictionStore;
  counts: PredictionCounts;
  attempts: PredictionAttempts;
  /** Runs `write` in the next commit. */
  commit(write: () => void): Promise<void>;
  /** The object shall look after its attempts by then. Joins the current commit. */
  checkAt(time: number): void;
  /** A due time was stored: the object shall look at it then. Joins the current commit. */
  dueAt(time: number): void;
  later(work: Promise<unknown>): void;
}

export class PredictionIntake {
  readonly #host: IntakeHost;
  /** predictions whose first commit is on its way */
  readonly #storing = new Map<string, Promise<void>>();

  constructor(host: IntakeHost) {
    this.#host = host;
  }

  /** Resolves once it is stored, by this call or by one that came before. */
  async take(request: CreatePrediction): Promise<void> {
    const { id } = request;
    if (this.#host.store.get(id) !== null) return;
    const storing = this.#storing.get(id) ?? this.#createNew(request).finally(() => this.#storing.delete(id));
    this.#storing.set(id, storing);
    await storing;
  }

  async #createNew(asked: CreatePrediction): Promise<void> {
    const { attempts, commit, later } = this.#host;
    const { id } = asked;
    const lane = attempts.newLane(id, asked.spec.deployment_key);
    const request = lane === 0 ? asked : { ...asked, lane };
    const shownInputRef = await this.#spillShownInput(request);
    // The slot is asked for beside the commit; the attempt starts only after it.
    const slot = attempts.ask(id, request);
    slot.catch(() => undefined);
    try {
      await commit(() => this.#insert(request, shownInputRef));
    } catch (error) {
      attempts.forget(id);
      throw error;
    }
    later(attempts.dispatch(id, slot));
  }

  #insert(request: CreatePrediction, shown_input_ref: string | null): void {
    const { store, counts, checkAt, dueAt } = this.#host;
    const { input, shown_input, wait_ms: _, log_lines, ...kept } = request;
    const now = Date.now();
    const progress = newProgress(newLife(request.created_at, request.spec.idempotent));
    const stage: Stage = {
      ...progress,
      log_entries: 0,
      log_bytes: 0,
      has_objects: request.input_ref !== null || shown_input_ref !== null,
      expires_at: null,
      removed_at: null,
      origin_id: null,
      last_metrics: null,
    };
    const due = endsBy(request);
    const shown = shown_input === null || shown_input_ref !== null ? null : JSON.stringify(shown_input);
    counts.add("created");
    store.insert(
      { id: request.id, request: { ...kept, shown_input_ref, is_redacted: shown_input !== null }, stage },
      input === null ? null : JSON.stringify(input),
      shown,
      due,
    );
    if (log_lines.length > 0) {
      const stored = log_lines.map((line): StoredEvent => ({ type: "log", data: `${line}\n` }));
      const next = { ...stage, next_seq: stored.length };
      store.save(request.id, appendLog(store, request.id, stored, 0, next, new Map()));
    }
    checkAt(now + CHECK_MS);
    dueAt(due);
  }

  async #spillShownInput({ id, shown_input }: CreatePrediction): Promise<string | null> {
    if (shown_input === null) return null;
    const text = JSON.stringify(shown_input);
    if (text.length <= LOG_ROW_BYTES_MAX) return null;
    const key = `predictions/${id}/shown-input`;
    await this.#host.env.FILES.put(key, text);
    return key;
  }
}
