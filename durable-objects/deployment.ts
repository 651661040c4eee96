/**
 * Owns one deployment: its queue, which prediction holds which slot, and how many instances it wants. A slot is leased in the same transaction in
 * which a prediction comes or another one ends, so it is never leased twice and never idle beside a queue. Calls to others come after the
 * commit, and each can be lost: a named deadline of the same commit does it again.
 *
 * It never waits for the FleetObject: instances are asked for beside the calls that made them wanted.
 */
import { DurableObject } from "cloudflare:workers";
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import type { WaitingFor } from "../schema/prediction-document.ts";
import { movingAverage } from "../schema/scaling.ts";
import { Alarms } from "./alarms.ts";
import type {
  DeploymentApi,
  DeploymentDescription,
  DeploymentScaling,
  EnqueueRequest,
  EnqueueResult,
  LaneReport,
  LaneShare,
  LeaseKey,
  QueuePlace,
  Release,
  SetupReport,
} from "./deployment-contract.ts";
import { DeploymentHistory } from "./deployment-history.ts";
import { DeploymentLane } from "./deployment-lane.ts";
import { DeploymentLanes } from "./deployment-lanes.ts";
import { CANCEL_AGAIN_MS, DeploymentLeases, LEASE_CHECK_MS } from "./deployment-leases.ts";
import { DeploymentMeasures } from "./deployment-measures.ts";
import { DeploymentOnline } from "./deployment-online.ts";
import { DeploymentQueue } from "./deployment-queue.ts";
import { instanceSpec } from "./deployment-record.ts";
import { InstanceReports } from "./deployment-reports.ts";
import { type RunReporter, reportRuns, reportRunsSoon } from "./deployment-runs.ts";
import { DeploymentScaler, isEnded } from "./deployment-scaler.ts";
import { DeploymentSetups, errorClass, TELL_AGAIN_MS } from "./deployment-setups.ts";
import { describe, describeScaling, NEVER_USED, waitingFor } from "./deployment-view.ts";
import { GroupCommit } from "./group-commit.ts";
import type { RunSpec } from "./prediction-contract.ts";
import { deploymentStub } from "./stubs.ts";

