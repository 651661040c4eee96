/**
 * The SQLite of one account: its create limit, idempotency keys, the list of its predictions, and a meter for each that ended. Only loads and
 * saves; every write is called inside a group commit. Tables are made by the first write, so asking a guessed account stores nothing.
 */
import type { Meter, PredictionDocument } from "../schema/prediction-document.ts";
import type { AccountApi, ListKind, ListRow, Settlement } from "./account-contract.ts";

/** A larger document stays with its PredictionObject, which pages then ask. */
const LIST_DOCUMENT_BYTES_MAX = 16_384;
/** The bound of any stored value; a longer answer is rendered again instead of replayed. */
const RESPONSE_BYTES_MAX = 262_144;
/** Expired keys that one create clears away: more than it adds, so they never pile up. */
const EXPIRED_KEYS_PER_CREATE = 10;

const TABLES = `
CREATE TABLE IF NOT EXISTS account (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  account_id TEXT NOT NULL,
  full_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS predictions (
  prediction_id TEXT PRIMARY KEY,
  created_at INTEGER NOT NULL,
  source TEXT NOT NULL,
  admitted_at INTEGER NOT NULL,
  confirmed INTEGER NOT NULL,
  document TEXT,
  kind TEXT NOT NULL DEFAULT 'prediction'
);
CREATE INDEX IF NOT EXISTS predictions_unconfirmed ON predictions (admitted_at) WHERE confirmed = 0;
CREATE TABLE IF NOT EXISTS idempotency (
  key TEXT PRIMARY KEY,
  body_sha256 TEXT NOT NULL,
  prediction_id TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  status INTEGER,
  headers TEXT,
  body TEXT
);
CREATE INDEX IF NOT EXISTS idempotency_by_time ON idempotency (created_at);
CREATE INDEX IF NOT EXISTS idempotency_by_prediction ON idempotency (prediction_id);
CREATE TABLE IF NOT EXISTS meters (
  prediction_id TEXT PRIMARY KEY,
  meter TEXT NOT NULL
);
`;

/** The first release had predictions alone, and an index that did not part them. */
const BY_KIND = `
DROP INDEX IF EXISTS predictions_by_time;
CREATE INDEX IF NOT EXISTS predictions_by_kind ON predictions (kind, created_at, prediction_id);
`;
const KIND_COLUMN = "ALTER TABLE predictions ADD COLUMN kind TEXT NOT NULL DEFAULT 'prediction'";

export interface IdempotencyRow {
  body_sha256: string;
  prediction_id: string;
  created_at: number;
  /** null while the first request is unanswered */
  answer: { status: number; headers: [string, string][]; body: string | null } | null;
}

export class AccountStore {
  readonly #sql: SqlStorage;
  #ready = false;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** For a transaction that was undone: the tables may be gone with it. */
  forget(): void {
    this.#ready = false;
  }

  createTables(): void {
    if (this.#ready) return;
    this.#sql.exec(TABLES);
    this.#upgrade();
    this.#ready = true;
  }

  /** Rows of the first release become predictions of the account's list. */
  #upgrade(): void {
    const columns = this.#sql.exec<{ name: string }>("SELECT name FROM pragma_table_info('predictions')").toArray();
    if (!columns.some(({ name }) => name === "kind")) this.#sql.exec(KIND_COLUMN);
    this.#sql.exec(BY_KIND);
  }

