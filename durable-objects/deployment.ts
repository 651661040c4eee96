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
import { movingAverage } from "../schema/scaling.ts";
import { Alarms } from "./alarms.ts";
import type {
  DeploymentApi,
  DeploymentDescription,
  EnqueueRequest,
  EnqueueResult,
  Lease,
  LeaseKey,
  Release,
  RunSpec,
  SetupReport,
} from "./contracts.ts";
import { GrantDelivery } from "./deployment-grants.ts";
import { DeploymentQueue, type InstanceRow } from "./deployment-queue.ts";
import { instanceSpec } from "./deployment-record.ts";
import { InstanceReports } from "./deployment-reports.ts";
import { type RunReporter, reportRuns, reportRunsSoon } from "./deployment-runs.ts";
import { DeploymentScaler, isEnded } from "./deployment-scaler.ts";
import { DeploymentSetups, errorClass, TELL_AGAIN_MS } from "./deployment-setups.ts";
import { describe, NEVER_USED, waitingFor } from "./deployment-view.ts";
import { GroupCommit } from "./group-commit.ts";
import { predictionStub } from "./stubs.ts";

/** Predictions that may wait here. */
const QUEUE_MAX = 10_000;
/** A lease this old is asked about at its prediction, and again each time it has become this much older. */
const LEASE_CHECK_MS = 60_000;
/** Of a disabled deployment: predictions canceled by one deadline and side by side (each takes up to 8 s), and the pause before the next ones. */
const CANCELS_PER_TURN = 200;
const CANCELS_AT_ONCE = 20;
const CANCEL_AGAIN_MS = 1_000;

type Deadline = "scale" | "tell" | "leases" | "runs" | "cancel";

