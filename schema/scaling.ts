/**
 * How many instances a deployment wants, which it can let go, and why. Pure: measured values and `now` in, a decision out.
 *
 * | it wants one more when                                                                     | reason          |
 * | ------------------------------------------------------------------------------------------ | --------------- |
 * | something waits and there is none                                                          | `queued work`   |
 * | what waits would wait longer than a new one takes to start, those that start counted as there | `long queue` |
 * | much more comes in the panic window than before, and waits                                 | `burst`         |
 * | what comes in the stable window keeps its slots busier than the concurrency target          | `steady load`   |
 * | the gaps between its uses, or the days before, say that it is needed by the time it is ready | `expected soon`, `daily pattern` |
 *
 * It lets one go when that has been idle for longer than its level's gaps make worth while (arrivals.ts). Going up is a matter of load and going down of idle time, so
 * nothing oscillates between two thresholds, and without load nothing climbs.
 */
import {
  type Arrivals,
  arrivalRates,
  expectedInstances,
  idleSince,
  NO_ARRIVALS,
  nextExpectedAt,
  nextQuarterAt,
  PANIC_WINDOW_MS,
  planOf,
  type StartCosts,
} from "./arrivals.ts";

/** Without a history to compare with: this many queued for each slot make another instance worth its start. */
const QUEUED_PER_SLOT_MAX = 4;
/** Queue-delay target: nobody shall wait longer on average once instances are there, nor longer than a run takes where that is more, up to the maximum. */
const QUEUE_DELAY_TARGET_MS = 2_000;
const QUEUE_DELAY_TARGET_MAX_MS = 30_000;
/** Concurrency target: the share of slots that the steady load may keep busy. */
export const UTILISATION_TARGET = 0.8;
/** What it may fall to before an instance of the steady load goes: noise of a window is no reason to come and go. */
const UTILISATION_HELD = 0.7;
/** Fewer arrivals than this in the stable window say nothing of a load. */
const STEADY_ARRIVALS_MIN = 6;
/** A burst: the panic window brings so many times what the stable one does, and at least so many predictions for each slot. */
const BURST_FACTOR = 2;
const BURST_PER_SLOT_MIN = 2;
/** A second that a caller waits is worth so many seconds of an idle instance. */
export const WAIT_WEIGHT = 10;
/** Whoever called once often calls again at once: nothing goes before this. */
const KEEP_MIN_MS = 5_000;
/** Taken for a start's time while none was measured. */
const START_UNKNOWN_MS = 30_000;
/** Room between a boot that is expected and the work that it is for. */
const EXPECTED_EARLY_MS = 5_000;

export interface ScalingInstance {
  instance_id: string;
  /** `starting` is boot and setup */
  state: "starting" | "ready";
  slots: number;
  leased: number;
  /** when its last lease ended, or when it became ready */
  last_used_at: number;
  /** since when it starts; absent counts as now */
  placed_at?: number;
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
  /** how long an idle one is kept while there is no history */
  idle_ttl_ms: number;
  /** no new instance before this time: the last placement or setup failed */
  hold_until: number;
  /** averages of this deployment's own history; null while there is none */
  run_ms: number | null;
  start_ms: number | null;
  /** absent: nothing is known */
  arrivals?: Arrivals;
  /** in place of {@link WAIT_WEIGHT} */
  wait_weight?: number;
}

export const SCALING_REASONS = [
  "queued work",
  "long queue",
  "burst",
  "steady load",
  "expected soon",
  "daily pattern",
  "minimum",
  "in use",
  "starting",
  "held back",
  "maximum",
  "nothing to do",
  "older release",
  "disabled",
  "budget used up",
] as const;
export type ScalingReason = (typeof SCALING_REASONS)[number];

/** What a decision rests on, as it is shown. */
export interface ScalingMeasures {
  queued: number;
  busy_slots: number;
  ready_slots: number;
  starting_instances: number;
  /** of the stable and the panic window */
  arrivals_per_s: number;
  panic_arrivals_per_s: number;
  run_ms: number | null;
  start_ms: number | null;
  /** how long the last in the queue waits with what is there and what starts; null without a history */
  queue_delay_ms: number | null;
  /** how long the next instance to go is kept idle */
  keep_idle_ms: number;
}

