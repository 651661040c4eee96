/**
 * The one due time that each prediction has, and what is done when it comes: a live one has reached its deadline or what it may cost, and the data or the row
 * of an ended one goes. All of it rests on stored rows; the object's `due` deadline rings.
 */
import { isTerminal, type LifecycleEvent } from "../schema/prediction-lifecycle.ts";
import type { PredictionAttempts } from "./prediction-attempts.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import type { PredictionRetention } from "./prediction-retention.ts";
import type { PredictionSpending } from "./prediction-spending.ts";
import { NEVER, type PredictionRow, type PredictionStore } from "./prediction-store.ts";

/** Deadlines handled by one alarm; the rest follow in the next. */
const DUE_BATCH_MAX = 200;
/** A running prediction's cost is looked at no more often than this. */
const COST_CHECK_MIN_MS = 250;
/** Where the account could not be asked for more, it is asked again after this. */
const COST_RETRY_MS = 5_000;
/** How long a prediction may last (design section 9). */
const PREDICTION_MAX_MS = 86_400_000;

/** By then it ends, whatever it does. */
export function endsBy({ deadline_at, created_at }: Pick<CreatePrediction, "deadline_at" | "created_at">): number {
  return Math.min(deadline_at ?? NEVER, created_at + PREDICTION_MAX_MS);
}

export interface DeadlinesHost {
  store: PredictionStore;
  attempts: PredictionAttempts;
  spending: PredictionSpending;
  retention: PredictionRetention;
  step(id: string, event: LifecycleEvent): Promise<void>;
  /** Runs `write` in the next commit. */
  commit(write: () => void): Promise<void>;
  /** A due time was stored: the object shall look at it then. Joins the current commit. */
  dueAt(time: number): void;
}

export class PredictionDeadlines {
  readonly #host: DeadlinesHost;

  constructor(host: DeadlinesHost) {
    this.#host = host;
  }

  /** Inside a commit: saves a live prediction whose cost is looked at by then. */
  set({ id, request, stage }: PredictionRow, dueAt: number): void {
    const due = Math.min(dueAt, endsBy(request));
    this.#host.store.save(id, stage, due);
    this.#host.dueAt(due);
  }

  /** Does what is due by now. */
  async handle(): Promise<void> {
    const { store, retention, dueAt } = this.#host;
    const now = Date.now();
    for (const id of store.due(now, DUE_BATCH_MAX)) {
      const row = store.get(id);
      if (row === null) continue;
      if (!isTerminal(row.stage.life.state))
        await (endsBy(row.request) <= now ? this.#deadlinePassed(row) : this.#costReached(id));
      else await retention.remove(row);
    }
    const next = store.nextDueAt();
    if (next !== null) dueAt(Math.max(next, now + 1));
  }

  async #deadlinePassed({ id }: PredictionRow): Promise<void> {
    const { store, attempts, step, commit } = this.#host;
    if (attempts.isLeased(id)) await step(id, { type: "leased" });
    await step(id, { type: "deadline" });
    await commit(() => {
      const row = store.get(id);
      if (row !== null && !isTerminal(row.stage.life.state)) store.save(id, row.stage, NEVER);
    });
  }

  async #costReached(id: string): Promise<void> {
    const { store, spending, commit } = this.#host;
    const isAsked = await spending.reached(id).then(
      () => true,
      (error: unknown) => {
        console.warn(JSON.stringify({ event: "cost_check_failed", prediction_id: id, error: String(error) }));
        return false;
      },
    );
    await commit(() => {
      const row = store.get(id);
      if (row === null || isTerminal(row.stage.life.state)) return;
      const now = Date.now();
      const dueAt = isAsked ? (spending.dueAt(row, now) ?? NEVER) : now + COST_RETRY_MS;
      this.set(row, Math.max(dueAt, now + COST_CHECK_MIN_MS));
    });
  }
}
