/**
 * Gets live predictions run: asks their deployment for a slot, sends the attempt to its origin, and finds out what became of one that is silent. What it
 * remembers is only a shortcut: after an eviction it asks again, and both the deployment and the origin answer the same as before.
 *
 * | what is lost                            | what finds it                                                            |
 * | --------------------------------------- | ------------------------------------------------------------------------ |
 * | the call for a slot, or its answer      | the check: asks again, idempotent by (prediction, attempt)               |
 * | the call that starts, or its answer     | the check: sends it again, idempotent at the origin                      |
 * | the origin                              | the check: silent for a lease's time, and the fleet calls it dead        |
 * | a cancel                                | the check: sent again, and after CANCEL_FORCE_MS ended without the origin |
 */

import { laneName, laneOf } from "../schema/lanes.ts";
import { type AttemptStart, LEASE_TTL_MS, ORIGIN_PROTOCOL_VERSION } from "../schema/origin-protocol.ts";
import { isTerminal, type LifecycleEvent, type StopReason } from "../schema/prediction-lifecycle.ts";
import { parseTraceparent, predictionContext, traceparent } from "../schema/tracing.ts";
import { weightsSource } from "../schema/weights.ts";
import type { EnqueueResult, Lease, LeaseKey } from "./deployment-contract.ts";
import { attemptState, cancelAttempt, startAttempt } from "./origin-client.ts";
import { originEntry } from "./origin-directory.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import { queueSpan } from "./prediction-spans.ts";
import type { PredictionRow, PredictionStore } from "./prediction-store.ts";
import { deploymentStub } from "./stubs.ts";
import { isTracing, recordSpan } from "./telemetry.ts";

/** An origin that could not be reached is tried again after this. */
const START_RETRY_MS = 1_000;
/** A prediction that is known to wait in its queue is looked after by its deployment; this finds a queue that forgot it. */
const QUEUE_CHECK_MS = 60_000;
/** A model that does not stop politely is stopped by force after this. */
const CANCEL_POLITE_MS = 5_000;
/** An origin that does not even confirm the force is left alone after this: the prediction ends, what it still sends is refused. */
export const CANCEL_FORCE_MS = 8_000;
/** Calls of one check that run side by side. */
const CHECKS_AT_ONCE = 20;

/** What this instance of the object knows of one attempt. */
interface Known {
  attempt: number;
  lease: Lease | null;
  /** the origin has it in its journal */
  accepted: boolean;
  /** next time to ask somebody about it */
  check_at: number;
  canceling_since: number | null;
  /** since when it is known here */
  waits_since: number;
  is_queue_traced: boolean;
}

type AttemptRequest = Pick<CreatePrediction, "spec" | "account_id" | "created_at" | "batch" | "priority" | "lane">;

export interface AttemptsHost {
  env: Env;
  store: PredictionStore;
  /** Applies a lifecycle event to attempt `attempt` in a commit of its own, with all that follows from it. */
  step(id: string, attempt: number, event: LifecycleEvent): Promise<void>;
  /** The object shall call `check` at this time. */
  checkAt(dueAt: number): void;
  later(work: Promise<unknown>): void;
}

export class PredictionAttempts {
  readonly #host: AttemptsHost;
  readonly #known = new Map<string, Known>();
  /** predictions whose slot was asked for before they are stored, with a lease that came before the answer */
  readonly #asked = new Map<string, { lane: number; lease: Lease | null }>();
  /** how many lanes deployments have that have more than one, as their last answers said */
  readonly #lanes = new Map<string, number>();

  constructor(host: AttemptsHost) {
    this.#host = host;
  }

  /**
   * Asks for a slot for a prediction that is being stored; {@link dispatch} takes the answer. Should storing fail, the lease is one that no live
   * attempt holds, which its deployment finds.
   */
  ask(id: string, request: AttemptRequest): Promise<EnqueueResult> {
    this.#asked.set(id, { lane: request.lane ?? 0, lease: null });
    return this.#enqueue({ prediction_id: id, attempt: 1 }, request);
  }

