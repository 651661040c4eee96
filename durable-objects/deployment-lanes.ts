/**
 * Lane 0's part in the lanes of a deployment (schema/lanes.ts): how many there are, and which slots the others may lease.
 *
 * Another lane tells what it holds and has to do; the answer says what it may hold from then on. Lane 0 counts as lent what that lane may hold at most: what
 * it said and what it is answered, whichever is more, until its next report. So a slot is never in two lanes, whatever is lost, late or crashes:
 *
 * | what happens                            | then                                                                                       |
 * | --------------------------------------- | ------------------------------------------------------------------------------------------ |
 * | a report or its answer is lost          | the lane goes on with what it has, and reports again by its deadline                       |
 * | a report comes after a newer one        | it is ignored by its number                                                                |
 * | lane 0 or the lane crashes              | both have it in their storage; the lane's deadline wakes it                                |
 * | fewer lanes                             | new predictions go to fewer; a lane with work still reports, gets slots, and rests when done |
 */
import { type LaneLoad, laneCount, shareOf, slotTargets } from "../schema/lanes.ts";
import type { LaneFacts, LaneReport, LaneShare } from "./deployment-contract.ts";
import type { DeploymentQueue, InstanceRow } from "./deployment-queue.ts";
import { instanceSpec } from "./deployment-record.ts";

/** Leases are counted for so long, and then it is decided how many lanes there are. */
export const LANE_WINDOW_MS = 5_000;

export class DeploymentLanes {
  readonly #sql: SqlStorage;
  readonly #queue: DeploymentQueue;
  /** leases a second that one lane serves */
  readonly #perLane: number;
  #leases = 0;
  #since: number | null = null;

  constructor(sql: SqlStorage, queue: DeploymentQueue, perLane: number) {
    this.#sql = sql;
    this.#queue = queue;
    this.#perLane = perLane;
  }

  /** So many were leased, in this lane or another. */
  leased(count: number): void {
    this.#leases += count;
  }

