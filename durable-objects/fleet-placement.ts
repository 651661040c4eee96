/**
 * The instances of one fleet shard: places, pauses, resumes and ends them. Room is taken before an origin is asked to boot, so two placements never count on
 * the same room. What the store holds is held once more as an index for placement (schema/placement.ts), loaded at the first use after a start and kept with
 * every change.
 */
import { newId, sha256Hex } from "../schema/ids.ts";
import { type InstanceStatus, ORIGIN_PROTOCOL_VERSION } from "../schema/origin-protocol.ts";
import { PlacementIndex } from "../schema/placement.ts";
import type { PlacementInstance } from "../schema/placement-hosts.ts";
import { weightsSource } from "../schema/weights.ts";
import type { OriginEntry, PlaceRequest, PlaceResult } from "./fleet-contract.ts";
import type { FleetInstanceRow, FleetStore, OriginRow } from "./fleet-store.ts";
import { bootInstance, drainInstance, pauseInstance, resumeInstance } from "./origin-client.ts";
import { deploymentStub } from "./stubs.ts";

/** How often one placement asks for an instance to go, or meets room that another placement took. */
const PLACEMENT_ROUNDS_MAX = 50;
/** Drained for room or idleness, what still runs may finish: no prediction lasts longer (24 h). */
const DRAIN_GRACE_MS = 86_400_000;
/** Paused instances may hold so much of a host's memory; they are the first to go for others, and this keeps the pages of their files in the cache. */
const PAUSED_MEMORY_SHARE = 0.5;
/** A paused instance that nobody wanted for so long ends. */
export const PAUSED_MAX_MS = 4 * 3_600_000;

export type DrainReason = "idle" | "evicted" | "released";

/** What the placement has of its object. */
interface Surroundings {
  env: Env;
  store: FleetStore;
  /** takes new instances: alive, and not being drained */
  isOpen: (origin: OriginRow) => boolean;
  entry: (originId: string) => OriginEntry | null;
  /** what its last heartbeat said of an instance; null before one did */
  seen: (row: FleetInstanceRow) => { state: InstanceStatus["state"]; idle_since: number | null } | null;
}

export class FleetPlacement {
  readonly #is: Surroundings;
  #index: PlacementIndex | null = null;

  constructor(surroundings: Surroundings) {
    this.#is = surroundings;
  }

  // ---- the index

  #loaded(): PlacementIndex {
    if (this.#index !== null) return this.#index;
    const { store } = this.#is;
    const index = new PlacementIndex();
    this.#index = index;
    for (const origin of store.origins()) this.originChanged(origin);
    for (const row of store.instances()) this.instanceChanged(row);
    for (const { origin_id, version_id } of store.knownVersions()) index.setWarm(origin_id, version_id, true);
    return index;
  }

