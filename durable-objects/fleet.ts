/**
 * Owns the origins of one shard: who they are, what they sign with, whether they are alive, and what room their instances take. It places
 * instances and tells their DeploymentObjects when they are gone; what an instance is for, only its DeploymentObject knows.
 *
 * Room is taken before an origin is asked to boot, so two placements never count on the same room. It is given back when a heartbeat no longer
 * lists the instance. Whatever an origin runs that is not recorded here belongs to nobody: its heartbeat is told so, and drains it.
 */

import { DurableObject } from "cloudflare:workers";
import { randomBytes } from "node:crypto";
import { newId, sha256Hex } from "../schema/ids.ts";
import {
  type Heartbeat,
  type InstanceStatus,
  ORIGIN_DEAD_AFTER_MS,
  ORIGIN_PROTOCOL_VERSION,
  type Register,
  type RegisterResult,
} from "../schema/origin-protocol.ts";
import { decideBuildPlace, decidePlacement, type PlacementOrigin } from "../schema/placement.ts";
import { weightsSource } from "../schema/weights.ts";
import { Alarms } from "./alarms.ts";
import type { FleetApi, OriginEntry, PlaceRequest, PlaceResult } from "./contracts.ts";
import { type FleetInstanceRow, FleetStore, type KeyRow } from "./fleet-store.ts";
import { bootInstance, drainInstance } from "./origin-client.ts";
import { deploymentStub } from "./stubs.ts";

/** A boot is under way for at most this long before the instance must be in the origin's list: two tries of the call, and a heartbeat. */
const PLACED_GRACE_MS = 30_000;
/** How often one placement asks for an instance to go, or meets room that another placement took. */
const PLACEMENT_ROUNDS_MAX = 50;
/** A key and the one before it: an origin that has not taken the new one yet can still talk. */
const LIVE_KEYS_MAX = 2;
/** Drained for room or idleness, what still runs may finish: no prediction lasts longer (24 h). */
const DRAIN_GRACE_MS = 86_400_000;

/** What heartbeats told and no one needs after a crash: the next heartbeat tells it again. */
interface Seen {
  at: number;
  instances: Map<string, { state: InstanceStatus["state"]; told: boolean; idle_since: number | null }>;
}

export class FleetObject extends DurableObject<Env> implements FleetApi {
  readonly #store = new FleetStore(this.ctx.storage.sql);
  readonly #alarms = new Alarms<"lost">(this.ctx.storage);
  readonly #seen = new Map<string, Seen>();
  /** origin of each build that runs, only to spread them: an origin has a queue of its own, so nothing breaks when this is forgotten */
  readonly #builds = new Map<string, string>();
  readonly #wokeAt = Date.now();

  async register(
    request: Register,
    verifiedOriginId: string | null,
  ): Promise<{ ok: true; result: RegisterResult } | { ok: false; code: string; detail: string }> {
    this.#store.createTables();
    const joined = verifiedOriginId === null ? this.#join(request) : this.#known(verifiedOriginId);
    if (joined === null) {
      const detail = "The join token is wrong or was used, or the origin is not known.";
      return { ok: false, code: "origin.unauthenticated", detail };
    }
    const { origin_id, key } = joined;
    const restarted = this.#store.origin(origin_id)?.incarnation !== request.incarnation;
    this.#store.saveOrigin(origin_id, request);
    const gone = this.#reconcile(origin_id, request.instances, restarted);
    const settled = this.#hear(origin_id, request.instances);
    await this.#tellGone(origin_id, gone);
    await this.#tellChanged(origin_id, settled);
    return { ok: true, result: { origin_id, ...(key === undefined ? {} : { key }) } };
  }

  /** A one-time token makes an origin. The same start of the same process may use it again: its first answer may have been lost. */
  #join(request: Register): { origin_id: string; key: { key_id: string; secret: string } } | null {
    const tokenSha256 = sha256Hex(request.join_token ?? "");
    const valid = this.env.JOIN_TOKEN_SHA256.toLowerCase().split(",");
    if (request.join_token === undefined || !valid.includes(tokenSha256)) return null;
    const used = this.#store.joinToken(tokenSha256);
    if (used !== null && used.incarnation !== request.incarnation) return null;
    const origin_id = used?.origin_id ?? newId(16);
    if (used === null) this.#store.spendJoinToken(tokenSha256, origin_id, request.incarnation);
    return { origin_id, key: this.#newKey(origin_id) };
  }

