/** Which instances go where a host has no room: the least valuable idle ones, on the host where that costs least; busy ones only for what starves. Pure. */
import {
  fits,
  type Host,
  type HostClass,
  type PlacementInstance,
  type PlacementRequest,
  type PlacementRound,
  roomIn,
  unusedOf,
  use,
} from "./placement-hosts.ts";

/** Hosts whose idle instances are compared. With more, it is the least valuable of so many: a sample, as caches take one. */
const EVICTIONS_COMPARED_MAX = 16;
/** An idle instance is worth half as much after this long without use, however often it was used before. */
const VALUE_HALF_LIFE_MS = 3_600_000;
/** What is assumed of an instance of which nothing is known: used once an hour, started in 10 s. */
const UNKNOWN_USE = { arrivals_per_hour: 1, cold_start_ms: 10_000 };
/** Dearer than any idle one, and a host's busy ones can be added up. */
const BUSY_VALUE = Number.MAX_VALUE / 64;

/**
 * What is lost when an idle instance goes: the time of cold starts that its deployment's users would wait in the next hour, in milliseconds. Use that
 * does not come any more counts for less and less.
 */
export function keepingValue({ use = UNKNOWN_USE, idle_since }: PlacementInstance, now: number): number {
  const idle = Math.max(0, now - idle_since);
  return use.arrivals_per_hour * use.cold_start_ms * 2 ** (-idle / VALUE_HALF_LIFE_MS);
}

interface Plan {
  host: Host;
  victims: PlacementInstance[];
  value: number;
}

/** The host where making room costs least; null where it cannot be made. */
export function cheapestPlan(classes: HostClass[], request: PlacementRequest, round: PlacementRound): Plan | null {
  let best: Plan | null = null;
  const offer = (host: Host): void => {
    if (!round.unable.has(host.given.origin_id)) best = cheaperPlan(best, host, request, round);
  };
  for (const each of classes) {
    let left = EVICTIONS_COMPARED_MAX + round.kept.size;
    each.reclaimable.find(request.gpus, request.memory_bytes, (host) => {
      offer(host);
      return --left <= 0;
    });
  }
  if (best !== null || !request.is_starving) return best;
  for (const each of classes) {
    for (const host of [...take(each.hosts, EVICTIONS_COMPARED_MAX)]) {
      offer(host);
      // Those that were looked at go to the end: the next try looks at others.
      each.hosts.delete(host);
      each.hosts.add(host);
    }
  }
  return best;
}

function* take<T>(from: Iterable<T>, count: number): Generator<T> {
  let left = count;
  for (const item of from) {
    if (left-- <= 0) return;
    yield item;
  }
}

/** The least valuable instances that make room here; busy ones last and only for a starving request. `best` where that cannot be made, or costs no less. */
function cheaperPlan(best: Plan | null, host: Host, request: PlacementRequest, round: PlacementRound): Plan | null {
  const below = best?.value ?? Number.POSITIVE_INFINITY;
  let least = Number.POSITIVE_INFINITY;
  for (const instance of host.instances.values()) {
    if (mayGo(instance, request, round)) least = Math.min(least, costOf(instance, round.now));
  }
  // Most hosts end here, before anything is made and sorted for them.
  if (least >= below) return best;
  const candidates = [...host.instances.values()]
    .filter((instance) => mayGo(instance, request, round))
    .map((instance) => ({ instance, value: costOf(instance, round.now) }))
    .sort((a, b) => a.value - b.value || a.instance.idle_since - b.instance.idle_since);
  const unused = unusedOf(host, () => false);
  const hasRoom = (): boolean => fits(roomIn(unused), request);
  const going = new Set<PlacementInstance>();
  for (const { instance } of candidates) {
    if (hasRoom()) break;
    going.add(instance);
    use(unused, instance, -1);
  }
  if (going.size === 0 || !hasRoom()) return best;
  // The last ones that were needed may make earlier, smaller ones unnecessary.
  for (const instance of [...going]) {
    use(unused, instance, 1);
    if (hasRoom()) going.delete(instance);
    else use(unused, instance, -1);
  }
  const victims = candidates.filter(({ instance }) => going.has(instance));
  const value = victims.reduce((sum, victim) => sum + victim.value, 0);
  return value < below ? { host, victims: victims.map(({ instance }) => instance), value } : best;
}

function costOf(instance: PlacementInstance, now: number): number {
  return instance.is_idle ? keepingValue(instance, now) : BUSY_VALUE;
}

function mayGo(instance: PlacementInstance, request: PlacementRequest, { kept }: PlacementRound): boolean {
  const isOther = instance.deployment_key !== request.deployment_key || instance.is_paused === true;
  return (
    isOther && !instance.is_draining && (instance.is_idle || request.is_starving) && !kept.has(instance.instance_id)
  );
}
