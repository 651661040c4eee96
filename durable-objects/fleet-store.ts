/** The SQLite of one fleet shard: origins, their keys, used join tokens, and the room that instances take. Only loads and saves. */
import type { Register } from "../schema/origin-protocol.ts";

/** Versions remembered for each origin as having run there. */
const KNOWN_VERSIONS_PER_ORIGIN = 200;

const TABLES = `
CREATE TABLE IF NOT EXISTS origins (
  origin_id TEXT PRIMARY KEY,
  url TEXT NOT NULL,
  incarnation TEXT NOT NULL,
  region TEXT NOT NULL,
  driver TEXT NOT NULL,
  hardware TEXT NOT NULL,
  capacity TEXT NOT NULL,
  is_lost INTEGER NOT NULL,
  runs TEXT
);
CREATE TABLE IF NOT EXISTS keys (
  key_id TEXT PRIMARY KEY,
  origin_id TEXT NOT NULL,
  secret TEXT NOT NULL,
  created_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS join_tokens (
  token_sha256 TEXT PRIMARY KEY,
  origin_id TEXT NOT NULL,
  incarnation TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS instances (
  instance_id TEXT PRIMARY KEY,
  origin_id TEXT NOT NULL,
  deployment_key TEXT NOT NULL,
  version_id TEXT NOT NULL,
  memory_bytes INTEGER NOT NULL,
  placed_at INTEGER NOT NULL,
  is_draining INTEGER NOT NULL,
  gpus INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS known_versions (
  origin_id TEXT NOT NULL,
  version_id TEXT NOT NULL,
  placed_at INTEGER NOT NULL,
  PRIMARY KEY (origin_id, version_id)
);
`;

/** Columns that tables of earlier releases lack. */
const LATER_COLUMNS = [
  ["origins", "runs", "TEXT"],
  ["instances", "gpus", "INTEGER NOT NULL DEFAULT 0"],
] as const;

interface OriginRow {
  origin_id: string;
  url: string;
  incarnation: string;
  skus: string[];
  capacity: Register["capacity"];
  /** null: an origin of an earlier release, which runs what it has prepared itself */
  runs: Register["runs"] | null;
  is_lost: boolean;
}

export interface KeyRow {
  key_id: string;
  origin_id: string;
  secret: string;
  created_at: number;
}

export interface FleetInstanceRow {
  instance_id: string;
  origin_id: string;
  deployment_key: string;
  version_id: string;
  memory_bytes: number;
  placed_at: number;
  is_draining: boolean;
  gpus: number;
}

export class FleetStore {
  readonly #sql: SqlStorage;
  #ready = false;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  createTables(): void {
    if (this.#exists()) return;
    this.#sql.exec(TABLES);
    this.#ready = true;
  }

