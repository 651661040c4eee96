/**
 * Carries out what schema/rollout.ts decides for one deployment: asks the fleet for instances and lets idle ones go. What it asked for and was
 * refused is in memory alone: after a start it asks again, and an instance whose placement nobody remembers is adopted when it reports.
 */

import { usesPerHour } from "../schema/arrivals.ts";
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import { type BootGroup, decideRollout, type RolloutDecision } from "../schema/rollout.ts";
import type { DeploymentMeasures } from "./deployment-measures.ts";
import type { InstanceRow } from "./deployment-queue.ts";
import type { DeploymentFacts } from "./deployment-record.ts";
import type { Surroundings } from "./deployment-surroundings.ts";
import type { PlaceRequest, PlaceResult } from "./fleet-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";
import { fleetStub } from "./stubs.ts";

/** Pause after a placement that found no room, doubled up to the maximum: other deployments tell nobody when they leave. */
const PLACE_RETRY_MS = 500;
const PLACE_RETRY_MAX_MS = 5_000;
/** A placement whose answer was lost is made again after this: longer than a boot call and its second try take. */
const PLACE_LOST_MS = 30_000;
/** A queue that waited so long for its first instance may push out a busy one of another deployment. */
const STARVING_AFTER_MS = 10_000;
/** Only one that served so long can be pushed out while busy; and its deployment leaves the room to the other for as long as that needs to ask. */
const SERVICE_MIN_MS = 30_000;
const YIELD_MS = 15_000;
/** Before setup an instance may fetch an image or make an environment. */
const BOOT_MAX_MS = 600_000;
/** Ended instances are remembered so long, to know a late answer of their placement. */
const ENDED_KEPT_MS = 60_000;
/** The fleet repeats every few seconds what leaves with a draining host; what it does not name any more stays. */
const LEAVING_MS = 15_000;
/** An instance of a draining host that was used within this time is replaced before it goes. */
const REPLACED_USE_MS = 30_000;
/** A drain that did not end the instance is asked for again after this. */
const DRAIN_AGAIN_MS = 30_000;

/** Predictions that find a free slot make it decide this often at most. */
const DECIDE_EVERY_MS = 1_000;

type Refusal = Extract<PlaceResult, { kind: "refused" }>["reason"];

interface ScalerSurroundings extends Surroundings<"scale" | "online"> {
  measures: DeploymentMeasures;
  /** no origin can boot what this key names */
  versionRefused: (bootKey: string, detail: string, now: number) => void;
  /** slots may have become usable */
  grant: (now: number) => void;
}

