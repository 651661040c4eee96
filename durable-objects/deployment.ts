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
  RunSpec,
} from "./contracts.ts";
import { GrantDelivery } from "./deployment-grants.ts";
import { DeploymentQueue, type InstanceRow } from "./deployment-queue.ts";
import { type DeploymentFacts, instanceSpec } from "./deployment-record.ts";
import { DeploymentScaler, isEnded } from "./deployment-scaler.ts";
import { describe, NEVER_USED, waitingFor } from "./deployment-view.ts";
import { GroupCommit } from "./group-commit.ts";
import { predictionStub, runCounter } from "./stubs.ts";

/** Predictions that may wait here. */
const QUEUE_MAX = 10_000;
/** Grants and refusals that nobody took are told again after this. */
const TELL_AGAIN_MS = 5_000;
/** Refusals told by one deadline, so that one call carries a bounded body. */
const REFUSALS_PER_TURN = 1_000;
/** A lease this old is asked about at its prediction, and again each time it has become this much older. */
const LEASE_CHECK_MS = 60_000;
/** So often at most the model's run counter is told. */
const RUN_REPORT_MS = 10_000;
/** Of a disabled deployment: predictions canceled by one deadline and side by side (each takes up to 8 s), and the pause before the next ones. */
const CANCELS_PER_TURN = 200;
const CANCELS_AT_ONCE = 20;
const CANCEL_AGAIN_MS = 1_000;
/** After so many failed setups in a row the queue is refused: the model is broken, not its host. */
export const SETUP_FAILURES_MAX = 3;
/** Pause after the first failed setup, and after the failure that refuses the queue; doubled by each further one. */
const SETUP_RETRY_MS = 1_000;
const SETUP_REFUSAL_MS = 30_000;
const SETUP_REFUSAL_MAX_MS = 300_000;

type Deadline = "scale" | "tell" | "leases" | "runs" | "cancel";

