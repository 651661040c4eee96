/** Whether a canary would disturb anybody now. */
import type { DeploymentDescription } from "./deployment-contract.ts";
import type { OriginListing } from "./fleet-contract.ts";
import type { RunSpec } from "./prediction-contract.ts";

/**
 * Null: it would not. Else why it waits, for people. It takes a free slot of its version's own instances, or room of a host that nothing has: it makes no
 * instance go, and stands in no queue.
 */
export function whyNoRoom(
  spec: Pick<RunSpec, "memory_bytes" | "gpus" | "hardware">,
  deployment: DeploymentDescription,
  origins: OriginListing[],
): string | null {
  if (deployment.queue_length > 0) return "Others wait for its instances.";
  const ready = deployment.instances.filter(({ state, is_current }) => state === "ready" && is_current);
  if (ready.some(({ slots, leased }) => leased < slots)) return null;
  if (ready.length > 0) return "Its instances are in use.";
  if (deployment.instances.some(({ state }) => state === "boot" || state === "setup"))
    return "Its instances are starting.";
  return origins.some((origin) => hasRoom(origin, spec)) ? null : "No host has room that is not in use.";
}

function hasRoom(
  { state, hardware, capacity, used }: OriginListing,
  spec: Pick<RunSpec, "memory_bytes" | "gpus" | "hardware">,
): boolean {
  const gpus = hardware.find(({ sku }) => sku === spec.hardware)?.gpus;
  return (
    state === "ready" &&
    gpus !== undefined &&
    used.instances < capacity.instances &&
    used.memory_bytes + spec.memory_bytes <= capacity.memory_bytes &&
    used.gpus + (spec.gpus ?? 0) <= gpus
  );
}
