/**
 * Which repositories hold which blobs of the registry, and where the bytes of each lie. One object for each first character of a digest.
 *
 * Bytes go when the last link to their blob goes, an hour later: whoever was told their key may still be reading. A key is used for one upload alone, so bytes
 * that wait to go are never those of a push that brings the same content again: that push has a new key, and a link before anybody hears of it.
 */
import { DurableObject } from "cloudflare:workers";
import { Alarms } from "./alarms.ts";
import type { BlobApi, StoredBytes } from "./registry-contract.ts";

/** Longer than a request lasts that was told a key and has not opened it. */
export const LAST_READ_MS = 3_600_000;
/** Objects that one alarm removes; R2 deletes as many in one call. */
const SWEEP_MAX = 1_000;

const TABLES = `
CREATE TABLE IF NOT EXISTS blobs (
  digest TEXT PRIMARY KEY,
  key TEXT NOT NULL,
  size_bytes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS links (
  link TEXT PRIMARY KEY,
  digest TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS links_by_digest ON links (digest);
CREATE TABLE IF NOT EXISTS garbage (
  key TEXT PRIMARY KEY,
  due_at INTEGER NOT NULL
);
`;

export class BlobObject extends DurableObject<Env> implements BlobApi {
  readonly #sql = this.ctx.storage.sql;
  readonly #alarms = new Alarms<"garbage">(this.ctx.storage);
  #ready = false;

  /** False while nothing was ever linked: asking stores nothing. */
  #exists(): boolean {
    this.#ready ||= this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'garbage'").toArray().length > 0;
    return this.#ready;
  }

  async link(digest: string, link: string, bytes: StoredBytes | null): Promise<StoredBytes | null> {
    if (!this.#exists()) {
      if (bytes === null) return null;
      this.#sql.exec(TABLES);
      this.#ready = true;
    }
    const known = this.#blob(digest);
    if (known === null && bytes === null) return null;
    this.#sql.exec("INSERT OR IGNORE INTO links VALUES (?, ?)", link, digest);
    if (known === null && bytes !== null) {
      this.#sql.exec("INSERT INTO blobs VALUES (?, ?, ?)", digest, bytes.key, bytes.size_bytes);
      return bytes;
    }
    // The registry has them: nobody was told of the second copy.
    if (bytes !== null && bytes.key !== known?.key) this.#discard(bytes.key, Date.now());
    return known;
  }

  async unlink(digest: string, link: string, key: string | null): Promise<void> {
    if (!this.#exists()) {
      if (key === null) return;
      this.#sql.exec(TABLES);
      this.#ready = true;
    }
    this.#sql.exec("DELETE FROM links WHERE link = ?", link);
    const known = this.#blob(digest);
    const due_at = Date.now() + LAST_READ_MS;
    if (key !== null && key !== known?.key) this.#discard(key, due_at);
    if (known === null) return;
    const isHeld = this.#sql.exec("SELECT 1 FROM links WHERE digest = ? LIMIT 1", digest).toArray().length > 0;
    if (isHeld) return;
    this.#sql.exec("DELETE FROM blobs WHERE digest = ?", digest);
    this.#discard(known.key, due_at);
  }

  #blob(digest: string): StoredBytes | null {
    const query = "SELECT key, size_bytes FROM blobs WHERE digest = ?";
    return this.#sql.exec<{ key: string; size_bytes: number }>(query, digest).toArray()[0] ?? null;
  }

  #discard(key: string, due_at: number): void {
    this.#sql.exec("INSERT OR IGNORE INTO garbage VALUES (?, ?)", key, due_at);
    this.#alarms.setNoLaterThan("garbage", due_at);
  }

  override async alarm(): Promise<void> {
    await this.#alarms.run(() => this.#sweep());
  }

  async #sweep(): Promise<void> {
    const due = this.#sql
      .exec<{ key: string }>("SELECT key FROM garbage WHERE due_at <= ? LIMIT ?", Date.now(), SWEEP_MAX)
      .toArray();
    await this.env.FILES.delete(due.map(({ key }) => key));
    for (const { key } of due) this.#sql.exec("DELETE FROM garbage WHERE key = ?", key);
    const { next } = this.#sql.exec<{ next: number | null }>("SELECT min(due_at) AS next FROM garbage").one();
    if (next !== null) this.#alarms.setNoLaterThan("garbage", next);
  }
}
