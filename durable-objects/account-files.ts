/**
 * The files of one account: a row for each, from before its first byte is stored until after its last one is gone, so R2 never holds what nobody knows of.
 * Bytes go from the Worker to R2 and never pass here.
 *
 * | state   | since                               | until                                                                    |
 * | ------- | ----------------------------------- | ------------------------------------------------------------------------ |
 * | pending | it was begun                        | it is whole; a day later at the latest its upload has died: then removed  |
 * | ready   | all of it is in R2                  | it expires or is deleted: then removed                                    |
 * | removed | nobody finds it any more            | the sweep has taken its bytes out of R2, and then the row                 |
 *
 * A row is marked before its bytes are touched, so an upload that ends while it is swept finds no pending row and takes its bytes back.
 */
import { fileKey, type StoredFile } from "../schema/files.ts";
import type { BeginFile, FileQuery, FileUpload, FinishFile } from "./account-contract.ts";
import { LazyTables } from "./lazy-tables.ts";
import { isUploadRefusal } from "./output-uploads.ts";

/** An upload that is not whole by then is given up. */
export const UNFINISHED_MS = 86_400_000;
/** Uploads in parts of one account at a time. */
const UNFINISHED_MAX = 1_000;
/** Files that one alarm removes; the rest follow in the next. R2 deletes as many in one call. */
const SWEEP_MAX = 1_000;

const TABLES = `
CREATE TABLE IF NOT EXISTS files (
  file_id TEXT PRIMARY KEY,
  state TEXT NOT NULL,
  name TEXT,
  content_type TEXT,
  size_bytes INTEGER,
  sha256 TEXT,
  md5 TEXT,
  metadata TEXT,
  created_at INTEGER NOT NULL,
  retention_ms INTEGER,
  due_at INTEGER,
  upload_id TEXT
);
CREATE INDEX IF NOT EXISTS files_by_time ON files (state, created_at, file_id);
CREATE INDEX IF NOT EXISTS files_due ON files (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS file_parts (
  file_id TEXT NOT NULL,
  part INTEGER NOT NULL,
  etag TEXT NOT NULL,
  PRIMARY KEY (file_id, part)
);
`;

type Row = {
  file_id: string;
  name: string;
  content_type: string;
  size_bytes: number;
  sha256: string | null;
  md5: string | null;
  metadata: string;
  created_at: number;
  retention_ms: number | null;
  due_at: number | null;
  upload_id: string | null;
};

