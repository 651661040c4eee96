/**
 * The webhooks of predictions in their object's SQLite: one row for each event that is told, with its attempts. Only loads and saves; every write is
 * called inside a group commit. The table is made by the first event, in folders of earlier releases too.
 */
import type { WebhookAttempt, WebhookEvent } from "../schema/webhooks.ts";
import { LazyTables } from "./lazy-tables.ts";
import { NEVER } from "./prediction-store.ts";

const TABLE = `
CREATE TABLE IF NOT EXISTS webhooks (
  prediction_id TEXT NOT NULL,
  n INTEGER NOT NULL,
  event TEXT NOT NULL,
  due_at INTEGER NOT NULL,
  record TEXT NOT NULL,
  body TEXT,
  PRIMARY KEY (prediction_id, n)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS webhooks_due ON webhooks (due_at);
`;

/** An event that is told, in its place: `n` rises, and each is first tried after those before it. */
export interface WebhookRow {
  prediction_id: string;
  n: number;
  event: WebhookEvent;
  /** next attempt; NEVER when there is none */
  due_at: number;
  record: WebhookRecord;
}

export interface WebhookRecord {
  /** `pending`: not tried yet, or to be tried again */
  state: "pending" | "delivered" | "failed";
  created_at: number;
  /** attempts of the schedule, without replays */
  tried: number;
  /** the newest ones */
  attempts: WebhookAttempt[];
  /** R2 key of a kept body that is too large for a row */
  body_ref: string | null;
}

type Columns = { prediction_id: string; n: number; event: WebhookEvent; due_at: number; record: string };

export class WebhookStore {
  readonly #sql: SqlStorage;
  readonly #tables: LazyTables;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLE, "webhooks");
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables.forget();
  }

  #rows(condition: string, ...values: (string | number)[]): WebhookRow[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<Columns>(`SELECT prediction_id, n, event, due_at, record FROM webhooks WHERE ${condition}`, ...values)
      .toArray()
      .map((row) => ({ ...row, record: JSON.parse(row.record) as WebhookRecord }));
  }

  add(id: string, event: WebhookEvent, due_at: number, created_at: number): void {
    this.#tables.create();
    const record: WebhookRecord = { state: "pending", created_at, tried: 0, attempts: [], body_ref: null };
    this.#sql.exec(
      `INSERT INTO webhooks (prediction_id, n, event, due_at, record)
       VALUES (?1, (SELECT coalesce(max(n), 0) + 1 FROM webhooks WHERE prediction_id = ?1), ?2, ?3, ?4)`,
      id,
      event,
      due_at,
      JSON.stringify(record),
    );
  }

  save({ prediction_id, n, due_at, record }: WebhookRow): void {
    this.#sql.exec(
      "UPDATE webhooks SET due_at = ?, record = ? WHERE prediction_id = ? AND n = ?",
      due_at,
      JSON.stringify(record),
      prediction_id,
      n,
    );
  }

  get(id: string, n: number): WebhookRow | null {
    return this.#rows("prediction_id = ? AND n = ?", id, n)[0] ?? null;
  }

  /** In order. */
  all(id: string): WebhookRow[] {
    return this.#rows("prediction_id = ? ORDER BY n", id);
  }

  /** Those that wait for an attempt, in order. */
  pending(id: string): WebhookRow[] {
    return this.#rows("prediction_id = ? AND due_at < ? ORDER BY n", id, NEVER);
  }

  newest(id: string, event: WebhookEvent): WebhookRow | null {
    return this.#rows("prediction_id = ? AND event = ? ORDER BY n DESC LIMIT 1", id, event)[0] ?? null;
  }

  /** Deletes what is over of `output` and `logs`, but the newest `kept` of all. */
  trim(id: string, kept: number): void {
    this.#sql.exec(
      `DELETE FROM webhooks WHERE prediction_id = ?1 AND event IN ('output', 'logs') AND due_at = ?2
       AND n <= (SELECT max(n) FROM webhooks WHERE prediction_id = ?1) - ?3`,
      id,
      NEVER,
      kept,
    );
  }

  body(id: string, n: number): string | null {
    const found = this.#sql.exec<{ body: string | null }>(
      "SELECT body FROM webhooks WHERE prediction_id = ? AND n = ?",
      id,
      n,
    );
    return found.toArray()[0]?.body ?? null;
  }

  setBody(id: string, n: number, body: string | null): void {
    this.#sql.exec("UPDATE webhooks SET body = ? WHERE prediction_id = ? AND n = ?", body, id, n);
  }

  remove(id: string, n: number): void {
    this.#sql.exec("DELETE FROM webhooks WHERE prediction_id = ? AND n = ?", id, n);
  }

  removeAll(id: string): void {
    if (this.#tables.exist()) this.#sql.exec("DELETE FROM webhooks WHERE prediction_id = ?", id);
  }

  /** Tells of each prediction that has an event whose attempt is due, until `tell` answers false. */
  eachDue(now: number, tell: (id: string) => boolean): void {
    if (!this.#tables.exist()) return;
    const rows = this.#sql.exec<{ id: string }>(
      "SELECT DISTINCT prediction_id AS id FROM webhooks WHERE due_at <= ?",
      now,
    );
    for (const { id } of rows) if (!tell(id)) return;
  }

  nextDueAt(): number | null {
    if (!this.#tables.exist()) return null;
    const { next } = this.#sql.exec<{ next: number | null }>("SELECT min(due_at) AS next FROM webhooks").one();
    return next === NEVER ? null : next;
  }
}
