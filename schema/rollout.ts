/**
 * What a deployment's instances shall be while releases follow one another. A prediction runs on what its release said when it was created, so queue and
 * instances form groups, one for each way to boot that is still asked for: the current one is scaled (scaling.ts), older ones only finish their work.
 *
 * | older group                  | then                                                                                              |
 * | ---------------------------- | ------------------------------------------------------------------------------------------------- |
 * | has something queued         | keeps its instances; gets one where it has none                                                   |
 * | has nothing queued           | its instances finish what they run and go: at once where they take room of the current release,   |
 * |                              | else when no late prediction of it can come any more                                              |
 *
 * The current group gets its first instance beside the older ones (one above `max_instances` at most), and all of them as older ones go. Where
 * hosts have no room for both, the group whose prediction waits longest has the room. Pure: measured values and `now` in, a decision out.
 */
import { decideScaling, type ScalingDecision, type ScalingInput, type ScalingInstance } from "./scaling.ts";

/** Predictions of an older release come for as long as an isolate may remember it (5 s), and a request then takes. */
export const STRAGGLERS_MS = 10_000;

export interface BootGroup {
  boot_key: string;
  queued: number;
  /** since when its oldest queued prediction waits; null when none does */
  waiting_since: number | null;
  /** starting and ready ones */
  instances: ScalingInstance[];
  /** placements that were asked for and are not answered yet */
  placing: number;
}

export interface RolloutInput extends Omit<ScalingInput, "queued" | "instances" | "placing"> {
  current: BootGroup;
  older: BootGroup[];
  /** when the current way to boot became the current one */
  released_at: number;
  /** `max_instances` is 0 because its account's caps allow no instance; absent is false */
  is_unpaid?: boolean;
  /** the last placement found no room, and none succeeded since */
  no_room: boolean;
  /** instances that finish what they run */
  draining: number;
}

export interface RolloutDecision extends Omit<ScalingDecision, "place"> {
  /** placements to ask for now: boot keys, repeated */
  place: string[];
}

export function decideRollout(input: RolloutInput, now: number): RolloutDecision {
  const { current, older, max_instances: max } = input;
  if (max === 0) {
    const drain = [current, ...older].flatMap(idsOf);
    const { measures } = decideScaling({ ...input, ...current }, now);
    const reason = input.is_unpaid === true ? "budget used up" : "disabled";
    return { wanted: 0, reason, place: [], drain, decide_again_at: null, measures };
  }
  const needed = older.filter((group) => group.queued > 0);
  const neededLive = sum(needed, liveOf);
  const without = needed.filter((group) => liveOf(group) === 0).sort(byWaiting)[0];
  // One older group at a time may go above the maximum: then the current one still gets its instance.
  const isOlderPlaced = without !== undefined && (neededLive === 0 || neededLive + liveOf(current) < max);
  const taken = neededLive + (isOlderPlaced ? 1 : 0);

  // Above the maximum already, for two older releases that both have work: the current one does not grow until one of them is done.
  const room = taken > max ? liveOf(current) : Math.max(1, max - taken);
  const scaled = decideScaling(
    { ...input, ...current, min_instances: Math.min(input.min_instances, room), max_instances: room },
    now,
  );
  // Where there is room for one only, all but the group that waits longest hold back: else what gave its room would take it again at once.
  const first = input.no_room ? hungriest([current, ...older]) : null;
  const mayPlace = (group: BootGroup): boolean => first === null || first === group;
  const placed = isOlderPlaced && now >= input.hold_until && mayPlace(without) ? [without.boot_key] : [];
  const again = [scaled.decide_again_at, isOlderPlaced ? input.hold_until : null];

  const drain = new Set(scaled.drain);
  const done = older.filter((group) => group.queued === 0 && group.instances.length > 0);
  const lateUntil = input.released_at + STRAGGLERS_MS;
  const isCrowded = input.no_room || sum([current, ...older], liveOf) >= max;
  if (isCrowded || now >= lateUntil) for (const id of done.flatMap(idsOf)) drain.add(id);
  else if (done.length > 0) again.push(lateUntil);
  // The maximum was lowered: what is above it finishes and goes.
  for (const id of surplus(current, max)) drain.add(id);
  for (const id of needed.flatMap((group) => surplus(group, max))) drain.add(id);
  if (input.no_room && input.draining === 0 && drain.size === 0) {
    const donor = donorFor([current, ...older]);
    if (donor !== null) drain.add(donor);
  }

  const wanted = scaled.wanted + taken;
  const reason = scaled.reason === "nothing to do" && taken > 0 ? "older release" : scaled.reason;
  const due = again.filter((at) => at !== null && at > now) as number[];
  return {
    wanted,
    reason,
    place: [...Array.from({ length: mayPlace(current) ? scaled.place : 0 }, () => current.boot_key), ...placed],
    drain: [...drain],
    decide_again_at: due.length === 0 ? null : Math.min(...due),
    measures: scaled.measures,
  };
}

/**
 * An instance that gives its room to the group that has waited longest without one: of a group with nothing queued, or whose first prediction came
 * later. Null when nobody waits so, or nobody should give.
 */
function donorFor(groups: BootGroup[]): string | null {
  const hungry = hungriest(groups);
  const since = hungry?.waiting_since ?? null;
  if (since === null) return null;
  const donors = groups
    .filter((group) => group !== hungry && (group.waiting_since === null || group.waiting_since > since))
    .flatMap((group) => group.instances)
    .sort((a, b) => a.leased - b.leased || a.last_used_at - b.last_used_at);
  return donors[0]?.instance_id ?? null;
}

/** The group without an instance whose prediction has waited longest; null where each that waits has one. */
function hungriest(groups: BootGroup[]): BootGroup | null {
  return groups.filter((group) => group.queued > 0 && liveOf(group) === 0).sort(byWaiting)[0] ?? null;
}

/** Instances of a group above `max`, those with the least to finish first. */
function surplus(group: BootGroup, max: number): string[] {
  const above = Math.max(0, group.instances.length - max);
  const leastUsed = [...group.instances].sort((a, b) => a.leased - b.leased || a.last_used_at - b.last_used_at);
  return leastUsed.slice(0, above).map((instance) => instance.instance_id);
}

function liveOf(group: BootGroup): number {
  return group.instances.length + group.placing;
}

function idsOf(group: BootGroup): string[] {
  return group.instances.map((instance) => instance.instance_id);
}

function byWaiting(a: BootGroup, b: BootGroup): number {
  return (a.waiting_since ?? 0) - (b.waiting_since ?? 0);
}

function sum(groups: BootGroup[], of: (group: BootGroup) => number): number {
  return groups.reduce((total, group) => total + of(group), 0);
}
