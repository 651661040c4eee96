/**
 * How long an ended prediction's data is kept, and its removal: first the data, and a day later its row. Neither before its outbox is empty, since what is
 * undelivered is still needed; bodies of undelivered webhooks are kept apart.
 *
 * With retention 0 data goes once the end was delivered: to a create that waited, a cancel, a read, a whole stream, or the receiver of its webhook. Where
 * none of that happens, or readers are left behind, it goes after the default retention.
 */
import { parseDuration } from "../schema/durations.ts";
import { isTerminal, withoutError } from "../schema/prediction-lifecycle.ts";
import { boundedMetrics } from "../schema/prediction-log.ts";
import { loadDocument, removeObjects } from "./prediction-document.ts";
import type { OutboxRow, PredictionRow, PredictionStore } from "./prediction-store.ts";
import type { PredictionWebhooks } from "./prediction-webhooks.ts";

/** With retention 0: what was delivered names files that are fetched afterwards, for so long. */
const FILES_AFTER_DELIVERY_MS = 60_000;
/** Rows stay this long after their data went; then only the account's list knows of them. */
const ROW_AFTER_REMOVAL_MS = 86_400_000;
/** A prediction whose outbox is not empty is looked at again after this. */
const OUTBOX_AGAIN_MS = 60_000;
/** So is one whose webhook is still being tried, for up to 72 h. */
const WEBHOOK_AGAIN_MS = 3_600_000;

export interface RetentionHost {
  env: Env;
  store: PredictionStore;
  webhooks: PredictionWebhooks;
  /** Runs `write` in the next commit. */
  commit<T>(write: () => T): Promise<T>;
  /** A due time was stored: the object shall look at it then. Joins the current commit. */
  dueAt(time: number): void;
  readers(id: string): number;
  /** Inside a commit: the row tells the account that the data is gone. */
  owe(row: PredictionRow): OutboxRow;
  send(outbox: OutboxRow): void;
  /** Sends what the outbox holds. */
  sendAgain(): Promise<void>;
  later(work: Promise<unknown>): void;
}

export class PredictionRetention {
  readonly #host: RetentionHost;
  /** with retention 0: their end was delivered, and other readers are not through yet */
  readonly #delivered = new Set<string>();

  constructor(host: RetentionHost) {
    this.#host = host;
  }

  /** When the data goes of one that ended now; null for never. */
  expiresAt({ request }: PredictionRow, completedAt: number): number | null {
    const { retention_ms } = request;
    const keptMs = retention_ms === 0 ? (parseDuration(this.#host.env.RETENTION) ?? 0) : retention_ms;
    return keptMs === null ? null : completedAt + keptMs;
  }

  /** Somebody got what there is of a prediction: with retention 0 that is enough, once it ended. */
  delivered(id: string): void {
    const { store, commit, dueAt, later } = this.#host;
    const row = store.get(id);
    if (row === null || row.request.retention_ms !== 0 || row.stage.removed_at !== null) return;
    if (!isTerminal(row.stage.life.state)) return;
    if (this.#host.readers(id) > 0) {
      this.#delivered.add(id);
      return;
    }
    this.#delivered.delete(id);
    const at = Date.now() + (row.stage.has_objects ? FILES_AFTER_DELIVERY_MS : 0);
    if (row.stage.expires_at !== null && row.stage.expires_at <= at) return;
    later(
      commit(() => {
        const stage = store.get(id)?.stage;
        if (stage === undefined || stage.removed_at !== null) return;
        store.save(id, { ...stage, expires_at: at }, at);
        dueAt(at);
      }),
    );
  }

  /** A reader of its stream is gone. `tookAll`: it got the whole stream. */
  readerLeft(id: string, tookAll: boolean): void {
    if (tookAll || this.#delivered.has(id)) this.delivered(id);
  }

  /** Its account goes: the data goes now, and nothing of it waits for a webhook. What the account is owed is sent first. */
  async erase(row: PredictionRow): Promise<void> {
    if (row.stage.removed_at !== null) return this.#forgetError(row.id);
    if (this.#host.store.hasOutbox(row.id) && (await this.#postpone(row.id))) return;
    await this.#removeData({ ...row, request: { ...row.request, keeps_nothing: true } });
  }

  /** Its time has come: the data goes, or what is left of it. */
  async remove(row: PredictionRow): Promise<void> {
    if (this.#host.store.hasOutbox(row.id) && (await this.#postpone(row.id))) return;
    if (row.stage.removed_at === null) await this.#removeData(row);
    else await this.#removeRow(row.id);
  }

  /** Sends the outbox first. False when it is empty then. */
  async #postpone(id: string): Promise<boolean> {
    const { store, commit, sendAgain } = this.#host;
    await sendAgain();
    return commit(() => {
      const row = store.get(id);
      if (row === null || !store.hasOutbox(id)) return false;
      store.save(id, row.stage, Date.now() + OUTBOX_AGAIN_MS);
      return true;
    });
  }

  async #removeData(row: PredictionRow): Promise<void> {
    const { env, store, commit, webhooks } = this.#host;
    const { id, request, stage } = row;
    const document = await loadDocument(env, store, id);
    if (document === null) return;
    if (request.webhook !== null)
      await (request.keeps_nothing === true ? webhooks.giveUp(id) : webhooks.keepBodies(id));
    if (stage.has_objects) await removeObjects(env, id);
    const outbox = await commit(() => {
      const now = Date.now();
      store.dropData(id);
      const last_metrics = boundedMetrics(document.metrics);
      const life = request.keeps_nothing === true ? withoutError(stage.life) : stage.life;
      store.save(id, { ...stage, life, has_objects: false, removed_at: now, last_metrics }, now + ROW_AFTER_REMOVAL_MS);
      return this.#host.owe(row);
    });
    this.#host.send(outbox);
  }

  /** The data went before its account did, and what went wrong was kept. */
  #forgetError(id: string): Promise<void> {
    const { store, commit } = this.#host;
    return commit(() => {
      const stage = store.get(id)?.stage;
      if (stage !== undefined) store.save(id, { ...stage, life: withoutError(stage.life) });
    });
  }

  async #removeRow(id: string): Promise<void> {
    const { env, store, commit, webhooks } = this.#host;
    const refs = await commit(() => {
      const row = store.get(id);
      const hasWebhook = row !== null && row.request.webhook !== null;
      if (hasWebhook && webhooks.isWaiting(id)) {
        store.save(id, row.stage, Date.now() + WEBHOOK_AGAIN_MS);
        return [];
      }
      store.delete(id);
      return hasWebhook ? webhooks.removeAll(id) : [];
    });
    if (refs.length > 0) await env.FILES.delete(refs);
  }
}
