/**
 * The SQLite of one deployment, beside what it knows of itself (deployment-record.ts): the queue, leases and instances. Only loads and saves, inside a
 * group commit.
 *
 * Order of the queue: each entry gets a `turn`, one more than the last of its own account, and at least the turn that is served now. Entries are
 * taken by (turn, order of arrival): within an account first in, first out; between accounts one each in rounds, whatever the lengths. Entries of
 * priority 1 (inputs of batches) come after all of priority 0, with turns of their own.
 */
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import type { EnqueueRequest, LaneShare, Lease, LeaseKey, QueuePlace } from "./deployment-contract.ts";
import { DeploymentRecord } from "./deployment-record.ts";

export interface InstanceRow {
  instance_id: string;
  origin_id: string;
  /** null while the answer of its placement is awaited and its state says too little to know */
  boot_key: string | null;
  state: InstanceStatus["state"];
  slots: number;
  placed_at: number;
  /** when its state changed last */
  changed_at: number;
  last_used_at: number;
  /** slots in use: by leases of this lane, and of all lanes */
  own: number;
  leased: number;
  /** slots that other lanes may lease */
  lent: number;
}

interface QueueRow extends LeaseKey {
  account_id: string;
  boot_key: string;
  enqueued_at: number;
  /** nothing was ready for it when it came */
  is_cold: number;
}

/** What is remembered of how a slot was got. */
interface LeaseOrigin {
  queue_ms: number;
  is_cold: number;
}

/** What waits of one way to boot. */
export interface Demand {
  queued: number;
  waiting_since: number;
}

const LEASE_COLUMNS = "prediction_id, attempt, instance_id, origin_id, leased_at";

export class DeploymentQueue extends DeploymentRecord {
  // ---- queue

  queueLength(): number {
    return this.sql.exec<{ n: number }>("SELECT count(*) AS n FROM queue WHERE refused = 0").one().n;
  }

  /** Whether something waits in this lane. */
  hasWaiting(): boolean {
    return this.sql.exec("SELECT 1 FROM queue WHERE refused = 0 LIMIT 1").toArray().length > 0;
  }

  /** Whether nothing waits for an instance with this key. */
  isQueueEmpty(bootKey: string): boolean {
    const waiting = this.sql.exec("SELECT 1 FROM queue WHERE refused = 0 AND boot_key = ? LIMIT 1", bootKey);
    return waiting.toArray().length === 0;
  }

  /** What waits in this lane for an instance with this key; null for nothing. */
  waiting(bootKey: string): Demand | null {
    const { queued, waiting_since } = this.sql
      .exec<{ queued: number; waiting_since: number | null }>(
        "SELECT count(*) AS queued, min(enqueued_at) AS waiting_since FROM queue WHERE refused = 0 AND boot_key = ?",
        bootKey,
      )
      .one();
    return waiting_since === null ? null : { queued, waiting_since };
  }

  /** What waits in all lanes, by boot key. */
  demand(): Map<string, Demand> {
    const rows = this.sql.exec<{ boot_key: string; queued: number; waiting_since: number }>(
      `SELECT boot_key, sum(queued) AS queued, min(waiting_since) AS waiting_since FROM (
        SELECT boot_key, count(*) AS queued, min(enqueued_at) AS waiting_since FROM queue WHERE refused = 0 GROUP BY boot_key
        UNION ALL SELECT boot_key, queued, waiting_since FROM lane_demand WHERE is_refused = 0
      ) GROUP BY boot_key`,
    );
    return new Map(rows.toArray().map(({ boot_key, ...demand }) => [boot_key, demand]));
  }

  /** What all lanes have to do. */
  load(): { leased: number; has_queued: boolean } {
    const { leased, queued } = this.sql
      .exec<{ leased: number; queued: number }>(
        `SELECT (SELECT count(*) FROM leases) + (SELECT coalesce(sum(leased), 0) FROM lane_slots) AS leased,
          EXISTS (SELECT 1 FROM queue WHERE refused = 0) OR EXISTS (SELECT 1 FROM lane_demand WHERE is_refused = 0) AS queued`,
      )
      .one();
    return { leased, has_queued: queued === 1 };
  }

  /** Whether anything waits or runs, in any lane. */
  isBusy(): boolean {
    const { leased, has_queued } = this.load();
    return leased > 0 || has_queued;
  }