  /** Whether there are tables; those of an earlier release get what they lack. */
  #exists(): boolean {
    if (this.#ready) return true;
    if (this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'known_versions'").toArray().length === 0)
      return false;
    for (const [table, column, type] of LATER_COLUMNS) {
      const known = this.#sql.exec("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", table, column).toArray();
      if (known.length === 0) this.#sql.exec(`ALTER TABLE ${table} ADD COLUMN ${column} ${type}`);
    }
    this.#ready = true;
    return true;
  }

  origins(): OriginRow[] {
    if (!this.#exists()) return [];
    return this.#sql
      .exec<{
        origin_id: string;
        url: string;
        incarnation: string;
        hardware: string;
        capacity: string;
        is_lost: number;
        runs: string | null;
      }>("SELECT origin_id, url, incarnation, hardware, capacity, is_lost, runs FROM origins")
      .toArray()
      .map(({ hardware, capacity, is_lost, runs, ...row }) => ({
        ...row,
        runs: runs === null ? null : (JSON.parse(runs) as OriginRow["runs"]),
        skus: (JSON.parse(hardware) as { sku: string }[]).map(({ sku }) => sku),
        capacity: JSON.parse(capacity) as OriginRow["capacity"],
        is_lost: is_lost === 1,
      }));
  }

  origin(originId: string): OriginRow | null {
    return this.origins().find((row) => row.origin_id === originId) ?? null;
  }

  saveOrigin(originId: string, from: Register): void {
    this.#sql.exec(
      `INSERT OR REPLACE INTO origins (origin_id, url, incarnation, region, driver, hardware, capacity, is_lost, runs)
        VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)`,
      originId,
      from.url,
      from.incarnation,
      from.region,
      from.driver,
      JSON.stringify(from.hardware),
      JSON.stringify(from.capacity),
      from.runs === undefined ? null : JSON.stringify(from.runs),
    );
  }

  setCapacity(originId: string, capacity: Register["capacity"]): void {
    this.#sql.exec("UPDATE origins SET capacity = ? WHERE origin_id = ?", JSON.stringify(capacity), originId);
  }

  setLost(originId: string, isLost: boolean): void {
    this.#sql.exec("UPDATE origins SET is_lost = ? WHERE origin_id = ?", isLost ? 1 : 0, originId);
  }

  /** Newest first. */
  keys(): KeyRow[] {
    if (!this.#exists()) return [];
    return this.#sql
      .exec<{ key_id: string; origin_id: string; secret: string; created_at: number }>(
        "SELECT key_id, origin_id, secret, created_at FROM keys ORDER BY created_at DESC, rowid DESC",
      )
      .toArray();
  }

  insertKey(key: KeyRow): void {
    this.#sql.exec("INSERT INTO keys VALUES (?, ?, ?, ?)", key.key_id, key.origin_id, key.secret, key.created_at);
  }

  deleteKey(keyId: string): void {
    if (this.#exists()) this.#sql.exec("DELETE FROM keys WHERE key_id = ?", keyId);
  }

  joinToken(tokenSha256: string): { origin_id: string; incarnation: string } | null {
    const found = this.#sql.exec<{ origin_id: string; incarnation: string }>(
      "SELECT origin_id, incarnation FROM join_tokens WHERE token_sha256 = ?",
      tokenSha256,
    );
    return found.toArray()[0] ?? null;
  }

  spendJoinToken(tokenSha256: string, originId: string, incarnation: string): void {
    this.#sql.exec("INSERT INTO join_tokens VALUES (?, ?, ?)", tokenSha256, originId, incarnation);
  }

  instances(originId?: string): FleetInstanceRow[] {
    if (!this.#exists()) return [];
    const rows = this.#sql.exec<Omit<FleetInstanceRow, "is_draining"> & { is_draining: number }>(
      `SELECT * FROM instances ${originId === undefined ? "" : "WHERE origin_id = ?"}`,
      ...(originId === undefined ? [] : [originId]),
    );
    return rows.toArray().map((row) => ({ ...row, is_draining: row.is_draining === 1 }));
  }

  instance(instanceId: string): FleetInstanceRow | null {
    return this.instances().find((row) => row.instance_id === instanceId) ?? null;
  }

  /** Takes the room, and remembers that the origin has what the version needs. */
  reserve(row: FleetInstanceRow): void {
    this.#sql.exec(
      `INSERT INTO instances (instance_id, origin_id, deployment_key, version_id, memory_bytes, placed_at, is_draining, gpus)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
      row.instance_id,
      row.origin_id,
      row.deployment_key,
      row.version_id,
      row.memory_bytes,
      row.placed_at,
      row.is_draining ? 1 : 0,
      row.gpus,
    );
    this.#sql.exec(
      "INSERT OR REPLACE INTO known_versions VALUES (?, ?, ?)",
      row.origin_id,
      row.version_id,
      row.placed_at,
    );
    this.#sql.exec(
      `DELETE FROM known_versions WHERE origin_id = ? AND version_id NOT IN
        (SELECT version_id FROM known_versions WHERE origin_id = ? ORDER BY placed_at DESC LIMIT ?)`,
      row.origin_id,
      row.origin_id,
      KNOWN_VERSIONS_PER_ORIGIN,
    );
  }

  setDraining(instanceId: string): void {
    this.#sql.exec("UPDATE instances SET is_draining = 1 WHERE instance_id = ?", instanceId);
  }

  removeInstance(instanceId: string): void {
    this.#sql.exec("DELETE FROM instances WHERE instance_id = ?", instanceId);
  }

  originsThatRan(versionId: string): Set<string> {
    const rows = this.#sql.exec<{ origin_id: string }>(
      "SELECT origin_id FROM known_versions WHERE version_id = ?",
      versionId,
    );
    return new Set(rows.toArray().map((row) => row.origin_id));
  }
}
