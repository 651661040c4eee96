/** The SQLite of one batch: itself, its inputs, and the results of those that ended. Only loads and saves, inside a group commit. */
import type { BatchCounts, BatchState } from "../schema/batches.ts";
import type { CreateBatch } from "./batch-contract.ts";
import { LazyTables } from "./lazy-tables.ts";

/** Rows of one page of results. */
const RESULTS_PAGE_ROWS = 200;

const TABLES = `
CREATE TABLE IF NOT EXISTS batch (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  request TEXT NOT NULL,
  state TEXT NOT NULL,
  started_at INTEGER,
  completed_at INTEGER,
  expires_at INTEGER,
  removed_at INTEGER
);
CREATE TABLE IF NOT EXISTS inputs (
  i INTEGER PRIMARY KEY,
  custom_id TEXT,
  input TEXT,
  shown_input TEXT,
  log_lines TEXT,
  state TEXT NOT NULL,
  prediction_id TEXT,
  started_at INTEGER,
  result TEXT,
  result_ref TEXT
);
CREATE INDEX IF NOT EXISTS inputs_by_state ON inputs (state, i);
`;

export interface BatchRow {
  request: CreateBatch;
  state: BatchState;
  started_at: number | null;
  completed_at: number | null;
  expires_at: number | null;
  removed_at: number | null;
}

/** States of one input. `running`: its prediction was named, and may exist. */
export type InputState = "pending" | "running" | "succeeded" | "failed" | "canceled";

export interface InputRow {
  i: number;
  custom_id: string | null;
  /** JSON; sealed (schema/sealed.ts) where it holds secrets */
  input: string | null;
  shown_input: string | null;
  log_lines: string | null;
  state: InputState;
  prediction_id: string | null;
  started_at: number | null;
}

export interface ResultRow {
  i: number;
  /** one line of JSON, or where it is in R2 */
  result: string | null;
  result_ref: string | null;
}

