/**
 * Where an instance goes: on an origin that is alive, has the hardware, and has the room, best one that ran the version before; or where the
 * least valuable idle instances must go first. Pure: the FleetObject calls it again after each thing that it learns.
 */

export interface PlacementInstance {
  instance_id: string;
  deployment_key: string;
  memory_bytes: number;
  /** runs nothing, as far as the fleet knows; its owner has the last word */
  is_idle: boolean;
  /** since when it runs nothing (epoch milliseconds), or when it was placed */
  idle_since: number;
  is_draining: boolean;
}

export interface PlacementOrigin {
  origin_id: string;
  is_alive: boolean;
  skus: string[];
  capacity: { instances: number; memory_bytes: number };
  instances: PlacementInstance[];
  /** has run this version: image, environment and weights are there */
  knows_version: boolean;
}

interface PlacementRequest {
  deployment_key: string;
  hardware: string;
  memory_bytes: number;
  /** queued work has waited so long for room that a busy instance may be asked to finish and go */
  is_starving: boolean;
}

type PlacementDecision =
  | { kind: "boot"; origin_id: string }
  /** ask its owner to let this instance go, then decide again */
  | { kind: "evict"; origin_id: string; victim: PlacementInstance }
  | { kind: "refused"; reason: "no_origin" | "no_room"; detail: string };

/** `kept`: instances whose owners said no in this round. */
export function decidePlacement(
  request: PlacementRequest,
  origins: PlacementOrigin[],
  kept: ReadonlySet<string>,
): PlacementDecision {
  const matching = origins.filter((origin) => origin.is_alive && origin.skus.includes(request.hardware));
  if (matching.length === 0) {
    const detail = `No origin with hardware "${request.hardware}" is connected.`;
    return { kind: "refused", reason: "no_origin", detail };
  }

  const roomy = matching.filter((origin) => hasRoom(origin, request.memory_bytes));
  roomy.sort((a, b) => Number(b.knows_version) - Number(a.knows_version) || freeMemory(b) - freeMemory(a));
  if (roomy[0] !== undefined) return { kind: "boot", origin_id: roomy[0].origin_id };

  const largest = Math.max(...matching.map((origin) => origin.capacity.memory_bytes));
  if (largest < request.memory_bytes) {
    const detail = `An instance needs ${request.memory_bytes} bytes of memory; the largest origin has ${largest}.`;
    return { kind: "refused", reason: "no_room", detail };
  }

  const plans = matching
    .map((origin) => ({ origin, victims: victimsFor(origin, request, kept) }))
    .filter((plan) => plan.victims.length > 0)
    .sort(
      (a, b) => a.victims.length - b.victims.length || Number(b.origin.knows_version) - Number(a.origin.knows_version),
    );
  const best = plans[0];
  const victim = best?.victims[0];
  if (best === undefined || victim === undefined) {
    return { kind: "refused", reason: "no_room", detail: "Every origin with this hardware is full." };
  }
  return { kind: "evict", origin_id: best.origin.origin_id, victim };
}

function freeMemory(origin: PlacementOrigin): number {
  return origin.capacity.memory_bytes - sum(origin.instances);
}

function sum(instances: PlacementInstance[]): number {
  return instances.reduce((bytes, instance) => bytes + instance.memory_bytes, 0);
}

function hasRoom(origin: PlacementOrigin, memoryBytes: number, without: PlacementInstance[] = []): boolean {
  return (
    origin.instances.length - without.length < origin.capacity.instances &&
    freeMemory(origin) + sum(without) >= memoryBytes
  );
}

/** The fewest instances that make room here, longest idle first; busy ones last and only for a starving request. Empty: it cannot be made. */
function victimsFor(
  origin: PlacementOrigin,
  request: PlacementRequest,
  kept: ReadonlySet<string>,
): PlacementInstance[] {
  const candidates = origin.instances
    .filter(
      (instance) =>
        !instance.is_draining &&
        instance.deployment_key !== request.deployment_key &&
        !kept.has(instance.instance_id) &&
        (instance.is_idle || request.is_starving),
    )
    .sort((a, b) => Number(b.is_idle) - Number(a.is_idle) || a.idle_since - b.idle_since);
  const victims: PlacementInstance[] = [];
  for (const candidate of candidates) {
    if (hasRoom(origin, request.memory_bytes, victims)) break;
    victims.push(candidate);
  }
  if (!hasRoom(origin, request.memory_bytes, victims)) return [];
  // The last ones that were needed may make earlier, smaller ones unnecessary.
  for (const victim of [...victims]) {
    const others = victims.filter((other) => other !== victim);
    if (hasRoom(origin, request.memory_bytes, others)) victims.splice(victims.indexOf(victim), 1);
  }
  return victims;
}