  #known(originId: string): { origin_id: string; key?: never } | null {
    return this.#store.origin(originId) === null ? null : { origin_id: originId };
  }

  async heartbeat(originId: string, heartbeat: Heartbeat): Promise<{ known: boolean; unowned: string[] }> {
    const origin = this.#store.origin(originId);
    if (origin === null || origin.incarnation !== heartbeat.incarnation) return { known: false, unowned: [] };
    if (origin.is_lost) this.#store.setLost(originId, false);
    if (heartbeat.capacity !== undefined) this.#store.setCapacity(originId, heartbeat.capacity);
    const gone = this.#reconcile(originId, heartbeat.instances, false);
    const settled = this.#hear(originId, heartbeat.instances);
    const owned = new Set(this.#store.instances(originId).map((row) => row.instance_id));
    const unowned = heartbeat.instances.filter(
      (status) => isRunning(status) && status.state !== "draining" && !owned.has(status.instance_id),
    );
    await this.#tellGone(originId, gone);
    await this.#tellChanged(originId, settled);
    return { known: true, unowned: unowned.map((status) => status.instance_id) };
  }

  /** Gives back the room of instances that the origin does not list any more, and answers them. */
  #reconcile(originId: string, listed: InstanceStatus[], restarted: boolean): FleetInstanceRow[] {
    const running = new Set(listed.filter(isRunning).map((status) => status.instance_id));
    const ended = new Set(listed.filter((status) => !isRunning(status)).map((status) => status.instance_id));
    const now = Date.now();
    const gone = this.#store.instances(originId).filter((row) => {
      if (running.has(row.instance_id)) return false;
      const mayBeBooting = !restarted && !ended.has(row.instance_id) && row.placed_at > now - PLACED_GRACE_MS;
      return !mayBeBooting || this.#wasSeen(row);
    });
    for (const row of gone) this.#store.removeInstance(row.instance_id);
    // The reason of an ended instance reaches its deployment as a change, which says more than that it is gone.
    return gone.filter((row) => !ended.has(row.instance_id));
  }

  #wasSeen(row: FleetInstanceRow): boolean {
    return this.#seen.get(row.origin_id)?.instances.has(row.instance_id) ?? false;
  }

  /**
   * Remembers a sign of life. Answers the states that were the same in two reports and have not been told to their deployment from here: the
   * origin pushes changes itself, so this only repairs what got lost, and never overtakes a newer push with an older state.
   */
  #hear(originId: string, instances: InstanceStatus[]): InstanceStatus[] {
    const now = Date.now();
    const before = this.#seen.get(originId)?.instances;
    const settled: InstanceStatus[] = [];
    const after: Seen["instances"] = new Map();
    for (const status of instances) {
      const last = before?.get(status.instance_id);
      const isSettled = last?.state === status.state && !last.told;
      if (isSettled) settled.push(status);
      const idle_since = status.slots_busy > 0 ? null : (last?.idle_since ?? now);
      const told = last?.state === status.state && (last.told || isSettled);
      after.set(status.instance_id, { state: status.state, told, idle_since });
    }
    this.#seen.set(originId, { at: now, instances: after });
    if (this.#alarms.get("lost") === null) this.#alarms.set("lost", now + ORIGIN_DEAD_AFTER_MS);
    return settled;
  }

  async #tellGone(originId: string, gone: FleetInstanceRow[]): Promise<void> {
    const byDeployment = Map.groupBy(gone, (row) => row.deployment_key);
    await Promise.all(
      [...byDeployment].map(([key, rows]) =>
        deploymentStub(this.env, key).instancesGone(
          originId,
          rows.map((row) => row.instance_id),
        ),
      ),
    );
  }

  async #tellChanged(originId: string, changed: InstanceStatus[]): Promise<void> {
    const byDeployment = Map.groupBy(changed, (status) => status.deployment_key);
    await Promise.all(
      [...byDeployment].map(([key, statuses]) => deploymentStub(this.env, key).instancesChanged(originId, statuses)),
    );
  }

  async place(request: PlaceRequest): Promise<PlaceResult> {
    this.#store.createTables();
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
      const origins = this.#placementView(request.version_id).filter((origin) => !unable.has(origin.origin_id));
      const decision = decidePlacement(placement, origins, kept);
      if (decision.kind === "refused") return [...unable.values()][0] ?? decision;
      if (decision.kind === "boot") {
        const result = await this.#boot(request, decision.origin_id);
        if (result.kind === "placed" || result.reason !== "no_version") return result;
        unable.set(decision.origin_id, result);
        continue;
      }
      const { victim, origin_id } = decision;
      const owner = deploymentStub(this.env, victim.deployment_key);
      const goes = await owner.evictIdle(victim.instance_id, !victim.is_idle).catch(() => false);
      kept.add(victim.instance_id);
      if (!goes) continue;
      await this.drain(origin_id, victim.instance_id, "evicted");
      // An idle one ends at once; a busy one keeps its room until its predictions have ended.
      if (victim.is_idle) this.#store.removeInstance(victim.instance_id);
    }
    return { kind: "refused", reason: "no_room", detail: "Room was taken by others again and again." };
  }

  async #boot(request: PlaceRequest, originId: string): Promise<PlaceResult> {
    const instance_id = newId(16);
    const { deployment_key, version_id, mode, weights, slots, memory_bytes, setup_timeout_ms, gpus = 0 } = request;
    this.#store.reserve({
      instance_id,
      origin_id: originId,
      deployment_key,
      version_id,
      memory_bytes,
      placed_at: Date.now(),
      is_draining: false,
      gpus,
    });
    const entry = this.#entries().find((origin) => origin.origin_id === originId);
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
      entry === undefined
        ? ({ kind: "unreachable", detail: "the origin has no key" } as const)
        : await bootInstance(this.env, entry, { protocol: ORIGIN_PROTOCOL_VERSION, ...boot });
    if (answer.kind === "accepted" && this.#store.instance(instance_id) !== null) {
      return { kind: "placed", instance_id, origin_id: originId };
    }
    // Should it boot all the same, it is nobody's, and the next heartbeat drains it.
    this.#store.removeInstance(instance_id);
    if (answer.kind === "accepted") {
      return { kind: "refused", reason: "no_room", detail: "The origin was lost while it booted." };
    }
    if (answer.kind === "refused" && answer.code.startsWith("version.")) {
      return { kind: "refused", reason: "no_version", detail: answer.code };
    }
    return { kind: "refused", reason: "no_room", detail: answer.detail };
  }

  #placementView(versionId: string): PlacementOrigin[] {
    const knows = this.#store.originsThatRan(versionId);
    const instances = Map.groupBy(this.#store.instances(), (row) => row.origin_id);
    return this.#store.origins().map((origin) => ({
      origin_id: origin.origin_id,
      is_alive: this.#isAlive(origin),
      skus: origin.skus,
      capacity: origin.capacity,
      runs: origin.runs ?? null,
      knows_version: knows.has(origin.origin_id),
      instances: (instances.get(origin.origin_id) ?? []).map((row) => {
        const seen = this.#seen.get(origin.origin_id)?.instances.get(row.instance_id);
        return {
          instance_id: row.instance_id,
          deployment_key: row.deployment_key,
          memory_bytes: row.memory_bytes,
          gpus: row.gpus,
          is_idle: seen?.idle_since !== null,
          idle_since: seen?.idle_since ?? row.placed_at,
          is_draining: row.is_draining,
        };
      }),
    }));
  }

  async drain(originId: string, instanceId: string, reason: "idle" | "evicted" | "released"): Promise<void> {
    const entry = this.#entries().find((origin) => origin.origin_id === originId);
    if (entry === undefined) return;
    if (this.#store.instance(instanceId)?.is_draining === false) this.#store.setDraining(instanceId);
    // One that cannot be reached drains later: its deployment asks again.
    await drainInstance(this.env, entry, instanceId, { reason, grace_ms: DRAIN_GRACE_MS });
  }

  async keys(): Promise<{ origin_id: string; key_id: string; secret: string }[]> {
    return this.#store.keys().map(({ origin_id, key_id, secret }) => ({ origin_id, key_id, secret }));
  }

  async origins(): Promise<OriginEntry[]> {
    return this.#entries();
  }

  /** Origins that have a live key, with the newest of them. */
  #entries(): OriginEntry[] {
    const keys = Map.groupBy(this.#store.keys(), (key) => key.origin_id);
    return this.#store.origins().flatMap((origin) => {
      const newest = keys.get(origin.origin_id)?.[0];
      if (newest === undefined) return [];
      const key = { key_id: newest.key_id, secret: newest.secret };
      return [{ origin_id: origin.origin_id, url: origin.url, key, alive: this.#isAlive(origin) }];
    });
  }

  async rotateKey(originId: string): Promise<{ key_id: string; secret: string } | null> {
    return this.#store.origin(originId) === null ? null : this.#newKey(originId);
  }

  #newKey(originId: string): { key_id: string; secret: string } {
    const key: KeyRow = {
      key_id: newId(16),
      origin_id: originId,
      secret: Buffer.from(randomBytes(32)).toString("base64"),
      created_at: Date.now(),
    };
    this.#store.insertKey(key);
    const live = this.#store.keys().filter((row) => row.origin_id === originId);
    for (const old of live.slice(LIVE_KEYS_MAX)) this.#store.deleteKey(old.key_id);
    return { key_id: key.key_id, secret: key.secret };
  }

  async revokeKey(keyId: string): Promise<void> {
    this.#store.deleteKey(keyId);
  }

  async placeBuild(
    buildId: string,
    isTrusted: boolean,
    except: string[],
  ): Promise<{ origin_id: string } | { refused: string }> {
    this.#builds.delete(buildId);
    const onOrigin = Map.groupBy(this.#builds.values(), (originId) => originId);
    const origins = this.#store.origins().map((origin) => ({
      origin_id: origin.origin_id,
      is_alive: this.#isAlive(origin),
      runs: origin.runs ?? null,
      builds: onOrigin.get(origin.origin_id)?.length ?? 0,
    }));
    const place = decideBuildPlace({ is_trusted: isTrusted, except }, origins);
    if ("origin_id" in place) this.#builds.set(buildId, place.origin_id);
    return place;
  }

  async buildEnded(buildId: string): Promise<void> {
    this.#builds.delete(buildId);
  }

  async health(): Promise<{ origins_alive: number }> {
    return { origins_alive: this.#store.origins().filter((origin) => this.#isAlive(origin)).length };
  }

  #isAlive(origin: { origin_id: string; is_lost: boolean }): boolean {
    return !origin.is_lost && Date.now() - this.#lastSeenAt(origin.origin_id) < ORIGIN_DEAD_AFTER_MS;
  }

  /** Signs of life are not stored: after a start every origin has the full time to give one. */
  #lastSeenAt(originId: string): number {
    return this.#seen.get(originId)?.at ?? this.#wokeAt;
  }

  override async alarm(): Promise<void> {
    await this.#alarms.run(() => this.#findLost());
  }

  /** Origins that were silent too long are lost, and all that ran there with them. */
  async #findLost(): Promise<void> {
    for (const origin of this.#store.origins()) {
      if (origin.is_lost || this.#isAlive(origin)) continue;
      const gone = this.#store.instances(origin.origin_id);
      // Told before it is recorded: a crash in between tells again.
      await this.#tellGone(origin.origin_id, gone);
      for (const row of gone) this.#store.removeInstance(row.instance_id);
      this.#store.setLost(origin.origin_id, true);
      this.#seen.delete(origin.origin_id);
      console.warn(JSON.stringify({ event: "origin_lost", origin_id: origin.origin_id, instances: gone.length }));
    }
    const alive = this.#store.origins().filter((origin) => !origin.is_lost);
    const next = alive.map((origin) => this.#lastSeenAt(origin.origin_id) + ORIGIN_DEAD_AFTER_MS);
    if (next.length > 0) this.#alarms.set("lost", Math.min(...next));
  }
}

function isRunning(status: InstanceStatus): boolean {
  return status.state !== "stopped" && status.state !== "failed";
}
