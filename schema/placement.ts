/**
 * Where an instance goes. Pure: a {@link PlacementIndex} is told what hosts there are and what runs on them, and answers from that
 * alone. Of the hosts that can run it and have the room it takes, in this order: one of the cheapest hardware; one without this deployment while that is on
 * one host only, so that no host takes a whole deployment with it; one that has image, environment and weights; the one with the fewest instances of it;
 * and the fullest, so that whole hosts stay free for what needs them. Where none has the room, the least valuable idle instances go first (placement-eviction.ts).
 *
 * A decision takes as long with 10,000 hosts as with 10 (bench/fleet-sim): hosts are held by their free room, and a bounded number of them is compared.
 * Whether there is room is exact; which of the equally good ones is the very best is not, where there are more than the bounds say.
 */
import { cheapestPlan } from "./placement-eviction.ts";
import {
  fits,
  type Host,
  type HostClass,
  isReclaimable,
  NO_SOURCES,
  NO_UNTRUSTED,
  type PlacementHost,
  type PlacementInstance,
  type PlacementRequest,
  type PlacementRound,
  roomIn,
  unusedOf,
} from "./placement-hosts.ts";
import { RoomIndex } from "./room-index.ts";

/** Hosts that have run the version which are compared; and hosts with room, fullest first, among which one without this deployment is looked for. */
const WARM_COMPARED_MAX = 16;
const FITTING_COMPARED_MAX = 128;
/** A deployment is on so many hosts before one that is warm is worth more than another one. */
const SPREAD_HOSTS_MIN = 2;

export type PlacementDecision =
  | { kind: "boot"; origin_id: string }
  /** ask its owner to let this instance go, then decide again */
  | { kind: "evict"; origin_id: string; victim: PlacementInstance }
  | { kind: "refused"; reason: "no_origin" | "no_room"; detail: string };

export class PlacementIndex {
  readonly #hosts = new Map<string, Host>();
  readonly #classes = new Map<string, HostClass>();
  readonly #hostOf = new Map<string, Host>();
  /** on how many hosts a deployment is */
  readonly #spread = new Map<string, number>();
  /** hosts that have run a version, the latest last */
  readonly #warm = new Map<string, Set<Host>>();

  /** Adds a host, or says anew what it is; what runs there stays. */
  setHost(given: PlacementHost): void {
    const known = this.#hosts.get(given.origin_id);
    const host = known ?? {
      ...{ given, class: null, free: null, reclaimable: null },
      ...{ instances: new Map(), of_deployment: new Map() },
    };
    this.#unfile(host);
    if (host.class !== null) this.#leaveClass(host, host.class);
    host.given = given;
    this.#hosts.set(given.origin_id, host);
    if (!given.is_open) return;
    host.class = this.#classFor(given);
    host.class.hosts.add(host);
    host.class.memory_max = Math.max(host.class.memory_max, given.capacity.memory_bytes);
    this.#file(host);
  }

