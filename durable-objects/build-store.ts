/**
 * The SQLite of one build: the build itself, and its log while it runs. Only loads and saves, inside a group commit.
 *
 * Places in the log are counted in bytes of UTF-8 from its first byte on, so that they stay what they are when its oldest lines go, and when the log moves
 * to R2.
 */
import type { BuildRecord } from "../schema/builds.ts";
import type { CreateBuild } from "./build-contract.ts";

/** What is kept of a log; of a longer one the oldest lines go. */
export const LOG_BYTES_MAX = 8_388_608;
/** Of one row: far below the 2 MB that a value may have, at three bytes a character. */
const LOG_ROW_CHARACTERS_MAX = 65_536;

const TABLES = `
CREATE TABLE IF NOT EXISTS build (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  request TEXT NOT NULL,
  record TEXT NOT NULL,
  log_start INTEGER NOT NULL,
  log_end INTEGER NOT NULL,
  is_log_moved INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS log (
  start INTEGER PRIMARY KEY,
  bytes INTEGER NOT NULL,
  text TEXT NOT NULL
);
`;

export interface BuildRow {
  request: CreateBuild;
  record: BuildRecord;
  /** place of the first byte that is kept */
  log_start: number;
  /** place behind the last byte */
  log_end: number;
  /** the log is in R2, and no more here */
  is_log_moved: boolean;
}

export interface LogChunk {
  text: string;
  /** place behind its last byte */
  end: number;
}

const encoder = new TextEncoder();

export class BuildStore {
  readonly #sql: SqlStorage;
  #ready = false;
  #row: BuildRow | null = null;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#ready = false;
    this.#row = null;
  }

  /** Null when there is no build here. */
  get(): BuildRow | null {
    if (this.#row !== null) return this.#row;
    this.#ready ||= this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'log'").toArray().length > 0;
    if (!this.#ready) return null;
    const row = this.#sql
      .exec<{ request: string; record: string; log_start: number; log_end: number; is_log_moved: number }>(
        "SELECT request, record, log_start, log_end, is_log_moved FROM build",
      )
      .toArray()[0];
    if (row === undefined) return null;
    this.#row = {
      ...row,
      request: JSON.parse(row.request) as CreateBuild,
      record: JSON.parse(row.record) as BuildRecord,
      is_log_moved: row.is_log_moved === 1,
    };
    return this.#row;
  }

  create(request: CreateBuild, record: BuildRecord): void {
    this.#sql.exec(TABLES);
    this.#ready = true;
    this.#sql.exec(
      "INSERT INTO build (one, request, record, log_start, log_end, is_log_moved) VALUES (1, ?, ?, 0, 0, 0)",
      JSON.stringify(request),
      JSON.stringify(record),
    );
    this.#row = { request, record, log_start: 0, log_end: 0, is_log_moved: false };
  }

  save(record: BuildRecord): void {
    const row = this.get();
    if (row === null) throw new Error("there is no build to change");
    this.#sql.exec("UPDATE build SET record = ?", JSON.stringify(record));
    this.#row = { ...row, record };
  }

  /** Appends to the log, and answers its chunks as they are stored. */
  append(lines: string[]): LogChunk[] {
    const row = this.get();
    if (row === null || lines.length === 0) return [];
    let { log_start, log_end } = row;
    const chunks = joined(lines).map((text) => {
      const bytes = encoder.encode(text).byteLength;
      this.#sql.exec("INSERT INTO log (start, bytes, text) VALUES (?, ?, ?)", log_end, bytes, text);
      log_end += bytes;
      return { text, end: log_end };
    });
    while (log_end - log_start > LOG_BYTES_MAX) {
      const oldest = this.#sql.exec<{ start: number; bytes: number }>(
        "SELECT start, bytes FROM log ORDER BY start LIMIT 1",
      );
      const { start, bytes } = oldest.one();
      this.#sql.exec("DELETE FROM log WHERE start = ?", start);
      log_start = start + bytes;
    }
    this.#sql.exec("UPDATE build SET log_start = ?, log_end = ?", log_start, log_end);
    this.#row = { ...row, log_start, log_end };
    return chunks;
  }

  /** The log from a place on, about `bytesMax` of it; from the first line that is kept where the place is before that. */
  read(from: number, bytesMax: number): LogChunk {
    let text = "";
    let end = from;
    let taken = 0;
    const rows = this.#sql.exec<{ start: number; bytes: number; text: string }>(
      "SELECT start, bytes, text FROM log WHERE start + bytes > ? ORDER BY start",
      from,
    );
    for (const row of rows) {
      if (taken > 0 && taken + row.bytes > bytesMax) break;
      text += row.start >= from ? row.text : behind(row.text, from - row.start);
      end = row.start + row.bytes;
      taken += row.bytes;
    }
    return { text, end };
  }

  logMoved(): void {
    const row = this.get();
    if (row === null) return;
    this.#sql.exec("DELETE FROM log");
    this.#sql.exec("UPDATE build SET is_log_moved = 1");
    this.#row = { ...row, is_log_moved: true };
  }
}

/** Few rows instead of many lines. */
function joined(lines: string[]): string[] {
  const out: string[] = [];
  let part = "";
  for (const line of lines) {
    if (part !== "" && part.length + line.length > LOG_ROW_CHARACTERS_MAX) {
      out.push(part);
      part = "";
    }
    // What is no text would change its length on its way through SQLite.
    part += line.toWellFormed();
  }
  return part === "" ? out : [...out, part];
}

function behind(text: string, bytes: number): string {
  return new TextDecoder().decode(encoder.encode(text).subarray(bytes));
}
