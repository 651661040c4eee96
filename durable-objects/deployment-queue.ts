/**
 * The SQLite of one deployment: the queue, leases, instances, and one row of what it knows of itself. Only loads and saves, inside a group commit.
 *
 * Order of the queue: each entry gets a `turn`, one more than the last of its own account, and at least the turn that is served now. Entries are
 * taken by (turn, order of arrival): within an account first in, first out; between accounts one each in rounds, whatever the lengths. Entries of
 * priority 1 (inputs of batches) come after all of priority 0, with turns of their own.
 */
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import type { EnqueueRequest, Lease, LeaseKey, RunSpec } from "./contracts.ts";

const TABLES = `
CREATE TABLE IF NOT EXISTS queue (
  arrival INTEGER PRIMARY KEY AUTOINCREMENT,
  prediction_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  account_id TEXT NOT NULL,
  enqueued_at INTEGER NOT NULL,
  priority INTEGER NOT NULL,
  turn INTEGER NOT NULL,
  refused INTEGER NOT NULL,
  UNIQUE (prediction_id, attempt)
);
CREATE INDEX IF NOT EXISTS queue_by_turn ON queue (refused, priority, turn, arrival);
CREATE INDEX IF NOT EXISTS queue_by_account ON queue (account_id, priority, turn);
CREATE TABLE IF NOT EXISTS leases (
  prediction_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  instance_id TEXT NOT NULL,
  origin_id TEXT NOT NULL,
  leased_at INTEGER NOT NULL,
  PRIMARY KEY (prediction_id, attempt)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instances (
  instance_id TEXT PRIMARY KEY,
  origin_id TEXT NOT NULL,
  state TEXT NOT NULL,
  slots INTEGER NOT NULL,
  placed_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  last_used_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS deployment (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  spec TEXT NOT NULL,
  facts TEXT NOT NULL
);
`;

/** What a deployment knows of itself, beside its queue. */
export interface DeploymentFacts {
  /** moving averages of its own history, milliseconds */
  boot_ms: number | null;
  setup_ms: number | null;
  run_ms: number | null;
  /** setups that failed in a row */
  setup_failures: number;
  /** class of the last one */
  setup_error: string | null;
  /** no new instance before this time */
  hold_until: number;
  /** runs that the model's counter has not been told */
  runs: number;
  /** the report that is on its way; told again until it is acknowledged */
  report: { seq: number; runs: number } | null;
  last_report_seq: number;
}

const NEW_FACTS: DeploymentFacts = {
  boot_ms: null,
  setup_ms: null,
  run_ms: null,
  setup_failures: 0,
  setup_error: null,
  hold_until: 0,
  runs: 0,
  report: null,
  last_report_seq: 0,
};

export interface InstanceRow {
  instance_id: string;
  origin_id: string;
  state: InstanceStatus["state"];
  slots: number;
  placed_at: number;
  /** when its state changed last */
  changed_at: number;
  last_used_at: number;
  leased: number;
}

interface QueueRow extends LeaseKey {
  account_id: string;
  enqueued_at: number;
}

interface Self {
  spec: RunSpec;
  /** as stored, to see a change */
  specText: string;
  facts: DeploymentFacts;
}

