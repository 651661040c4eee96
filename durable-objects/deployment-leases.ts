/**
 * The leases of one deployment (of one lane of it): who gets a free slot next, who is told, and what is taken back. A slot is passed on in the transaction that
 * frees it.
 */
import { predictionObjectName } from "../schema/ids.ts";
import { UTILISATION_TARGET } from "../schema/scaling.ts";
import type { EnqueueRequest, EnqueueResult, Lease, LeaseKey } from "./deployment-contract.ts";
import { GrantDelivery } from "./deployment-grants.ts";
import type { InstanceRow } from "./deployment-queue.ts";
import { TELL_AGAIN_MS } from "./deployment-setups.ts";
import type { Surroundings } from "./deployment-surroundings.ts";
import { predictionStub } from "./stubs.ts";

/** A lease this old is asked about at its prediction, and again each time it has become this much older. */
export const LEASE_CHECK_MS = 60_000;
/** A lease that its prediction has not confirmed for so long, its object being away all the time, is taken back. */
const LEASE_EXPIRES_MS = 600_000;
/** What has waited for so long is asked about too: the longest waiting ones, so many at a time. */
const QUEUE_CHECK_MS = 600_000;
const QUEUE_CHECKS_MAX = 1_000;
/** Of a disabled deployment: predictions canceled by one deadline and side by side (each takes up to 8 s), and the pause before the next ones. */
const CANCELS_PER_TURN = 200;
const CANCELS_AT_ONCE = 20;
export const CANCEL_AGAIN_MS = 1_000;

interface LeasesSurroundings extends Surroundings<"tell" | "leases" | "cancel"> {
  /** a slot was leased */
  leased: () => void;
  /** inside a write: leases ended, so what they held may be idle, and what waits has become less */
  ended: (now: number) => void;
}

export class DeploymentLeases {
  readonly #is: LeasesSurroundings;
  readonly grants: GrantDelivery;

  constructor(surroundings: LeasesSurroundings) {
    this.#is = surroundings;
    this.grants = new GrantDelivery(surroundings.env, surroundings.queue);
  }

  /** The attempt is the epoch of its prediction's claim: a newer one ends what older ones hold, and an older one gets nothing. Inside a write, as what follows. */
  fence(request: EnqueueRequest, now: number): EnqueueResult | null {
    const { queue } = this.#is;
    const others = queue.otherAttempts(request);
    if (others.some((attempt) => attempt > request.attempt)) {
      return { kind: "refused", code: "origin.lost", detail: "A newer attempt of the prediction has taken its place." };
    }
    if (others.length > 0) {
      const { prediction_id } = request;
      for (const attempt of others) queue.dequeue({ prediction_id, attempt });
      this.end(
        others.map((attempt) => ({ prediction_id, attempt })),
        now,
      );
    }
    return null;
  }

  /** A slot that is free now, for one that nothing waits before; null when there is none. */
  take(request: EnqueueRequest, bootKey: string, now: number): Lease | null {
    const lease = this.#leaseTo(request, bootKey, this.#withFreeSlot(), now);
    if (lease === null) return null;
    this.#is.queue.insertLease(lease, request.account_id, { queue_ms: 0, is_cold: 0 });
    this.#is.leased();
    return lease;
  }