export class DeploymentObject extends DurableObject<Env> implements DeploymentApi {
  readonly #queue = new DeploymentQueue(this.ctx.storage.sql);
  readonly #alarms = new Alarms<Deadline>(this.ctx.storage);
  readonly #writes = new GroupCommit(this.ctx.storage, () => {
    this.#queue.forget();
    this.#alarms.forget();
  });
  readonly #grants = new GrantDelivery(this.env, () => this.#queue.leases());
  /** calls to others that follow from the commit in progress */
  #followUps: (() => Promise<void>)[] = [];
  readonly #scaler = new DeploymentScaler({
    env: this.env,
    queue: this.#queue,
    alarms: this.#alarms,
    write: (change) => this.#write(change),
    followUp: (task) => this.#followUps.push(task),
    versionRefused: (bootKey, detail, now) => this.#setupFailed(bootKey, detail, now),
    grant: (now) => this.#grant(now),
  });

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

    const refusal = this.#refusalWhileEnded() ?? this.#refusalOfSetup(bootKey, now);
    if (refusal !== null) return refusal;
    if (queue.isQueueEmpty(bootKey)) {
      const lease = this.#leaseTo(request, bootKey, now);
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

  #refusalOfSetup(bootKey: string, now: number): EnqueueResult | null {
    const facts = this.#queue.facts();
    const isHeld = facts.setup_failures >= SETUP_FAILURES_MAX && now < facts.hold_until;
    if (!isHeld || bootKey !== this.#queue.bootKey()) return null;
    return { kind: "refused", code: "model.setup_failed", detail: setupFailure(facts) };
  }

  /** A lease on the least busy ready instance that was booted so; null when every slot of such is taken. */
  #leaseTo(key: LeaseKey, bootKey: string, now: number): Lease | null {
    const instance = this.#withFreeSlot()
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
      const keys = new Set(this.#withFreeSlot().flatMap((row) => (row.boot_key === null ? [] : [row.boot_key])));
      const next = keys.size === 0 ? null : this.#queue.next([...keys]);
      const lease = next === null ? null : this.#leaseTo(next, next.boot_key, now);
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

  release(releases: (LeaseKey & { ran_ms: number; instance_gone?: boolean })[]): Promise<void> {
    return this.#write((now) => {
      if (!this.#queue.exists()) return;
      let { run_ms, runs } = this.#queue.facts();
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
        if (release.attempt === 1) runs += 1;
      }
      if (!freed && !waited) return;
      this.#queue.saveFacts({ run_ms, runs, last_used_at: now });
      if (!freed) return this.#scaleOlder(now);
      this.#alarms.setNoLaterThan("runs", now + RUN_REPORT_MS);
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
    return this.#queue.exists() ? waitingFor(this.#queue, this.#scaler, key, Date.now()) : null;
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
    if (known === null) {
      const { instance_id, version_id, state, slots } = status;
      const boot_key = this.#queue.bootKeyOfReport(version_id);
      this.#queue.insertInstance({ instance_id, origin_id: originId, boot_key, state, slots }, now);
    } else if (known.state !== status.state || known.slots !== status.slots) {
      this.#queue.setInstanceState(status.instance_id, status.state, status.slots, now);
    }
    if (known?.state === status.state) return;
    const bootKey = this.#queue.instance(status.instance_id)?.boot_key ?? this.#queue.bootKey();
    if (status.state === "ready" && bootKey === this.#queue.bootKey()) this.#becameReady(status);
    if (status.state === "failed") this.#setupFailed(bootKey, errorClass(status.reason), now);
  }

  #becameReady(status: InstanceStatus): void {
    const facts = this.#queue.facts();
    this.#queue.saveFacts({
      setup_failures: 0,
      setup_error: null,
      hold_until: 0,
      boot_ms: status.boot_ms === undefined ? facts.boot_ms : movingAverage(facts.boot_ms, status.boot_ms),
      setup_ms: status.setup_ms === undefined ? facts.setup_ms : movingAverage(facts.setup_ms, status.setup_ms),
    });
  }

  /**
   * Tries again after a pause; the third failure in a row refuses all that wait, and each later try that fails does so again. What waits for an older
   * release is refused at once: whoever made a newer one has moved on, and the newer one is not held back.
   */
  #setupFailed(bootKey: string, setup_error: string, now: number): void {
    if (bootKey !== this.#queue.bootKey()) {
      this.#refuseAll(bootKey, `The model could not be set up: ${setup_error}.`, now);
      return;
    }
    const setup_failures = this.#queue.facts().setup_failures + 1;
    const isBroken = setup_failures >= SETUP_FAILURES_MAX;
    const pause = isBroken
      ? Math.min(SETUP_REFUSAL_MS * 2 ** (setup_failures - SETUP_FAILURES_MAX), SETUP_REFUSAL_MAX_MS)
      : SETUP_RETRY_MS * 2 ** (setup_failures - 1);
    this.#queue.saveFacts({ setup_failures, setup_error, hold_until: now + pause });
    if (isBroken) this.#refuseAll(bootKey, setupFailure(this.#queue.facts()), now);
  }

  #refuseAll(bootKey: string, refusal: string, now: number): void {
    this.#queue.refuseAll(bootKey);
    this.#queue.saveFacts({ refusal });
    this.#alarms.setNoLaterThan("tell", now + TELL_AGAIN_MS);
    this.#followUps.push(() => this.#tellRefusals());
  }

  async #tellRefusals(): Promise<void> {
    const refused = this.#queue.refused(REFUSALS_PER_TURN);
    if (refused.length === 0) return;
    const told = await this.#grants.refuse(refused, "model.setup_failed", this.#queue.facts().refusal);
    await this.#write(() => {
      for (const key of told) this.#queue.dequeue(key);
    });
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
      else await this.#reportRuns();
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
    await this.#tellRefusals();
    if (this.#grants.hasUntold() || this.#queue.refused(1).length > 0) {
      this.#alarms.setNoLaterThan("tell", Date.now() + TELL_AGAIN_MS);
    }
  }

  /** Tells the model's counter what ran. A report keeps its number until it is acknowledged, so it counts once. */
  async #reportRuns(): Promise<void> {
    const { report, model, deployment_key } = await this.#write(() => {
      const facts = this.#queue.facts();
      const { model, deployment_key } = this.#queue.spec();
      if (facts.report !== null || facts.runs === 0) return { report: facts.report, model, deployment_key };
      const report = { seq: facts.last_report_seq + 1, runs: facts.runs };
      this.#queue.saveFacts({ report, runs: 0, last_report_seq: report.seq });
      return { report, model, deployment_key };
    });
    if (report === null) return;
    await runCounter(this.env, model).add({ deployment_key, ...report });
    await this.#write((now) => {
      this.#queue.saveFacts({ report: null });
      if (this.#queue.facts().runs > 0) this.#alarms.setNoLaterThan("runs", now + RUN_REPORT_MS);
    });
  }

  async describe(): Promise<DeploymentDescription> {
    return this.#queue.exists() ? describe(this.#queue, this.#scaler) : NEVER_USED;
  }
}

/** What callers may know of a failed setup: the class of the error; its message and logs are for the model's owner. */
function errorClass(reason: string | undefined): string {
  return /^[A-Za-z_][\w.]{0,63}(?=[:\s(]|$)/.exec(reason ?? "")?.[0] ?? "Error";
}

function setupFailure(facts: Readonly<DeploymentFacts>): string {
  return `The model could not be set up: ${facts.setup_error ?? "Error"}, ${facts.setup_failures} times in a row.`;
}

function logFailure(error: unknown): void {
  console.error(JSON.stringify({ event: "follow_up_failed", error: String(error) }));
}
