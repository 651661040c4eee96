/**
 * Where an instance goes: on an origin that is alive, has the hardware, runs such packages and such models, and has the room, best one that ran the
 * version before; or where the least valuable idle instances must go first. Where a build goes. Pure: the FleetObject calls it again after each
 * thing that it learns.
 */
import type { PackageKind } from "./packages.ts";

export interface PlacementInstance {
  instance_id: string;
  deployment_key: string;
  memory_bytes: number;
  /** devices that it has for itself */
  gpus: number;
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
  /** `gpus`: devices that work; absent is none */
  capacity: { instances: number; memory_bytes: number; gpus?: number | undefined };
  /** null: only what it has prepared itself, as all did before there were packages */
  runs: { packages: PackageKind[]; untrusted: boolean } | null;
  instances: PlacementInstance[];
  /** has run this version: image, environment and weights are there */
  knows_version: boolean;
}

interface PlacementRequest {
  deployment_key: string;
  hardware: string;
  memory_bytes: number;
  /** devices that it gets for itself */
  gpus: number;
  /** what its version is made of; null for the operator's folders, which origins have themselves */
  package: PackageKind | null;
  is_trusted: boolean;
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
  const found = ableOrigins(request, origins);
  if (typeof found === "string") return { kind: "refused", reason: "no_origin", detail: found };
  const matching = found;

  const roomy = matching.filter((origin) => hasRoom(origin, request));
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

/** The origins that can run it, full or not; or what none of them has, and what would help. */
function ableOrigins(request: PlacementRequest, origins: PlacementOrigin[]): PlacementOrigin[] | string {
  const { hardware, gpus, package: kind, is_trusted } = request;
  const isFit = (sku: string): boolean => sku === hardware || (hardware === ANY_GPU && sku.startsWith(`${ANY_GPU}-`));
  const alive = origins.filter((origin) => origin.is_alive && origin.skus.some(isFit));
  if (alive.length === 0) return `No origin with hardware "${hardware}" is connected.`;
  const fitted = alive.filter((origin) => gpusOf(origin) >= gpus);
  if (fitted.length === 0) {
    const most = Math.max(...alive.map(gpusOf));
    return `An instance needs ${counted(gpus, "GPU")}; no origin with hardware "${hardware}" has more than ${most} that work.`;
  }
  const packaged = kind === null ? fitted : fitted.filter((origin) => origin.runs?.packages.includes(kind));
  if (packaged.length === 0) return kind === "image" ? NO_IMAGES : NO_SOURCES;
  const able = is_trusted ? packaged : packaged.filter((origin) => origin.runs?.untrusted);
  return able.length === 0 ? NO_UNTRUSTED : able;
}

/** What a model asks for that says only `build.gpu: true`. */
const ANY_GPU = "gpu";

const NO_IMAGES = "No origin that is connected runs container images: one must be started with COGWAY_DRIVER=docker.";
const NO_SOURCES =
  "No origin that is connected takes models from the registry: one must be started with this release or a newer one.";
const NO_UNTRUSTED =
  "No origin that is connected keeps models of other accounts apart: one must be started with COGWAY_DRIVER=docker (or, where every account is trusted, with COGWAY_TRUST_ALL_MODELS=1).";

interface BuildOrigin extends Pick<PlacementOrigin, "origin_id" | "is_alive" | "runs"> {
  /** builds that it has now */
  builds: number;
}

/** The origin that builds a source: of those that may, the one that builds least; or why none does. `except`: those that could not take it just now. */
export function decideBuildPlace(
  request: { is_trusted: boolean; except: readonly string[] },
  origins: BuildOrigin[],
): { origin_id: string } | { refused: string } {
  const builders = origins.filter((origin) => origin.is_alive && origin.runs?.packages.includes("source"));
  if (builders.length === 0) {
    return { refused: origins.some((origin) => origin.is_alive) ? NO_SOURCES : "No origin is connected." };
  }
  const able = builders.filter((origin) => request.is_trusted || origin.runs?.untrusted);
  if (able.length === 0) return { refused: NO_UNTRUSTED };
  const free = able.filter((origin) => !request.except.includes(origin.origin_id));
  free.sort((a, b) => a.builds - b.builds || a.origin_id.localeCompare(b.origin_id));
  return free[0] === undefined
    ? { refused: "The origins that build cannot be reached." }
    : { origin_id: free[0].origin_id };
}

function gpusOf(origin: PlacementOrigin): number {
  return origin.capacity.gpus ?? 0;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

function freeMemory(origin: PlacementOrigin): number {
  return origin.capacity.memory_bytes - sum(origin.instances, "memory_bytes");
}

function sum(instances: PlacementInstance[], of: "memory_bytes" | "gpus"): number {
  return instances.reduce((total, instance) => total + instance[of], 0);
}

type Need = Pick<PlacementRequest, "memory_bytes" | "gpus">;

function hasRoom(origin: PlacementOrigin, need: Need, without: PlacementInstance[] = []): boolean {
  const left = origin.instances.filter((instance) => !without.includes(instance));
  return (
    left.length < origin.capacity.instances &&
    sum(left, "memory_bytes") + need.memory_bytes <= origin.capacity.memory_bytes &&
    // One without devices fits where a device failed under those that run.
    (need.gpus === 0 || sum(left, "gpus") + need.gpus <= gpusOf(origin))
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
    if (hasRoom(origin, request, victims)) break;
    victims.push(candidate);
  }
  if (!hasRoom(origin, request, victims)) return [];
  // The last ones that were needed may make earlier, smaller ones unnecessary.
  for (const victim of [...victims]) {
    const others = victims.filter((other) => other !== victim);
    if (hasRoom(origin, request, others)) victims.splice(victims.indexOf(victim), 1);
  }
  return victims;
}
