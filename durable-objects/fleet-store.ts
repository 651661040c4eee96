/** The SQLite of one fleet shard: origins, their keys, join tokens, and the room that instances take. Only loads and saves. */
import type { Register } from "../schema/origin-protocol.ts";
import type { InstanceUse } from "./fleet-contract.ts";

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
  runs TEXT,
  is_draining INTEGER NOT NULL DEFAULT 0,
  prices TEXT
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
  gpus INTEGER NOT NULL DEFAULT 0,
  boot TEXT,
  keep_use TEXT,
  paused_at INTEGER
);
CREATE INDEX IF NOT EXISTS instances_by_origin ON instances (origin_id);
CREATE INDEX IF NOT EXISTS keys_by_origin ON keys (origin_id);
CREATE TABLE IF NOT EXISTS invites (
  token_sha256 TEXT PRIMARY KEY,
  expires_at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS shards (
  count INTEGER NOT NULL
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
  ["origins", "is_draining", "INTEGER NOT NULL DEFAULT 0"],
  ["origins", "prices", "TEXT"],
  ["instances", "boot", "TEXT"],
  ["instances", "keep_use", "TEXT"],
  ["instances", "paused_at", "INTEGER"],
] as const;

export interface OriginRow {
  origin_id: string;
  url: string;
  incarnation: string;
  region: string;
  driver: string;
  hardware: Register["hardware"];
  capacity: Register["capacity"];
  /** null: an origin of an earlier release, which runs what it has prepared itself */
  runs: Register["runs"] | null;
  is_lost: boolean;
  /** nothing new goes there */
  is_draining: boolean;
  /** micro-dollars a second by SKU, as of its registration */
  prices: Record<string, number>;
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
  /** what it was booted as (JSON): a paused one is resumed for a request that is the same. Null for instances of earlier releases. */
  boot: string | null;
  use: InstanceUse | null;
  /** since when it is paused; null while its deployment has it */
  paused_at: number | null;
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
    this.#sql.exec(TABLES);
    this.#ready = true;
    return true;
  }

  origins(originId?: string): OriginRow[] {
    return originId === undefined ? this.#origins("", []) : this.#origins("WHERE origin_id = ?", [originId]);
  }

  /** In the order of their ids. */
  originsAfter(originId: string, limit: number): OriginRow[] {
    return this.#origins("WHERE origin_id > ? ORDER BY origin_id LIMIT ?", [originId, limit]);
  }

  #origins(where: string, params: (string | number)[]): OriginRow[] {
    if (!this.#exists()) return [];
    return this.#sql
      .exec<{
        origin_id: string;
        url: string;
        incarnation: string;
        region: string;
        driver: string;
        hardware: string;
        capacity: string;
        is_lost: number;
        runs: string | null;
        is_draining: number;
        prices: string | null;
      }>(
        `SELECT origin_id, url, incarnation, region, driver, hardware, capacity, is_lost, runs, is_draining, prices FROM origins
          ${where}`,
        ...params,
      )
      .toArray()
      .map(({ hardware, capacity, is_lost, runs, is_draining, prices, ...row }) => ({
        ...row,
        runs: runs === null ? null : (JSON.parse(runs) as OriginRow["runs"]),
        hardware: JSON.parse(hardware) as OriginRow["hardware"],
        capacity: JSON.parse(capacity) as OriginRow["capacity"],
        is_lost: is_lost === 1,
        is_draining: is_draining === 1,
        prices: prices === null ? {} : (JSON.parse(prices) as OriginRow["prices"]),
      }));
  }

  origin(originId: string): OriginRow | null {
    return this.origins(originId)[0] ?? null;
  }

  countOrigins(): number {
    if (!this.#exists()) return 0;
    return this.#sql.exec<{ count: number }>("SELECT count(*) AS count FROM origins").one().count;
  }

  /** A host that is being drained stays so when its origin starts anew. */
  saveOrigin(originId: string, from: Register, prices: Record<string, number>): void {
    this.#sql.exec(
      `INSERT INTO origins (origin_id, url, incarnation, region, driver, hardware, capacity, is_lost, runs, prices)
        VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?)
        ON CONFLICT (origin_id) DO UPDATE SET url = excluded.url, incarnation = excluded.incarnation, region = excluded.region, driver = excluded.driver,
          hardware = excluded.hardware, capacity = excluded.capacity, is_lost = 0, runs = excluded.runs, prices = excluded.prices`,
      originId,
      from.url,
      from.incarnation,
      from.region,
      from.driver,
      JSON.stringify(from.hardware),
      JSON.stringify(from.capacity),
      from.runs === undefined ? null : JSON.stringify(from.runs),
      JSON.stringify(prices),
    );
  }

  setOriginDraining(originId: string, isDraining: boolean): void {
    this.#sql.exec("UPDATE origins SET is_draining = ? WHERE origin_id = ?", isDraining ? 1 : 0, originId);
  }

  deleteOrigin(originId: string): void {
    for (const table of ["origins", "keys", "instances", "known_versions"]) {
      this.#sql.exec(`DELETE FROM ${table} WHERE origin_id = ?`, originId);
    }
  }

  setCapacity(originId: string, capacity: Register["capacity"]): void {
    this.#sql.exec("UPDATE origins SET capacity = ? WHERE origin_id = ?", JSON.stringify(capacity), originId);
  }

  setLost(originId: string, isLost: boolean): void {
    this.#sql.exec("UPDATE origins SET is_lost = ? WHERE origin_id = ?", isLost ? 1 : 0, originId);
  }

  /** Newest first. */
  keys(originId?: string): KeyRow[] {
    if (!this.#exists()) return [];
    return this.#sql
      .exec<{ key_id: string; origin_id: string; secret: string; created_at: number }>(
        `SELECT key_id, origin_id, secret, created_at FROM keys ${originId === undefined ? "" : "WHERE origin_id = ?"}
          ORDER BY created_at DESC, rowid DESC`,
        ...(originId === undefined ? [] : [originId]),
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

  saveInvite(tokenSha256: string, expiresAt: number, now: number): void {
    this.#sql.exec("DELETE FROM invites WHERE expires_at <= ?", now);
    this.#sql.exec("INSERT INTO invites VALUES (?, ?)", tokenSha256, expiresAt);
  }

  isInvited(tokenSha256: string, now: number): boolean {
    const found = this.#sql.exec("SELECT 1 FROM invites WHERE token_sha256 = ? AND expires_at > ?", tokenSha256, now);
    return found.toArray().length > 0;
  }

  /** Known to the first shard. */
  shards(): number {
    if (!this.#exists()) return 1;
    return this.#sql.exec<{ count: number }>("SELECT count FROM shards").toArray()[0]?.count ?? 1;
  }

  setShards(count: number): void {
    this.#sql.exec("DELETE FROM shards");
    this.#sql.exec("INSERT INTO shards VALUES (?)", count);
  }

  instances(originId?: string): FleetInstanceRow[] {
    if (!this.#exists()) return [];
    const where = originId === undefined ? "" : "WHERE origin_id = ?";
    return this.#instances(where, originId === undefined ? [] : [originId]);
  }

  instance(instanceId: string): FleetInstanceRow | null {
    if (!this.#exists()) return null;
    return this.#instances("WHERE instance_id = ?", [instanceId])[0] ?? null;
  }

  #instances(where: string, params: string[]): FleetInstanceRow[] {
    const rows = this.#sql.exec<
      Omit<FleetInstanceRow, "is_draining" | "use"> & { is_draining: number; keep_use: string | null }
    >(`SELECT * FROM instances ${where}`, ...params);
    return rows.toArray().map(({ keep_use, ...row }) => ({
      ...row,
      is_draining: row.is_draining === 1,
      use: keep_use === null ? null : (JSON.parse(keep_use) as InstanceUse),
    }));
  }

  /** Paused ones that were booted so, the last used first. */
  pausedAs(boot: string): FleetInstanceRow[] {
    if (!this.#exists()) return [];
    return this.#instances("WHERE boot = ? AND paused_at IS NOT NULL AND is_draining = 0 ORDER BY paused_at DESC", [
      boot,
    ]);
  }

  /** Takes the room, and remembers that the origin has what the version needs. */
  reserve(row: FleetInstanceRow): void {
    this.#sql.exec(
      `INSERT INTO instances (instance_id, origin_id, deployment_key, version_id, memory_bytes, placed_at, is_draining, gpus, boot, keep_use)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      row.instance_id,
      row.origin_id,
      row.deployment_key,
      row.version_id,
      row.memory_bytes,
      row.placed_at,
      row.is_draining ? 1 : 0,
      row.gpus,
      row.boot,
      row.use === null ? null : JSON.stringify(row.use),
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

  setPaused(instanceId: string, pausedAt: number | null): void {
    this.#sql.exec("UPDATE instances SET paused_at = ? WHERE instance_id = ?", pausedAt, instanceId);
  }

  removeInstance(instanceId: string): void {
    this.#sql.exec("DELETE FROM instances WHERE instance_id = ?", instanceId);
  }

  /** Versions that each origin has run, oldest first. */
  knownVersions(originId?: string): { origin_id: string; version_id: string }[] {
    if (!this.#exists()) return [];
    return this.#sql
      .exec<{ origin_id: string; version_id: string }>(
        `SELECT origin_id, version_id FROM known_versions ${originId === undefined ? "" : "WHERE origin_id = ?"} ORDER BY placed_at`,
        ...(originId === undefined ? [] : [originId]),
      )
      .toArray();
  }
}
