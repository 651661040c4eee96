/**
 * How a deployment that leases more slots a second than one object shall serve is divided into lanes: objects of the same kind, each with a queue of its own and
 * a share of the slots of every instance. Lane 0 owns the instances and divides them; a prediction stays in one lane for its life. Pure.
 */

/** Lanes of one deployment at most. */
export const LANES_MAX = 16;
/** A lane is worth its while with so many slots. */
const SLOTS_PER_LANE_MIN = 2;
/** A lane goes when the others would be no busier than this share of what a lane serves: no coming and going at the limit. */
const FOLD_AT = 0.7;

/** How many lanes there shall be. `perLane`: leases a second that one serves. */
export function laneCount(current: number, leasesPerS: number, slots: number, perLane: number): number {
  const most = Math.max(1, Math.min(LANES_MAX, Math.floor(slots / SLOTS_PER_LANE_MIN)));
  const grown = Math.max(current, Math.ceil(leasesPerS / perLane));
  const folded = Math.max(1, Math.ceil(leasesPerS / (perLane * FOLD_AT)));
  return Math.min(most, grown, Math.max(folded, Math.ceil(leasesPerS / perLane)));
}

/** The lane of a new prediction (FNV-1a of its id). */
export function laneOf(predictionId: string, lanes: number): number {
  if (lanes <= 1) return 0;
  let hash = 0x811c9dc5;
  for (let i = 0; i < predictionId.length; i++) {
    hash = Math.imul(hash ^ predictionId.charCodeAt(i), 0x01000193) >>> 0;
  }
  return hash % lanes;
}

/** Name of the object that is this lane of a deployment. */
export function laneName(deploymentKey: string, lane: number): string {
  return lane === 0 ? deploymentKey : `${deploymentKey}#${lane}`;
}

/** What one lane has to do, of one way to boot. */
export interface LaneLoad {
  lane: number;
  leased: number;
  queued: number;
  /** of its first in the queue; null when nothing waits */
  waiting_since: number | null;
}

/**
 * How many of `total` slots each lane shall have. Each that has something waiting gets one, whoever waits longest first, so that no lane starves;
 * the rest goes by load, and a quiet lane has a part for what comes next.
 */
export function slotTargets(total: number, loads: readonly LaneLoad[]): Map<number, number> {
  const targets = new Map(loads.map(({ lane }) => [lane, 0]));
  const waiting = loads
    .filter(({ queued }) => queued > 0)
    .toSorted((a, b) => (a.waiting_since ?? 0) - (b.waiting_since ?? 0) || a.lane - b.lane)
    .slice(0, total);
  for (const { lane } of waiting) targets.set(lane, 1);
  const rest = total - waiting.length;
  const weight = ({ leased, queued }: LaneLoad): number => leased + queued + 1;
  const weights = loads.reduce((sum, load) => sum + weight(load), 0);
  const quotas = loads.map((load) => ({ lane: load.lane, quota: (rest * weight(load)) / weights }));
  let left = rest;
  for (const { lane, quota } of quotas) {
    targets.set(lane, (targets.get(lane) ?? 0) + Math.floor(quota));
    left -= Math.floor(quota);
  }
  const byRemainder = quotas.toSorted((a, b) => (b.quota % 1) - (a.quota % 1) || a.lane - b.lane);
  for (const { lane } of byRemainder.slice(0, left)) targets.set(lane, (targets.get(lane) ?? 0) + 1);
  return targets;
}

/** One instance, as far as it can be shared with the lane that asks. */
export interface SharedInstance {
  instance_id: string;
  slots: number;
  /** leases of lane 0 on it */
  own: number;
  /** slots that other lanes may hold */
  others: number;
  /** slots that the lane holds, and of these with a lease */
  held: number;
  used: number;
}

/**
 * The slots of each instance that the lane may hold from now on: what it uses in any case, then what it holds, then what is free, in order of the instances. `target`: of
 * the lane; `ownTarget`: what lane 0 keeps of all that is not with others.
 */
export function shareOf(instances: readonly SharedInstance[], target: number, ownTarget: number): Map<string, number> {
  const shares = new Map(instances.map(({ instance_id, used }) => [instance_id, used]));
  const used = instances.reduce((sum, one) => sum + one.used, 0);
  const unlent = instances.reduce((sum, one) => sum + one.slots - one.others, 0);
  let left = Math.min(target, unlent - ownTarget) - used;
  const fill = (upTo: (one: SharedInstance) => number): void => {
    for (const one of instances) {
      const has = shares.get(one.instance_id) ?? 0;
      const more = Math.min(left, Math.max(0, upTo(one) - has));
      if (more <= 0) continue;
      shares.set(one.instance_id, has + more);
      left -= more;
    }
  };
  const free = ({ slots, own, others }: SharedInstance): number => slots - own - others;
  fill((one) => Math.min(one.held, free(one)));
  fill(free);
  return shares;
}