/** Predictions that may wait in one lane. */
const QUEUE_MAX = 10_000;
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
  /** calls to others that follow from the commit in progress */
  #followUps = new Set<() => Promise<void>>();
  readonly #base = {
    env: this.env,
    queue: this.#queue,
    alarms: this.#alarms,
    write: <T>(change: (now: number) => T) => this.#write(change),
    followUp: (task: () => Promise<void>): void => void this.#followUps.add(task),
  };
  readonly #leases: DeploymentLeases = new DeploymentLeases({
    ...this.#base,
    leased: () => (this.#isLane0() ? this.#lanes : this.#lane).leased(1),
    ended: (now) => this.#leasesEnded(now),
  });
  readonly #setups = new DeploymentSetups({ ...this.#base, history: this.#history, grants: this.#leases.grants });
  readonly #scaler = new DeploymentScaler({
    ...this.#base,
    measures: this.#measures,
    versionRefused: (bootKey, detail, now) => this.#setups.failed(bootKey, detail, now),
    grant: (now) => this.#leases.grant(now),
  });
  readonly #lanes = new DeploymentLanes(this.ctx.storage.sql, this.#queue, Number(this.env.LANE_LEASES_PER_S));
  readonly #lane = new DeploymentLane({
    ...this.#base,
    leases: this.#leases,
    refuse: (bootKey, detail, now) => this.#setups.refuseAll(bootKey, detail, now),
  });
  readonly #online: DeploymentOnline = new DeploymentOnline({
    ...this.#base,
    sql: this.ctx.storage.sql,
    scale: (now) => this.#scaler.scale(now),
  });
  readonly #reporter: RunReporter = { ...this.#base, history: this.#history };

  async #write<T>(change: (now: number) => T): Promise<T> {
    try {
      return await this.#writes.run(() => {
        const now = Date.now();
        const result = change(now);
        if (this.#queue.exists() && this.#isLane0()) {
          this.#measure(now);
          this.#online.sync(now);
          this.#lanes.decide(now);
        }
        return result;
      });
    } finally {
      const followUps = this.#followUps;
      this.#followUps = new Set();
      for (const followUp of followUps) this.ctx.waitUntil(followUp().catch(logFailure));
    }
  }

  #measure(now: number): void {
    const queue = this.#queue;
    const { leased, has_queued } = queue.load();
    this.#measures.note({ leased, queued: has_queued ? 1 : 0, slots: queue.spec().slots }, now);
  }

  /** Lane 0 owns the instances; another lane asks it for slots. */
  #isLane0(): boolean {
    return this.#queue.facts().lane === 0;
  }

  #capacity(): Pick<DeploymentScaler, "scale" | "scaleSometimes" | "keepIdleMs" | "letGo"> {
    return this.#isLane0() ? this.#scaler : this.#lane;
  }

  // ---- queue and leases

  enqueue(request: EnqueueRequest): Promise<EnqueueResult> {
    return this.#write((now) => {
      const result = this.#enqueue(request, now);
      const { lanes } = this.#queue.facts();
      return result.kind === "refused" || lanes === 1 ? result : { ...result, lanes };
    });
  }

  #enqueue(request: EnqueueRequest, now: number): EnqueueResult {
    const queue = this.#queue;
    const { lane = 0 } = request;
    // A lane that rests takes in what comes, and hears in answer to its report whether it can run.
    const isTold = queue.exists() && (this.#isLane0() || !this.#lane.isResting());
    const gone = isTold ? this.#refusalWhileEnded() : null;
    if (gone !== null) return gone;
    const isNew = !queue.exists();
    const bootKey = queue.saveSpec(instanceSpec(request.spec), now, false);
    if (isNew && lane > 0) queue.saveFacts({ lane, lanes: lane + 1 });
    const held = queue.lease(request);
    if (held !== null) return { kind: "leased", lease: held };

    const place = queue.place(request);
    if (place !== null) return { kind: "queued", queue_position: place.position };

    const broken = isTold ? this.#setups.refusal(bootKey, now) : null;
    const refusal = broken ?? this.#leases.fence(request, now);
    if (refusal !== null) return refusal;
    if (request.attempt === 1) (lane === 0 ? this.#measures : this.#lane).came();
    if (queue.isQueueEmpty(bootKey)) {
      const lease = this.#leases.take(request, bootKey, now);
      if (lease !== null) {
        this.#capacity().scaleSometimes(now);
        return { kind: "leased", lease };
      }
    }
    if (queue.queueLength() >= QUEUE_MAX) {
      const detail = `${QUEUE_MAX} predictions wait for this model already.`;
      return { kind: "refused", code: "deployment.queue_full", detail };
    }
    queue.dequeue(request);
    // A deployment of several lanes has instances, whether this lane has a share of them by now or not.
    const isCold = lane === 0 && !queue.instances().some((row) => row.state === "ready" && row.boot_key === bootKey);
    queue.append(request, bootKey, isCold);
    this.#alarms.setNoLaterThan("leases", now + LEASE_CHECK_MS);
    this.#capacity().scale(now);
    return { kind: "queued", queue_position: queue.place(request)?.position ?? 1 };
  }

  /** For what an isolate lets through that has not heard of it yet. */
  #refusalWhileEnded(): EnqueueResult | null {
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

  #leasesEnded(now: number): void {
    // What they held may be idle from now on.
    this.#alarms.setNoLaterThan("scale", now + this.#capacity().keepIdleMs());
    this.#scaleOlder(now);
  }

  /** Instances of an older release are kept for what waits, which has become less. */
  #scaleOlder(now: number): void {
    if (this.#queue.hasOlderSpecs()) this.#capacity().scale(now);
  }

  configure(spec: RunSpec): Promise<void> {
    return this.#write((now) => {
      if (this.#queue.exists() && !this.#queue.facts().is_retired && spec.release < this.#queue.spec().release) return;
      this.#queue.saveSpec(instanceSpec(spec), now, true);
      if (spec.max_instances === 0) {
        this.#alarms.set("cancel", now + CANCEL_AGAIN_MS);
        this.#followUps.add(() => this.#leases.cancelAll());
      }
      this.#scaler.scale(now);
    });
  }

  retire(unused_ms: number): ReturnType<DeploymentApi["retire"]> {
    return this.#write((now) => {
      if (!this.#queue.exists()) return { retired: true };
      const instances = this.#queue.instances().filter((row) => !isEnded(row.state)).length;
      const { last_used_at, is_retired } = this.#queue.facts();
      const isUsed = this.#queue.isBusy();
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
        this.#leases.drop(release);
        this.#queue.touchInstance(lease.instance_id, now);
        if (release.instance_gone === true) this.#capacity().letGo(lease.instance_id, now);
        if (release.ran_ms > 0) run_ms = movingAverage(run_ms, release.ran_ms);
        // A prediction that needs a second attempt is still one run, and the first one's lease may be gone without a word.
        if (release.end !== undefined && release.is_canary !== true) runs[model] = (runs[model] ?? 0) + 1;
      }
      if (!freed && !waited) return;
      this.#queue.saveFacts({ run_ms, runs, last_used_at: now });
      reportRunsSoon(this.#reporter, now);
      if (!freed) return this.#scaleOlder(now);
      this.#leases.grant(now);
      this.#leasesEnded(now);
      if (releases.some((release) => release.instance_gone)) this.#capacity().scale(now);
    });
  }

  async waitingFor(key: LeaseKey, elsewhere?: QueuePlace): Promise<WaitingFor | null> {
    const queue = this.#queue;
    if (!queue.exists()) return null;
    const place = queue.place(key);
    if (this.#isLane0()) return waitingFor(queue, this.#scaler, this.#reports, key, place ?? elsewhere, Date.now());
    if (place === null) return null;
    // Lanes move on side by side.
    const inAll = { ...place, position: place.position * queue.facts().lanes };
    return deploymentStub(this.env, queue.spec().deployment_key).waitingFor(key, inAll);
  }

  share(report: LaneReport): Promise<LaneShare | null> {
    return this.#write((now) => {
      const queue = this.#queue;
      const first = report.demand[0];
      if (!queue.exists() && first !== undefined) queue.saveSpec(instanceSpec(first.spec), now, false);
      if (!queue.exists()) return null;
      if (!this.#lanes.take(report, now)) return null;
      const refused = this.#lanes.refused(report.lane);
      this.#lanes.leased(report.leases);
      this.#measures.came(report.came);
      for (const instanceId of report.gone) this.#scaler.letGo(instanceId, now);
      this.#leases.grant(now);
      if (report.demand.length > 0 || report.gone.length > 0 || queue.hasOlderSpecs()) this.#scaler.scale(now);
      else this.#scaler.scaleSometimes(now);
      if (!queue.isBusy()) this.#alarms.setNoLaterThan("scale", now + this.#scaler.keepIdleMs());
      return { spec: queue.spec(), facts: this.#lanes.facts(), shares: this.#lanes.divide(report), refused };
    });
  }

  // ---- instances

  instancesChanged(originId: string, instances: InstanceStatus[]): Promise<void> {
    return this.#write((now) => {
      if (!this.#queue.exists()) return;
      for (const status of instances) this.#applyStatus(originId, status, now);
      this.#leases.grant(now);
      this.#scaler.scale(now);
    });
  }

  #applyStatus(originId: string, status: InstanceStatus, now: number): void {
    const known = this.#queue.instance(status.instance_id);
    if (known !== null && isEnded(known.state)) return;
    // The fleet holds it, in case that it is wanted again: here it is gone. Only what was let go is paused: of another this is from before it was resumed.
    if (status.state === "paused") {
      if (known?.state === "draining") this.#instanceEnded(status.instance_id, now);
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
      else if (name === "leases") await this.#leases.check();
      else if (name === "cancel") await this.#leases.cancelAll();
      else if (name === "online") await this.#online.alarm();
      else await reportRuns(this.#reporter);
    });
  }

  #scaleByTime(): Promise<void> {
    return this.#write((now) => {
      this.#leases.grant(now);
      this.#capacity().scale(now);
      if (this.#isLane0()) this.#scaler.drainAgain(now);
    });
  }

  async #tellAgain(): Promise<void> {
    await this.#leases.tell();
    await this.#setups.tellRefusals();
    if (this.#leases.grants.hasUntold() || this.#queue.refused(1).length > 0) {
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