  /** False while nothing was ever admitted: then there is nothing to read. */
  #exists(): boolean {
    if (this.#ready) return true;
    this.#ready = this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'meters'").toArray().length > 0;
    if (this.#ready) this.#upgrade();
    return this.#ready;
  }

  fullAt(): number {
    return this.#sql.exec<{ full_at: number }>("SELECT full_at FROM account").toArray()[0]?.full_at ?? 0;
  }

  setFullAt(accountId: string, fullAt: number): void {
    this.#sql.exec("INSERT OR REPLACE INTO account VALUES (1, ?, ?)", accountId, fullAt);
  }

  accountId(): string | null {
    if (!this.#exists()) return null;
    return this.#sql.exec<{ account_id: string }>("SELECT account_id FROM account").toArray()[0]?.account_id ?? null;
  }

  key(key: string): IdempotencyRow | null {
    const row = this.#sql
      .exec<{
        body_sha256: string;
        prediction_id: string;
        created_at: number;
        status: number | null;
        headers: string | null;
        body: string | null;
      }>("SELECT * FROM idempotency WHERE key = ?", key)
      .toArray()[0];
    if (row === undefined) return null;
    const { body_sha256, prediction_id, created_at, status, headers, body } = row;
    const answer = status === null ? null : { status, headers: JSON.parse(headers ?? "[]"), body };
    return { body_sha256, prediction_id, created_at, answer };
  }

  /** Claims a key for a prediction, over an expired claim of the same key, and clears some other expired ones. */
  claimKey(key: string, bodySha256: string, predictionId: string, now: number, expiredBefore: number): void {
    this.#sql.exec(
      "DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE created_at <= ? ORDER BY created_at LIMIT ?)",
      expiredBefore,
      EXPIRED_KEYS_PER_CREATE,
    );
    this.#sql.exec(
      "INSERT OR REPLACE INTO idempotency (key, body_sha256, prediction_id, created_at) VALUES (?, ?, ?, ?)",
      key,
      bodySha256,
      predictionId,
      now,
    );
  }

  /** Keeps the first answer of a key. One that is too long is kept without its body. */
  saveAnswer(key: string, response: { status: number; headers: [string, string][]; body: string }): void {
    if (!this.#exists()) return;
    const claim = this.key(key);
    if (claim === null) return;
    // With a short retention the data may be gone before the answer is kept.
    const isRemoved = this.document(claim.prediction_id)?.data_removed === true;
    this.#sql.exec(
      "UPDATE idempotency SET status = ?, headers = ?, body = ? WHERE key = ? AND status IS NULL",
      response.status,
      JSON.stringify(response.headers),
      isRemoved || response.body.length > RESPONSE_BYTES_MAX ? null : response.body,
      key,
    );
    this.confirm(claim.prediction_id);
  }

