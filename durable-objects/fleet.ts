/**
 * Owns the origins of one shard: who they are, what they sign with, whether they are alive, and what room their instances take. It places
 * instances (fleet-placement.ts) and tells their DeploymentObjects when they are gone; what an instance is for, only its DeploymentObject knows.
 *
 * Room is given back when a heartbeat no longer lists the instance. Whatever an origin runs that is not recorded here belongs to nobody: its heartbeat is
 * told so, and drains it. The first shard checks the tokens of origins that join, and chooses the shard that each goes to.
 */

import { DurableObject } from "cloudflare:workers";
import { decideBuildPlace } from "../schema/build-place.ts";
import {
  type Heartbeat,
  type InstanceStatus,
  ORIGIN_DEAD_AFTER_MS,
  type Register,
  type RegisterResult,
} from "../schema/origin-protocol.ts";
import { Alarms } from "./alarms.ts";
import type {
  FleetFigures,
  FleetShardApi,
  OriginEntry,
  OriginListing,
  PlaceRequest,
  PlaceResult,
} from "./fleet-contract.ts";
import { FleetHeartbeats } from "./fleet-heartbeats.ts";
import { FleetJoining } from "./fleet-joining.ts";
import { type DrainReason, FleetPlacement, PAUSED_MAX_MS } from "./fleet-placement.ts";
import { shardOf } from "./fleet-shards.ts";
import { type FleetInstanceRow, FleetStore, type OriginRow } from "./fleet-store.ts";
import { deploymentStub, fleetShard } from "./stubs.ts";

/** A boot is under way for at most this long before the instance must be in the origin's list: two tries of the call, and a heartbeat. */
const PLACED_GRACE_MS = 30_000;
/** How often a host that is being drained is looked at. */
const DRAIN_INTERVAL_MS = 2_000;
/** Silent origins are looked for at most so often. */
const LOST_INTERVAL_MS = 1_000;

