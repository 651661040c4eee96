/** How a version runs on shared hardware: what the catalog says of it, and the platform's own settings. */
import type { RunSpec } from "../../durable-objects/contracts.ts";
import type { VersionRow } from "../storage/models.ts";
import { outputKind } from "./validate-input.ts";

/** An idle instance is given room for this long; a model that needs the room gets it before. */
const IDLE_TTL_MS = 300_000;
/** Weights are loaded from disk or fetched once; a setup that takes longer hangs. */
const SETUP_TIMEOUT_MS = 600_000;
/** Of one version; the room of the origins is the bound that counts. */
const INSTANCES_MAX = 8;

export function runSpec(version: VersionRow): RunSpec {
  return {
    deployment_key: `version:${version.id}`,
    release: 0,
    version_id: version.base_version_id ?? version.id,
    mode: "predict",
    weights: version.weights,
    model: `${version.owner}/${version.name}`,
    slots: version.slots,
    memory_bytes: version.memory_bytes,
    hardware: version.hardware,
    idempotent: version.idempotent,
    output_is_iterator: outputKind(version.openapi_schema).is_iterator,
    min_instances: 0,
    max_instances: INSTANCES_MAX,
    idle_ttl_ms: IDLE_TTL_MS,
    setup_timeout_ms: SETUP_TIMEOUT_MS,
  };
}