  removeHost(originId: string): void {
    const host = this.#hosts.get(originId);
    if (host === undefined) return;
    this.#unfile(host);
    if (host.class !== null) this.#leaveClass(host, host.class);
    for (const { instance_id, deployment_key } of [...host.instances.values()]) {
      this.#hostOf.delete(instance_id);
      this.#count(host, deployment_key, -1);
    }
    for (const [version, hosts] of this.#warm) if (hosts.delete(host) && hosts.size === 0) this.#warm.delete(version);
    this.#hosts.delete(originId);
  }

  /** Takes the room of an instance, or says anew how it stands. */
  setInstance(originId: string, instance: PlacementInstance): void {
    const host = this.#hosts.get(originId);
    if (host === undefined) return;
    this.#unfile(host);
    if (!host.instances.has(instance.instance_id)) this.#count(host, instance.deployment_key, 1);
    host.instances.set(instance.instance_id, instance);
    this.#hostOf.set(instance.instance_id, host);
    this.#file(host);
  }

  removeInstance(instanceId: string): void {
    const host = this.#hostOf.get(instanceId);
    const instance = host?.instances.get(instanceId);
    if (host === undefined || instance === undefined) return;
    this.#unfile(host);
    host.instances.delete(instanceId);
    this.#hostOf.delete(instanceId);
    this.#count(host, instance.deployment_key, -1);
    this.#file(host);
  }

  #count(host: Host, deploymentKey: string, change: 1 | -1): void {
    const before = countOf(host, deploymentKey);
    addTo(host.of_deployment, deploymentKey, change);
    if (before + change === 0 || before === 0) addTo(this.#spread, deploymentKey, change);
  }

  /** Image, environment and weights of a version are on this host, or no longer. */
  setWarm(originId: string, versionId: string, isWarm: boolean): void {
    const host = this.#hosts.get(originId);
    if (host === undefined) return;
    const hosts = this.#warm.get(versionId) ?? new Set();
    hosts.delete(host);
    if (isWarm) hosts.add(host);
    if (hosts.size > 0) this.#warm.set(versionId, hosts);
    else this.#warm.delete(versionId);
  }

  decide(request: PlacementRequest, { now, kept, unable }: PlacementRound): PlacementDecision {
    const classes = this.#ableClasses(request);
    if (typeof classes === "string") return { kind: "refused", reason: "no_origin", detail: classes };
    const ranks = Map.groupBy(classes, (each) => `${priceOf(each, request.hardware)} ${each.gpus}`);
    const ranked = [...ranks.values()].sort((a, b) => byPrice(a[0], b[0], request.hardware));
    for (const rank of ranked) {
      const host = this.#roomiest(rank, request, unable);
      if (host !== null) return { kind: "boot", origin_id: host.given.origin_id };
    }
    const largest = Math.max(...classes.map((each) => each.memory_max));
    if (largest < request.memory_bytes) {
      const detail = `An instance needs ${request.memory_bytes} bytes of memory; the largest origin has ${largest}.`;
      return { kind: "refused", reason: "no_room", detail };
    }
    const full = { kind: "refused", reason: "no_room", detail: "Every origin with this hardware is full." } as const;
    if (request.evicts === false) return full;
    const plan = cheapestPlan(ranked.flat(), request, { now, kept, unable });
    const victim = plan?.victims[0];
    if (plan === null || victim === undefined) return full;
    return { kind: "evict", origin_id: plan.host.given.origin_id, victim };
  }

  /** The best of the hosts with room; null when none has. */
  #roomiest(classes: HostClass[], request: PlacementRequest, unable: ReadonlySet<string>): Host | null {
    const { deployment_key: key, gpus, memory_bytes, version_id } = request;
    const warm = this.#warm.get(version_id);
    let best: Host | null = null;
    const spreadsFirst = (this.#spread.get(key) ?? 0) < SPREAD_HOSTS_MIN;
    const isBetter = (a: Host, b: Host): number =>
      (spreadsFirst ? countOf(a, key) - countOf(b, key) : 0) ||
      Number(warm?.has(b) ?? false) - Number(warm?.has(a) ?? false) ||
      countOf(a, key) - countOf(b, key) ||
      (a.free?.gpus ?? 0) - (b.free?.gpus ?? 0) ||
      (a.free?.memory ?? 0) - (b.free?.memory ?? 0);
    const offer = (host: Host): void => {
      if (unable.has(host.given.origin_id)) return;
      if (best === null || isBetter(host, best) < 0) best = host;
    };
    let compared = 0;
    for (const host of warm ?? []) {
      if (++compared > WARM_COMPARED_MAX) break;
      if (host.class !== null && classes.includes(host.class) && fits(host.free, request)) offer(host);
    }
    for (const each of classes) {
      let left = FITTING_COMPARED_MAX + unable.size;
      each.free.find(gpus, memory_bytes, (host) => {
        offer(host);
        // The fullest one without this deployment: none that comes behind it is better, unless it is warm.
        return --left <= 0 || (countOf(host, key) === 0 && !unable.has(host.given.origin_id));
      });
    }
    return best;
  }

  /** What can run it, full or not; or what no host has, and what would help. */
  #ableClasses({ hardware, gpus, package: kind, is_trusted }: PlacementRequest): HostClass[] | string {
    const alive = [...this.#classes.values()].filter((each) => each.skus.some((sku) => isSku(sku, hardware)));
    if (alive.length === 0) return `No origin with hardware "${hardware}" is connected.`;
    const fitted = alive.filter((each) => each.gpus >= gpus);
    if (fitted.length === 0) {
      const most = Math.max(...alive.map((each) => each.gpus));
      return `An instance needs ${counted(gpus, "GPU")}; no origin with hardware "${hardware}" has more than ${most} that work.`;
    }
    const packaged = kind === null ? fitted : fitted.filter((each) => each.runs?.packages.includes(kind));
    if (packaged.length === 0) return kind === "image" ? NO_IMAGES : NO_SOURCES;
    const able = is_trusted ? packaged : packaged.filter((each) => each.runs?.untrusted);
    return able.length === 0 ? NO_UNTRUSTED : able;
  }

  #classFor({ skus, prices = {}, capacity, runs }: PlacementHost): HostClass {
    const gpus = capacity.gpus ?? 0;
    const key = JSON.stringify([skus.toSorted(), skus.toSorted().map((sku) => prices[sku]), gpus, runs]);
    const known = this.#classes.get(key);
    if (known !== undefined) return known;
    const made: HostClass = {
      ...{ key, skus, prices, gpus, runs, hosts: new Set(), memory_max: 0 },
      ...{ free: new RoomIndex(), reclaimable: new RoomIndex() },
    };
    this.#classes.set(key, made);
    return made;
  }

