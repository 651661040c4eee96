/**
 * Owns one deployment: its queue, which prediction holds which slot, and how many instances it wants. A slot is leased in the same transaction in
 * which a prediction comes or another one ends, so it is never leased twice and never idle beside a queue. Calls to others come after the
 * commit, and each can be lost: a named deadline of the same commit does it again.
 *
 * It never waits for the FleetObject: instances are asked for beside the calls that made them wanted.
 */
import { DurableObject } from "cloudflare:workers";
import { predictionObjectName } from "../schema/ids.ts";
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import type { WaitingFor } from "../schema/prediction-document.ts";
import { movingAverage, UTILISATION_TARGET } from "../schema/scaling.ts";
import { Alarms } from "./alarms.ts";
import type {
  DeploymentApi,
  DeploymentDescription,
  DeploymentScaling,
  EnqueueRequest,
  EnqueueResult,
  Lease,
  LeaseKey,
  Release,
  RunSpec,
  SetupReport,
} from "./contracts.ts";
import { GrantDelivery } from "./deployment-grants.ts";
import { DeploymentHistory } from "./deployment-history.ts";
import { DeploymentMeasures } from "./deployment-measures.ts";
import { DeploymentOnline } from "./deployment-online.ts";
import { DeploymentQueue, type InstanceRow } from "./deployment-queue.ts";
import { instanceSpec } from "./deployment-record.ts";
import { InstanceReports } from "./deployment-reports.ts";
import { type RunReporter, reportRuns, reportRunsSoon } from "./deployment-runs.ts";
import { DeploymentScaler, isEnded } from "./deployment-scaler.ts";
import { DeploymentSetups, errorClass, TELL_AGAIN_MS } from "./deployment-setups.ts";
import { describe, describeScaling, NEVER_USED, waitingFor } from "./deployment-view.ts";
import { GroupCommit } from "./group-commit.ts";
import { predictionStub } from "./stubs.ts";

/** Predictions that may wait here. */
const QUEUE_MAX = 10_000;
/** A lease this old is asked about at its prediction, and again each time it has become this much older. */
const LEASE_CHECK_MS = 60_000;
/** A lease that its prediction has not confirmed for so long, its object being away all the time, is taken back. */
const LEASE_EXPIRES_MS = 600_000;
/** What has waited for so long is asked about too: the longest waiting ones, so many at a time. */
const QUEUE_CHECK_MS = 600_000;
const QUEUE_CHECKS_MAX = 1_000;
/** Of a disabled deployment: predictions canceled by one deadline and side by side (each takes up to 8 s), and the pause before the next ones. */
const CANCELS_PER_TURN = 200;
const CANCELS_AT_ONCE = 20;
const CANCEL_AGAIN_MS = 1_000;

type Deadline = "scale" | "tell" | "leases" | "runs" | "cancel" | "online";

