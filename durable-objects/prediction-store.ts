/**
 * The SQLite of one PredictionObject: predictions, their logs, and the outbox. Only loads and saves; every write is called inside a group commit. Tables are
 * made by the first write, so guessing an id stores nothing.
 */
import type { Progress } from "../schema/attempt-events.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { isTerminal } from "../schema/prediction-lifecycle.ts";
import type { StoredEvent } from "../schema/prediction-log.ts";
import { seal, unseal } from "../schema/sealed.ts";
import type { Release } from "./deployment-contract.ts";
import { LazyTables } from "./lazy-tables.ts";
import type { CreatePrediction } from "./prediction-contract.ts";

/** A row of the log holds at most this much JSON; a single event above it is kept in R2 (a SQLite value may hold 2 MB on the platform). */
export const LOG_ROW_BYTES_MAX = 262_144;
/** Entries of a prediction's log, and their JSON; beyond it the oldest lines of logs go first. */
export const LOG_ENTRIES_MAX = 200_000;
export const LOG_TOTAL_BYTES_MAX = 67_108_864;
/** Predictions kept parsed in memory: the live ones and those that were just asked for. */
const CACHED_MAX = 2_000;
/** Inputs and ended documents that are kept beside them, and the JSON of one: 16 MB of text at most in all. */
const KEPT_MAX = 500;
const KEPT_BYTES_MAX = 16_384;

const TABLES = `
CREATE TABLE IF NOT EXISTS predictions (
  id TEXT PRIMARY KEY,
  request TEXT NOT NULL,
  input TEXT,
  shown_input TEXT,
  progress TEXT NOT NULL,
  is_live INTEGER NOT NULL,
  due_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS predictions_live ON predictions (id) WHERE is_live = 1;
CREATE INDEX IF NOT EXISTS predictions_due ON predictions (due_at);
CREATE TABLE IF NOT EXISTS log (
  prediction_id TEXT NOT NULL,
  seq INTEGER NOT NULL,
  entries INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  is_logs_only INTEGER NOT NULL,
  events TEXT,
  ref TEXT,
  PRIMARY KEY (prediction_id, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outbox (
  n INTEGER PRIMARY KEY,
  prediction_id TEXT NOT NULL,
  owner TEXT NOT NULL,
  message TEXT NOT NULL
);
`;

/** What of a create never changes. Inputs have columns of their own: they are large, and removed earlier. */
export type StoredRequest = Omit<CreatePrediction, "input" | "shown_input" | "wait_ms" | "log_lines"> & {
  /** the shown input is in R2 */
  shown_input_ref: string | null;
  /** the input holds secrets: what is shown differs from what the model gets */
  is_redacted: boolean;
};

/** What the object adds to {@link Progress}. */
export interface Stage extends Progress {
  log_entries: number;
  log_bytes: number;
  /** R2 may hold something below this prediction's prefixes */
  has_objects: boolean;
  expires_at: number | null;
  removed_at: number | null;
  /** who runs the current attempt, known from its first event on */
  origin_id: string | null;
  /** kept when the log goes */
  last_metrics: Record<string, unknown> | null;
  /** held for it by now. Absent: as its admission did */
  reserved_micros?: number | null;
  /** a while before that is used up, its account had no more */
  is_hold_refused?: boolean;
}

/** What the model gets and, where that differs, what is shown; both null where they are in R2. Not to be changed: it is kept. */
export interface StoredInputs {
  input: Record<string, unknown> | null;
  shown_input: Record<string, unknown> | null;
}

export interface PredictionRow {
  id: string;
  request: StoredRequest;
  stage: Stage;
}

/** A row of the log: its entries, or where they are in R2. */
export interface LogRow {
  seq: number;
  entries: number;
  events: StoredEvent[] | { ref: string };
}

export type OutboxMessage =
  /** `model` is absent in rows of earlier releases of this software */
  | ({ kind: "release" } & Release)
  | { kind: "settle"; prediction_id: string }
  | { kind: "batch"; prediction_id: string; index: number }
  | { kind: "removed"; prediction_id: string };

export interface OutboxRow {
  n: number;
  /** `account:<id>`, `deployment:<key>` or `batch:<id>`: one call for all that wait for it */
  owner: string;
  message: OutboxMessage;
}

/** A due time that is never reached, for what has none. */
export const NEVER = Number.MAX_SAFE_INTEGER;

/** R2 key of one event of an attempt that is too large for a row. */
export function eventKey(predictionId: string, attempt: number, i: number): string {
  return `predictions/${predictionId}/events/${attempt}-${i}`;
}

export class PredictionStore {
  readonly #sql: SqlStorage;
  readonly #secret: string;
  readonly #cache = new Map<string, PredictionRow>();
  readonly #inputs = new Map<string, StoredInputs>();
  readonly #ended = new Map<string, PredictionDocument>();
  readonly #tables: LazyTables;

