/** Which version a caller means, and whether it may see it. Another account's private model is as unknown as one that does not exist. */
import type { ModelReference } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { type CatalogModel, findModel, findVersions, type VersionRow } from "../storage/models.ts";
import { maySee } from "./model-access.ts";

/** Environments take seconds to minutes to make. */
const PREPARING_RETRY_S = 5;

/** A model that the caller may see. */
export async function requireModel(edge: Edge, caller: Caller, owner: string, name: string): Promise<CatalogModel> {
  const found = await findModel(edge.env.DB, owner, name, edge.later);
  if (found === null || !maySee(caller, found)) {
    throw new AppError("model.not_found", `The model ${owner}/${name} does not exist, or you may not see it.`);
  }
  return found;
}

/** The version to run. Throws problems: unknown model 404, unknown version 422, a model without a version yet 503. */
export async function resolveVersion(edge: Edge, caller: Caller, reference: ModelReference): Promise<VersionRow> {
  if (reference.kind === "version") return versionById(edge, caller, reference.version);
  const found = await requireModel(edge, caller, reference.owner, reference.name);
  if (reference.kind === "model_version") {
    const rows = await findVersions(edge.env.DB, reference.version, edge.later);
    const row = rows.find((version) => version.owner === reference.owner && version.name === reference.name);
    if (row === undefined) throw unknownVersion();
    return row;
  }
  if (found.latest !== null) return found.latest;
  const model = `${reference.owner}/${reference.name}`;
  if (found.model.state === "failed") {
    throw new AppError(
      "version.invalid",
      `${model} has no version that can run. ${found.model.state_reason ?? ""}`.trim(),
    );
  }
  if (found.model.state === "ready") {
    throw new AppError("version.invalid", `${model} has no version yet. Train one into it, or name another model.`);
  }
  throw new AppError("model.preparing", `${model} is being prepared. Try again soon.`, {
    retry_after: PREPARING_RETRY_S,
  });
}

/** Models of equal content share a version id: the oldest one that the caller may see counts. */
async function versionById(edge: Edge, caller: Caller, id: string): Promise<VersionRow> {
  for (const version of await findVersions(edge.env.DB, id, edge.later)) {
    const found = await findModel(edge.env.DB, version.owner, version.name, edge.later);
    if (found !== null && maySee(caller, found)) return version;
  }
  throw unknownVersion();
}

export function unknownVersion(): AppError {
  return new AppError("version.invalid", "The version does not exist, or you may not run it.");
}
