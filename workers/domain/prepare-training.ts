/** What makes a create a training: a version that has a trainer, a destination that the caller may push to, and an instance of its own. */
import type { RunSpec } from "../../durable-objects/prediction-contract.ts";
import { isTrainable } from "../../schema/fine-tunes.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { readModel, type VersionRow } from "../storage/models.ts";
import { isAllowed, mayPush } from "./model-access.ts";
import { sharedRunSpec } from "./run-spec.ts";
import type { StartPrediction } from "./start-prediction.ts";

export async function prepareTraining(
  edge: Edge,
  caller: Caller,
  version: VersionRow,
  destination: string,
): Promise<Pick<StartPrediction, "kind" | "destination" | "spec">> {
  if (!isTrainable(version.openapi_schema)) {
    const detail = `${version.owner}/${version.name}:${version.id} cannot be trained: it has no train function.`;
    throw new AppError("version.invalid", detail);
  }
  await requireDestination(edge, caller, destination);
  const shared = await sharedRunSpec(edge, version, caller.account_id);
  return { kind: "training", destination, spec: (id) => trainingSpec(shared, version, id) };
}

/** A malformed one does not exist either. */
async function requireDestination(edge: Edge, caller: Caller, destination: string): Promise<void> {
  const [owner = "", name = "", ...more] = destination.split("/");
  const isOurs = more.length === 0 && mayPush(caller, owner) && isAllowed(caller, owner, name);
  // Past the memory, which would show the model as it was before a training that ends within seconds.
  if (isOurs && (await readModel(edge.env.DB, owner, name)) !== null) return;
  const shown = destination.slice(0, 200);
  const detail = `The destination ${shown} does not exist in your account. Create the model first, and name it as owner/name.`;
  throw new AppError("model.not_found", detail);
}

/** Each training gets an instance of its own, which goes with it: it holds the caller's data. It is never run twice: what a trainer did may have cost hours. */
function trainingSpec({ online: _, ...shared }: RunSpec, version: VersionRow, id: string): RunSpec {
  return {
    // It pays for the time that the trainer works, whoever pays for instances of the model.
    ...shared,
    deployment_key: `training:${id}`,
    mode: "train",
    slots: 1,
    memory_bytes: version.train_memory_bytes ?? version.memory_bytes,
    idempotent: false,
    output_is_iterator: false,
    min_instances: 0,
    max_instances: 1,
    idle_ttl_ms: 0,
  };
}