  /** Inside a write: how many lanes there shall be, once in each window. A start begins a new one. */
  decide(now: number): void {
    this.#since ??= now;
    const elapsed = now - this.#since;
    if (elapsed < LANE_WINDOW_MS) return;
    const rate = (this.#leases * 1_000) / elapsed;
    this.#leases = 0;
    this.#since = now;
    const { lanes } = this.#queue.facts();
    if (lanes === 1 && rate <= this.#perLane) return;
    const ready = this.#queue.instances().filter((row) => row.state === "ready");
    const slots = ready.reduce((sum, row) => sum + row.slots, 0);
    const next = laneCount(lanes, rate, slots, this.#perLane);
    if (next === lanes) return;
    this.#queue.saveFacts({ lanes: next });
    console.info(
      JSON.stringify({ event: "lanes", key: this.#queue.spec().deployment_key, from: lanes, to: next, rate }),
    );
  }

  /** Inside a write: what a lane said of itself. False where a newer report was heard. */
  take({ lane, n, is_resting, holds, demand }: LaneReport, now: number): boolean {
    const known = this.#sql.exec<{ n: number }>("SELECT n FROM lanes WHERE lane = ?", lane).toArray()[0];
    if (known !== undefined && n <= known.n) return false;
    this.#sql.exec("INSERT OR REPLACE INTO lanes (lane, n, is_resting) VALUES (?, ?, ?)", lane, n, is_resting ? 1 : 0);
    this.#sql.exec("DELETE FROM lane_slots WHERE lane = ?", lane);
    for (const held of holds) {
      this.#lend(lane, held.instance_id, held.slots, held.leased);
      this.#queue.touchInstance(held.instance_id, held.leased > 0 ? now : Math.min(now, held.last_used_at));
    }
    // What still waits since then was refused by an answer that was lost: it is told again.
    const refused = this.#refusedSince(lane);
    this.#sql.exec("DELETE FROM lane_demand WHERE lane = ?", lane);
    for (const { boot_key, spec, queued, waiting_since } of demand) {
      // It may know a release that nobody told lane 0 of yet.
      if (this.#queue.specOf(boot_key) === null) this.#queue.saveSpec(instanceSpec(spec), now, false);
      this.#sql.exec(
        "INSERT INTO lane_demand (lane, boot_key, queued, waiting_since, is_refused) VALUES (?, ?, ?, ?, ?)",
        ...[lane, boot_key, queued, waiting_since, refused.get(boot_key) === waiting_since ? 1 : 0],
      );
    }
    return true;
  }

  /** Boot keys of what waits in the lane that were refused since it began to wait. After {@link take}. */
  refused(lane: number): string[] {
    return [...this.#refusedSince(lane).keys()];
  }

  /** What of the lane is refused, by boot key, and since when it waits. */
  #refusedSince(lane: number): Map<string, number> {
    const rows = this.#sql.exec<{ boot_key: string; waiting_since: number }>(
      "SELECT boot_key, waiting_since FROM lane_demand WHERE lane = ? AND is_refused = 1",
      lane,
    );
    return new Map(rows.toArray().map(({ boot_key, waiting_since }) => [boot_key, waiting_since]));
  }

  #lend(lane: number, instanceId: string, slots: number, leased: number): void {
    this.#sql.exec(
      "INSERT OR REPLACE INTO lane_slots (lane, instance_id, slots, leased) VALUES (?, ?, ?, ?)",
      ...[lane, instanceId, slots, leased],
    );
  }

  /** Inside a write, after {@link take}: what the lane may hold from now on, lent to it. */
  divide({ lane, is_resting, holds }: LaneReport): LaneShare["shares"] {
    if (is_resting) return [];
    const ready = this.#queue.instances().filter((row) => row.state === "ready" && row.boot_key !== null);
    const held = new Map(holds.map((one) => [one.instance_id, one]));
    const shares: LaneShare["shares"] = [];
    for (const [key, rows] of Map.groupBy(ready, (row) => row.boot_key)) {
      const loads = this.#loads(rows, key ?? "");
      const total = rows.reduce((sum, row) => sum + row.slots, 0);
      const targets = slotTargets(total, loads);
      const shared = rows.map((row) => {
        const { slots = 0, leased: used = 0 } = held.get(row.instance_id) ?? {};
        const { instance_id, own } = row;
        return { instance_id, slots: row.slots, own, others: row.lent - slots, held: slots, used };
      });
      const share = shareOf(shared, targets.get(lane) ?? 0, targets.get(0) ?? 0);
      for (const { instance_id, origin_id, placed_at } of rows) {
        const slots = share.get(instance_id) ?? 0;
        const { slots: before = 0, leased = 0 } = held.get(instance_id) ?? {};
        if (slots > before) this.#lend(lane, instance_id, slots, leased);
        if (slots > 0) shares.push({ instance_id, origin_id, boot_key: key ?? "", slots, placed_at });
      }
    }
    return shares;
  }

  /** What each lane that does not rest has to do on these instances, which are booted so. */
  #loads(rows: InstanceRow[], bootKey: string): LaneLoad[] {
    const ids = new Set(rows.map((row) => row.instance_id));
    const awake = this.#sql
      .exec<{ lane: number }>("SELECT lane FROM lanes WHERE is_resting = 0 ORDER BY lane")
      .toArray();
    const slots = this.#sql
      .exec<{ lane: number; instance_id: string; leased: number }>("SELECT lane, instance_id, leased FROM lane_slots")
      .toArray();
    const demand = this.#sql
      .exec<{ lane: number; queued: number; waiting_since: number }>(
        "SELECT lane, queued, waiting_since FROM lane_demand WHERE boot_key = ? AND is_refused = 0",
        bootKey,
      )
      .toArray();
    const own = this.#queue.waiting(bootKey);
    const ownLeased = rows.reduce((sum, row) => sum + row.own, 0);
    return [
      { lane: 0, leased: ownLeased, queued: own?.queued ?? 0, waiting_since: own?.waiting_since ?? null },
      ...awake.map(({ lane }) => {
        const waits = demand.find((one) => one.lane === lane);
        const leased = slots.filter((one) => one.lane === lane && ids.has(one.instance_id));
        return {
          lane,
          leased: leased.reduce((sum, one) => sum + one.leased, 0),
          queued: waits?.queued ?? 0,
          waiting_since: waits?.waiting_since ?? null,
        };
      }),
    ];
  }

  /** What another lane knows of the deployment. */
  facts(): LaneFacts {
    const { boot_ms, setup_ms, run_ms, setup_failures, setup_error, hold_until, refusal, is_retired, unpaid, lanes } =
      this.#queue.facts();
    return { boot_ms, setup_ms, run_ms, setup_failures, setup_error, hold_until, refusal, is_retired, unpaid, lanes };
  }
}