export class FleetObject extends DurableObject<Env> implements FleetShardApi {
  readonly #store = new FleetStore(this.ctx.storage.sql);
  readonly #alarms = new Alarms<"lost" | "drain" | "paused">(this.ctx.storage);
  readonly #joining = new FleetJoining(this.env, this.#store);
  readonly #heartbeats = new FleetHeartbeats();
  /** origin of each build that runs, only to spread them: an origin has a queue of its own, so nothing breaks when this is forgotten */
  readonly #builds = new Map<string, string>();
  readonly #placement = new FleetPlacement({
    env: this.env,
    store: this.#store,
    isOpen: (origin) => this.#isOpen(origin),
    entry: (originId) => this.#entries(originId)[0] ?? null,
    seen: (row) => this.#heartbeats.instance(row),
  });

  // ---- joining

  async register(
    request: Register,
    verifiedOriginId: string | null,
    prices: Record<string, number> = {},
  ): Promise<{ ok: true; result: RegisterResult } | { ok: false; code: string; detail: string }> {
    this.#store.createTables();
    if (verifiedOriginId !== null && this.#store.origin(verifiedOriginId) !== null) {
      await this.#registered(verifiedOriginId, request, prices);
      return { ok: true, result: { origin_id: verifiedOriginId } };
    }
    const originId = verifiedOriginId === null ? await this.#joining.join(request) : null;
    if (originId === null) {
      const detail = "The join token is wrong or was used, or the origin is not known.";
      return { ok: false, code: "origin.unauthenticated", detail };
    }
    const shard = shardOf(originId);
    const adopter = shard === 0 ? this : fleetShard(this.env, shard);
    return { ok: true, result: await adopter.adopt(originId, request, prices) };
  }

  async adopt(originId: string, request: Register, prices: Record<string, number>): Promise<RegisterResult> {
    this.#store.createTables();
    const key = this.#joining.newKey(originId);
    await this.#registered(originId, request, prices);
    return { origin_id: originId, key };
  }

  async hasRoom(): Promise<boolean> {
    return this.#joining.hasRoom();
  }

  async shards(): Promise<number> {
    return this.#store.shards();
  }

  async inviteOrigin(): Promise<{ join_token: string; expires_at: number }> {
    this.#store.createTables();
    return this.#joining.invite();
  }

  async #registered(originId: string, request: Register, prices: Record<string, number>): Promise<void> {
    const restarted = this.#store.origin(originId)?.incarnation !== request.incarnation;
    this.#store.saveOrigin(originId, request, prices);
    const gone = this.#reconcile(originId, request.instances, restarted);
    const settled = this.#hear(originId, request.instances);
    await this.#tell(originId, gone, settled);
  }

  // ---- heartbeats

  async heartbeat(originId: string, heartbeat: Heartbeat): Promise<{ known: boolean; unowned: string[] }> {
    const origin = this.#store.origin(originId);
    if (origin === null || origin.incarnation !== heartbeat.incarnation) return { known: false, unowned: [] };
    const isBack = !this.#heartbeats.isAlive(origin);
    if (origin.is_lost) this.#store.setLost(originId, false);
    if (heartbeat.capacity !== undefined) this.#store.setCapacity(originId, heartbeat.capacity);
    const gone = this.#reconcile(originId, heartbeat.instances, false);
    const settled = this.#hear(originId, heartbeat.instances, isBack || heartbeat.capacity !== undefined);
    const owned = new Map(this.#store.instances(originId).map((row) => [row.instance_id, row]));
    const unowned = heartbeat.instances.filter((status) => {
      if (!isRunning(status) || status.state === "draining") return false;
      const row = owned.get(status.instance_id);
      // What was to end and stands idle all the same was not told so: a paused one has no deployment that would ask again.
      return row === undefined || (row.is_draining && status.slots_busy === 0);
    });
    await this.#tell(originId, gone, settled);
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
      return !mayBeBooting || this.#heartbeats.instance(row) !== null;
    });
    // The reason of an ended instance reaches its deployment as a change, which says more than that it is gone.
    for (const row of gone) if (ended.has(row.instance_id)) this.#placement.removeInstance(row.instance_id);
    return gone.filter((row) => !ended.has(row.instance_id));
  }

  /** A sign of life: answers the states of which their deployments may not have heard. */
  #hear(originId: string, instances: InstanceStatus[], isChanged = true): InstanceStatus[] {
    const now = Date.now();
    const settled = this.#heartbeats.heard(originId, instances, now);
    const origin = isChanged ? this.#store.origin(originId) : null;
    if (origin !== null) this.#placement.originChanged(origin);
    for (const row of this.#store.instances(originId)) this.#placement.instanceChanged(row);
    if (this.#alarms.get("lost") === null) this.#alarms.set("lost", now + ORIGIN_DEAD_AFTER_MS);
    return settled;
  }

  /** Neither waits for the other: what settled counts as told, unless telling it failed. */
  async #tell(originId: string, gone: FleetInstanceRow[], settled: InstanceStatus[]): Promise<void> {
    await Promise.all([this.#tellGone(originId, gone), this.#tellChanged(originId, settled)]);
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
    // Told before it is forgotten: what was not heard is told again.
    for (const row of gone) this.#placement.removeInstance(row.instance_id);
  }

  async #tellChanged(originId: string, changed: InstanceStatus[]): Promise<void> {
    const byDeployment = Map.groupBy(changed, (status) => status.deployment_key);
    try {
      await Promise.all(
        [...byDeployment].map(([key, statuses]) => deploymentStub(this.env, key).instancesChanged(originId, statuses)),
      );
    } catch (error) {
      this.#heartbeats.untold(originId, changed);
      throw error;
    }
  }

  // ---- instances and hosts

  async place(request: PlaceRequest): Promise<PlaceResult> {
    this.#store.createTables();
    return this.#placement.place(request);
  }

  async drain(originId: string, instanceId: string, reason: DrainReason): Promise<boolean> {
    const row = this.#store.instance(instanceId);
    // Where it is paused already, its deployment has missed that it is gone.
    const isKnown = row !== null && row.paused_at === null;
    await this.#placement.drain(originId, instanceId, reason);
    if (this.#store.instance(instanceId)?.paused_at != null) {
      this.#alarms.setNoLaterThan("paused", Date.now() + PAUSED_MAX_MS);
    }
    return isKnown;
  }

  async drainOrigin(originId: string, on: boolean): Promise<OriginListing | null> {
    if (this.#store.origin(originId) === null) return null;
    this.#store.setOriginDraining(originId, on);
    const origin = this.#store.origin(originId);
    if (origin === null) return null;
    this.#placement.originChanged(origin);
    if (on) {
      this.#alarms.setNoLaterThan("drain", Date.now() + DRAIN_INTERVAL_MS);
      await this.#drainHost(originId);
    }
    return this.#listing(origin);
  }

  /** Has what runs on a draining host replaced where that is needed, and ended where it is not. */
  async #drainHost(originId: string): Promise<void> {
    const rows = this.#store.instances(originId).filter((row) => !row.is_draining);
    for (const row of rows.filter((each) => each.paused_at !== null)) {
      await this.#placement.end(originId, row.instance_id, "released");
    }
    const owned = Map.groupBy(
      rows.filter((row) => row.paused_at === null),
      (row) => row.deployment_key,
    );
    const going = await Promise.all(
      [...owned].map(([key, its]) =>
        deploymentStub(this.env, key)
          .replaceInstances(its.map((row) => row.instance_id))
          // One that cannot be asked now is asked again.
          .catch((): string[] => []),
      ),
    );
    await Promise.all(going.flat().map((instanceId) => this.#placement.end(originId, instanceId, "released")));
  }

  async #drainHosts(): Promise<void> {
    const draining = this.#store.origins().filter((origin) => origin.is_draining && this.#heartbeats.isAlive(origin));
    const busy = draining.filter(({ origin_id }) => this.#store.instances(origin_id).length > 0);
    if (busy.length > 0) this.#alarms.set("drain", Date.now() + DRAIN_INTERVAL_MS);
    for (const { origin_id } of busy) await this.#drainHost(origin_id);
  }

  async removeOrigin(originId: string): Promise<"removed" | "unknown" | "in_use"> {
    const origin = this.#store.origin(originId);
    if (origin === null) return "unknown";
    const rows = this.#store.instances(originId);
    if (this.#heartbeats.isAlive(origin) && rows.some((row) => row.paused_at === null)) return "in_use";
    await this.#tellGone(originId, rows);
    this.#placement.originRemoved(originId);
    this.#store.deleteOrigin(originId);
    this.#heartbeats.forget(originId);
    return "removed";
  }

  async listOrigins(after: string | null, limit: number): Promise<OriginListing[]> {
    return this.#store.originsAfter(after ?? "", limit).map((origin) => this.#listing(origin));
  }

  async figures(): Promise<FleetFigures> {
    const origins = Object.groupBy(this.#store.origins(), (origin) => this.#stateOf(origin));
    const states = Object.groupBy(this.#store.instances(), (row) => this.#heartbeats.instance(row)?.state ?? "unknown");
    return { origins: lengths(origins), instances: lengths(states) };
  }

  #stateOf(origin: OriginRow): OriginListing["state"] {
    if (!this.#heartbeats.isAlive(origin)) return "lost";
    if (!origin.is_draining) return "ready";
    return this.#store.instances(origin.origin_id).length === 0 ? "drained" : "draining";
  }

  #listing(origin: OriginRow): OriginListing {
    const { origin_id, url, region, driver, hardware, capacity } = origin;
    const rows = this.#store.instances(origin_id);
    const sum = (of: "memory_bytes" | "gpus"): number => rows.reduce((total, row) => total + row[of], 0);
    return {
      ...{ origin_id, url, region, driver, hardware, capacity },
      state: this.#stateOf(origin),
      used: { instances: rows.length, memory_bytes: sum("memory_bytes"), gpus: sum("gpus") },
      instances: rows.map((row) => {
        const { instance_id, deployment_key, version_id, memory_bytes, gpus, paused_at, placed_at } = row;
        const last = this.#heartbeats.instance(row);
        const idle_since = paused_at ?? (last === null ? placed_at : last.idle_since);
        return { instance_id, deployment_key, version_id, state: last?.state ?? null, idle_since, memory_bytes, gpus };
      }),
      warm_versions: this.#store
        .knownVersions(origin_id)
        .map(({ version_id }) => version_id)
        .reverse(),
      last_seen_at: this.#heartbeats.lastSeenAt(origin_id),
    };
  }

  // ---- keys

  async keys(): Promise<{ origin_id: string; key_id: string; secret: string }[]> {
    return this.#store.keys().map(({ origin_id, key_id, secret }) => ({ origin_id, key_id, secret }));
  }

  async origins(): Promise<OriginEntry[]> {
    return this.#entries();
  }

  /** Origins that have a live key, with the newest of them. */
  #entries(originId?: string): OriginEntry[] {
    const keys = Map.groupBy(this.#store.keys(originId), (key) => key.origin_id);
    return this.#store.origins(originId).flatMap((origin) => {
      const newest = keys.get(origin.origin_id)?.[0];
      if (newest === undefined) return [];
      const key = { key_id: newest.key_id, secret: newest.secret };
      return [{ origin_id: origin.origin_id, url: origin.url, key, alive: this.#heartbeats.isAlive(origin) }];
    });
  }

  async rotateKey(originId: string): Promise<{ key_id: string; secret: string } | null> {
    return this.#store.origin(originId) === null ? null : this.#joining.newKey(originId);
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
      is_open: this.#isOpen(origin),
      runs: origin.runs ?? null,
      builds: onOrigin.get(origin.origin_id)?.length ?? 0,
    }));
    const place = decideBuildPlace({ is_trusted: isTrusted, except }, origins);
    if ("origin_id" in place) this.#builds.set(buildId, place.origin_id);
    return place;
  }

  async buildEnded(buildId: string, _originId: string): Promise<void> {
    this.#builds.delete(buildId);
  }

  async health(): Promise<{ origins_alive: number }> {
    return { origins_alive: this.#store.origins().filter((origin) => this.#heartbeats.isAlive(origin)).length };
  }

  /** It takes what is new. */
  #isOpen(origin: OriginRow): boolean {
    return !origin.is_draining && this.#heartbeats.isAlive(origin);
  }

  override async alarm(): Promise<void> {
    await this.#alarms.run(async (name) => {
      if (name === "lost") await this.#findLost();
      else if (name === "drain") await this.#drainHosts();
      else await this.#endOldPaused();
    });
  }

  async #endOldPaused(): Promise<void> {
    const next = await this.#placement.endOldPaused(Date.now());
    if (next !== null) this.#alarms.setNoLaterThan("paused", next);
  }

  /** Origins that were silent too long are lost, and all that ran there with them. */
  async #findLost(): Promise<void> {
    const silent = this.#store.origins().filter((origin) => !origin.is_lost && !this.#heartbeats.isAlive(origin));
    // A deployment that cannot be told keeps only its own origin waiting.
    await Promise.all(
      silent.map((origin) =>
        this.#lose(origin).catch((error: unknown) => {
          const { origin_id } = origin;
          console.error(JSON.stringify({ event: "origin_lost_untold", origin_id, error: String(error) }));
        }),
      ),
    );
    const left = this.#store.origins().filter((origin) => !origin.is_lost);
    const next = left.map((origin) => this.#heartbeats.deadAt(origin.origin_id));
    if (next.length > 0) this.#alarms.set("lost", Math.max(Math.min(...next), Date.now() + LOST_INTERVAL_MS));
  }

  async #lose(origin: OriginRow): Promise<void> {
    const gone = this.#store.instances(origin.origin_id);
    // Told before it is recorded: a crash in between tells again.
    await this.#tellGone(origin.origin_id, gone);
    console.warn(JSON.stringify({ event: "origin_lost", origin_id: origin.origin_id, instances: gone.length }));
    // It came back meanwhile, with or without what ran there, and may have got something new.
    if (this.#heartbeats.isAlive(origin)) return;
    this.#store.setLost(origin.origin_id, true);
    this.#placement.originChanged({ ...origin, is_lost: true });
    this.#heartbeats.forget(origin.origin_id);
  }
}

function lengths<K extends string>(groups: Partial<Record<K, unknown[]>>): Partial<Record<K, number>> {
  const entries = Object.entries<unknown[] | undefined>(groups);
  return Object.fromEntries(entries.map(([key, rows]) => [key, rows?.length ?? 0])) as Partial<Record<K, number>>;
}

function isRunning(status: InstanceStatus): boolean {
  return status.state !== "stopped" && status.state !== "failed";
}
