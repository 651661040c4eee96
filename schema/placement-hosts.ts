/**
 * What placement knows: what hosts are, what runs on them, what room that leaves, and what is asked for. Hosts that are alike are held in one class, by
 * their free room.
 */
import type { PackageKind } from "./packages.ts";
import type { RoomIndex } from "./room-index.ts";

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
  /** no deployment counts on it: it is only held in case that it is wanted again */
  is_paused?: boolean;
  /** expected use and what a new start costs; absent where nothing is known */
  use?: { arrivals_per_hour: number; cold_start_ms: number };
}

export interface PlacementHost {
  origin_id: string;
  /** alive, and not being drained: takes new instances */
  is_open: boolean;
  skus: string[];
  /** micro-dollars a second by SKU, where they are known: the cheapest hardware that fits is taken */
  prices?: Record<string, number>;
  /** `gpus`: devices that work; absent is none */
  capacity: { instances: number; memory_bytes: number; gpus?: number | undefined };
  /** null: only what it has prepared itself, as all did before there were packages */
  runs: { packages: PackageKind[]; untrusted: boolean } | null;
}

export interface PlacementRequest {
  deployment_key: string;
  version_id: string;
  hardware: string;
  memory_bytes: number;
  /** devices that it gets for itself */
  gpus: number;
  /** what its version is made of; null for the operator's folders, which origins have themselves */
  package: PackageKind | null;
  is_trusted: boolean;
  /** queued work has waited so long for room that a busy instance may be asked to finish and go */
  is_starving: boolean;
  /** false: only where there is room already. Absent is true. */
  evicts?: boolean;
}

export interface PlacementRound {
  now: number;
  /** instances whose owners said no in this round */
  kept: ReadonlySet<string>;
  /** hosts that could not take it in this round */
  unable: ReadonlySet<string>;
}

/** Hosts of the same hardware that run the same kinds of models. There are few of these, however many hosts there are. */
export interface HostClass {
  key: string;
  skus: string[];
  prices: Record<string, number>;
  gpus: number;
  runs: PlacementHost["runs"];
  /** those that take new instances */
  hosts: Set<Host>;
  /** of the largest host */
  memory_max: number;
  /** by what is free */
  free: RoomIndex<Host>;
  /** by what is free, or would be without the idle instances */
  reclaimable: RoomIndex<Host>;
}

interface Room {
  gpus: number;
  memory: number;
}

export interface Host {
  given: PlacementHost;
  class: HostClass | null;
  instances: Map<string, PlacementInstance>;
  of_deployment: Map<string, number>;
  /** where it stands in the indexes of its class; null where no instance more fits, however small */
  free: Room | null;
  reclaimable: Room | null;
}

/** What is left of a host's capacity; below 0 where more runs than it has by now. */
interface Unused {
  instances: number;
  memory: number;
  gpus: number;
}

export function unusedOf(host: Host, isGone: (instance: PlacementInstance) => boolean): Unused {
  const { instances, memory_bytes, gpus = 0 } = host.given.capacity;
  const unused = { instances, memory: memory_bytes, gpus };
  for (const instance of host.instances.values()) if (!isGone(instance)) use(unused, instance, 1);
  return unused;
}

/** `times`: 1 where it comes, -1 where it goes. */
export function use(unused: Unused, { memory_bytes, gpus }: PlacementInstance, times: 1 | -1): void {
  unused.instances -= times;
  unused.memory -= times * memory_bytes;
  unused.gpus -= times * gpus;
}

/** Null where no instance more may come. */
export function roomIn({ instances, memory, gpus }: Unused): Room | null {
  // A device may have failed under those that run: one without devices fits there still.
  return instances > 0 && memory >= 0 ? { gpus: Math.max(0, gpus), memory } : null;
}

export function isReclaimable(instance: PlacementInstance): boolean {
  return instance.is_idle && !instance.is_draining;
}

export function fits(room: Room | null, need: Pick<PlacementRequest, "memory_bytes" | "gpus">): boolean {
  return room !== null && room.memory >= need.memory_bytes && room.gpus >= need.gpus;
}

/** Why none of the hosts does what only some do, and what would help. */
export const NO_SOURCES =
  "No origin that is connected takes models from the registry: one must be started with this release or a newer one.";
export const NO_UNTRUSTED =
  "No origin that is connected keeps models of other accounts apart: one must be started with COGWAY_DRIVER=docker (or, where every account is trusted, with COGWAY_TRUST_ALL_MODELS=1).";