  originChanged(origin: OriginRow): void {
    this.#index?.setHost({
      origin_id: origin.origin_id,
      is_open: this.#is.isOpen(origin),
      skus: origin.hardware.map(({ sku }) => sku),
      prices: origin.prices,
      capacity: origin.capacity,
      runs: origin.runs ?? null,
    });
  }

  originRemoved(originId: string): void {
    this.#index?.removeHost(originId);
  }

  instanceChanged(row: FleetInstanceRow): void {
    if (this.#index === null) return;
    const { instance_id, deployment_key, memory_bytes, gpus, is_draining, paused_at, use } = row;
    const seen = this.#is.seen(row);
    const instance: PlacementInstance = {
      ...{ instance_id, deployment_key, memory_bytes, gpus, is_draining },
      is_idle: paused_at !== null || seen?.idle_since !== null,
      idle_since: paused_at ?? seen?.idle_since ?? row.placed_at,
      is_paused: paused_at !== null,
      ...(use === null ? {} : { use }),
    };
    this.#index.setInstance(row.origin_id, instance);
  }

  removeInstance(instanceId: string): void {
    this.#is.store.removeInstance(instanceId);
    this.#index?.removeInstance(instanceId);
  }

  #change(instanceId: string, change: () => void): void {
    change();
    const row = this.#is.store.instance(instanceId);
    if (row !== null) this.instanceChanged(row);
  }

  // ---- placing

  async place(request: PlaceRequest): Promise<PlaceResult> {
    const resumed = await this.#resume(request);
    if (resumed !== null) return resumed;
    const kept = new Set<string>();
    const unable = new Map<string, PlaceResult>();
    for (let round = 0; round < PLACEMENT_ROUNDS_MAX; round++) {
      const placement = {
        ...request,
        gpus: request.gpus ?? 0,
        package: request.package?.kind ?? null,
        is_trusted: request.is_trusted !== false,
        is_starving: request.is_starving === true,
      };
      const index = this.#loaded();
      const decision = index.decide(placement, { now: Date.now(), kept, unable: new Set(unable.keys()) });
      if (decision.kind === "refused") return [...unable.values()][0] ?? decision;
      const origin = this.#is.store.origin(decision.origin_id);
      // Silent for too long, and not yet found so by the alarm.
      if (origin === null || !this.#is.isOpen(origin)) {
        if (origin !== null) this.originChanged(origin);
        continue;
      }
      if (decision.kind === "boot") {
        const result = await this.#boot(request, decision.origin_id);
        if (result.kind === "placed" || result.reason !== "no_version") return result;
        unable.set(decision.origin_id, result);
        continue;
      }
      kept.add(decision.victim.instance_id);
      await this.#evict(decision.origin_id, decision.victim);
    }
    return { kind: "refused", reason: "no_room", detail: "Room was taken by others again and again." };
  }

  async #evict(originId: string, victim: PlacementInstance): Promise<void> {
    const { instance_id, deployment_key, is_idle } = victim;
    if (victim.is_paused !== true) {
      const owner = deploymentStub(this.#is.env, deployment_key);
      const goes = await owner.evictIdle(instance_id, !is_idle).catch(() => false);
      if (!goes) return;
    }
    await this.end(originId, instance_id, "evicted");
    // An idle one ends at once; a busy one keeps its room until its predictions have ended.
    if (is_idle) this.removeInstance(instance_id);
  }

  async #boot(request: PlaceRequest, originId: string): Promise<PlaceResult> {
    const { env, store, entry } = this.#is;
    const instance_id = newId(16);
    const { deployment_key, version_id, mode, weights, slots, memory_bytes, setup_timeout_ms, gpus = 0 } = request;
    const row: FleetInstanceRow = {
      ...{ instance_id, origin_id: originId, deployment_key, version_id, memory_bytes, gpus },
      ...{ placed_at: Date.now(), is_draining: false, paused_at: null },
      // A trainer serves one training.
      boot: mode === "train" ? null : bootDigest(request),
      use: request.use ?? null,
    };
    store.reserve(row);
    this.instanceChanged(row);
    this.#index?.setWarm(originId, version_id, true);
    const origin = entry(originId);
    const boot = {
      instance_id,
      deployment_key,
      version_id,
      slots,
      memory_bytes,
      setup_timeout_ms,
      ...(mode === "predict" ? {} : { mode }),
      ...(weights === null ? {} : { weights: weightsSource(weights) }),
      ...(request.package === undefined ? {} : { package: request.package }),
      ...(request.is_trusted === undefined ? {} : { is_trusted: request.is_trusted }),
      ...(request.egress === undefined ? {} : { egress: request.egress }),
      ...(gpus === 0 ? {} : { gpus }),
    };
    const answer =
      origin === null
        ? ({ kind: "unreachable", detail: "the origin has no key" } as const)
        : await bootInstance(env, origin, { protocol: ORIGIN_PROTOCOL_VERSION, ...boot });
    if (answer.kind === "accepted" && store.instance(instance_id) !== null) {
      return { kind: "placed", instance_id, origin_id: originId };
    }
    // Should it boot all the same, it is nobody's, and the next heartbeat drains it.
    this.removeInstance(instance_id);
    if (answer.kind === "accepted") {
      return { kind: "refused", reason: "no_room", detail: "The origin was lost while it booted." };
    }
    if (answer.kind === "refused" && answer.code.startsWith("version.")) {
      return { kind: "refused", reason: "no_version", detail: answer.code };
    }
    return { kind: "refused", reason: "no_room", detail: answer.detail };
  }

  // ---- pausing

  /** Lets an instance go: one that its deployment does not need is paused where there is memory for that, in place of being ended. */
  async drain(originId: string, instanceId: string, reason: DrainReason): Promise<void> {
    const row = this.#is.store.instance(instanceId);
    // Paused already: its deployment did not hear of it.
    if (row?.paused_at != null) return;
    if (reason === "idle" && row !== null && this.#mayPause(row) && (await this.#pause(row))) return;
    await this.end(originId, instanceId, reason);
  }

  async end(originId: string, instanceId: string, reason: DrainReason): Promise<void> {
    const { env, store, entry } = this.#is;
    const origin = entry(originId);
    if (origin === null) return;
    if (store.instance(instanceId)?.is_draining === false) {
      this.#change(instanceId, () => store.setDraining(instanceId));
    }
    // One that cannot be reached drains later: its deployment asks again.
    await drainInstance(env, origin, instanceId, { reason, grace_ms: DRAIN_GRACE_MS });
  }

  /** Memory stays taken while it is paused, devices too: so only where it has none. */
  #mayPause(row: FleetInstanceRow): boolean {
    const { store, isOpen, seen } = this.#is;
    const origin = store.origin(row.origin_id);
    if (row.boot === null || row.gpus > 0 || row.is_draining || origin === null || !isOpen(origin)) return false;
    if (seen(row)?.state !== "ready") return false;
    const paused = store.instances(row.origin_id).filter((each) => each.paused_at !== null);
    const memory = paused.reduce((sum, each) => sum + each.memory_bytes, row.memory_bytes);
    return memory <= origin.capacity.memory_bytes * PAUSED_MEMORY_SHARE;
  }

  async #pause(row: FleetInstanceRow): Promise<boolean> {
    const { env, store, entry } = this.#is;
    const origin = entry(row.origin_id);
    if (origin === null) return false;
    const { instance_id } = row;
    const answer = await pauseInstance(env, origin, instance_id);
    if (answer.kind !== "accepted" || store.instance(instance_id) === null) return false;
    this.#change(instance_id, () => store.setPaused(instance_id, Date.now()));
    return true;
  }

  /** Resumes a paused instance that was booted as this request would boot one. Null when there is none that can be. */
  async #resume(request: PlaceRequest): Promise<PlaceResult | null> {
    const { env, store, entry, isOpen } = this.#is;
    const boot = bootDigest(request);
    for (const { instance_id, origin_id } of store.pausedAs(boot)) {
      const origin = store.origin(origin_id);
      const to = entry(origin_id);
      if (origin === null || to === null || !isOpen(origin)) continue;
      // Taken before the call, so that another placement does not resume it too.
      this.#change(instance_id, () => store.setPaused(instance_id, null));
      const answer = await resumeInstance(env, to, instance_id);
      // Its host may have been lost meanwhile, or its room given to others.
      const isThere = store.instance(instance_id)?.is_draining === false;
      if (answer.kind === "accepted" && isThere) return { kind: "placed", instance_id, origin_id, resumed: true };
      await this.end(origin_id, instance_id, "evicted");
    }
    return null;
  }

  /** Ends paused instances that nobody wanted for long. Answers when the next one is due. */
  async endOldPaused(now: number): Promise<number | null> {
    const paused = this.#is.store.instances().filter((row) => row.paused_at !== null && !row.is_draining);
    for (const row of paused) {
      if ((row.paused_at ?? now) + PAUSED_MAX_MS <= now) await this.end(row.origin_id, row.instance_id, "idle");
    }
    const due = paused.map((row) => (row.paused_at ?? now) + PAUSED_MAX_MS).filter((at) => at > now);
    return due.length === 0 ? null : Math.min(...due);
  }
}

/** Equal for requests that boot the same: what is known of their use and need does not count. */
function bootDigest(request: PlaceRequest): string {
  const { is_starving: _starving, use: _use, evicts: _evicts, ...boot } = request;
  return sha256Hex(JSON.stringify(Object.entries(boot).sort(([a], [b]) => (a < b ? -1 : 1))));
}
