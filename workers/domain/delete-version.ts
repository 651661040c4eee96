/** Deletes a version of a private model. One that anything refers to stays, and the refusal says what to do. */
import { deploymentStub } from "../../durable-objects/stubs.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { deleteVersion, hasWeights, readVersionUses } from "../storage/catalog-writes.ts";
import type { CatalogModel, VersionRow } from "../storage/models.ts";
import { catalogChanged } from "./catalog-changed.ts";
import { removeCompileCaches } from "./compile-caches.ts";
import { mayPush } from "./model-access.ts";
import { packageKey } from "./publish-version.ts";
import { sharedRunSpec } from "./run-spec.ts";

export async function deleteModelVersion(
  edge: Edge,
  caller: Caller,
  { model }: CatalogModel,
  version: VersionRow,
): Promise<void> {
  const { owner, name, id } = version;
  const reason = await refusal(edge, caller, model.visibility, version);
  if (reason !== null) throw new AppError("version.in_use", reason);
  if (!(await deleteVersion(edge.env.DB, version))) {
    throw new AppError("version.in_use", "Something began to use this version a moment ago. Look at it again.");
  }
  if (version.package !== null) edge.later(edge.env.FILES.delete(packageKey(owner, name, id)));
  edge.later(removeCompileCaches(edge.env.FILES, id));
  if (version.weights !== null) edge.later(removeWeights(edge, version.weights.key));
  catalogChanged(edge, [`${owner}/${name}`]);
  console.log(
    JSON.stringify({ level: "info", message: "a version was deleted", model: `${owner}/${name}`, version: id }),
  );
}

/** Why it must stay; null when it may go. */
async function refusal(
  edge: Edge,
  caller: Caller,
  visibility: "public" | "private",
  version: VersionRow,
): Promise<string | null> {
  const { owner, name, id } = version;
  if (visibility === "public") {
    return `Versions of a public model stay, since anybody may have pinned them. Make ${owner}/${name} private first.`;
  }
  const uses = await readVersionUses(edge.env.DB, owner, name, id);
  if (uses === null) throw new AppError("version.not_found", "This version is gone already.");
  const { deployment, fine_tune, example, run_by_others } = uses;
  if (run_by_others) return "Another account has run this version, so it stays.";
  if (deployment !== null) {
    const isOwn = mayPush(caller, deployment.split("/")[0] ?? "");
    return isOwn
      ? `The deployment ${deployment} runs this version. Give it another one, or delete it.`
      : "A deployment of another account runs this version, so it stays.";
  }
  if (fine_tune !== null) {
    const isOwn = mayPush(caller, fine_tune.split("/")[0] ?? "");
    return isOwn
      ? `A version of ${fine_tune} was trained from this one and runs on it. Delete that first.`
      : "Another account has trained a version from this one, so it stays.";
  }
  if (example !== null) {
    return `The default example, prediction ${example}, was made with this version. Delete that example first.`;
  }
  return (await isRunning(edge, caller, version))
    ? "Predictions of this version wait or run. Cancel them, or wait for their end."
    : null;
}

/** On the caller's own instances: on those that it shares with others (a fine-tune's base) nothing tells whose predictions run. */
async function isRunning(edge: Edge, caller: Caller, version: VersionRow): Promise<boolean> {
  const { deployment_key } = await sharedRunSpec(edge, version, caller.account_id);
  if (!deployment_key.startsWith(`version:${version.id}`)) return false;
  const { leases, queue_length } = await deploymentStub(edge.env, deployment_key).describe();
  return leases + queue_length > 0;
}

/** Versions of equal weights share one object. */
async function removeWeights(edge: Edge, key: string): Promise<void> {
  if (!(await hasWeights(edge.env.DB, key))) await edge.env.FILES.delete(key);
}