export interface ScalingDecision {
  wanted: number;
  reason: ScalingReason;
  /** placements to ask for now */
  place: number;
  /** idle instances to let go now, longest idle first */
  drain: string[];
  /** when time alone may change this decision */
  decide_again_at: number | null;
  measures: ScalingMeasures;
}

/** What of the input is needed more than once. */
interface Load {
  live: number;
  busy: number;
  ready_slots: number;
  /** how long each one that starts still takes */
  starting: number[];
  rates: { stable: number; panic: number; arrivals: number };
  start_ms: number;
  delay_target_ms: number;
  queue_delay_ms: number | null;
}

export function decideScaling(input: ScalingInput, now: number): ScalingDecision {
  const load = loadOf(input, now);
  const { live } = load;
  const max = Math.max(input.max_instances, input.min_instances, 1);
  const expected = expectedOf(input, load, max, now);
  const { wanted, reason } = wantedInstances(input, load, max, expected);
  const keep_idle_ms = keepIdle(input, load, live);
  const measures: ScalingMeasures = {
    queued: input.queued,
    busy_slots: load.busy,
    ready_slots: load.ready_slots,
    starting_instances: load.starting.length,
    arrivals_per_s: rounded(load.rates.stable * 1_000),
    panic_arrivals_per_s: rounded(load.rates.panic * 1_000),
    run_ms: input.run_ms,
    start_ms: input.start_ms,
    queue_delay_ms: load.queue_delay_ms,
    keep_idle_ms,
  };
  if (wanted > live) {
    if (now < input.hold_until) {
      return { wanted, reason: "held back", place: 0, drain: [], decide_again_at: input.hold_until, measures };
    }
    return { wanted, reason, place: wanted - live, drain: [], decide_again_at: expected.again_at, measures };
  }

  const held = heldInstances(input, load);
  const floor = Math.max(input.min_instances, expected.instances, held);
  const idle = input.queued > 0 ? [] : input.instances.filter((row) => row.leased === 0 && row.state === "ready");
  const leaving = idle.sort((a, b) => a.last_used_at - b.last_used_at).slice(0, Math.max(0, live - floor));
  const drain: string[] = [];
  let next: number | null = null;
  for (const instance of leaving) {
    const due = instance.last_used_at + keepIdle(input, load, live - drain.length);
    // One that is kept longer than the next is left behind by its level, not by its age.
    if (due <= now) drain.push(instance.instance_id);
    else if (next === null || due < next) next = due;
  }
  // The window moves on by itself.
  const isHeld = idle.length > leaving.length && held > input.min_instances;
  const again = [next, expected.again_at, isHeld ? now + PANIC_WINDOW_MS : null].filter((at) => at !== null);
  return {
    wanted: wanted - drain.length,
    reason: drain.length > 0 ? "nothing to do" : reason,
    place: 0,
    drain,
    decide_again_at: again.length === 0 ? null : Math.min(...again),
    measures,
  };
}

function rounded(value: number): number {
  return Math.round(value * 1_000) / 1_000;
}

function loadOf(input: ScalingInput, now: number): Load {
  const start_ms = input.start_ms ?? START_UNKNOWN_MS;
  let busy = 0;
  let ready_slots = 0;
  const starting: number[] = new Array(input.placing).fill(start_ms);
  for (const { state, leased, slots, placed_at } of input.instances) {
    busy += leased;
    if (state === "ready") ready_slots += slots;
    else starting.push(Math.max(0, start_ms - (now - (placed_at ?? now))));
  }
  const run = input.run_ms;
  // What runs now is half done on average.
  const work = Math.max(0, input.queued - 0.5) * (run ?? 0);
  return {
    live: input.instances.length + input.placing,
    busy,
    ready_slots,
    starting,
    rates: arrivalRates(input.arrivals ?? NO_ARRIVALS, now),
    start_ms,
    delay_target_ms: delayTarget(run),
    queue_delay_ms: run === null ? null : queueDelay(work, ready_slots, starting, input.slots_per_instance),
  };
}