  /**
   * A lease on the first of these that was booted so and is not as busy as it shall be; then on the least busy one; null when there is none. The first ones
   * in order of placement are used, so that what is too much gets idle and goes.
   */
  #leaseTo(key: LeaseKey, bootKey: string, free: InstanceRow[], now: number): Lease | null {
    const { alarms } = this.#is;
    const fitting = free.filter((row) => row.boot_key === bootKey);
    const instance =
      fitting.find((row) => row.own + 1 <= (row.slots - row.lent) * UTILISATION_TARGET) ??
      fitting.reduce<InstanceRow | null>((best, row) => (best === null || row.own < best.own ? row : best), null);
    if (instance === null) return null;
    if (alarms.get("leases") === null) alarms.set("leases", now + LEASE_CHECK_MS);
    const { prediction_id, attempt } = key;
    const { instance_id, origin_id } = instance;
    return { prediction_id, attempt, instance_id, origin_id, leased_at: now };
  }

  /** Instances with a free slot. */
  #withFreeSlot(): InstanceRow[] {
    return this.#is.queue.instances().filter((row) => row.state === "ready" && row.own < row.slots - row.lent);
  }

  /** Gives free slots to those who wait, in their order. */
  grant(now: number): void {
    const { queue, alarms, followUp, leased } = this.#is;
    while (queue.hasWaiting()) {
      const free = this.#withFreeSlot();
      const keys = new Set(free.flatMap((row) => (row.boot_key === null ? [] : [row.boot_key])));
      const next = keys.size === 0 ? null : queue.next([...keys]);
      const lease = next === null ? null : this.#leaseTo(next, next.boot_key, free, now);
      if (next === null || lease === null) return;
      this.grants.add(lease);
      queue.dequeue(next);
      const queue_ms = Math.max(0, now - next.enqueued_at);
      queue.insertLease(lease, next.account_id, { queue_ms, is_cold: next.is_cold });
      leased();
      alarms.setNoLaterThan("tell", now + TELL_AGAIN_MS);
      followUp(this.tell);
    }
  }

  readonly tell = async (): Promise<void> => {
    const declined = await this.grants.tell();
    if (declined.length > 0) await this.#is.write((now) => this.end(declined, now));
  };

  /** The slot is free; {@link grant} passes it on. */
  drop(key: LeaseKey): void {
    this.#is.queue.deleteLease(key);
    this.grants.forget(key);
  }

  /** Ends leases whose predictions do not need them, and passes the slots on. */
  end(keys: LeaseKey[], now: number): void {
    for (const key of keys) this.drop(key);
    this.grant(now);
    if (keys.length > 0) this.#is.ended(now);
  }

  /**
   * Frees leases whose predictions do not hold them any more: their release was lost. One that nobody confirms for {@link LEASE_EXPIRES_MS} is taken back. What has
   * waited for long is asked about in the same way.
   */
  async check(): Promise<void> {
    const { env, queue, alarms, write } = this.#is;
    // A lease that its prediction was never told of cannot be held: after a start that may be any.
    await this.tell();
    const before = Date.now() - LEASE_CHECK_MS;
    const leases = queue.leases().filter((lease) => lease.leased_at <= before && !this.grants.isUntold(lease));
    const old: LeaseKey[] = [...leases, ...queue.waitingSince(Date.now() - QUEUE_CHECK_MS, QUEUE_CHECKS_MAX)];
    const { lane } = queue.facts();
    const byObject = Map.groupBy(old, (lease) => predictionObjectName(lease.prediction_id));
    const asked = await Promise.all(
      [...byObject.values()].map(async (keys) => {
        const held = await predictionStub(env, keys[0]?.prediction_id ?? "")
          .leasesHeld(keys.map((key) => ({ ...key, lane })))
          .catch((): boolean[] => []);
        return keys.map((key, i) => ({ key, held: held[i] }));
      }),
    );
    const keysOf = (is: boolean): LeaseKey[] => asked.flat().flatMap(({ key, held }) => (held === is ? [key] : []));
    await write((now) => {
      queue.renewLeases(keysOf(true), now);
      const gone = [...keysOf(false), ...queue.expiredLeases(now - LEASE_EXPIRES_MS)];
      for (const key of gone) queue.dequeue(key);
      this.end(gone, now);
      if (queue.inFlight(1).length > 0) alarms.set("leases", now + LEASE_CHECK_MS);
    });
  }

  /** Cancels what runs or waits in a disabled deployment, for its callers. What has ended meanwhile, or was never stored, only leaves the queue. */
  async cancelAll(): Promise<void> {
    const { env, queue, alarms, write } = this.#is;
    if (queue.spec().max_instances > 0) return;
    const unknown: LeaseKey[] = [];
    const keys = queue.inFlight(CANCELS_PER_TURN);
    for (let i = 0; i < keys.length; i += CANCELS_AT_ONCE) {
      const canceled = keys.slice(i, i + CANCELS_AT_ONCE).map(async (key) => {
        const ended = await predictionStub(env, key.prediction_id).cancel(key.prediction_id, key.account_id);
        if (ended === null) unknown.push(key);
      });
      await Promise.allSettled(canceled);
    }
    await write((now) => {
      for (const key of unknown) queue.dequeue(key);
      this.end(unknown, now);
      if (queue.inFlight(1).length > 0) alarms.setNoLaterThan("cancel", now + CANCEL_AGAIN_MS);
    });
  }
}
