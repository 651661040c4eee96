/** The hosts of a simulation, filled by the placement that production uses (schema/placement.ts). */
import { PlacementIndex } from "../../schema/placement.ts";
import type { PlacementInstance } from "../../schema/placement-hosts.ts";
import { type Deployment, GPUS_PER_HOST, HARDWARE, type Trace } from "./traces.ts";

/** As production asks for instances to go in one placement. */
const ROUNDS_MAX = 50;
/** Devices are what is scarce: eight instances fill a host's memory, too. */
export const INSTANCE_BYTES = 64 * 2 ** 30;
const NONE: ReadonlySet<string> = new Set();

export interface Placed {
  origin_id: string;
  instance: PlacementInstance;
  /** image and weights were there */
  isWarm: boolean;
}

export class Hosts {
  readonly #index = new PlacementIndex();
  /** those that a deployment has run on */
  readonly #warm = new Map<number, Set<string>>();
  /** whose use has changed since the last placement: production learns it from heartbeats */
  readonly #changed = new Map<PlacementInstance, string>();

  constructor(trace: Trace) {
    for (let i = 0; i < trace.hosts; i++) {
      this.#index.setHost({
        origin_id: `host-${i}`,
        is_open: true,
        skus: [HARDWARE[i % HARDWARE.length]?.sku ?? ""],
        capacity: { instances: GPUS_PER_HOST, memory_bytes: GPUS_PER_HOST * INSTANCE_BYTES, gpus: GPUS_PER_HOST },
        runs: null,
      });
    }
  }

  /** Room for one more instance; null when there is none. `evict` answers whether its owner lets an idle instance go, which has then been removed. */
  place(
    deployment: number,
    { hardware }: Deployment,
    instance_id: string,
    now: number,
    evict: (victim: PlacementInstance) => boolean,
  ): Placed | null {
    for (const [instance, origin_id] of this.#changed) this.#index.setInstance(origin_id, instance);
    this.#changed.clear();
    const key = String(deployment);
    const request = {
      ...{ deployment_key: key, version_id: key, hardware: HARDWARE[hardware]?.sku ?? "" },
      ...{ memory_bytes: INSTANCE_BYTES, gpus: 1, package: null, is_trusted: true, is_starving: false },
    };
    const kept = new Set<string>();
    for (let round = 0; round < ROUNDS_MAX; round++) {
      const decision = this.#index.decide(request, { now, kept, unable: NONE });
      if (decision.kind === "refused") return null;
      if (decision.kind === "evict") {
        kept.add(decision.victim.instance_id);
        evict(decision.victim);
        continue;
      }
      const { origin_id } = decision;
      const instance = {
        ...{ instance_id, deployment_key: key, memory_bytes: INSTANCE_BYTES, gpus: 1 },
        ...{ is_idle: false, idle_since: now, is_draining: false },
      };
      this.#index.setInstance(origin_id, instance);
      return { origin_id, instance, isWarm: this.#warm.get(deployment)?.has(origin_id) ?? false };
    }
    return null;
  }

  /** Image and weights of the deployment are there now. */
  warm(origin_id: string, deployment: number): void {
    const hosts = this.#warm.get(deployment) ?? new Set();
    this.#warm.set(deployment, hosts);
    if (hosts.has(origin_id)) return;
    hosts.add(origin_id);
    this.#index.setWarm(origin_id, String(deployment), true);
  }

  changed({ origin_id, instance }: Placed, change: Partial<PlacementInstance>): void {
    Object.assign(instance, change);
    this.#changed.set(instance, origin_id);
  }

  remove({ instance }: Placed): void {
    this.#changed.delete(instance);
    this.#index.removeInstance(instance.instance_id);
  }
}