export class DeploymentScaler {
  readonly #is: ScalerSurroundings;
  /** placements on their way, by boot key */
  readonly #placing = new Map<string, number>();
  #placement: { failures: number; hold_until: number; refusal: Refusal | null; detail: string | null } = {
    failures: 0,
    hold_until: 0,
    refusal: null,
    detail: null,
  };
  /** instances of hosts that are drained, and when the fleet last said so */
  readonly #leaving = new Map<string, number>();
  /** the newest decision, and when it was made; null until there is one after a start */
  decision: RolloutDecision | null = null;
  #decided_at = 0;

  constructor(surroundings: ScalerSurroundings) {
    this.#is = surroundings;
  }

  /** A placement is on its way, and none was refused before it. */
  expectsInstance(): boolean {
    return this.#placing.size > 0 && this.#placement.refusal === null;
  }

  /** Until when nothing is placed, and why; null while nothing holds it back. */
  heldBack(now: number): { until: number; detail: string } | null {
    const { hold_until, detail } = this.#placement;
    const { hold_until: setup_hold, setup_error, unpaid } = this.#is.queue.facts();
    if (unpaid !== null) return { until: this.#is.alarms.get("online") ?? now, detail: unpaid };
    const until = Math.max(hold_until, setup_hold);
    if (until <= now) return null;
    return { until, detail: hold_until >= setup_hold ? (detail ?? "") : `The last setup failed: ${setup_error}.` };
  }

  /** How long an idle instance is kept, as far as is known. */
  keepIdleMs(): number {
    const { idle_ttl_ms } = this.#is.queue.spec();
    return this.decision?.measures.keep_idle_ms ?? idle_ttl_ms;
  }

  /** Decides again unless it was done within {@link DECIDE_EVERY_MS}: load that finds free slots may still be too much. Inside a write. */
  scaleSometimes(now: number): void {
    if (now - this.#decided_at >= DECIDE_EVERY_MS) this.scale(now);
  }

  /** Why there is no instance for it: its account's caps, or what the fleet said; null while it has one, or was not asked. */
  refusal(): string | null {
    return this.#is.queue.facts().unpaid ?? this.#placement.detail;
  }

  #addPlacing(bootKey: string, change: 1 | -1): void {
    const count = (this.#placing.get(bootKey) ?? 0) + change;
    if (count > 0) this.#placing.set(bootKey, count);
    else this.#placing.delete(bootKey);
  }

  /** Decides how many instances are wanted, and has the difference done after the commit. Inside a write. */
  scale(now: number): void {
    const { queue, alarms, measures } = this.#is;
    this.#decided_at = now;
    const spec = queue.spec();
    const facts = queue.facts();
    queue.deleteEnded(now - ENDED_KEPT_MS);
    const startMax = BOOT_MAX_MS + spec.setup_timeout_ms;
    const rows = this.#endStuck(startMax, now);
    const live = rows.filter((row) => isLive(row.state));
    // What leaves with its host serves on beside those that replace it: neither too many nor too few are counted by it.
    const [current, ...older] = this.#groups(live.filter((row) => !this.#isLeaving(row.instance_id, now)));
    const decision = decideRollout(
      {
        current,
        older,
        slots_per_instance: spec.slots,
        ...this.#bounds(),
        idle_ttl_ms: spec.idle_ttl_ms,
        hold_until: Math.max(facts.hold_until, this.#placement.hold_until),
        run_ms: facts.run_ms,
        start_ms: startMs(facts),
        arrivals: measures.arrivals(),
        released_at: facts.released_at,
        is_unpaid: facts.unpaid !== null,
        no_room: this.#placement.refusal === "no_room",
        draining: rows.filter((row) => row.state === "draining").length,
      },
      now,
    );
    this.decision = decision;
    measures.log(decision, now);
    // One that reported itself is nobody's when no placement is on its way whose answer could name its key.
    const unknown =
      this.#placing.size > 0 || decision.place.length > 0 ? [] : live.filter((row) => row.boot_key === null);
    const going = new Set([...decision.drain, ...unknown.map((row) => row.instance_id)]);
    for (const row of rows.filter((candidate) => going.has(candidate.instance_id))) {
      queue.setInstanceState(row.instance_id, "draining", row.slots, now);
      // Only what may be wanted again as it is is idle: the fleet may keep it in memory.
      const isWanted = row.boot_key === queue.bootKey() && spec.max_instances > 0;
      this.#drain(row, row.leased === 0 && isWanted ? "idle" : "released");
    }
    for (const bootKey of decision.place) {
      this.#addPlacing(bootKey, 1);
      this.#is.followUp(() => this.#place(bootKey));
    }
    queue.deleteUnusedSpecs();
    const deadlines = [
      // Also of one that was asked for before: the deadline that was set for it may be the one that is spent now.
      ...(this.#placing.size > 0 ? [now + PLACE_LOST_MS] : []),
      ...(going.size > 0 ? [now + DRAIN_AGAIN_MS] : []),
      ...(decision.decide_again_at === null ? [] : [decision.decide_again_at]),
      ...live.filter((row) => row.state !== "ready").map((row) => row.placed_at + startMax),
    ];
    if (deadlines.length > 0) alarms.setNoLaterThan("scale", Math.min(...deadlines));
  }

  /** How many instances there may be. While nobody pays for one, those that run something finish it. */
  #bounds(): Pick<RunSpec, "min_instances" | "max_instances"> {
    const { queue } = this.#is;
    if (queue.facts().unpaid !== null) return { min_instances: 0, max_instances: 0 };
    const { min_instances, max_instances } = queue.spec();
    return { min_instances, max_instances };
  }

  /** What waits and runs by the way it is booted: the current one first, then older ones that are still asked for or still there. */
  #groups(live: InstanceRow[]): [BootGroup, ...BootGroup[]] {
    const { queue } = this.#is;
    const demand = queue.demand();
    const group = (boot_key: string): BootGroup => ({
      boot_key,
      queued: demand.get(boot_key)?.queued ?? 0,
      waiting_since: demand.get(boot_key)?.waiting_since ?? null,
      instances: live
        .filter((row) => row.boot_key === boot_key)
        .map((row) => ({ ...row, state: row.state === "ready" ? "ready" : "starting" })),
      placing: this.#placing.get(boot_key) ?? 0,
    });
    const current = queue.bootKey();
    const others = new Set([...live.map((row) => row.boot_key), ...demand.keys(), ...this.#placing.keys()]);
    const older = [...others].filter((key) => key !== null && key !== current).map((key) => group(key ?? ""));
    return [group(current), ...older];
  }

  /** Ends instances that have been starting for longer than any start takes: no report of theirs will come. */
  #endStuck(startMax: number, now: number): InstanceRow[] {
    const { queue } = this.#is;
    const rows = queue.instances();
    const stuck = rows.filter((row) => isLive(row.state) && row.state !== "ready" && now - row.placed_at >= startMax);
    if (stuck.length === 0) return rows;
    for (const row of stuck) {
      queue.setInstanceState(row.instance_id, "stopped", row.slots, now);
      this.#drain(row, "released");
    }
    return queue.instances();
  }

  /** Asks again for drains that did not end their instances: the origin could not be reached, or predictions still run there. Inside a write. */
  drainAgain(now: number): void {
    const draining = this.#is.queue.instances().filter((row) => row.state === "draining");
    for (const row of draining) if (now - row.changed_at >= DRAIN_AGAIN_MS) this.#drain(row, "released");
    if (draining.length > 0) this.#is.alarms.setNoLaterThan("scale", now + DRAIN_AGAIN_MS);
  }

  #drain(row: InstanceRow, reason: "idle" | "released"): void {
    const { env, queue, write, followUp } = this.#is;
    followUp(async () => {
      if (await fleetStub(env).drain(row.origin_id, row.instance_id, reason)) return;
      // The fleet has nothing of it any more, and what it said of that was not heard.
      await write((now) => {
        if (queue.instance(row.instance_id)?.state !== "draining") return;
        queue.setInstanceState(row.instance_id, "stopped", row.slots, now);
        this.scale(now);
      });
    });
  }

  async #place(bootKey: string): Promise<void> {
    const { queue, write, versionRefused, grant } = this.#is;
    const result = await this.#askFleet(bootKey);
    await write((now) => {
      this.#addPlacing(bootKey, -1);
      if (result?.kind === "placed") {
        this.#placement = { failures: 0, hold_until: 0, refusal: null, detail: null };
        const { instance_id, origin_id, slots, resumed = false } = result;
        // Paused, it had ended here.
        if (resumed) queue.deleteInstance(instance_id);
        queue.insertInstance(
          { instance_id, origin_id, boot_key: bootKey, state: resumed ? "ready" : "boot", slots },
          now,
        );
        grant(now);
      } else if (result !== null) {
        const failures = this.#placement.failures + 1;
        const pause = Math.min(PLACE_RETRY_MS * 2 ** (failures - 1), PLACE_RETRY_MAX_MS);
        const hold_until = Math.max(this.#placement.hold_until, now + pause);
        this.#placement = { failures, hold_until, refusal: result.reason, detail: result.detail };
        if (result.reason === "no_version") versionRefused(bootKey, result.detail, now);
      }
      this.scale(now);
    });
  }

  /** What an instance of it is worth to the fleet. */
  #use(): Pick<PlaceRequest, "use"> {
    const { queue, measures } = this.#is;
    const cold_start_ms = startMs(queue.facts());
    if (cold_start_ms === null) return {};
    return { use: { arrivals_per_hour: usesPerHour(measures.arrivals(), Date.now()), cold_start_ms } };
  }

  /** Null when nothing asks for this key any more. */
  async #askFleet(bootKey: string): Promise<(PlaceResult & { slots: number }) | null> {
    const { env, queue } = this.#is;
    const spec = queue.specOf(bootKey);
    if (spec === null) return null;
    const { slots } = spec;
    const since = queue.demand().get(bootKey)?.waiting_since ?? null;
    const is_starving = since !== null && Date.now() - since >= STARVING_AFTER_MS;
    try {
      return { ...(await fleetStub(env).place({ ...placeRequest(spec), is_starving, ...this.#use() })), slots };
    } catch (error) {
      return { kind: "refused", reason: "no_room", detail: String(error), slots };
    }
  }

  /**
   * The host of these is drained. As many instances as run something, or the minimum asks for, must be ready elsewhere: they are placed where they are not.
   * Answers which of these can go now, those that do least first; they are draining then. Inside a write.
   */
  replace(instanceIds: string[], now: number): string[] {
    const { queue, followUp, alarms } = this.#is;
    const live = queue.instances().filter((row) => isLive(row.state));
    const leaving = live.filter((row) => instanceIds.includes(row.instance_id));
    for (const row of leaving) this.#leaving.set(row.instance_id, now);
    const gone = instanceIds.filter((id) => !leaving.some((row) => row.instance_id === id));
    const key = queue.bootKey();
    const others = live.filter((row) => row.boot_key === key && !this.#isLeaving(row.instance_id, now));
    // One that came just now has not been used, whatever its row says.
    const used =
      leaving.filter((row) => row.leased > 0 || now - row.last_used_at < REPLACED_USE_MS).length +
      others.filter((row) => row.leased > 0).length;
    const { min_instances, max_instances } = this.#bounds();
    const needed = Math.min(max_instances, Math.max(min_instances, used));
    const placing = this.#placing.get(key) ?? 0;
    for (let missing = needed - others.length - placing; missing > 0; missing--) {
      this.#addPlacing(key, 1);
      followUp(() => this.#place(key));
    }
    const ready = others.filter((row) => row.state === "ready").length;
    const going = leaving
      .toSorted((a, b) => a.leased - b.leased || a.last_used_at - b.last_used_at)
      .slice(0, Math.max(0, leaving.length + ready - needed));
    for (const row of going) {
      queue.setInstanceState(row.instance_id, "draining", row.slots, now);
      this.#leaving.delete(row.instance_id);
    }
    if (going.length > 0) alarms.setNoLaterThan("scale", now + DRAIN_AGAIN_MS);
    return [...gone, ...going.map((row) => row.instance_id)];
  }

  /**
   * An instance does not know what was leased on it. It may have ended unheard, or be there all the same: so it gets nothing more, and is drained until its end
   * is known. Inside a write.
   */
  letGo(instanceId: string, now: number): void {
    const { queue, alarms } = this.#is;
    const row = queue.instance(instanceId);
    if (row === null || !isLive(row.state)) return;
    queue.setInstanceState(instanceId, "draining", row.slots, now);
    this.#drain(row, "released");
    alarms.setNoLaterThan("scale", now + DRAIN_AGAIN_MS);
  }

  #isLeaving(instanceId: string, now: number): boolean {
    const since = this.#leaving.get(instanceId);
    if (since === undefined) return false;
    if (now - since < LEAVING_MS) return true;
    this.#leaving.delete(instanceId);
    return false;
  }

  /** Whether an instance goes so that another deployment gets its room; it is draining then. Inside a write. */
  evict(instanceId: string, evenBusy: boolean, now: number): boolean {
    const { queue, alarms } = this.#is;
    const known = queue.instance(instanceId);
    // One that nobody here counts on may go.
    if (known === null || !isLive(known.state)) return true;
    const current = queue.instances().filter((row) => isLive(row.state) && row.boot_key === queue.bootKey());
    if (known.boot_key === queue.bootKey() && current.length <= queue.spec().min_instances) return false;
    const isIdle = known.leased === 0 && (known.boot_key === null || !queue.demand().has(known.boot_key));
    const hasServed = known.state === "ready" && now - known.changed_at >= SERVICE_MIN_MS;
    if (!isIdle && !(evenBusy && hasServed)) return false;
    queue.setInstanceState(instanceId, "draining", known.slots, now);
    if (!isIdle) this.#placement.hold_until = now + YIELD_MS;
    alarms.setNoLaterThan("scale", now + (isIdle ? DRAIN_AGAIN_MS : YIELD_MS));
    return true;
  }
}

/** What the fleet needs to know of it. */
function placeRequest(spec: RunSpec): PlaceRequest {
  const { deployment_key, version_id, mode, weights, slots, memory_bytes, hardware, setup_timeout_ms } = spec;
  return {
    ...{ deployment_key, version_id, mode, weights, slots, memory_bytes, hardware, setup_timeout_ms },
    ...(spec.package === undefined ? {} : { package: spec.package }),
    ...(spec.is_trusted === undefined ? {} : { is_trusted: spec.is_trusted }),
    ...(spec.egress === undefined ? {} : { egress: spec.egress }),
    ...(spec.gpus === undefined ? {} : { gpus: spec.gpus }),
  };
}

export function isEnded(state: InstanceStatus["state"]): boolean {
  return state === "stopped" || state === "failed";
}

/** Starting or ready: counts as an instance of the deployment. */
export function isLive(state: InstanceStatus["state"]): boolean {
  return !isEnded(state) && state !== "draining";
}

/** Time from placement to ready, from history; null without one. */
export function startMs(facts: Readonly<DeploymentFacts>): number | null {
  return facts.setup_ms === null ? null : (facts.boot_ms ?? 0) + facts.setup_ms;
}
