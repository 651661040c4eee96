/**
 * Rival b: an instance for each prediction that waits and for which none is starting, and a constant time that an idle one is kept, 60 s. So do platforms
 * that scale by request. Other times than 60 s give its curve of cost and cold starts, which equal costs are read from.
 */
import type { Decision, DeploymentView, Policy, PolicyMaker } from "./policy.ts";

export const CONSTANT_IDLE_MS = 60_000;

export function constantIdle(idle_ms: number): PolicyMaker {
  return {
    name: `idle ${idle_ms / 1_000} s`,
    make: ({ max_instances }) => new ConstantIdle(idle_ms, max_instances),
  };
}

class ConstantIdle implements Policy {
  readonly #idle_ms: number;
  readonly #max: number;

  constructor(idle_ms: number, max: number) {
    this.#idle_ms = idle_ms;
    this.#max = max;
  }

  decide({ now, queued, instances }: DeploymentView): Decision {
    const starting = instances.filter(({ state }) => state === "starting").length;
    const place = Math.max(0, Math.min(queued - starting, this.#max - instances.length));
    const idle = queued > 0 ? [] : instances.filter(({ state, leased }) => state === "ready" && leased === 0);
    const expired = idle.filter(({ last_used_at }) => last_used_at + this.#idle_ms <= now);
    const left = idle.filter(({ last_used_at }) => last_used_at + this.#idle_ms > now);
    return {
      place,
      drain: expired.map(({ instance_id }) => instance_id),
      decide_again_at: left.reduce<number | null>(
        (first, { last_used_at }) => Math.min(first ?? Number.POSITIVE_INFINITY, last_used_at + this.#idle_ms),
        null,
      ),
    };
  }
}