/** The queue-delay target of predictions that run for so long on average. */
export function delayTarget(runMs: number | null): number {
  return Math.min(Math.max(QUEUE_DELAY_TARGET_MS, runMs ?? 0), QUEUE_DELAY_TARGET_MAX_MS);
}

/** When work that takes `work` slot-milliseconds has begun, on slots that are there and those of instances that still start. */
function queueDelay(work: number, readySlots: number, starting: number[], slotsEach: number): number {
  let left = work;
  let slots = readySlots;
  let at = 0;
  for (const ready_in of [...starting].sort((a, b) => a - b)) {
    const until = at + (slots > 0 ? left / slots : Number.POSITIVE_INFINITY);
    if (left <= 0 || until <= ready_in) break;
    left -= slots * (ready_in - at);
    at = ready_in;
    slots += slotsEach;
  }
  return left <= 0 ? at : slots === 0 ? 0 : Math.round(at + left / slots);
}

/** Never fewer than there are: going down is a matter of idle time alone. */
function wantedInstances(
  input: ScalingInput,
  load: Load,
  max: number,
  expected: { instances: number; reason: ScalingReason },
): { wanted: number; reason: ScalingReason } {
  const { live, starting } = load;
  const asked: { wanted: number; reason: ScalingReason }[] = [
    { wanted: input.queued > 0 && live === 0 ? 1 : 0, reason: "queued work" },
    { wanted: input.min_instances, reason: "minimum" },
    { wanted: queueInstances(input, load), reason: isBurst(input, load) ? "burst" : "long queue" },
    { wanted: steadyInstances(input, load), reason: "steady load" },
    { wanted: expected.instances, reason: expected.reason },
  ];
  const most = asked.reduce((best, one) => (one.wanted > best.wanted ? one : best));
  if (most.wanted > live) {
    if (live >= max) return { wanted: live, reason: "maximum" };
    return { wanted: Math.min(most.wanted, max), reason: most.reason };
  }
  if (input.queued > 0 && starting.length > 0) return { wanted: live, reason: "starting" };
  if (live > 0 && live === input.min_instances) return { wanted: live, reason: "minimum" };
  if (live > 0 && load.busy + input.queued === 0 && expected.instances >= live) {
    return { wanted: live, reason: expected.reason };
  }
  return { wanted: live, reason: live > 0 ? "in use" : "nothing to do" };
}

/** More comes now than before: the panic window counts. */
function isBurst({ slots_per_instance }: ScalingInput, { rates, ready_slots }: Load): boolean {
  const slots = Math.max(ready_slots, slots_per_instance);
  return rates.panic > rates.stable * BURST_FACTOR && rates.arrivals >= slots * BURST_PER_SLOT_MIN;
}

/**
 * What the queue asks for. A new instance helps what waits longer than its start takes; then so many that the backlog, and what comes until then, is done
 * in as long again as the start took.
 */
function queueInstances(input: ScalingInput, load: Load): number {
  const { live, ready_slots, starting, start_ms, delay_target_ms, queue_delay_ms } = load;
  const { queued, slots_per_instance: slots, run_ms } = input;
  if (queued === 0) return 0;
  if (run_ms === null || input.start_ms === null || queue_delay_ms === null) {
    const isLong = queued / (ready_slots || slots) > QUEUED_PER_SLOT_MAX;
    return live > 0 && starting.length === 0 && isLong ? live + 1 : 0;
  }
  if (live > 0 && queue_delay_ms <= Math.max(start_ms, delay_target_ms)) return 0;
  const horizon = Math.max(start_ms, delay_target_ms);
  const until = start_ms + horizon;
  const coming = (isBurst(input, load) ? load.rates.panic : load.rates.stable) * run_ms * until;
  const served =
    ready_slots * until + starting.reduce((sum, ready_in) => sum + slots * Math.max(0, until - ready_in), 0);
  const missing = queued * run_ms + coming - served;
  // However long runs are, each that waits takes one slot: those that start have theirs already.
  const without = Math.ceil((queued - starting.length * slots) / slots);
  if (live > 0 && without <= 0) return 0;
  return live + Math.max(1, Math.min(Math.ceil(missing / (slots * horizon)), without));
}

