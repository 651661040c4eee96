/**
 * Which repositories hold which blobs of the registry, and where the bytes of each lie. One object for each first character of a digest.
 *
 * Bytes go when the last link to their blob goes, an hour later: whoever was told their key may still be reading. A key is used for one upload alone, so bytes
 * that wait to go are never those of a push that brings the same content again: that push has a new key, and a link before anybody hears of it.
 */
import { DurableObject } from "cloudflare:workers";
import { Alarms } from "./alarms.ts";
import { type BlobBytes, objectKeys } from "./blob-parts.ts";
import { LazyTables } from "./lazy-tables.ts";
import type { BlobApi } from "./registry-contract.ts";

/** Longer than a request lasts that was told a key and has not opened it. */
export const LAST_READ_MS = 3_600_000;
/** Blobs that one alarm removes; the rest follows in the next. */
const SWEEP_MAX = 100;
/** Keys that one R2 call deletes at most. */
const R2_DELETE_MAX = 1_000;

const TABLES = `
CREATE TABLE IF NOT EXISTS blobs (
  digest TEXT PRIMARY KEY,
  key TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  runs TEXT
);
CREATE TABLE IF NOT EXISTS links (
  link TEXT PRIMARY KEY,
  digest TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS links_by_digest ON links (digest);
CREATE TABLE IF NOT EXISTS garbage (
  key TEXT PRIMARY KEY,
  runs TEXT,
  due_at INTEGER NOT NULL
);
`;

export class BlobObject extends DurableObject<Env> implements BlobApi {
  readonly #sql = this.ctx.storage.sql;
  readonly #alarms = new Alarms<"garbage">(this.ctx.storage);
  readonly #tables = new LazyTables(this.#sql, TABLES, "garbage");

  async link(digest: string, link: string, bytes: BlobBytes | null): Promise<BlobBytes | null> {
    if (bytes !== null) this.#tables.create();
    else if (!this.#tables.exist()) return null;
    const known = this.#blob(digest);
    if (known === null && bytes === null) return null;
    this.#sql.exec("INSERT OR IGNORE INTO links VALUES (?, ?)", link, digest);
    if (known === null && bytes !== null) {
      this.#sql.exec("INSERT INTO blobs VALUES (?, ?, ?, ?)", digest, bytes.key, bytes.size_bytes, runsText(bytes));
      return bytes;
    }
    // The registry has them: nobody was told of the second copy.
    if (bytes !== null && bytes.key !== known?.key) this.#discard(bytes, Date.now());
    return known;
  }

  async unlink(digest: string, link: string, bytes: BlobBytes | null): Promise<void> {
    if (bytes !== null) this.#tables.create();
    else if (!this.#tables.exist()) return;
    this.#sql.exec("DELETE FROM links WHERE link = ?", link);
    const known = this.#blob(digest);
    const due_at = Date.now() + LAST_READ_MS;
    if (bytes !== null && bytes.key !== known?.key) this.#discard(bytes, due_at);
    if (known === null) return;
    const isHeld = this.#sql.exec("SELECT 1 FROM links WHERE digest = ? LIMIT 1", digest).toArray().length > 0;
    if (isHeld) return;
    this.#sql.exec("DELETE FROM blobs WHERE digest = ?", digest);
    this.#discard(known, due_at);
  }

  #blob(digest: string): BlobBytes | null {
    const query = "SELECT key, size_bytes, runs FROM blobs WHERE digest = ?";
    const row = this.#sql.exec<{ key: string; size_bytes: number; runs: string | null }>(query, digest).toArray()[0];
    return row === undefined ? null : { ...row, runs: row.runs === null ? null : JSON.parse(row.runs) };
  }

  #discard(bytes: BlobBytes, due_at: number): void {
    this.#sql.exec("INSERT OR IGNORE INTO garbage VALUES (?, ?, ?)", bytes.key, runsText(bytes), due_at);
    this.#alarms.setNoLaterThan("garbage", due_at);
  }

  override async alarm(): Promise<void> {
    await this.#alarms.run(() => this.#sweep());
  }

  async #sweep(): Promise<void> {
    const due = this.#sql
      .exec<{ key: string; runs: string | null }>(
        "SELECT key, runs FROM garbage WHERE due_at <= ? LIMIT ?",
        Date.now(),
        SWEEP_MAX,
      )
      .toArray();
    for (const { key, runs } of due) {
      const keys = objectKeys({ key, runs: runs === null ? null : JSON.parse(runs) });
      for (let i = 0; i < keys.length; i += R2_DELETE_MAX)
        await this.env.FILES.delete(keys.slice(i, i + R2_DELETE_MAX));
      this.#sql.exec("DELETE FROM garbage WHERE key = ?", key);
    }
    const { next } = this.#sql.exec<{ next: number | null }>("SELECT min(due_at) AS next FROM garbage").one();
    if (next !== null) this.#alarms.setNoLaterThan("garbage", next);
  }
}

function runsText({ runs }: BlobBytes): string | null {
  return runs === null ? null : JSON.stringify(runs);
}