  /** Inputs that hold secrets are sealed under `secret`. */
  constructor(sql: SqlStorage, secret: string) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLES, "outbox");
    this.#secret = secret;
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#cache.clear();
    this.#inputs.clear();
    this.#ended.clear();
    this.#tables.forget();
  }

  insert(row: PredictionRow, input: string | null, shownInput: string | null, dueAt: number): void {
    this.#tables.create();
    this.#sql.exec(
      "INSERT INTO predictions VALUES (?, ?, ?, ?, ?, 1, ?)",
      row.id,
      JSON.stringify(row.request),
      input !== null && row.request.is_redacted ? seal(this.#secret, input) : input,
      shownInput,
      JSON.stringify(row.stage),
      dueAt,
    );
    this.#remember(row);
    // Read again in a moment, to start the attempt and to show it.
    if ((input?.length ?? 0) + (shownInput?.length ?? 0) <= KEPT_BYTES_MAX) {
      keep(this.#inputs, row.id, { input: parseOrNull(input), shown_input: parseOrNull(shownInput) });
    }
  }

  get(id: string): PredictionRow | null {
    const cached = this.#cache.get(id);
    if (cached !== undefined) return cached;
    if (!this.#tables.exist()) return null;
    const row = this.#sql
      .exec<{ id: string; request: string; progress: string }>(
        "SELECT id, request, progress FROM predictions WHERE id = ?",
        id,
      )
      .toArray()[0];
    return row === undefined ? null : this.#remember(parseRow(row));
  }

  /** Saves what changed. `dueAt` as it is when undefined. */
  save(id: string, stage: Stage, dueAt?: number): PredictionRow {
    const row = this.get(id);
    if (row === null) throw new Error(`no prediction ${id}`);
    const isLive = isTerminal(stage.life.state) ? 0 : 1;
    const text = JSON.stringify(stage);
    this.#ended.delete(id);
    if (dueAt === undefined) this.#sql.exec("UPDATE predictions SET progress = ? WHERE id = ?", text, id);
    else {
      this.#sql.exec(
        "UPDATE predictions SET progress = ?, is_live = ?, due_at = ? WHERE id = ?",
        text,
        isLive,
        dueAt,
        id,
      );
    }
    return this.#remember({ ...row, stage });
  }

  inputs(id: string): StoredInputs {
    const kept = this.#inputs.get(id);
    if (kept !== undefined) return kept;
    const row = this.#sql
      .exec<{ input: string | null; shown_input: string | null }>(
        "SELECT input, shown_input FROM predictions WHERE id = ?",
        id,
      )
      .toArray()[0];
    const { input = null, shown_input = null } = row ?? {};
    const clear = input === null ? null : unseal(this.#secret, input);
    return { input: parseOrNull(clear), shown_input: parseOrNull(shown_input) };
  }

  /** The document of a prediction that ended, where it was folded a moment ago: its log does not change any more. */
  endedDocument(id: string): PredictionDocument | null {
    return this.#ended.get(id) ?? null;
  }

  keepEnded(document: PredictionDocument, logBytes: number): void {
    if (logBytes <= KEPT_BYTES_MAX) keep(this.#ended, document.id, document);
  }

  /** After the end nobody needs the clear form of what is shown redacted. */
  dropClearInput(id: string): void {
    this.#inputs.delete(id);
    this.#sql.exec("UPDATE predictions SET input = shown_input, shown_input = NULL WHERE id = ?", id);
  }

  dropData(id: string): void {
    this.#inputs.delete(id);
    this.#ended.delete(id);
    this.#sql.exec("UPDATE predictions SET input = NULL, shown_input = NULL WHERE id = ?", id);
    this.#sql.exec("DELETE FROM log WHERE prediction_id = ?", id);
  }

  delete(id: string): void {
    this.dropData(id);
    this.#sql.exec("DELETE FROM predictions WHERE id = ?", id);
    this.#cache.delete(id);
  }

  /** Ids of predictions that have not ended. */
  live(): string[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<{ id: string }>("SELECT id FROM predictions INDEXED BY predictions_live WHERE is_live = 1")
      .toArray()
      .map((row) => row.id);
  }

  due(now: number, limit: number): string[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<{ id: string }>("SELECT id FROM predictions WHERE due_at <= ? ORDER BY due_at LIMIT ?", now, limit)
      .toArray()
      .map((row) => row.id);
  }

  nextDueAt(): number | null {
    if (!this.#tables.exist()) return null;
    const next = this.#sql.exec<{ next: number | null }>("SELECT min(due_at) AS next FROM predictions").one().next;
    return next === NEVER ? null : next;
  }

  // ---- the log

  appendLog(
    id: string,
    row: {
      seq: number;
      entries: number;
      bytes: number;
      isLogsOnly: boolean;
      events: string | null;
      ref: string | null;
    },
  ): void {
    this.#sql.exec(
      "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)",
      id,
      row.seq,
      row.entries,
      row.bytes,
      row.isLogsOnly ? 1 : 0,
      row.events,
      row.ref,
    );
  }

  /** Deletes the oldest rows that hold nothing but lines of logs, until `bytes` and `entries` are freed. Answers what was. */
  dropOldLogs(id: string, entries: number, bytes: number): { entries: number; bytes: number } {
    const freed = { entries: 0, bytes: 0 };
    const rows = this.#sql.exec<{ seq: number; entries: number; bytes: number }>(
      "SELECT seq, entries, bytes FROM log WHERE prediction_id = ? AND is_logs_only = 1 ORDER BY seq LIMIT 1000",
      id,
    );
    for (const row of rows.toArray()) {
      if (freed.entries >= entries && freed.bytes >= bytes) break;
      this.#sql.exec("DELETE FROM log WHERE prediction_id = ? AND seq = ?", id, row.seq);
      freed.entries += row.entries;
      freed.bytes += row.bytes;
    }
    return freed;
  }

  /** A page of the log that holds entry `fromSeq` or later ones, in order: rows of about `bytesMax` JSON together, one at least. */
  logPage(id: string, fromSeq: number, bytesMax: number): LogRow[] {
    if (!this.#tables.exist()) return [];
    const page: LogRow[] = [];
    let bytes = 0;
    const rows = this.#sql.exec<{
      seq: number;
      entries: number;
      bytes: number;
      events: string | null;
      ref: string | null;
    }>(
      "SELECT seq, entries, bytes, events, ref FROM log WHERE prediction_id = ? AND seq + entries > ? AND seq >= coalesce((SELECT max(seq) FROM log WHERE prediction_id = ? AND seq <= ?), 0) ORDER BY seq",
      id,
      fromSeq,
      id,
      fromSeq,
    );
    for (const row of rows) {
      if (page.length > 0 && bytes + row.bytes > bytesMax) break;
      bytes += row.bytes;
      page.push({
        seq: row.seq,
        entries: row.entries,
        events: row.events === null ? { ref: row.ref ?? "" } : (JSON.parse(row.events) as StoredEvent[]),
      });
    }
    return page;
  }

  // ---- the outbox

  addToOutbox(owner: string, message: OutboxMessage): OutboxRow {
    const { n } = this.#sql
      .exec<{ n: number }>(
        "INSERT INTO outbox (prediction_id, owner, message) VALUES (?, ?, ?) RETURNING n",
        message.prediction_id,
        owner,
        JSON.stringify(message),
      )
      .one();
    return { n, owner, message };
  }

  outbox(limit: number): OutboxRow[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<{ n: number; owner: string; message: string }>(
        "SELECT n, owner, message FROM outbox ORDER BY n LIMIT ?",
        limit,
      )
      .toArray()
      .map((row) => ({ n: row.n, owner: row.owner, message: JSON.parse(row.message) as OutboxMessage }));
  }

  hasOutbox(predictionId: string): boolean {
    return this.#sql.exec("SELECT 1 FROM outbox WHERE prediction_id = ? LIMIT 1", predictionId).toArray().length > 0;
  }

  deleteFromOutbox(ns: number[]): void {
    for (const n of ns) this.#sql.exec("DELETE FROM outbox WHERE n = ?", n);
  }

  #remember(row: PredictionRow): PredictionRow {
    this.#cache.delete(row.id);
    if (this.#cache.size >= CACHED_MAX) this.#cache.delete(this.#cache.keys().next().value ?? "");
    this.#cache.set(row.id, row);
    return row;
  }
}

/** Rows of earlier releases lack what came later. */
function parseRow(row: { id: string; request: string; progress: string }): PredictionRow {
  const stored = JSON.parse(row.request) as StoredRequest;
  const spec = { ...stored.spec, ...missing(stored.spec, { release: 0, mode: "predict", weights: null }) };
  const later = { kind: "prediction", destination: null, deployment: null, batch: null, is_listed: true } as const;
  const request = { ...stored, ...missing(stored, { ...later, shown_version: spec.version_id }), spec };
  return { id: row.id, request, stage: JSON.parse(row.progress) as Stage };
}

/** Those of `defaults` that `value` does not have. */
function missing<T extends object>(value: T, defaults: Partial<T>): Partial<T> {
  return Object.fromEntries(Object.entries(defaults).filter(([name]) => !(name in value))) as Partial<T>;
}

/** Bounded: the oldest goes. */
function keep<V>(map: Map<string, V>, id: string, value: V): void {
  if (map.size >= KEPT_MAX) map.delete(map.keys().next().value ?? "");
  map.set(id, value);
}

function parseOrNull(text: string | null): Record<string, unknown> | null {
  return text === null ? null : (JSON.parse(text) as Record<string, unknown>);
}