export class DeploymentObject extends DurableObject<Env> implements DeploymentApi {
  readonly #queue = new DeploymentQueue(this.ctx.storage.sql);
  readonly #reports = new InstanceReports(this.ctx.storage.sql);
  readonly #alarms = new Alarms<Deadline>(this.ctx.storage);
  readonly #writes = new GroupCommit(this.ctx.storage, () => {
    this.#queue.forget();
    this.#reports.forget();
    this.#alarms.forget();
  });
  readonly #grants = new GrantDelivery(this.env, () => this.#queue.leases());
  /** calls to others that follow from the commit in progress */
  #followUps: (() => Promise<void>)[] = [];
  readonly #setups = new DeploymentSetups({
    queue: this.#queue,
    alarms: this.#alarms,
    grants: this.#grants,
    write: (change) => this.#write(change),
    followUp: (task) => this.#followUps.push(task),
  });
  readonly #scaler = new DeploymentScaler({
    env: this.env,
    queue: this.#queue,
    alarms: this.#alarms,
    write: (change) => this.#write(change),
    followUp: (task) => this.#followUps.push(task),
    versionRefused: (bootKey, detail, now) => this.#setups.failed(bootKey, detail, now),
    grant: (now) => this.#grant(now),
  });

  readonly #reporter: RunReporter = {
    env: this.env,
    queue: this.#queue,
    alarms: this.#alarms,
    write: (change) => this.#write(change),
  };

  async #write<T>(change: (now: number) => T): Promise<T> {
    try {
      return await this.#writes.run(() => change(Date.now()));
    } finally {
      const followUps = this.#followUps;
      this.#followUps = [];
      for (const followUp of followUps) this.ctx.waitUntil(followUp().catch(logFailure));
    }
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

    const refusal = this.#refusalWhileEnded() ?? this.#setups.refusal(bootKey, now);
    if (refusal !== null) return refusal;
    if (queue.isQueueEmpty(bootKey)) {
      const lease = this.#leaseTo(request, bootKey, this.#withFreeSlot(), now);
      if (lease !== null) {
        queue.insertLease(lease, request.account_id);
        return { kind: "leased", lease };
      }
    }
    if (queue.queueLength() >= QUEUE_MAX) {
      const detail = `${QUEUE_MAX} predictions wait for this model already.`;
      return { kind: "refused", code: "deployment.queue_full", detail };
    }
    queue.dequeue(request);
    queue.append(request, bootKey);
    this.#scaler.scale(now);
    return { kind: "queued", queue_position: queue.place(request)?.position ?? 1 };
  }

  /** For what an isolate lets through that has not heard of it yet. */
  #refusalWhileEnded(): EnqueueResult | null {
    if (!this.#queue.exists()) return null;
    if (this.#queue.facts().is_retired) {
      return { kind: "refused", code: "deployment.not_found", detail: "The deployment was deleted." };
    }
    if (this.#queue.spec().max_instances > 0) return null;
    return {
      kind: "refused",
      code: "deployment.disabled",
      detail: "The deployment is disabled: its max_instances is 0.",
    };
  }

  /** A lease on the least busy one of these that was booted so; null when there is none. */
  #leaseTo(key: LeaseKey, bootKey: string, free: InstanceRow[], now: number): Lease | null {
    const instance = free
      .filter((row) => row.boot_key === bootKey)
      .reduce<InstanceRow | null>((best, row) => (best === null || row.leased < best.leased ? row : best), null);
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
      this.#queue.insertLease(lease, next.account_id);
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
        waited = this.#queue.dequeue(release) || waited;
        if (lease === null) continue;
        freed = true;
        this.#queue.deleteLease(release);
        this.#grants.forget(release);
        this.#queue.touchInstance(lease.instance_id, now);
        if (release.instance_gone === true) this.#instanceEnded(lease.instance_id, now);
        if (release.ran_ms > 0) run_ms = movingAverage(run_ms, release.ran_ms);
        // A prediction that needs a second attempt is still one run.
        const model = release.model ?? this.#queue.spec().model;
        if (release.attempt === 1) runs[model] = (runs[model] ?? 0) + 1;
      }
      if (!freed && !waited) return;
      this.#queue.saveFacts({ run_ms, runs, last_used_at: now });
      if (!freed) return this.#scaleOlder(now);
      reportRunsSoon(this.#reporter, now);
      this.#alarms.setNoLaterThan("scale", now + this.#queue.spec().idle_ttl_ms);
      this.#grant(now);
      if (releases.some((release) => release.instance_gone)) this.#scaler.scale(now);
      else this.#scaleOlder(now);
    });
  }

  /** Frees leases whose predictions do not hold them any more: their release was lost. */
  async #checkLeases(): Promise<void> {
    // A lease that its prediction was never told of cannot be held: after a start that may be any.
    await this.#tell();
    const before = Date.now() - LEASE_CHECK_MS;
    const old = this.#queue.leases().filter((lease) => lease.leased_at <= before && !this.#grants.isUntold(lease));
    const byObject = Map.groupBy(old, (lease) => predictionObjectName(lease.prediction_id));
    const gone = await Promise.all(
      [...byObject.values()].map(async (leases) => {
        const held = await predictionStub(this.env, leases[0]?.prediction_id ?? "")
          .leasesHeld(leases)
          .catch((): boolean[] => []);
        return leases.filter((_, i) => held[i] === false);
      }),
    );
    await this.#write((now) => {
      this.#endLeases(gone.flat(), now);
      if (this.#queue.leases().length > 0) this.#alarms.set("leases", now + LEASE_CHECK_MS);
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

  // ---- deadlines

  override async alarm(): Promise<void> {
    await this.#alarms.run(async (name) => {
      if (!this.#queue.exists()) return;
      if (name === "scale") await this.#scaleByTime();
      else if (name === "tell") await this.#tellAgain();
      else if (name === "leases") await this.#checkLeases();
      else if (name === "cancel") await this.#cancelAll();
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

  async setupReports(): Promise<SetupReport[]> {
    return this.#reports.list();
  }
}

function logFailure(error: unknown): void {
  console.error(JSON.stringify({ event: "follow_up_failed", error: String(error) }));
}
