/** Which instances go where a host has no room: the least valuable idle ones, on the host where that costs least; busy ones only for what starves. Pure. */
import {
  fits,
  type Host,
  type HostClass,
  type PlacementInstance,
  type PlacementRequest,
  type PlacementRound,
  roomOf,
} from "./placement-hosts.ts";

/** Hosts whose idle instances are compared. With more, it is the least valuable of so many: a sample, as caches take one. */
const EVICTIONS_COMPARED_MAX = 16;
/** An idle instance is worth half as much after this long without use, however often it was used before. */
const VALUE_HALF_LIFE_MS = 3_600_000;
/** What is assumed of an instance of which nothing is known: used once an hour, started in 10 s. */
const UNKNOWN_USE = { arrivals_per_hour: 1, cold_start_ms: 10_000 };

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
    const plan = round.unable.has(host.given.origin_id) ? null : planFor(host, request, round);
    if (plan !== null && (best === null || plan.value < best.value)) best = plan;
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

/** The least valuable instances that make room here; busy ones last and only for a starving request. Null: it cannot be made. */
function planFor(host: Host, request: PlacementRequest, { now, kept }: PlacementRound): Plan | null {
  const candidates = [...host.instances.values()]
    .filter(
      (each) =>
        !each.is_draining &&
        (each.deployment_key !== request.deployment_key || each.is_paused === true) &&
        !kept.has(each.instance_id) &&
        (each.is_idle || request.is_starving),
    )
    .map((instance) => ({ instance, value: instance.is_idle ? keepingValue(instance, now) : Number.MAX_VALUE / 64 }))
    .sort((a, b) => a.value - b.value || a.instance.idle_since - b.instance.idle_since);
  const going = new Set<PlacementInstance>();
  const hasRoom = (): boolean =>
    fits(
      roomOf(host, (each) => going.has(each)),
      request,
    );
  for (const { instance } of candidates) {
    if (hasRoom()) break;
    going.add(instance);
  }
  if (going.size === 0 || !hasRoom()) return null;
  // The last ones that were needed may make earlier, smaller ones unnecessary.
  for (const instance of [...going]) {
    going.delete(instance);
    if (!hasRoom()) going.add(instance);
  }
  const victims = candidates.filter(({ instance }) => going.has(instance));
  return {
    host,
    victims: victims.map(({ instance }) => instance),
    value: victims.reduce((sum, { value }) => sum + value, 0),
  };
}
