/** What a deployment says of itself: why a prediction waits, and what it has and wants. Reads alone. */

import { PANIC_WINDOW_MS, STABLE_WINDOW_MS } from "../schema/arrivals.ts";
import type { WaitingFor } from "../schema/prediction-document.ts";
import { delayTarget, estimateWait, UTILISATION_TARGET } from "../schema/scaling.ts";
import type { DeploymentDescription, DeploymentScaling, LeaseKey, QueuePlace } from "./deployment-contract.ts";
import type { DeploymentMeasures } from "./deployment-measures.ts";
import type { DeploymentQueue, InstanceRow } from "./deployment-queue.ts";
import type { InstanceReports } from "./deployment-reports.ts";
import { type DeploymentScaler, isEnded, isLive, startMs } from "./deployment-scaler.ts";

export const NEVER_USED: DeploymentDescription = {
  queue_length: 0,
  leases: 0,
  instances: [],
  wanted_instances: 0,
  reason: "never used",
};

export function waitingFor(
  queue: DeploymentQueue,
  scaler: DeploymentScaler,
  reports: InstanceReports,
  key: LeaseKey,
  place: QueuePlace | undefined,
  now: number,
): WaitingFor | null {
  if (place === undefined) return waitingInSlot(queue, reports, key, now);
  const facts = queue.facts();
  const instances = queue.instances().filter((row) => row.boot_key === place.boot_key);
  const ready = instances.filter((row) => row.state === "ready");
  const starting = instances.filter((row) => row.state === "boot" || row.state === "setup");
  const detail = starting.length > 0 ? reasonOf(reports, starting) : scaler.refusal();
  const startingSince = starting.length === 0 ? null : Math.min(...starting.map((row) => row.placed_at));
  return {
    reason: waitReason(scaler, ready, starting),
    queue_position: place.position,
    elapsed_ms: Math.max(0, now - place.enqueued_at),
    estimate_ms: estimateWait({
      position: place.position,
      slots_per_instance: queue.spec().slots,
      ready_slots: ready.reduce((sum, row) => sum + row.slots, 0),
      starting_for_ms: startingSince === null ? null : now - startingSince,
      run_ms: facts.run_ms,
      start_ms: startMs(facts),
    }),
    ...(facts.setup_error === null || place.boot_key !== queue.bootKey() ? {} : { last_error: facts.setup_error }),
    ...(detail === null || ready.length > 0 ? {} : { detail }),
  };
}

/** Of a prediction that has its slot, on an instance whose server ended before it began: it starts there once that is up again. */
function waitingInSlot(
  queue: DeploymentQueue,
  reports: InstanceReports,
  key: LeaseKey,
  now: number,
): WaitingFor | null {
  const lease = queue.lease(key);
  const instance = lease === null ? null : queue.instance(lease.instance_id);
  if (lease === null || instance === null) return null;
  if (instance.state !== "boot" && instance.state !== "setup") return null;
  const detail = reasonOf(reports, [instance]);
  return {
    reason: instance.state,
    queue_position: null,
    elapsed_ms: Math.max(0, now - lease.leased_at),
    estimate_ms: null,
    ...(detail === null ? {} : { detail }),
  };
}

/** What an instance that starts says of how far it is, or why it starts again: the platform's words, none of the model's. */
function reasonOf(reports: InstanceReports, starting: InstanceRow[]): string | null {
  const said = reports.list().filter(({ reason }) => reason !== null);
  return said.find(({ instance_id }) => starting.some((row) => row.instance_id === instance_id))?.reason ?? null;
}

function waitReason(scaler: DeploymentScaler, ready: InstanceRow[], starting: InstanceRow[]): WaitingFor["reason"] {
  if (ready.length > 0) return "slot";
  if (starting.some((row) => row.state === "setup")) return "setup";
  if (starting.length > 0) return "boot";
  return scaler.expectsInstance() ? "boot" : "capacity";
}

export function describe(queue: DeploymentQueue, scaler: DeploymentScaler): DeploymentDescription {
  const rows = queue.instances().filter((row) => !isEnded(row.state));
  const current = queue.bootKey();
  return {
    queue_length: [...queue.demand().values()].reduce((sum, { queued }) => sum + queued, 0),
    leases: queue.load().leased,
    instances: rows.map(({ instance_id, origin_id, boot_key, state, slots, leased, last_used_at }) => ({
      instance_id,
      origin_id,
      state,
      slots,
      leased,
      idle_since: leased === 0 && state === "ready" ? last_used_at : null,
      is_current: boot_key === current,
    })),
    wanted_instances: scaler.decision?.wanted ?? rows.filter((row) => isLive(row.state)).length,
    reason: scaler.decision?.reason ?? "not decided since the start",
  };
}

/** Null while nothing was decided yet. */
export function describeScaling(
  queue: DeploymentQueue,
  scaler: DeploymentScaler,
  measures: DeploymentMeasures,
  now: number,
): DeploymentScaling | null {
  const { decision } = scaler;
  if (decision === null) return null;
  const { min_instances, max_instances } = queue.spec();
  return {
    wanted_instances: decision.wanted,
    reason: decision.reason,
    lanes: queue.facts().lanes,
    measures: decision.measures,
    targets: {
      min_instances,
      max_instances,
      queue_delay_ms: delayTarget(queue.facts().run_ms),
      utilisation: UTILISATION_TARGET,
      stable_window_ms: STABLE_WINDOW_MS,
      panic_window_ms: PANIC_WINDOW_MS,
    },
    held_back: scaler.heldBack(now),
    decisions: measures.decisions(),
  };
}