  append(request: EnqueueRequest, bootKey: string, isCold: boolean): void {
    const { account_id, priority } = request;
    this.sql.exec(
      `INSERT INTO queue (prediction_id, attempt, account_id, enqueued_at, priority, boot_key, is_cold, refused, turn) VALUES (?, ?, ?, ?, ?, ?, ?, 0, max(
        coalesce((SELECT max(turn) + 1 FROM queue WHERE account_id = ? AND priority = ? AND refused = 0), 0),
        coalesce((SELECT min(turn) FROM queue WHERE priority = ? AND refused = 0), 0)))`,
      ...[request.prediction_id, request.attempt, account_id, request.enqueued_at, priority, bootKey, isCold ? 1 : 0],
      ...[account_id, priority, priority],
    );
  }

  /** The next in the order of the queue that an instance with one of these keys can run. */
  next(bootKeys: string[]): QueueRow | null {
    const rows = this.sql.exec<QueueRow & Record<string, SqlStorageValue>>(
      `SELECT prediction_id, attempt, account_id, boot_key, enqueued_at, is_cold FROM queue
        WHERE refused = 0 AND boot_key IN (${bootKeys.map(() => "?").join(", ")}) ORDER BY priority, turn, arrival LIMIT 1`,
      ...bootKeys,
    );
    return rows.toArray()[0] ?? null;
  }

  /** All that waits or runs, up to `limit`. */
  inFlight(limit: number): (LeaseKey & { account_id: string })[] {
    return this.sql
      .exec<{ prediction_id: string; attempt: number; account_id: string }>(
        `SELECT prediction_id, attempt, account_id FROM queue WHERE refused = 0
          UNION ALL SELECT prediction_id, attempt, account_id FROM leases LIMIT ?`,
        limit,
      )
      .toArray();
  }

  /** True when it was queued. */
  dequeue(key: LeaseKey): boolean {
    const removed = this.sql.exec(
      "DELETE FROM queue WHERE prediction_id = ? AND attempt = ?",
      key.prediction_id,
      key.attempt,
    );
    return removed.rowsWritten > 0;
  }

  /** Its place (1 is next), since when and for what it waits; null when it is not in the queue. */
  place(key: LeaseKey): QueuePlace | null {
    const rows = this.sql.exec<QueuePlace & Record<string, SqlStorageValue>>(
      `SELECT enqueued_at, boot_key, (SELECT count(*) FROM queue o WHERE o.refused = 0 AND (o.priority, o.turn, o.arrival) <= (q.priority, q.turn, q.arrival)) AS position
        FROM queue q WHERE prediction_id = ? AND attempt = ? AND refused = 0`,
      key.prediction_id,
      key.attempt,
    );
    return rows.toArray()[0] ?? null;
  }

  /** Marks all that waits for this boot key as refused; they stay until their objects were told, and what waits in other lanes until these were. */
  refuseAll(bootKey: string): void {
    this.sql.exec("UPDATE queue SET refused = 1 WHERE refused = 0 AND boot_key = ?", bootKey);
    this.sql.exec("UPDATE lane_demand SET is_refused = 1 WHERE boot_key = ?", bootKey);
  }

  refused(limit: number): LeaseKey[] {
    return this.sql
      .exec<{ prediction_id: string; attempt: number }>(
        "SELECT prediction_id, attempt FROM queue WHERE refused = 1 LIMIT ?",
        limit,
      )
      .toArray();
  }

  // ---- leases

  lease(key: LeaseKey): Lease | null {
    const rows = this.sql.exec<Lease & Record<string, SqlStorageValue>>(
      `SELECT ${LEASE_COLUMNS} FROM leases WHERE prediction_id = ? AND attempt = ?`,
      key.prediction_id,
      key.attempt,
    );
    return rows.toArray()[0] ?? null;
  }

  leases(): Lease[] {
    return this.sql.exec<Lease & Record<string, SqlStorageValue>>(`SELECT ${LEASE_COLUMNS} FROM leases`).toArray();
  }