  /** The lane of its deployment that a new prediction is of, for all its life. */
  newLane(id: string, deploymentKey: string): number {
    return laneOf(id, this.#lanes.get(deploymentKey) ?? 1);
  }

  async #enqueue(key: LeaseKey, request: AttemptRequest): Promise<EnqueueResult> {
    const { spec, account_id, created_at, batch, priority, lane = 0 } = request;
    const deployment = deploymentStub(this.#host.env, laneName(spec.deployment_key, lane));
    const turn = priority ?? (batch === null ? 0 : 1);
    const result = await deployment.enqueue({
      ...key,
      account_id,
      spec,
      enqueued_at: created_at,
      priority: turn,
      lane,
    });
    const lanes = result.kind === "refused" ? 1 : (result.lanes ?? 1);
    if (lanes > 1) this.#lanes.set(spec.deployment_key, lanes);
    else this.#lanes.delete(spec.deployment_key);
    return result;
  }

  /** Gets the current attempt a slot (or takes the answer that was asked for already), and starts it where there is one. */
  async dispatch(id: string, asked?: Promise<EnqueueResult>): Promise<void> {
    const row = this.#waiting(id);
    if (row === null) return;
    const key = { prediction_id: id, attempt: row.stage.life.attempt };
    const known = this.#know(key);
    // Should the call be lost, this finds it.
    known.check_at = Date.now() + LEASE_TTL_MS;
    let early: Lease | null;
    let result: EnqueueResult;
    try {
      result = await (asked ?? this.#enqueue(key, row.request));
    } finally {
      early = this.#asked.get(id)?.lease ?? null;
      this.#asked.delete(id);
    }
    if (early !== null) return this.#start(early);
    switch (result.kind) {
      case "leased":
        return this.#start(result.lease);
      case "queued":
        known.check_at = Date.now() + QUEUE_CHECK_MS;
        return;
      case "refused":
        return this.#host.step(id, key.attempt, { type: "refused", code: result.code, detail: result.detail });
    }
  }

  /** Takes leases that a deployment grants. Answers those that are of no use. */
  granted(leases: Lease[]): LeaseKey[] {
    const declined: LeaseKey[] = [];
    for (const lease of leases) {
      const asked = this.#asked.get(lease.prediction_id);
      if (asked !== undefined && lease.attempt === 1 && asked.lane === (lease.lane ?? 0)) {
        // It waited for a moment only, and is still being stored: it starts when it is.
        asked.lease = lease;
        continue;
      }
      if (!this.claims(lease)) {
        declined.push({ prediction_id: lease.prediction_id, attempt: lease.attempt });
        continue;
      }
      const known = this.#know(lease);
      if (known.lease !== null || this.#waiting(lease.prediction_id) === null) continue;
      known.lease = lease;
      this.#host.later(this.#start(lease));
    }
    return declined;
  }

  /** Whether a live attempt is behind this key. */
  isHeld(key: LeaseKey): boolean {
    if (this.#asked.has(key.prediction_id)) return true;
    const life = this.#host.store.get(key.prediction_id)?.stage.life;
    return life !== undefined && !isTerminal(life.state) && life.attempt === key.attempt;
  }

  /** Whether a live attempt is behind a lease, or waits, in this lane: what another one has of it is of no use. */
  claims(key: LeaseKey): boolean {
    if (!this.isHeld(key)) return false;
    const { prediction_id: id, lane = 0 } = key;
    return lane === (this.#asked.get(id)?.lane ?? this.#host.store.get(id)?.request.lane ?? 0);
  }

  /** Whether an origin may have the current attempt, as far as this instance knows. */
  isLeased(id: string): boolean {
    const row = this.#host.store.get(id);
    const known = this.#known.get(id);
    return known !== undefined && known.lease !== null && known.attempt === row?.stage.life.attempt;
  }

  /** Its origin sent something. */
  heard(id: string, now: number): void {
    const known = this.#known.get(id);
    if (known !== undefined) known.check_at = now + LEASE_TTL_MS;
  }

  forget(id: string): void {
    this.#asked.delete(id);
    this.#known.delete(id);
  }

  /** Asks the origin to stop the current attempt. Its end comes as an event. */
  async stop(id: string, reason: StopReason): Promise<void> {
    const row = this.#host.store.get(id);
    if (row === null) return;
    const { attempt } = row.stage.life;
    const known = this.#know({ prediction_id: id, attempt });
    const now = Date.now();
    known.canceling_since ??= now;
    known.check_at = Math.min(now + START_RETRY_MS, known.canceling_since + CANCEL_FORCE_MS);
    this.#host.checkAt(known.check_at);
    const originId = known.lease?.origin_id ?? row.stage.origin_id;
    if (originId === null) return;
    const body = { reason, force_after_ms: CANCEL_POLITE_MS };
    const answer = await cancelAttempt(this.#host.env, originId, id, attempt, body);
    if (answer.kind === "unknown") {
      await this.#host.step(id, attempt, { type: "lost", started: false, reason: "its origin does not know it" });
    }
  }

  /** Asks about every live prediction that is due. Answers when to be called next; null when nothing lives. */
  async check(): Promise<number | null> {
    const now = Date.now();
    const due: string[] = [];
    for (const id of this.#host.store.live()) {
      const row = this.#host.store.get(id);
      if (row === null) continue;
      const known = this.#known.get(id);
      if (known === undefined || known.attempt !== row.stage.life.attempt || known.check_at <= now) due.push(id);
    }
    for (let i = 0; i < due.length; i += CHECKS_AT_ONCE) {
      await Promise.all(due.slice(i, i + CHECKS_AT_ONCE).map((id) => this.#checkOne(id).catch(logFailure)));
    }
    let next: number | null = null;
    for (const id of this.#host.store.live()) {
      const at = Math.max(this.#known.get(id)?.check_at ?? 0, now + START_RETRY_MS);
      if (next === null || at < next) next = at;
    }
    return next;
  }

  async #checkOne(id: string): Promise<void> {
    const row = this.#host.store.get(id);
    if (row === null) return;
    const { life, origin_id } = row.stage;
    const known = this.#know({ prediction_id: id, attempt: life.attempt });
    if (life.state === "canceling") {
      known.canceling_since ??= Date.now() - CANCEL_FORCE_MS;
      if (Date.now() - known.canceling_since >= CANCEL_FORCE_MS) {
        return this.#host.step(id, life.attempt, { type: "forced" });
      }
      return this.stop(id, life.cancel_reason ?? "user");
    }
    // Nothing was ever heard of this attempt, or its queue has it.
    if (row.stage.last_i < 0 && !known.accepted) return this.dispatch(id);
    const originId = known.lease?.origin_id ?? origin_id;
    if (originId === null) return this.dispatch(id);
    await this.#ask(id, known, originId);
  }

  /** A silent attempt: what does its origin say? */
  async #ask(id: string, known: Known, originId: string): Promise<void> {
    const { env } = this.#host;
    const answer = await attemptState(env, originId, id, known.attempt);
    if (answer.kind === "state") {
      known.accepted = true;
      known.check_at = Date.now() + LEASE_TTL_MS;
      return;
    }
    const lost = (reason: string) => this.#host.step(id, known.attempt, { type: "lost", started: true, reason });
    if (answer.kind === "unknown") return lost("its origin does not know it any more");
    const entry = await originEntry(env, originId);
    if (entry?.alive !== true) return lost("its origin is gone");
    known.check_at = Date.now() + START_RETRY_MS;
  }

  async #start(lease: Lease): Promise<void> {
    const { env, store } = this.#host;
    const { prediction_id: id, attempt } = lease;
    const row = this.#waiting(id);
    if (row === null || row.stage.life.attempt !== attempt) {
      // An answer that came late: it runs already, and its end gives the slot back.
      if (this.isHeld(lease)) return;
      // It ended while the slot was asked for: its release may have come before the lease.
      const ended = store.get(id)?.request;
      if (ended === undefined) return;
      const name = laneName(ended.spec.deployment_key, ended.lane ?? 0);
      await deploymentStub(env, name).release([{ prediction_id: id, attempt, ran_ms: 0 }]);
      return;
    }
    const known = this.#know(lease);
    known.lease = lease;
    known.check_at = Date.now() + LEASE_TTL_MS;
    this.#traceQueue(row, known);
    const result = await startAttempt(env, lease.origin_id, attemptStart(row, lease, store.inputs(id).input));
    switch (result.kind) {
      case "accepted":
        known.accepted = true;
        return;
      case "unreachable": {
        const entry = await originEntry(env, lease.origin_id);
        if (entry?.alive !== true) return this.#bounce(lease, "The origin of its slot is gone.");
        known.check_at = Date.now() + START_RETRY_MS;
        known.lease = null;
        this.#host.checkAt(known.check_at);
        return;
      }
      case "refused":
        if (result.code === "instance.unknown" || result.code === "origin.draining") {
          return this.#bounce(lease, result.detail);
        }
        return this.#host.step(id, attempt, { type: "refused", code: result.code, detail: result.detail });
    }
  }

  /** Once for each attempt that this instance of the object saw waiting. */
  #traceQueue(row: PredictionRow, known: Known): void {
    if (known.is_queue_traced || !isTracing(this.#host.env)) return;
    known.is_queue_traced = true;
    const since = known.attempt === 1 ? row.request.created_at : known.waits_since;
    const span = queueSpan(row, since, Date.now());
    if (span !== null) recordSpan(this.#host.env, (work) => this.#host.later(work), span);
  }

  #bounce(lease: Lease, reason: string): Promise<void> {
    return this.#host.step(lease.prediction_id, lease.attempt, { type: "bounced", reason });
  }

  /** The prediction while its model has not started. */
  #waiting(id: string): PredictionRow | null {
    const row = this.#host.store.get(id);
    const state = row?.stage.life.state;
    return state === "queued" || state === "starting" ? row : null;
  }

  #know(key: LeaseKey): Known {
    const known = this.#known.get(key.prediction_id);
    if (known?.attempt === key.attempt) return known;
    const fresh: Known = {
      attempt: key.attempt,
      lease: null,
      accepted: false,
      check_at: Date.now() + LEASE_TTL_MS,
      canceling_since: null,
      waits_since: Date.now(),
      is_queue_traced: false,
    };
    this.#known.set(key.prediction_id, fresh);
    return fresh;
  }
}

function attemptStart(row: PredictionRow, lease: Lease, input: Record<string, unknown> | null): AttemptStart {
  const { id, request, stage } = row;
  const { deadline_at } = request;
  const { prediction_weights } = request.spec;
  const trace = parseTraceparent(request.traceparent);
  return {
    protocol: ORIGIN_PROTOCOL_VERSION,
    prediction_id: id,
    attempt: stage.life.attempt,
    instance_id: lease.instance_id,
    version_id: request.spec.version_id,
    account_id: request.account_id,
    ...(input === null ? { input_ref: `/origin/v1/inputs/${id}` } : { input }),
    ...(prediction_weights === undefined ? {} : { weights: weightsSource(prediction_weights) }),
    ...(deadline_at === null ? {} : { deadline_ms: Math.max(1, deadline_at - Date.now()) }),
    ...(trace === null ? {} : { traceparent: traceparent(predictionContext(trace, id)) }),
  };
}

function logFailure(error: unknown): void {
  console.error(JSON.stringify({ event: "attempt_check_failed", error: String(error) }));
}