/** What the stable window's load asks for: slots no busier than the concurrency target. One instance beyond what is in use now at most: a quiet moment is no reason to grow. */
function steadyInstances(input: ScalingInput, load: Load): number {
  const { run_ms, slots_per_instance: slots, queued } = input;
  if (run_ms === null || load.rates.arrivals < STEADY_ARRIVALS_MIN) return 0;
  const inUse = Math.ceil((load.busy + queued) / slots);
  if (inUse === 0) return 0;
  const busy = load.rates.stable * run_ms;
  return Math.min(Math.ceil(busy / UTILISATION_TARGET / slots), inUse + 1);
}

/**
 * How many the stable window's load holds, idle just now or not: without one of them the others would be busier than {@link UTILISATION_HELD}. One alone is
 * held by its idle time.
 */
function heldInstances(input: ScalingInput, { rates }: Load): number {
  const { stable, arrivals } = rates;
  // A window may have one arrival less than the next, of the same load.
  const most = arrivals < 2 ? stable : (stable * (arrivals + 1)) / (arrivals - 1);
  const busy = ((arrivals < STEADY_ARRIVALS_MIN ? stable : most) * (input.run_ms ?? 0)) / input.slots_per_instance;
  const held = Math.ceil(busy / UTILISATION_HELD);
  return held > 1 ? held : Math.floor(busy);
}

/** What the missing instance beyond `instances - 1` others costs whoever needs it. */
function startCosts(input: ScalingInput, { start_ms }: Load, instances: number): StartCosts {
  const weight = input.wait_weight ?? WAIT_WEIGHT;
  // Beside others one waits for their end at worst.
  const wait_ms = instances > 1 && input.run_ms !== null ? Math.min(start_ms, input.run_ms) : start_ms;
  return { start_ms, missing_ms: (instances > 1 && wait_ms < start_ms ? 0 : start_ms) + weight * wait_ms };
}

/** How long the last of `instances` is kept idle. */
function keepIdle(input: ScalingInput, load: Load, instances: number): number {
  const costs = startCosts(input, load, instances);
  const { keep_ms } = planOf(input.arrivals ?? NO_ARRIVALS, instances, costs, input.idle_ttl_ms);
  return Math.max(keep_ms, Math.min(KEEP_MIN_MS, input.idle_ttl_ms));
}

/** What is not asked for yet, but will be by the time it is ready. `again_at`: when that changes. */
function expectedOf(
  input: ScalingInput,
  load: Load,
  max: number,
  now: number,
): { instances: number; reason: ScalingReason; again_at: number | null } {
  const { arrivals } = input;
  if (arrivals === undefined || input.start_ms === null)
    return { instances: 0, reason: "nothing to do", again_at: null };
  const costs = startCosts(input, load, 1);
  const lead = load.start_ms + EXPECTED_EARLY_MS;
  const daily = Math.min(
    max,
    Math.max(expectedInstances(arrivals, now, costs), expectedInstances(arrivals, now + lead, costs)),
  );
  const again: number[] = [];
  const risesAt = nextExpectedAt(arrivals, daily, now + lead, costs);
  if (risesAt !== null) again.push(risesAt - lead);
  if (daily > 0) again.push(nextQuarterAt(now));
  const since = idleSince(arrivals);
  let soon = 0;
  if (since !== null) {
    for (const { after_ms, until_ms } of planOf(arrivals, 1, costs, input.idle_ttl_ms).boots) {
      if (now >= since + after_ms && now < since + until_ms) soon = 1;
      again.push(since + after_ms, since + until_ms);
    }
  }
  const due = again.filter((at) => at > now);
  return {
    instances: Math.max(daily, soon),
    reason: daily >= soon ? "daily pattern" : "expected soon",
    again_at: due.length === 0 ? null : Math.min(...due),
  };
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
