/**
 * How many instances a deployment wants, which it can let go, and why. Pure: measured values and `now` in, a decision out.
 * The first queued prediction wants the first instance at once; more come only when the queue would wait longer
 * than a new instance takes to start, one at a time, and none while another one starts.
 */

/** Without a history to compare with: this many queued for each slot make another instance worth its start. */
const QUEUED_PER_SLOT_MAX = 4;

export interface ScalingInstance {
  instance_id: string;
  /** `starting` is boot and setup */
  state: "starting" | "ready";
  slots: number;
  leased: number;
  /** when its last lease ended, or when it became ready */
  last_used_at: number;
}

export interface ScalingInput {
  queued: number;
  /** starting and ready ones alone */
  instances: ScalingInstance[];
  /** placements that were asked for and are not answered yet */
  placing: number;
  slots_per_instance: number;
  min_instances: number;
  max_instances: number;
  idle_ttl_ms: number;
  /** no new instance before this time: the last placement or setup failed */
  hold_until: number;
  /** averages of this deployment's own history; null while there is none */
  run_ms: number | null;
  start_ms: number | null;
}

export interface ScalingDecision {
  wanted: number;
  reason:
    | "queued work"
    | "long queue"
    | "minimum"
    | "in use"
    | "starting"
    | "held back"
    | "maximum"
    | "nothing to do"
    | "older release"
    | "disabled";
  /** placements to ask for now */
  place: number;
  /** idle instances to let go now, longest idle first */
  drain: string[];
  /** when time alone may change this decision */
  decide_again_at: number | null;
}

export function decideScaling(input: ScalingInput, now: number): ScalingDecision {
  const live = input.instances.length + input.placing;
  const max = Math.max(input.max_instances, input.min_instances, 1);
  const { wanted, reason } = wantedInstances(input, live, max);

  if (wanted > live) {
    if (now < input.hold_until) {
      return { wanted, reason: "held back", place: 0, drain: [], decide_again_at: input.hold_until };
    }
    return { wanted, reason, place: wanted - live, drain: [], decide_again_at: null };
  }

  const idle = input.queued > 0 ? [] : input.instances.filter((instance) => instance.leased === 0);
  const surplus = Math.max(0, live - input.min_instances);
  const expiring = idle
    .filter((instance) => instance.state === "ready")
    .sort((a, b) => a.last_used_at - b.last_used_at)
    .slice(0, surplus);
  const expired = expiring.filter((instance) => instance.last_used_at + input.idle_ttl_ms <= now);
  const next = expiring[expired.length];
  return {
    wanted: wanted - expired.length,
    reason: expired.length > 0 ? "nothing to do" : reason,
    place: 0,
    drain: expired.map((instance) => instance.instance_id),
    decide_again_at: next === undefined ? null : next.last_used_at + input.idle_ttl_ms,
  };
}

/** Never fewer than there are: going down is a matter of idle time alone. */
function wantedInstances(
  input: ScalingInput,
  live: number,
  max: number,
): { wanted: number; reason: ScalingDecision["reason"] } {
  if (live < input.min_instances) return { wanted: input.min_instances, reason: "minimum" };
  if (input.queued > 0 && live === 0) return { wanted: 1, reason: "queued work" };
  if (input.queued > 0 && isQueueLong(input)) {
    if (live >= max) return { wanted: live, reason: "maximum" };
    const isStarting = input.placing > 0 || input.instances.some((instance) => instance.state === "starting");
    return isStarting ? { wanted: live, reason: "starting" } : { wanted: live + 1, reason: "long queue" };
  }
  if (live > 0 && live === input.min_instances) return { wanted: live, reason: "minimum" };
  return { wanted: live, reason: live > 0 ? "in use" : "nothing to do" };
}

/** Whether the last in the queue waits longer for a slot than a new instance takes to start. */
function isQueueLong(input: ScalingInput): boolean {
  const slots = input.instances.reduce((sum, instance) => sum + instance.slots, 0) || input.slots_per_instance;
  if (input.run_ms === null || input.start_ms === null) return input.queued / slots > QUEUED_PER_SLOT_MAX;
  return (input.queued * input.run_ms) / slots > input.start_ms;
}

/** A moving average that follows the last dozen values or so; null before the first. */
export function movingAverage(average: number | null, value: number): number {
  return average === null ? value : average + (value - average) * 0.15;
}

interface WaitInput {
  /** 1 is next */
  position: number;
  slots_per_instance: number;
  ready_slots: number;
  /** how long the oldest starting instance has been starting; null when none is */
  starting_for_ms: number | null;
  run_ms: number | null;
  start_ms: number | null;
}

/** How long a queued prediction still waits, from this deployment's own history; null when that says nothing. */
export function estimateWait(input: WaitInput): number | null {
  const slots = Math.max(1, input.ready_slots || input.slots_per_instance);
  const rounds = input.ready_slots > 0 ? input.position / slots : Math.floor((input.position - 1) / slots);
  if (rounds > 0 && input.run_ms === null) return null;
  const turns = rounds * (input.run_ms ?? 0);
  if (input.ready_slots > 0) return Math.round(turns);
  if (input.start_ms === null) return null;
  return Math.round(Math.max(0, input.start_ms - (input.starting_for_ms ?? 0)) + turns);
}