export class DeploymentObject extends DurableObject<Env> implements DeploymentApi {
  readonly #queue = new DeploymentQueue(this.ctx.storage.sql);
  readonly #reports = new InstanceReports(this.ctx.storage.sql);
  readonly #measures = new DeploymentMeasures(this.ctx.storage.sql);
  readonly #history = new DeploymentHistory(this.ctx.storage.sql);
  readonly #alarms = new Alarms<Deadline>(this.ctx.storage);
  readonly #writes = new GroupCommit(this.ctx.storage, () => {
    this.#queue.forget();
    this.#reports.forget();
    this.#measures.forget();
    this.#online.forget();
    this.#alarms.forget();
  });
  readonly #grants = new GrantDelivery(this.env, () => this.#queue.leases());
  /** calls to others that follow from the commit in progress */
  #followUps: (() => Promise<void>)[] = [];
  readonly #setups = new DeploymentSetups({
    queue: this.#queue,
    history: this.#history,
    alarms: this.#alarms,
    grants: this.#grants,
    write: (change) => this.#write(change),
    followUp: (task) => this.#followUps.push(task),
  });
  readonly #scaler = new DeploymentScaler({
    env: this.env,
    queue: this.#queue,
    measures: this.#measures,
    alarms: this.#alarms,
    write: (change) => this.#write(change),
    followUp: (task) => this.#followUps.push(task),
    versionRefused: (bootKey, detail, now) => this.#setups.failed(bootKey, detail, now),
    grant: (now) => this.#grant(now),
  });

  readonly #online: DeploymentOnline = new DeploymentOnline({
    env: this.env,
    sql: this.ctx.storage.sql,
    queue: this.#queue,
    alarms: this.#alarms,
    write: (change) => this.#write(change),
    followUp: (task) => this.#followUps.push(task),
    scale: (now) => this.#scaler.scale(now),
  });

  readonly #reporter: RunReporter = {
    env: this.env,
    queue: this.#queue,
    history: this.#history,
    alarms: this.#alarms,
    write: (change) => this.#write(change),
  };

  async #write<T>(change: (now: number) => T): Promise<T> {
    try {
      return await this.#writes.run(() => {
        const now = Date.now();
        const result = change(now);
        if (this.#queue.exists()) {
          this.#measure(now);
          this.#online.sync(now);
        }
        return result;
      });
    } finally {
      const followUps = this.#followUps;
      this.#followUps = [];
      for (const followUp of followUps) this.ctx.waitUntil(followUp().catch(logFailure));
    }
  }

  #measure(now: number): void {
    const queue = this.#queue;
    const queued = queue.hasQueued() ? 1 : 0;
    this.#measures.note({ leased: queue.leaseCount(), queued, slots: queue.spec().slots }, now);
  }

  // ---- queue and leases

  enqueue(request: EnqueueRequest): Promise<EnqueueResult> {
    return this.#write((now) => this.#enqueue(request, now));
  }

  #enqueue(request: EnqueueRequest, now: number): EnqueueResult {
    const queue = this.#queue;
    const gone = this.#refusalWhileEnded();
    if (gone !== null) return gone;
    const bootKey = queue.saveSpec(instanceSpec(request.spec), now, false);
    const held = queue.lease(request);
    if (held !== null) return { kind: "leased", lease: held };

    const place = queue.place(request);
    if (place !== null) return { kind: "queued", queue_position: place.position };

    const refusal = this.#setups.refusal(bootKey, now) ?? this.#fence(request, now);
    if (refusal !== null) return refusal;
    if (request.attempt === 1) this.#measures.came();
    if (queue.isQueueEmpty(bootKey)) {
      const lease = this.#leaseTo(request, bootKey, this.#withFreeSlot(), now);
      if (lease !== null) {
        queue.insertLease(lease, request.account_id, { queue_ms: 0, is_cold: 0 });
        this.#scaler.scaleSometimes(now);
        return { kind: "leased", lease };
      }
    }
    if (queue.queueLength() >= QUEUE_MAX) {
      const detail = `${QUEUE_MAX} predictions wait for this model already.`;
      return { kind: "refused", code: "deployment.queue_full", detail };
    }
    queue.dequeue(request);
    queue.append(request, bootKey, !queue.instances().some((row) => row.state === "ready" && row.boot_key === bootKey));
    this.#alarms.setNoLaterThan("leases", now + LEASE_CHECK_MS);
    this.#scaler.scale(now);
    return { kind: "queued", queue_position: queue.place(request)?.position ?? 1 };
  }

  /** The attempt is the epoch of its prediction's claim: a newer one ends what older ones hold, and an older one gets nothing. */
  #fence(request: EnqueueRequest, now: number): EnqueueResult | null {
    const others = this.#queue.otherAttempts(request);
    if (others.some((attempt) => attempt > request.attempt)) {
      return { kind: "refused", code: "origin.lost", detail: "A newer attempt of the prediction has taken its place." };
    }
    if (others.length > 0) {
      const { prediction_id } = request;
      for (const attempt of others) this.#queue.dequeue({ prediction_id, attempt });
      this.#endLeases(
        others.map((attempt) => ({ prediction_id, attempt })),
        now,
      );
    }
    return null;
  }

  /** For what an isolate lets through that has not heard of it yet. */
  #refusalWhileEnded(): EnqueueResult | null {
    if (!this.#queue.exists()) return null;
    if (this.#queue.facts().is_retired) {
      return { kind: "refused", code: "deployment.not_found", detail: "The deployment was deleted." };
    }
    const { unpaid } = this.#queue.facts();
    if (unpaid !== null) return { kind: "refused", code: "billing.budget_exceeded", detail: unpaid };
    if (this.#queue.spec().max_instances > 0) return null;
    return {
      kind: "refused",
      code: "deployment.disabled",
      detail: "The deployment is disabled: its max_instances is 0.",
    };
  }

  /**
   * A lease on the first of these that was booted so and is not as busy as it shall be; then on the least busy one; null when there is none. The first ones
   * in order of placement are used, so that what is too much gets idle and goes.
   */
  #leaseTo(key: LeaseKey, bootKey: string, free: InstanceRow[], now: number): Lease | null {
    const fitting = free.filter((row) => row.boot_key === bootKey);
    const instance =
      fitting.find((row) => row.leased + 1 <= row.slots * UTILISATION_TARGET) ??
      fitting.reduce<InstanceRow | null>((best, row) => (best === null || row.leased < best.leased ? row : best), null);
    if (instance === null) return null;
    if (this.#alarms.get("leases") === null) this.#alarms.set("leases", now + LEASE_CHECK_MS);
    const { prediction_id, attempt } = key;
    const { instance_id, origin_id } = instance;
    return { prediction_id, attempt, instance_id, origin_id, leased_at: now };
  }

  /** Instances with a free slot. */
  #withFreeSlot(): InstanceRow[] {
    return this.#queue.instances().filter((row) => row.state === "ready" && row.leased < row.slots);
  }

  /** Gives free slots to those who wait, in their order. */
  #grant(now: number): void {
    for (;;) {
      const free = this.#withFreeSlot();
      const keys = new Set(free.flatMap((row) => (row.boot_key === null ? [] : [row.boot_key])));
      const next = keys.size === 0 ? null : this.#queue.next([...keys]);
      const lease = next === null ? null : this.#leaseTo(next, next.boot_key, free, now);
      if (next === null || lease === null) return;
      this.#grants.add(lease);
      this.#queue.dequeue(next);
      const queue_ms = Math.max(0, now - next.enqueued_at);
      this.#queue.insertLease(lease, next.account_id, { queue_ms, is_cold: next.is_cold });
      this.#alarms.setNoLaterThan("tell", now + TELL_AGAIN_MS);
      if (!this.#followUps.includes(this.#tell)) this.#followUps.push(this.#tell);
    }
  }

  readonly #tell = async (): Promise<void> => {
    const declined = await this.#grants.tell();
    if (declined.length > 0) await this.#write((now) => this.#endLeases(declined, now));
  };

  /** Ends leases whose predictions do not need them, and passes the slots on. */
  #endLeases(keys: LeaseKey[], now: number): void {
    for (const key of keys) {
      this.#queue.deleteLease(key);
      this.#grants.forget(key);
    }
    // What they held may be idle from now on.
    if (keys.length > 0) this.#alarms.setNoLaterThan("scale", now + this.#scaler.keepIdleMs());
    this.#grant(now);
    this.#scaleOlder(now);
  }

  /** Instances of an older release are kept for what waits, which has become less. */
  #scaleOlder(now: number): void {
    if (this.#queue.hasOlderSpecs()) this.#scaler.scale(now);
  }

  configure(spec: RunSpec): Promise<void> {
    return this.#write((now) => {
      if (this.#queue.exists() && !this.#queue.facts().is_retired && spec.release < this.#queue.spec().release) return;
      this.#queue.saveSpec(instanceSpec(spec), now, true);
      if (spec.max_instances === 0) {
        this.#alarms.set("cancel", now + CANCEL_AGAIN_MS);
        this.#followUps.push(() => this.#cancelAll());
      }
      this.#scaler.scale(now);
    });
  }

  retire(unused_ms: number): ReturnType<DeploymentApi["retire"]> {
    return this.#write((now) => {
      if (!this.#queue.exists()) return { retired: true };
      const instances = this.#queue.instances().filter((row) => !isEnded(row.state)).length;
      const { last_used_at, is_retired } = this.#queue.facts();
      const isUsed = this.#queue.inFlight(1).length > 0;
      const free_at = isUsed ? null : (last_used_at ?? Number.NEGATIVE_INFINITY) + unused_ms;
      if (!is_retired && (instances > 0 || free_at === null || free_at > now)) {
        return { retired: false, instances, free_at: instances > 0 ? null : free_at };
      }
      // Should a placement be on its way, its instance goes as soon as it is known.
      this.#queue.saveSpec({ ...this.#queue.spec(), min_instances: 0, max_instances: 0 }, now, true);
      this.#queue.saveFacts({ is_retired: true });
      return { retired: true };
    });
  }

  /** Cancels what runs or waits here, for its callers. What has ended meanwhile, or was never stored, only leaves the queue. */
  async #cancelAll(): Promise<void> {
    if (this.#queue.spec().max_instances > 0) return;
    const unknown: LeaseKey[] = [];
    const keys = this.#queue.inFlight(CANCELS_PER_TURN);
    for (let i = 0; i < keys.length; i += CANCELS_AT_ONCE) {
      const canceled = keys.slice(i, i + CANCELS_AT_ONCE).map(async (key) => {
        const ended = await predictionStub(this.env, key.prediction_id).cancel(key.prediction_id, key.account_id);
        if (ended === null) unknown.push(key);
      });
      await Promise.allSettled(canceled);
    }
    await this.#write((now) => {
      for (const key of unknown) this.#queue.dequeue(key);
      this.#endLeases(unknown, now);
      if (this.#queue.inFlight(1).length > 0) this.#alarms.setNoLaterThan("cancel", now + CANCEL_AGAIN_MS);
    });
  }

  release(releases: Release[]): Promise<void> {
    return this.#write((now) => {
      if (!this.#queue.exists()) return;
      let { run_ms } = this.#queue.facts();
      const runs = { ...this.#queue.facts().runs };
      let freed = false;
      let waited = false;
      for (const release of releases) {
        const lease = this.#queue.lease(release);
        const model = release.model ?? this.#queue.spec().model;
        const waitedHere = this.#queue.dequeue(release);
        waited = waitedHere || waited;
        if (lease !== null || waitedHere) {
          this.#history.ended(release, model, this.#queue.leaseOrigin(release), now);
        }
        if (lease === null) continue;
        freed = true;
        this.#queue.deleteLease(release);
        this.#grants.forget(release);
        this.#queue.touchInstance(lease.instance_id, now);
        if (release.instance_gone === true) this.#scaler.letGo(lease.instance_id, now);
        if (release.ran_ms > 0) run_ms = movingAverage(run_ms, release.ran_ms);
        // A prediction that needs a second attempt is still one run.
        if (release.attempt === 1) runs[model] = (runs[model] ?? 0) + 1;
      }
      if (!freed && !waited) return;
      this.#queue.saveFacts({ run_ms, runs, last_used_at: now });
      reportRunsSoon(this.#reporter, now);
      if (!freed) return this.#scaleOlder(now);
      this.#alarms.setNoLaterThan("scale", now + this.#scaler.keepIdleMs());
      this.#grant(now);
      if (releases.some((release) => release.instance_gone)) this.#scaler.scale(now);
      else this.#scaleOlder(now);
    });
  }

  /**
   * Frees leases whose predictions do not hold them any more: their release was lost. One that nobody confirms for {@link LEASE_EXPIRES_MS} is taken back. What has
   * waited for long is asked about in the same way.
   */
  async #checkLeases(): Promise<void> {
    // A lease that its prediction was never told of cannot be held: after a start that may be any.
    await this.#tell();
    const before = Date.now() - LEASE_CHECK_MS;
    const leases = this.#queue.leases().filter((lease) => lease.leased_at <= before && !this.#grants.isUntold(lease));
    const old: LeaseKey[] = [...leases, ...this.#queue.waitingSince(Date.now() - QUEUE_CHECK_MS, QUEUE_CHECKS_MAX)];
    const byObject = Map.groupBy(old, (lease) => predictionObjectName(lease.prediction_id));
    const asked = await Promise.all(
      [...byObject.values()].map(async (keys) => {
        const held = await predictionStub(this.env, keys[0]?.prediction_id ?? "")
          .leasesHeld(keys)
          .catch((): boolean[] => []);
        return keys.map((key, i) => ({ key, held: held[i] }));
      }),
    );
    const keysOf = (is: boolean): LeaseKey[] => asked.flat().flatMap(({ key, held }) => (held === is ? [key] : []));
    await this.#write((now) => {
      this.#queue.renewLeases(keysOf(true), now);
      const gone = [...keysOf(false), ...this.#queue.expiredLeases(now - LEASE_EXPIRES_MS)];
      for (const key of gone) this.#queue.dequeue(key);
      this.#endLeases(gone, now);
      const isUsed = this.#queue.leaseCount() > 0 || this.#queue.hasQueued();
      if (isUsed) this.#alarms.set("leases", now + LEASE_CHECK_MS);
    });
  }

  async waitingFor(key: LeaseKey): Promise<WaitingFor | null> {
    return this.#queue.exists() ? waitingFor(this.#queue, this.#scaler, this.#reports, key, Date.now()) : null;
  }

  // ---- instances

  instancesChanged(originId: string, instances: InstanceStatus[]): Promise<void> {
    return this.#write((now) => {
      if (!this.#queue.exists()) return;
      for (const status of instances) this.#applyStatus(originId, status, now);
      this.#grant(now);
      this.#scaler.scale(now);
    });
  }

  #applyStatus(originId: string, status: InstanceStatus, now: number): void {
    const known = this.#queue.instance(status.instance_id);
    if (known !== null && isEnded(known.state)) return;
    // The fleet holds it, in case that it is wanted again: here it is gone.
    if (status.state === "paused") {
      this.#instanceEnded(status.instance_id, now);
      return;
    }
    // A drain that we decided is not undone by a state from before it.
    if (known?.state === "draining" && !isEnded(status.state)) return;
    this.#reports.save(status, now);
    if (known === null) {
      const { instance_id, version_id, state, slots } = status;
      const boot_key = this.#queue.bootKeyOfReport(version_id);
      this.#queue.insertInstance({ instance_id, origin_id: originId, boot_key, state, slots }, now);
    } else if (known.state !== status.state || known.slots !== status.slots) {
      this.#queue.setInstanceState(status.instance_id, status.state, status.slots, now);
    }
    if (known?.state === status.state) return;
    const bootKey = this.#queue.instance(status.instance_id)?.boot_key ?? this.#queue.bootKey();
    if (status.state === "ready") this.#setups.succeeded(bootKey, status);
    if (status.state === "failed") this.#setups.failed(bootKey, errorClass(status.reason), now);
  }

  instancesGone(_originId: string, instanceIds: string[]): Promise<void> {
    return this.#write((now) => {
      if (!this.#queue.exists()) return;
      this.#online.lost(instanceIds, now);
      for (const instanceId of instanceIds) this.#instanceEnded(instanceId, now);
      this.#scaler.scale(now);
    });
  }

  #instanceEnded(instanceId: string, now: number): void {
    const known = this.#queue.instance(instanceId);
    if (known !== null && !isEnded(known.state)) {
      this.#queue.setInstanceState(instanceId, "stopped", known.slots, now);
    }
  }

  evictIdle(instanceId: string, evenBusy = false): Promise<boolean> {
    return this.#write((now) => !this.#queue.exists() || this.#scaler.evict(instanceId, evenBusy, now));
  }

  replaceInstances(instanceIds: string[]): Promise<string[]> {
    return this.#write((now) => (this.#queue.exists() ? this.#scaler.replace(instanceIds, now) : instanceIds));
  }

  // ---- deadlines

  override async alarm(): Promise<void> {
    await this.#alarms.run(async (name) => {
      if (!this.#queue.exists()) return;
      if (name === "scale") await this.#scaleByTime();
      else if (name === "tell") await this.#tellAgain();
      else if (name === "leases") await this.#checkLeases();
      else if (name === "cancel") await this.#cancelAll();
      else if (name === "online") await this.#online.alarm();
      else await reportRuns(this.#reporter);
    });
  }

  #scaleByTime(): Promise<void> {
    return this.#write((now) => {
      this.#grant(now);
      this.#scaler.scale(now);
      this.#scaler.drainAgain(now);
    });
  }

  async #tellAgain(): Promise<void> {
    await this.#tell();
    await this.#setups.tellRefusals();
    if (this.#grants.hasUntold() || this.#queue.refused(1).length > 0) {
      this.#alarms.setNoLaterThan("tell", Date.now() + TELL_AGAIN_MS);
    }
  }

  async describe(): Promise<DeploymentDescription> {
    return this.#queue.exists() ? describe(this.#queue, this.#scaler) : NEVER_USED;
  }

  async scaling(): Promise<DeploymentScaling | null> {
    if (!this.#queue.exists()) return null;
    if (this.#scaler.decision === null) await this.#write((now) => this.#scaler.scale(now));
    return describeScaling(this.#queue, this.#scaler, this.#measures, Date.now());
  }

  async setupReports(): Promise<SetupReport[]> {
    return this.#reports.list();
  }
}

function logFailure(error: unknown): void {
  console.error(JSON.stringify({ event: "follow_up_failed", error: String(error) }));
}