export class DeploymentQueue {
  readonly #sql: SqlStorage;
  #ready = false;
  #self: Self | null = null;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#ready = false;
    this.#self = null;
  }

  /** False while nothing was ever enqueued: then there is nothing to read. */
  exists(): boolean {
    this.#ready ||= this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'deployment'").toArray().length > 0;
    return this.#ready && this.#load() !== null;
  }

  /** Stores how to run, where that is new. */
  saveSpec(spec: RunSpec): void {
    if (!this.#ready) {
      this.#sql.exec(TABLES);
      this.#ready = true;
    }
    const known = this.#load();
    const specText = JSON.stringify(spec);
    if (known?.specText === specText) return;
    const facts = known?.facts ?? { ...NEW_FACTS };
    this.#self = { spec, specText, facts };
    this.#sql.exec("INSERT OR REPLACE INTO deployment VALUES (1, ?, ?)", specText, JSON.stringify(facts));
  }

  #load(): Self | null {
    if (this.#self !== null) return this.#self;
    const row = this.#sql.exec<{ spec: string; facts: string }>("SELECT spec, facts FROM deployment").toArray()[0];
    if (row === undefined) return null;
    const spec = JSON.parse(row.spec) as RunSpec;
    this.#self = { spec, specText: row.spec, facts: JSON.parse(row.facts) as DeploymentFacts };
    return this.#self;
  }

  #require(): Self {
    const self = this.#load();
    if (self === null) throw new Error("this deployment was never used");
    return self;
  }

  spec(): RunSpec {
    return this.#require().spec;
  }

  facts(): Readonly<DeploymentFacts> {
    return this.#require().facts;
  }

  saveFacts(change: Partial<DeploymentFacts>): void {
    const self = this.#require();
    self.facts = { ...self.facts, ...change };
    this.#sql.exec("UPDATE deployment SET facts = ?", JSON.stringify(self.facts));
  }

  // ---- queue

  queueLength(): number {
    return this.#sql.exec<{ n: number }>("SELECT count(*) AS n FROM queue WHERE refused = 0").one().n;
  }

  isQueueEmpty(): boolean {
    return this.#sql.exec("SELECT 1 FROM queue WHERE refused = 0 LIMIT 1").toArray().length === 0;
  }

  append(request: EnqueueRequest): void {
    this.#sql.exec(
      `INSERT INTO queue (prediction_id, attempt, account_id, enqueued_at, priority, refused, turn) VALUES (?, ?, ?, ?, ?, 0, max(
        coalesce((SELECT max(turn) + 1 FROM queue WHERE account_id = ? AND priority = ? AND refused = 0), 0),
        coalesce((SELECT min(turn) FROM queue WHERE priority = ? AND refused = 0), 0)))`,
      request.prediction_id,
      request.attempt,
      request.account_id,
      request.enqueued_at,
      request.priority,
      request.account_id,
      request.priority,
      request.priority,
    );
  }

  next(): QueueRow | null {
    const rows = this.#sql.exec<QueueRow & Record<string, SqlStorageValue>>(
      "SELECT prediction_id, attempt, account_id, enqueued_at FROM queue WHERE refused = 0 ORDER BY priority, turn, arrival LIMIT 1",
    );
    return rows.toArray()[0] ?? null;
  }

  /** True when it was queued. */
  dequeue(key: LeaseKey): boolean {
    const removed = this.#sql.exec(
      "DELETE FROM queue WHERE prediction_id = ? AND attempt = ?",
      key.prediction_id,
      key.attempt,
    );
    return removed.rowsWritten > 0;
  }

  /** Its place (1 is next) and since when it waits; null when it is not in the queue. */
  place(key: LeaseKey): { position: number; enqueued_at: number } | null {
    const rows = this.#sql.exec<{ position: number; enqueued_at: number }>(
      `SELECT enqueued_at, (SELECT count(*) FROM queue o WHERE o.refused = 0 AND (o.priority, o.turn, o.arrival) <= (q.priority, q.turn, q.arrival)) AS position
        FROM queue q WHERE prediction_id = ? AND attempt = ? AND refused = 0`,
      key.prediction_id,
      key.attempt,
    );
    return rows.toArray()[0] ?? null;
  }

  oldestEnqueuedAt(): number | null {
    return this.#sql.exec<{ at: number | null }>("SELECT min(enqueued_at) AS at FROM queue WHERE refused = 0").one().at;
  }

  /** Marks all that is queued as refused; they stay until their objects were told. */
  refuseAll(): void {
    this.#sql.exec("UPDATE queue SET refused = 1 WHERE refused = 0");
  }

  refused(limit: number): LeaseKey[] {
    return this.#sql
      .exec<{ prediction_id: string; attempt: number }>(
        "SELECT prediction_id, attempt FROM queue WHERE refused = 1 LIMIT ?",
        limit,
      )
      .toArray();
  }

  // ---- leases

  lease(key: LeaseKey): Lease | null {
    const rows = this.#sql.exec<Lease & Record<string, SqlStorageValue>>(
      "SELECT * FROM leases WHERE prediction_id = ? AND attempt = ?",
      key.prediction_id,
      key.attempt,
    );
    return rows.toArray()[0] ?? null;
  }

  leases(): Lease[] {
    return this.#sql.exec<Lease & Record<string, SqlStorageValue>>("SELECT * FROM leases").toArray();
  }

  insertLease(lease: Lease): void {
    this.#sql.exec(
      "INSERT INTO leases VALUES (?, ?, ?, ?, ?)",
      lease.prediction_id,
      lease.attempt,
      lease.instance_id,
      lease.origin_id,
      lease.leased_at,
    );
  }

  deleteLease(key: LeaseKey): void {
    this.#sql.exec("DELETE FROM leases WHERE prediction_id = ? AND attempt = ?", key.prediction_id, key.attempt);
  }

  // ---- instances

  instances(): InstanceRow[] {
    return this.#sql
      .exec<InstanceRow & Record<string, SqlStorageValue>>(
        `SELECT i.*, (SELECT count(*) FROM leases l WHERE l.instance_id = i.instance_id) AS leased
          FROM instances i ORDER BY placed_at, instance_id`,
      )
      .toArray();
  }

  instance(instanceId: string): InstanceRow | null {
    return this.instances().find((row) => row.instance_id === instanceId) ?? null;
  }

  /** Keeps what is known already: a report of the instance may be faster than the answer of its placement. */
  insertInstance(id: string, originId: string, state: InstanceStatus["state"], slots: number, now: number): void {
    this.#sql.exec(
      "INSERT OR IGNORE INTO instances VALUES (?, ?, ?, ?, ?, ?, ?)",
      id,
      originId,
      state,
      slots,
      now,
      now,
      now,
    );
  }

  setInstanceState(instanceId: string, state: InstanceStatus["state"], slots: number, now: number): void {
    this.#sql.exec(
      "UPDATE instances SET state = ?, slots = ?, changed_at = ?, last_used_at = ? WHERE instance_id = ?",
      state,
      slots,
      now,
      now,
      instanceId,
    );
  }

  touchInstance(instanceId: string, now: number): void {
    this.#sql.exec("UPDATE instances SET last_used_at = ? WHERE instance_id = ?", now, instanceId);
  }

  /** Forgets instances that ended before `before`. */
  deleteEnded(before: number): void {
    this.#sql.exec("DELETE FROM instances WHERE state IN ('stopped', 'failed') AND changed_at <= ?", before);
  }
}
