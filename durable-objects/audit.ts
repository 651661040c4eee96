/**
 * Owns the audit log of one account (the operator's own acts are in the operator's). Rows are only added. Each holds the hash of itself and of the row before
 * it, and the head is kept beside them, so a row that is changed, left out, put in or cut off at the end shows in {@link AuditObject.verify}.
 */
import { DurableObject } from "cloudflare:workers";
import { sha256Hex } from "../schema/ids.ts";
import type { AuditApi, AuditEntry } from "./audit-contract.ts";
import { LazyTables } from "./lazy-tables.ts";

/** JSON of what changed; more is left out, and said so. A SQLite value may hold 2 MB on the platform. */
const DETAILS_BYTES_MAX = 8_192;
/** Characters of actor, action, target and address. */
const TEXT_CHARACTERS_MAX = 512;
/** Rows of one page, and those that `verify` holds at once. */
const PAGE_ROWS_MAX = 1_000;
/** What stands before the first entry. */
const GENESIS = "0".repeat(64);

const TABLES = `
CREATE TABLE IF NOT EXISTS entries (
  seq INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  actor TEXT NOT NULL,
  token_id TEXT,
  action TEXT NOT NULL,
  target TEXT NOT NULL,
  details TEXT NOT NULL,
  ip TEXT,
  request_id TEXT,
  hash TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS entries_by_request ON entries (request_id, action) WHERE request_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS head (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  seq INTEGER NOT NULL,
  hash TEXT NOT NULL
);
`;

type Row = Omit<AuditEntry, "details"> & { details: string };
type Columns = Row & Record<string, SqlStorageValue>;

export class AuditObject extends DurableObject<Env> implements AuditApi {
  readonly #tables = new LazyTables(this.ctx.storage.sql, TABLES, "head");

  async append(entry: Omit<AuditEntry, "seq" | "hash">): Promise<void> {
    // Before the transaction: undone with it, they would still be taken for there.
    this.#tables.create();
    this.ctx.storage.transactionSync(() => {
      const { sql } = this.ctx.storage;
      const known = sql.exec(
        "SELECT 1 FROM entries WHERE request_id = ? AND action = ?",
        entry.request_id,
        text(entry.action),
      );
      if (entry.request_id !== null && known.toArray().length > 0) return;
      const head = this.#head();
      const row: Omit<Row, "hash"> = {
        seq: head.seq + 1,
        at: entry.at,
        actor: text(entry.actor),
        token_id: entry.token_id,
        action: text(entry.action),
        target: text(entry.target),
        details: bounded(entry.details),
        ip: entry.ip === null ? null : text(entry.ip),
        request_id: entry.request_id,
      };
      const hash = hashOf(head.hash, row);
      sql.exec(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        row.seq,
        row.at,
        row.actor,
        row.token_id,
        row.action,
        row.target,
        row.details,
        row.ip,
        row.request_id,
        hash,
      );
      sql.exec("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", row.seq, hash);
    });
  }

  async list(query: { before_seq: number | null; limit: number }): Promise<{ entries: AuditEntry[]; more: boolean }> {
    if (!this.#tables.exist()) return { entries: [], more: false };
    const limit = Math.min(query.limit, PAGE_ROWS_MAX);
    const before = query.before_seq ?? Number.MAX_SAFE_INTEGER;
    const rows = this.ctx.storage.sql
      .exec<Columns>("SELECT * FROM entries WHERE seq < ? ORDER BY seq DESC LIMIT ?", before, limit + 1)
      .toArray();
    const entries = rows
      .slice(0, limit)
      .map((row): AuditEntry => ({ ...row, details: JSON.parse(row.details) as Record<string, unknown> }));
    return { entries, more: rows.length > limit };
  }

  async verify(): Promise<{ entries: number; broken_at: number | null; head: string }> {
    if (!this.#tables.exist()) return { entries: 0, broken_at: null, head: GENESIS };
    let hash = GENESIS;
    let seq = 0;
    for (;;) {
      const rows = this.ctx.storage.sql
        .exec<Columns>("SELECT * FROM entries WHERE seq > ? ORDER BY seq LIMIT ?", seq, PAGE_ROWS_MAX)
        .toArray();
      for (const row of rows) {
        if (row.seq !== seq + 1) return { entries: seq, broken_at: seq + 1, head: hash };
        const expected = hashOf(hash, row);
        if (row.hash !== expected) return { entries: seq, broken_at: row.seq, head: hash };
        seq = row.seq;
        hash = expected;
      }
      if (rows.length < PAGE_ROWS_MAX) break;
    }
    const head = this.#head();
    const isWhole = head.seq === seq && head.hash === hash;
    return { entries: seq, broken_at: isWhole ? null : Math.min(head.seq, seq) + 1, head: hash };
  }

  #head(): { seq: number; hash: string } {
    const rows = this.ctx.storage.sql.exec<{ seq: number; hash: string }>("SELECT seq, hash FROM head").toArray();
    return rows[0] ?? { seq: 0, hash: GENESIS };
  }
}

/** Over a list, whose order is fixed: members of an object have none. */
function hashOf(before: string, row: Omit<Row, "hash">): string {
  const { seq, at, actor, token_id, action, target, details, ip, request_id } = row;
  return sha256Hex(JSON.stringify([before, seq, at, actor, token_id, action, target, details, ip, request_id]));
}

function bounded(details: Record<string, unknown>): string {
  const json = JSON.stringify(details);
  return new TextEncoder().encode(json).length <= DETAILS_BYTES_MAX ? json : JSON.stringify({ too_large: json.length });
}

/** Half a character is stored as another one, which would break the chain. */
function text(value: string): string {
  return value.slice(0, TEXT_CHARACTERS_MAX).toWellFormed();
}
