/**
 * What heartbeats told: which origins are alive, and how the instances on them are. In memory only, since no one needs it after a crash: the next heartbeat
 * tells it again, and until then every origin has the full time to give a sign of life.
 */
import { type InstanceStatus, ORIGIN_DEAD_AFTER_MS } from "../schema/origin-protocol.ts";
import type { FleetInstanceRow, OriginRow } from "./fleet-store.ts";

export interface SeenInstance {
  state: InstanceStatus["state"];
  /** its deployment was told of this state from here */
  told: boolean;
  idle_since: number | null;
}

interface Seen {
  at: number;
  instances: Map<string, SeenInstance>;
}

export class FleetHeartbeats {
  readonly #seen = new Map<string, Seen>();
  readonly #wokeAt = Date.now();

  /**
   * Remembers a sign of life. Answers the states that were the same in two reports and have not been told to their deployment from here: the
   * origin pushes changes itself, so this only repairs what got lost, and never overtakes a newer push with an older state.
   */
  heard(originId: string, instances: InstanceStatus[], now: number): InstanceStatus[] {
    const before = this.#seen.get(originId)?.instances;
    const settled: InstanceStatus[] = [];
    const after: Seen["instances"] = new Map();
    for (const status of instances) {
      const last = before?.get(status.instance_id);
      // A paused one is nobody's: there is nobody to tell.
      const isSettled = last?.state === status.state && !last.told && status.state !== "paused";
      if (isSettled) settled.push(status);
      const idle_since = status.slots_busy > 0 ? null : (last?.idle_since ?? now);
      const told = last?.state === status.state && (last.told || isSettled);
      after.set(status.instance_id, { state: status.state, told, idle_since });
    }
    this.#seen.set(originId, { at: now, instances: after });
    return settled;
  }

  /** Their deployments did not hear of these: they are answered again. */
  untold(originId: string, statuses: InstanceStatus[]): void {
    const seen = this.#seen.get(originId)?.instances;
    for (const { instance_id } of statuses) {
      const known = seen?.get(instance_id);
      if (known !== undefined) known.told = false;
    }
  }

  /** What the last heartbeat said of an instance; null before one did. */
  instance({ origin_id, instance_id }: Pick<FleetInstanceRow, "origin_id" | "instance_id">): SeenInstance | null {
    return this.#seen.get(origin_id)?.instances.get(instance_id) ?? null;
  }

  isAlive({ origin_id, is_lost }: Pick<OriginRow, "origin_id" | "is_lost">): boolean {
    return !is_lost && Date.now() < this.deadAt(origin_id);
  }

  /** Without another sign of life it is dead then. */
  deadAt(originId: string): number {
    return (this.lastSeenAt(originId) ?? this.#wokeAt) + ORIGIN_DEAD_AFTER_MS;
  }

  lastSeenAt(originId: string): number | null {
    return this.#seen.get(originId)?.at ?? null;
  }

  forget(originId: string): void {
    this.#seen.delete(originId);
  }
}
