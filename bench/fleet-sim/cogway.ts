/**
 * Our policy: production's decisions (schema/rollout.ts, schema/scaling.ts, schema/arrivals.ts) on the facts that a DeploymentObject keeps, asked when that asks:
 * when a prediction has to wait, when one came and a second has passed, when an instance is ready, and by its alarm.
 */
import { type Arrivals, NO_ARRIVALS, neededInstances, noteWork } from "../../schema/arrivals.ts";
import { decideRollout } from "../../schema/rollout.ts";
import { movingAverage } from "../../schema/scaling.ts";
import type { Cause, Decision, DeploymentView, Policy, PolicyMaker } from "./rivals/policy.ts";

/** As workers/domain/run-spec.ts says it for shared hardware. */
const IDLE_TTL_MS = 30_000;
const SLOTS = 1;
/** Traces begin at 0; days of production are those of UTC. A midnight: 2026-01-05. */
const TRACE_BEGINS_AT = Date.UTC(2026, 0, 5);
/** As durable-objects/deployment-scaler.ts: what finds a free slot is reason to decide once a second. */
const DECIDE_EVERY_MS = 1_000;
const BOOT_KEY = "current";
const NOTHING: Decision = { place: 0, drain: [], decide_again_at: null };

/** `wait_weight`: in place of production's own, for the curve of cost and cold starts. */
export function cogway(wait_weight?: number): PolicyMaker {
  return {
    name: wait_weight === undefined ? "Cogway" : `Cogway, weight ${wait_weight}`,
    make: ({ max_instances }) => new Cogway(max_instances, wait_weight),
  };
}

class Cogway implements Policy {
  readonly #max: number;
  readonly #weight: { wait_weight?: number };
  #run_ms: number | null = null;
  #start_ms: number | null = null;
  #arrivals: Arrivals = NO_ARRIVALS;
  #needed = 0;
  #decided_at = Number.NEGATIVE_INFINITY;
  #keep_idle_ms = IDLE_TTL_MS;

  constructor(max: number, wait_weight: number | undefined) {
    this.#max = max;
    this.#weight = wait_weight === undefined ? {} : { wait_weight };
  }

  worked(came: 0 | 1, running: number, queued: number, now: number): void {
    const after = neededInstances(running, queued, SLOTS);
    this.#arrivals = noteWork(this.#arrivals, { before: this.#needed, after, came }, TRACE_BEGINS_AT + now);
    this.#needed = after;
  }

  ended(run_ms: number): void {
    this.#run_ms = movingAverage(this.#run_ms, run_ms);
  }

  started(start_ms: number): void {
    this.#start_ms = movingAverage(this.#start_ms, start_ms);
  }

  decide({ now, queued, waiting_since, instances, hold_until }: DeploymentView, cause: Cause): Decision {
    if (cause === "arrival" && queued === 0 && now - this.#decided_at < DECIDE_EVERY_MS) return NOTHING;
    if (cause === "end") return { ...NOTHING, decide_again_at: now + this.#keep_idle_ms };
    const group = {
      boot_key: BOOT_KEY,
      queued,
      waiting_since: waiting_since === null ? null : TRACE_BEGINS_AT + waiting_since,
      instances: instances.map((instance) => ({
        ...{ instance_id: instance.instance_id, state: instance.state, slots: SLOTS, leased: instance.leased },
        last_used_at: TRACE_BEGINS_AT + instance.last_used_at,
        placed_at: TRACE_BEGINS_AT + instance.placed_at,
      })),
      placing: 0,
    };
    const decision = decideRollout(
      {
        ...{ current: group, older: [], released_at: 0, draining: 0, no_room: hold_until > now },
        ...{ slots_per_instance: SLOTS, min_instances: 0, max_instances: this.#max, idle_ttl_ms: IDLE_TTL_MS },
        ...{ hold_until: TRACE_BEGINS_AT + hold_until, run_ms: this.#run_ms, start_ms: this.#start_ms },
        arrivals: this.#arrivals,
        ...this.#weight,
      },
      TRACE_BEGINS_AT + now,
    );
    this.#decided_at = now;
    this.#keep_idle_ms = decision.measures.keep_idle_ms;
    const { drain, decide_again_at } = decision;
    return {
      place: decision.place.length,
      drain,
      decide_again_at: decide_again_at === null ? null : decide_again_at - TRACE_BEGINS_AT,
    };
  }
}