export class BatchStore {
  readonly #sql: SqlStorage;
  readonly #tables: LazyTables;
  #row: BatchRow | null = null;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLES, "inputs");
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables.forget();
    this.#row = null;
  }

  /** Null when there is no batch here. */
  get(): BatchRow | null {
    if (this.#row !== null) return this.#row;
    if (!this.#tables.exist()) return null;
    const row = this.#sql.exec<Omit<BatchRow, "request"> & { request: string }>("SELECT * FROM batch").toArray()[0];
    if (row === undefined) return null;
    this.#row = { ...row, request: JSON.parse(row.request) as CreateBatch };
    return this.#row;
  }

  create(request: CreateBatch): void {
    this.#tables.create();
    this.#sql.exec("INSERT INTO batch (one, request, state) VALUES (1, ?, 'loading')", JSON.stringify(request));
  }

  change(change: Partial<Omit<BatchRow, "request">>): void {
    this.#row = null;
    for (const [column, value] of Object.entries(change)) this.#sql.exec(`UPDATE batch SET ${column} = ?`, value);
  }

  /** Idempotent by index. */
  addInput(row: Pick<InputRow, "i" | "custom_id" | "input" | "shown_input" | "log_lines">): void {
    this.#sql.exec(
      "INSERT OR IGNORE INTO inputs (i, custom_id, input, shown_input, log_lines, state) VALUES (?, ?, ?, ?, ?, 'pending')",
      row.i,
      row.custom_id,
      row.input,
      row.shown_input,
      row.log_lines,
    );
  }

  counts(): BatchCounts {
    const counts: BatchCounts = { total: 0, pending: 0, running: 0, succeeded: 0, failed: 0, canceled: 0 };
    const rows = this.#sql.exec<{ state: InputState; n: number }>("SELECT state, count(*) AS n FROM inputs GROUP BY 1");
    for (const { state, n } of rows) {
      counts[state] = n;
      counts.total += n;
    }
    return counts;
  }

  /** Cheap however large the batch is, unlike {@link counts}: asked at each end. */
  running(): number {
    return this.#sql.exec<{ n: number }>("SELECT count(*) AS n FROM inputs WHERE state = 'running'").one().n;
  }

  /** Nothing runs and nothing will. */
  isDone(): boolean {
    const open = this.#sql.exec("SELECT 1 FROM inputs WHERE state IN ('pending', 'running') LIMIT 1");
    return open.toArray().length === 0;
  }

  /** The first inputs in `state`, in their order. */
  inputs(state: InputState, limit: number): InputRow[] {
    return this.#sql
      .exec<InputRow & Record<string, SqlStorageValue>>(
        `SELECT i, custom_id, input, shown_input, log_lines, state, prediction_id, started_at
          FROM inputs WHERE state = ? ORDER BY i LIMIT ?`,
        state,
        limit,
      )
      .toArray();
  }

  input(i: number): InputRow | null {
    return (
      this.#sql
        .exec<InputRow & Record<string, SqlStorageValue>>(
          `SELECT i, custom_id, input, shown_input, log_lines, state, prediction_id, started_at FROM inputs WHERE i = ?`,
          i,
        )
        .toArray()[0] ?? null
    );
  }

  start(i: number, predictionId: string, now: number): void {
    this.#sql.exec(
      "UPDATE inputs SET state = 'running', prediction_id = ?, started_at = ? WHERE i = ? AND state = 'pending'",
      predictionId,
      now,
      i,
    );
  }

  /** It did not start after all. */
  unstart(i: number, predictionId: string): void {
    this.#sql.exec(
      "UPDATE inputs SET state = 'pending', prediction_id = NULL, started_at = NULL WHERE i = ? AND state = 'running' AND prediction_id = ?",
      i,
      predictionId,
    );
  }

  /** Records an end once; the input is no longer needed. */
  end(i: number, state: InputState, result: string | null, resultRef: string | null): void {
    this.#sql.exec(
      "UPDATE inputs SET state = ?, result = ?, result_ref = ?, input = NULL, shown_input = NULL, log_lines = NULL WHERE i = ? AND state IN ('pending', 'running')",
      state,
      result,
      resultRef,
      i,
    );
  }

  cancelPending(): void {
    this.#sql.exec(
      "UPDATE inputs SET state = 'canceled', input = NULL, shown_input = NULL, log_lines = NULL WHERE state = 'pending'",
    );
  }

  /** Results from index `from` on, in order. */
  results(from: number): (ResultRow & { custom_id: string | null; state: InputState })[] {
    return this.#sql
      .exec<ResultRow & { custom_id: string | null; state: InputState } & Record<string, SqlStorageValue>>(
        "SELECT i, custom_id, state, result, result_ref FROM inputs WHERE i >= ? ORDER BY i LIMIT ?",
        from,
        RESULTS_PAGE_ROWS,
      )
      .toArray();
  }

  /** What the finished file of results holds need not be here too. */
  dropResults(): void {
    this.#sql.exec("UPDATE inputs SET result = NULL, result_ref = NULL");
  }

  /** What its inputs were called. */
  dropNames(): void {
    this.#sql.exec("UPDATE inputs SET custom_id = NULL");
  }

  /** What `limit` inputs from index `from` on became. */
  predictions(from: number, limit: number): { ids: string[]; next: number | null } {
    const rows = this.#sql
      .exec<{ i: number; prediction_id: string | null }>(
        "SELECT i, prediction_id FROM inputs WHERE i >= ? ORDER BY i LIMIT ?",
        from,
        limit,
      )
      .toArray();
    const last = rows.at(-1);
    const next = last === undefined || rows.length < limit ? null : last.i + 1;
    return { ids: rows.flatMap(({ prediction_id }) => (prediction_id === null ? [] : [prediction_id])), next };
  }

  /** All of it: a batch that was never sealed. */
  drop(): void {
    this.#sql.exec("DROP TABLE IF EXISTS inputs; DROP TABLE IF EXISTS batch;");
    this.forget();
  }
}