  insertLease(lease: Lease, accountId: string, { queue_ms, is_cold }: LeaseOrigin): void {
    this.sql.exec(
      `INSERT INTO leases (${LEASE_COLUMNS}, account_id, queue_ms, is_cold, renewed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
      ...[lease.prediction_id, lease.attempt, lease.instance_id, lease.origin_id, lease.leased_at],
      ...[accountId, queue_ms, is_cold, lease.leased_at],
    );
  }

  leaseOrigin(key: LeaseKey): LeaseOrigin | null {
    const rows = this.sql.exec<LeaseOrigin & Record<string, SqlStorageValue>>(
      "SELECT queue_ms, is_cold FROM leases WHERE prediction_id = ? AND attempt = ?",
      key.prediction_id,
      key.attempt,
    );
    return rows.toArray()[0] ?? null;
  }

  /** Attempts of the prediction that wait or have a slot, but for this one. */
  otherAttempts({ prediction_id, attempt }: LeaseKey): number[] {
    return this.sql
      .exec<{ attempt: number }>(
        `SELECT attempt FROM leases WHERE prediction_id = ? AND attempt <> ?
          UNION SELECT attempt FROM queue WHERE prediction_id = ? AND attempt <> ?`,
        ...[prediction_id, attempt, prediction_id, attempt],
      )
      .toArray()
      .map((row) => row.attempt);
  }

  /** Its prediction said that it holds it. */
  renewLeases(keys: LeaseKey[], now: number): void {
    for (const { prediction_id, attempt } of keys) {
      this.sql.exec(
        "UPDATE leases SET renewed_at = ? WHERE prediction_id = ? AND attempt = ?",
        ...[now, prediction_id, attempt],
      );
    }
  }

  /** Leases that nobody has confirmed since `before`. Those of an earlier release count from their beginning. */
  expiredLeases(before: number): LeaseKey[] {
    return this.sql
      .exec<{ prediction_id: string; attempt: number }>(
        "SELECT prediction_id, attempt FROM leases WHERE max(renewed_at, leased_at) <= ?",
        before,
      )
      .toArray();
  }

  /** What has waited since before `before`, the longest first. */
  waitingSince(before: number, limit: number): LeaseKey[] {
    return this.sql
      .exec<{ prediction_id: string; attempt: number }>(
        "SELECT prediction_id, attempt FROM queue WHERE refused = 0 AND enqueued_at <= ? ORDER BY enqueued_at LIMIT ?",
        ...[before, limit],
      )
      .toArray();
  }

  deleteLease(key: LeaseKey): void {
    this.sql.exec("DELETE FROM leases WHERE prediction_id = ? AND attempt = ?", key.prediction_id, key.attempt);
  }

  // ---- instances

  instances(): InstanceRow[] {
    return this.sql
      .exec<InstanceRow & Record<string, SqlStorageValue>>(
        `SELECT i.*, own + lane_leased AS leased FROM (
          SELECT i.*, (SELECT count(*) FROM leases l WHERE l.instance_id = i.instance_id) AS own,
            (SELECT coalesce(sum(slots), 0) FROM lane_slots s WHERE s.instance_id = i.instance_id) AS lent,
            (SELECT coalesce(sum(leased), 0) FROM lane_slots s WHERE s.instance_id = i.instance_id) AS lane_leased
          FROM instances i) AS i ORDER BY placed_at, instance_id`,
      )
      .toArray();
  }

  instance(instanceId: string): InstanceRow | null {
    return this.instances().find((row) => row.instance_id === instanceId) ?? null;
  }

  /** Keeps the state that is known already: a report of the instance may be faster than the answer of its placement, which alone is sure of its key. */
  insertInstance(
    row: Pick<InstanceRow, "instance_id" | "origin_id" | "boot_key" | "state" | "slots">,
    now: number,
  ): void {
    const { instance_id, origin_id, boot_key, state, slots } = row;
    this.sql.exec(
      `INSERT INTO instances (instance_id, origin_id, boot_key, state, slots, placed_at, changed_at, last_used_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (instance_id) DO UPDATE SET boot_key = excluded.boot_key`,
      ...[instance_id, origin_id, boot_key, state, slots, now, now, now],
    );
  }

  deleteInstance(instanceId: string): void {
    this.sql.exec("DELETE FROM instances WHERE instance_id = ?", instanceId);
  }

  setInstanceState(instanceId: string, state: InstanceStatus["state"], slots: number, now: number): void {
    this.sql.exec(
      "UPDATE instances SET state = ?, slots = ?, changed_at = ?, last_used_at = ? WHERE instance_id = ?",
      state,
      slots,
      now,
      now,
      instanceId,
    );
  }

  touchInstance(instanceId: string, now: number): void {
    this.sql.exec(
      "UPDATE instances SET last_used_at = max(last_used_at, ?) WHERE instance_id = ?",
      ...[now, instanceId],
    );
  }

  /** Of a lane but 0: what it may lease of an instance. */
  setShare({ instance_id, origin_id, boot_key, slots, placed_at }: LaneShare["shares"][number], now: number): void {
    this.sql.exec(
      `INSERT INTO instances (instance_id, origin_id, boot_key, state, slots, placed_at, changed_at, last_used_at)
        VALUES (?, ?, ?, 'ready', ?, ?, ?, 0) ON CONFLICT (instance_id) DO UPDATE SET state = 'ready', slots = excluded.slots`,
      ...[instance_id, origin_id, boot_key, slots, placed_at, now],
    );
  }

  /** Forgets instances that ended before `before`. */
  deleteEnded(before: number): void {
    this.sql.exec("DELETE FROM instances WHERE state IN ('stopped', 'failed') AND changed_at <= ?", before);
  }
}