  /** Idempotent. */
  insert(predictionId: string, createdAt: number, kind: string, source: string, now: number): void {
    this.#sql.exec(
      "INSERT OR IGNORE INTO predictions (prediction_id, created_at, kind, source, admitted_at, confirmed) VALUES (?, ?, ?, ?, ?, 0)",
      predictionId,
      createdAt,
      kind,
      source,
      now,
    );
  }

  /** Unlists a prediction and frees its key; false when there was nothing. `onlyUnconfirmed`: not when it was confirmed meanwhile. */
  remove(predictionId: string, onlyUnconfirmed: boolean): boolean {
    if (!this.#exists()) return false;
    const removed = this.#sql.exec(
      `DELETE FROM predictions WHERE prediction_id = ?${onlyUnconfirmed ? " AND confirmed = 0" : ""}`,
      predictionId,
    );
    if (removed.rowsWritten === 0) return false;
    this.#sql.exec("DELETE FROM idempotency WHERE prediction_id = ?", predictionId);
    return true;
  }

  confirm(predictionId: string): void {
    this.#sql.exec("UPDATE predictions SET confirmed = 1 WHERE prediction_id = ? AND confirmed = 0", predictionId);
  }

  /** Admissions that nothing confirmed, oldest first. */
  unconfirmed(limit: number): { prediction_id: string; kind: ListKind; admitted_at: number }[] {
    if (!this.#exists()) return [];
    return this.#sql
      .exec<{ prediction_id: string; kind: ListKind; admitted_at: number }>(
        "SELECT prediction_id, kind, admitted_at FROM predictions WHERE confirmed = 0 ORDER BY admitted_at LIMIT ?",
        limit,
      )
      .toArray();
  }

  /** Its end was recorded. */
  isSettled(predictionId: string): boolean {
    if (!this.#exists()) return false;
    return this.#sql.exec("SELECT 1 FROM meters WHERE prediction_id = ?", predictionId).toArray().length > 0;
  }

  /**
   * Records an end once; false when it was. The list row comes back when it was unlisted by mistake; a copy whose data was removed is never overwritten.
   */
  settle({ prediction_id: predictionId, document, meter, is_listed }: Settlement, now: number): boolean {
    const added = this.#sql.exec("INSERT OR IGNORE INTO meters VALUES (?, ?)", predictionId, JSON.stringify(meter));
    if (added.rowsWritten === 0) return false;
    if (!is_listed) return true;
    if (document !== null) this.insert(predictionId, document.created_at, document.kind, document.source, now);
    this.#sql.exec(
      "UPDATE predictions SET confirmed = 1, document = coalesce(document, ?) WHERE prediction_id = ?",
      document === null ? null : documentText(document),
      predictionId,
    );
    return true;
  }

  /**
   * Replaces the list's copy by what is left without the data, and forgets the bodies of answers to its key. It is kept whatever its size, which its
   * makers bound: a day later nobody else has it.
   */
  replaceDocument(document: PredictionDocument): void {
    this.#sql.exec(
      "UPDATE predictions SET confirmed = 1, document = ? WHERE prediction_id = ?",
      JSON.stringify(document),
      document.id,
    );
    this.#sql.exec("UPDATE idempotency SET body = NULL WHERE prediction_id = ?", document.id);
  }

  dropDocument(predictionId: string): void {
    if (!this.#exists()) return;
    this.#sql.exec("UPDATE predictions SET document = NULL WHERE prediction_id = ?", predictionId);
  }

  document(predictionId: string): PredictionDocument | null {
    if (!this.#exists()) return null;
    const row = this.#sql
      .exec<{ document: string | null }>("SELECT document FROM predictions WHERE prediction_id = ?", predictionId)
      .toArray()[0];
    return parseDocument(row?.document ?? null);
  }

  /** Newest first. One row more than `limit` tells whether there are more. */
  list(query: Parameters<AccountApi["list"]>[0]): { rows: ListRow[]; more: boolean } {
    if (!this.#exists()) return { rows: [], more: false };
    const conditions: string[] = ["kind = ?"];
    const values: (string | number)[] = [query.kind];
    if (query.before) {
      conditions.push("(created_at, prediction_id) < (?, ?)");
      values.push(query.before.created_at, query.before.prediction_id);
    }
    if (query.after) {
      conditions.push("(created_at, prediction_id) > (?, ?)");
      values.push(query.after.created_at, query.after.prediction_id);
    }
    if (query.created_after != null) {
      conditions.push("created_at >= ?");
      values.push(query.created_after);
    }
    if (query.created_before != null) {
      conditions.push("created_at < ?");
      values.push(query.created_before);
    }
    if (query.source != null) {
      conditions.push("source = ?");
      values.push(query.source);
    }
    const where = `WHERE ${conditions.join(" AND ")}`;
    // Backwards the nearest rows count, so they are read oldest first and turned around.
    const order = query.after ? "created_at, prediction_id" : "created_at DESC, prediction_id DESC";
    const found = this.#sql
      .exec<{ prediction_id: string; created_at: number; document: string | null }>(
        `SELECT prediction_id, created_at, document FROM predictions ${where} ORDER BY ${order} LIMIT ?`,
        ...values,
        query.limit + 1,
      )
      .toArray();
    const rows = found
      .slice(0, query.limit)
      .map((row) => ({ ...row, document: parseDocument(row.document) }) satisfies ListRow);
    return { rows: query.after ? rows.reverse() : rows, more: found.length > query.limit };
  }

  /** Newest first. */
  meters(limit: number): { prediction_id: string; meter: Meter }[] {
    if (!this.#exists()) return [];
    return this.#sql
      .exec<{ prediction_id: string; meter: string }>(
        "SELECT prediction_id, meter FROM meters ORDER BY rowid DESC LIMIT ?",
        limit,
      )
      .toArray()
      .map((row) => ({ prediction_id: row.prediction_id, meter: JSON.parse(row.meter) as Meter }));
  }
}

function documentText(document: PredictionDocument): string | null {
  const text = JSON.stringify(document);
  return text.length > LIST_DOCUMENT_BYTES_MAX ? null : text;
}

function parseDocument(text: string | null): PredictionDocument | null {
  if (text === null) return null;
  const document = JSON.parse(text) as PredictionDocument;
  // Rows of earlier releases lack what came later.
  const { kind = "prediction", destination = null } = document as Partial<PredictionDocument>;
  return { ...document, kind, destination };
}
