/** The rows of the CanaryObject: one for each version of a public model, about a kilobyte. */
import { type CanaryState, NEW_CANARY } from "../schema/canaries.ts";
import type { CanaryVersion } from "./canary-contract.ts";
import { LazyTables } from "./lazy-tables.ts";

const TABLES = `
CREATE TABLE IF NOT EXISTS canaries (
  owner TEXT NOT NULL,
  name TEXT NOT NULL,
  version TEXT NOT NULL,
  first_seen_at INTEGER NOT NULL,
  due_at INTEGER NOT NULL,
  running TEXT,
  state TEXT NOT NULL,
  PRIMARY KEY (owner, name, version)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS canaries_due ON canaries (due_at) WHERE running IS NULL;
CREATE INDEX IF NOT EXISTS canaries_running ON canaries (running) WHERE running IS NOT NULL;
CREATE TABLE IF NOT EXISTS walks (one INTEGER PRIMARY KEY CHECK (one = 1), owner TEXT NOT NULL, name TEXT NOT NULL, version TEXT NOT NULL);
`;

const IS = "owner = ? AND name = ? AND version = ?";
/** Behind every version there is. */
const END = "\u{10ffff}";

export class CanaryStore {
  readonly #sql: SqlStorage;
  readonly #tables: LazyTables;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLES, "walks");
  }

  isEmpty(): boolean {
    return !this.#tables.exist();
  }

  insert({ owner, name, version }: CanaryVersion, due_at: number, now: number): void {
    this.#tables.create();
    this.#sql.exec(
      "INSERT OR IGNORE INTO canaries VALUES (?, ?, ?, ?, ?, NULL, ?)",
      ...[owner, name, version, now, due_at, JSON.stringify(NEW_CANARY)],
    );
  }

  #one<T extends Record<string, SqlStorageValue>>(columns: string, of: CanaryVersion): T | null {
    if (!this.#tables.exist()) return null;
    const { owner, name, version } = of;
    return this.#sql.exec<T>(`SELECT ${columns} FROM canaries WHERE ${IS}`, owner, name, version).toArray()[0] ?? null;
  }

  state(of: CanaryVersion): CanaryState | null {
    const row = this.#one<{ state: string }>("state", of);
    return row === null ? null : (JSON.parse(row.state) as CanaryState);
  }

  running(of: CanaryVersion): string | null {
    return this.#one<{ running: string | null }>("running", of)?.running ?? null;
  }

  firstSeenAt(of: CanaryVersion): number {
    return this.#one<{ first_seen_at: number }>("first_seen_at", of)?.first_seen_at ?? Date.now();
  }

  setDue({ owner, name, version }: CanaryVersion, due_at: number): void {
    this.#sql.exec(`UPDATE canaries SET due_at = ? WHERE ${IS}`, due_at, owner, name, version);
  }

  setRunning({ owner, name, version }: CanaryVersion, id: string, now: number): void {
    this.#sql.exec(`UPDATE canaries SET running = ?, due_at = ? WHERE ${IS}`, id, now, owner, name, version);
  }

  /** It does not run (any more). */
  save({ owner, name, version }: CanaryVersion, state: CanaryState, due_at: number): void {
    this.#sql.exec(
      `UPDATE canaries SET running = NULL, state = ?, due_at = ? WHERE ${IS}`,
      ...[JSON.stringify(state), due_at, owner, name, version],
    );
  }

  /** Its owner was told of this spell; it may run again by now, or be well. */
  setTold(of: CanaryVersion, unhealthy_since: number, told_at: number): void {
    const state = this.state(of);
    if (state?.unhealthy_since !== unhealthy_since) return;
    const { owner, name, version } = of;
    const told = JSON.stringify({ ...state, told_at } satisfies CanaryState);
    this.#sql.exec(`UPDATE canaries SET state = ? WHERE ${IS}`, told, owner, name, version);
  }

  remove({ owner, name, version }: CanaryVersion): void {
    this.#sql.exec(`DELETE FROM canaries WHERE ${IS}`, owner, name, version);
  }

  /** Of these models (owner/name), no others than these versions are left. */
  keepOnly(models: string[], versions: CanaryVersion[]): void {
    if (!this.#tables.exist()) return;
    for (const model of models) {
      const [owner = "", name = ""] = model.split("/");
      const kept = versions.filter((row) => row.owner === owner && row.name === name).map((row) => row.version);
      this.#sql.exec(
        "DELETE FROM canaries WHERE owner = ? AND name = ? AND version NOT IN (SELECT value FROM json_each(?))",
        ...[owner, name, JSON.stringify(kept)],
      );
    }
  }

  /** Between two places of a walk (null: the beginning, the end), no others than these are left, but for those first seen since these were asked for. */
  keepBetween(
    after: CanaryVersion | null,
    through: CanaryVersion | null,
    versions: CanaryVersion[],
    asked_at: number,
  ): void {
    if (!this.#tables.exist()) return;
    const kept = JSON.stringify(versions.map(({ owner, name, version }) => `${owner}/${name}:${version}`));
    const from = [after?.owner ?? "", after?.name ?? "", after?.version ?? ""];
    const to = [through?.owner ?? END, through?.name ?? END, through?.version ?? END];
    this.#sql.exec(
      `DELETE FROM canaries WHERE (owner, name, version) > (?, ?, ?) AND (owner, name, version) <= (?, ?, ?) AND first_seen_at < ?
        AND owner || '/' || name || ':' || version NOT IN (SELECT value FROM json_each(?))`,
      ...[...from, ...to, asked_at, kept],
    );
  }

  /** Longest due first. */
  due(now: number, limit: number): CanaryVersion[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<{ owner: string; name: string; version: string }>(
        "SELECT owner, name, version FROM canaries WHERE running IS NULL AND due_at <= ? ORDER BY due_at LIMIT ?",
        ...[now, limit],
      )
      .toArray();
  }

  /** Null: none waits. */
  nextDue(): number | null {
    if (!this.#tables.exist()) return null;
    const least = "SELECT min(due_at) AS due FROM canaries WHERE running IS NULL";
    return this.#sql.exec<{ due: number | null }>(least).one().due;
  }

  inFlight(): (CanaryVersion & { running: string })[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<{ owner: string; name: string; version: string; running: string }>(
        "SELECT owner, name, version, running FROM canaries WHERE running IS NOT NULL",
      )
      .toArray();
  }

  /** Where the walk goes on; null: at the beginning. */
  cursor(): CanaryVersion | null {
    if (!this.#tables.exist()) return null;
    const rows = this.#sql.exec<{ owner: string; name: string; version: string }>(
      "SELECT owner, name, version FROM walks",
    );
    return rows.toArray()[0] ?? null;
  }

  setCursor(cursor: CanaryVersion | null): void {
    if (!this.#tables.exist()) return;
    if (cursor === null) this.#sql.exec("DELETE FROM walks");
    else {
      const { owner, name, version } = cursor;
      this.#sql.exec("INSERT OR REPLACE INTO walks VALUES (1, ?, ?, ?)", owner, name, version);
    }
  }
}