  #leaveClass(host: Host, from: HostClass): void {
    from.hosts.delete(host);
    host.class = null;
    if (from.hosts.size === 0) this.#classes.delete(from.key);
    else if (host.given.capacity.memory_bytes === from.memory_max) {
      from.memory_max = 0;
      for (const { given } of from.hosts) from.memory_max = Math.max(from.memory_max, given.capacity.memory_bytes);
    }
  }

  #file(host: Host): void {
    if (host.class === null) return;
    host.free = roomIn(unusedOf(host, () => false));
    if (host.free !== null) host.class.free.add(host.free.gpus, host.free.memory, host);
    host.reclaimable = roomIn(unusedOf(host, isReclaimable));
    if (host.reclaimable !== null) {
      host.class.reclaimable.add(host.reclaimable.gpus, host.reclaimable.memory, host);
    }
  }

  #unfile(host: Host): void {
    if (host.class === null) return;
    if (host.free !== null) host.class.free.remove(host.free.gpus, host.free.memory, host);
    if (host.reclaimable !== null) {
      host.class.reclaimable.remove(host.reclaimable.gpus, host.reclaimable.memory, host);
    }
    host.free = null;
    host.reclaimable = null;
  }
}

function countOf(host: Host, deploymentKey: string): number {
  return host.of_deployment.get(deploymentKey) ?? 0;
}

function addTo(counts: Map<string, number>, key: string, change: number): void {
  const count = (counts.get(key) ?? 0) + change;
  if (count > 0) counts.set(key, count);
  else counts.delete(key);
}

/** What a model asks for that says only `build.gpu: true`. */
const ANY_GPU = "gpu";

function isSku(sku: string, hardware: string): boolean {
  return sku === hardware || (hardware === ANY_GPU && sku.startsWith(`${ANY_GPU}-`));
}

/** What a second on the cheapest hardware of this kind costs that satisfies the request; infinite where nobody knows. */
function priceOf({ skus, prices }: HostClass, hardware: string): number {
  const known = skus.filter((sku) => isSku(sku, hardware)).map((sku) => prices[sku] ?? Number.POSITIVE_INFINITY);
  return Math.min(...known);
}

/** Cheap hardware first; at one price that with fewer devices, which others may need. */
function byPrice(a: HostClass | undefined, b: HostClass | undefined, hardware: string): number {
  if (a === undefined || b === undefined) return 0;
  const [left, right] = [priceOf(a, hardware), priceOf(b, hardware)];
  return left === right ? a.gpus - b.gpus : left - right;
}

function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

const NO_IMAGES = "No origin that is connected runs container images: one must be started with COGWAY_DRIVER=docker.";