/** Only loads and saves: each method is one step of SQLite, and those that write are called inside a group commit. */
export class AccountFiles {
  readonly #sql: SqlStorage;
  readonly #tables: LazyTables;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLES, "file_parts");
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables.forget();
  }

  /** Idempotent. False when too many uploads are unfinished. */
  begin({ id, created_at, upload_id, file }: BeginFile): boolean {
    this.#tables.create();
    const pending = this.#sql
      .exec<{ n: number }>(
        "SELECT count(*) AS n FROM (SELECT 1 FROM files WHERE state = 'pending' LIMIT ?)",
        UNFINISHED_MAX,
      )
      .one().n;
    if (pending >= UNFINISHED_MAX) return false;
    this.#sql.exec(
      `INSERT OR IGNORE INTO files (file_id, state, name, content_type, size_bytes, sha256, metadata, created_at, retention_ms, due_at, upload_id)
       VALUES (?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      id,
      file?.name ?? null,
      file?.content_type ?? null,
      file?.size_bytes ?? null,
      file?.sha256 ?? null,
      JSON.stringify(file?.metadata ?? {}),
      created_at,
      file?.retention_ms ?? null,
      created_at + UNFINISHED_MS,
      upload_id,
    );
    return true;
  }

  /** All bytes are in R2. Null when nothing pending has this id: then they are the caller's to take back. A file that is whole says so again. */
  finish(id: string, file: FinishFile, now: number): StoredFile | null {
    if (!this.#tables.exist()) return null;
    const due_at = file.retention_ms === null ? null : now + file.retention_ms;
    this.#sql.exec(
      `UPDATE files SET state = 'ready', name = ?, content_type = ?, size_bytes = ?, sha256 = ?, md5 = ?, metadata = ?, retention_ms = ?, due_at = ?,
         upload_id = NULL
       WHERE file_id = ? AND state = 'pending'`,
      file.name,
      file.content_type,
      file.size_bytes,
      file.sha256,
      file.md5,
      JSON.stringify(file.metadata),
      file.retention_ms,
      due_at,
      id,
    );
    this.#sql.exec("DELETE FROM file_parts WHERE file_id = ?", id);
    return this.get(id, now);
  }

  get(id: string, now: number): StoredFile | null {
    const row = this.#row(id, "ready", now);
    return row === null ? null : fileOf(row);
  }

  #row(id: string, state: "pending" | "ready", now: number): Row | null {
    if (!this.#tables.exist()) return null;
    return (
      this.#sql
        .exec<Row>(
          "SELECT * FROM files WHERE file_id = ? AND state = ? AND (due_at IS NULL OR due_at > ?)",
          id,
          state,
          now,
        )
        .toArray()[0] ?? null
    );
  }

  /** Newest first. `more`: whether there are others on the side that was asked for. */
  list({ limit, before, after }: FileQuery, now: number): { files: StoredFile[]; more: boolean } {
    if (!this.#tables.exist()) return { files: [], more: false };
    const edge = after ?? before;
    const side = after ? ">" : "<";
    const order = after ? "created_at, file_id" : "created_at DESC, file_id DESC";
    const rows = this.#sql
      .exec<Row>(
        `SELECT * FROM files WHERE state = 'ready' AND (due_at IS NULL OR due_at > ?)
         ${edge ? `AND (created_at, file_id) ${side} (?, ?)` : ""} ORDER BY ${order} LIMIT ?`,
        now,
        ...(edge ? [edge.created_at, edge.file_id] : []),
        limit + 1,
      )
      .toArray();
    const files = rows.slice(0, limit).map(fileOf);
    return { files: after ? files.reverse() : files, more: rows.length > limit };
  }

  /** Nobody finds it from now on. False when there is no such file, or upload. */
  remove(id: string, state: "pending" | "ready", now: number): boolean {
    if (this.#row(id, state, now) === null) return false;
    this.#sql.exec("UPDATE files SET state = 'removed', due_at = ? WHERE file_id = ?", now, id);
    return true;
  }

  /** Those of the ids that are files; each is kept until `until` at least. */
  keep(ids: string[], until: number, now: number): string[] {
    return ids.filter((id) => {
      const row = this.#row(id, "ready", now);
      if (row?.due_at != null && row.due_at < until) {
        this.#sql.exec("UPDATE files SET due_at = ? WHERE file_id = ?", until, id);
      }
      return row !== null;
    });
  }

  upload(id: string, now: number): FileUpload | null {
    const row = this.#row(id, "pending", now);
    if (row === null || row.upload_id === null || row.name === null) return null;
    const { upload_id, name, content_type, size_bytes, sha256, retention_ms, created_at } = row;
    const parts = this.#sql
      .exec<{ part: number; etag: string }>("SELECT part, etag FROM file_parts WHERE file_id = ? ORDER BY part", id)
      .toArray();
    const file = { name, content_type, size_bytes, sha256, metadata: JSON.parse(row.metadata), retention_ms };
    return { id, created_at, expires_at: created_at + UNFINISHED_MS, upload_id, file, parts };
  }

  /** A part is in R2, in place of an earlier one of its number. False when there is no such upload. */
  keepPart(id: string, part: number, etag: string, now: number): boolean {
    if (this.#row(id, "pending", now) === null) return false;
    this.#sql.exec("INSERT OR REPLACE INTO file_parts VALUES (?, ?, ?)", id, part, etag);
    return true;
  }

  /** When the next file goes; null for never. */
  nextDue(): number | null {
    if (!this.#tables.exist()) return null;
    return this.#sql.exec<{ due_at: number | null }>("SELECT min(due_at) AS due_at FROM files").one().due_at;
  }

  /** Marks what is due as removed, and tells all that is marked. */
  markDue(now: number): { file_id: string; upload_id: string | null }[] {
    if (!this.#tables.exist()) return [];
    this.#sql.exec("UPDATE files SET state = 'removed' WHERE due_at <= ?", now);
    return this.#sql
      .exec<{ file_id: string; upload_id: string | null }>(
        "SELECT file_id, upload_id FROM files WHERE state = 'removed' AND due_at <= ? LIMIT ?",
        now,
        SWEEP_MAX,
      )
      .toArray();
  }

  forgetFiles(ids: string[]): void {
    for (const id of ids) {
      this.#sql.exec("DELETE FROM file_parts WHERE file_id = ?", id);
      this.#sql.exec("DELETE FROM files WHERE file_id = ? AND state = 'removed'", id);
    }
  }
}

/** Takes the bytes of removed files out of R2. Safe to repeat. */
export async function removeBytes(
  bucket: R2Bucket,
  files: { file_id: string; upload_id: string | null }[],
): Promise<void> {
  for (const { file_id, upload_id } of files) {
    if (upload_id === null) continue;
    try {
      await bucket.resumeMultipartUpload(fileKey(file_id), upload_id).abort();
    } catch (error) {
      if (!isUploadRefusal(error)) throw error;
    }
  }
  await bucket.delete(files.map(({ file_id }) => fileKey(file_id)));
}

function fileOf(row: Row): StoredFile {
  return {
    id: row.file_id,
    name: row.name,
    content_type: row.content_type,
    size_bytes: row.size_bytes,
    sha256: row.sha256 ?? "",
    md5: row.md5 ?? "",
    metadata: JSON.parse(row.metadata),
    created_at: row.created_at,
    expires_at: row.due_at,
  };
}
