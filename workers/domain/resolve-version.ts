/** Which version a caller means, and whether it may see it. Another account's private model is as unknown as one that does not exist. */
import type { ModelReference } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { saveRunByOthers } from "../storage/catalog-writes.ts";
import {
  type CatalogModel,
  findModel,
  findVersion as findVersionOf,
  findVersions,
  readModel,
  type VersionRow,
} from "../storage/models.ts";
import { isAllowed, mayManage, mayPush, maySee } from "./model-access.ts";

/** Environments take seconds to minutes to make. */
const PREPARING_RETRY_S = 5;

/** Somebody has to look at it first. */
const PAUSED_RETRY_S = 60;

/** A model that the caller may see. */
export async function requireModel(edge: Edge, caller: Caller, owner: string, name: string): Promise<CatalogModel> {
  const found = await findModel(edge.env.DB, owner, name, edge.later);
  if (found === null || !maySee(caller, found)) {
    throw unknownModel(owner, name);
  }
  return found;
}

function unknownModel(owner: string, name: string): AppError {
  return new AppError("model.not_found", `The model ${owner}/${name} does not exist, or you may not see it.`);
}

/** A model that the caller may also change (`push`) or govern (`manage`), read past every memory. */
export async function requireOwnModel(
  edge: Edge,
  caller: Caller,
  owner: string,
  name: string,
  right: "push" | "manage",
): Promise<CatalogModel> {
  const found = await readModel(edge.env.DB, owner, name);
  if (found === null || !maySee(caller, found)) throw unknownModel(owner, name);
  if (right === "push" ? mayPush(caller, owner) : mayManage(caller, owner)) return found;
  const who = mayPush(caller, owner) ? `owners and admins of ${owner}` : owner;
  throw new AppError("auth.forbidden", `Only ${who} may do this to ${owner}/${name}.`);
}

/** A model whose builds and setup logs the caller may read: its own, its organization's, or any for the operator. */
export async function requireInsight(edge: Edge, caller: Caller, owner: string, name: string): Promise<CatalogModel> {
  if (!caller.scopes.includes("admin")) return requireOwnModel(edge, caller, owner, name, "push");
  const found = await readModel(edge.env.DB, owner, name);
  if (found === null || !isAllowed(caller, owner, name)) throw unknownModel(owner, name);
  return found;
}

/** The version to run. Throws problems: unknown model 404, unknown version 422, a model without a version yet or one that is paused 503. */
export async function resolveVersion(edge: Edge, caller: Caller, reference: ModelReference): Promise<VersionRow> {
  const version = await findVersion(edge, caller, reference);
  // In memory since a moment ago: who may see a version is asked of its model.
  const paused = (await findModel(edge.env.DB, version.owner, version.name, edge.later))?.model.paused_reason ?? null;
  if (paused !== null) {
    const detail = `${version.owner}/${version.name} is paused by the operator: ${paused}`;
    throw new AppError("model.paused", detail, { retry_after: PAUSED_RETRY_S });
  }
  noteRun(edge, caller, version);
  return version;
}

/** Versions that this isolate has noted as run by others, so that each is written once. */
const noted = new Set<string>();
/** About 150 bytes each. */
const NOTED_MAX = 10_000;

/** A version that others have run is never deleted. Written behind the answer, the first time only. */
function noteRun(edge: Edge, caller: Caller, version: VersionRow): void {
  const key = `${version.owner}/${version.name}:${version.id}`;
  if (version.run_by_others || noted.has(key) || mayPush(caller, version.owner)) return;
  if (noted.size >= NOTED_MAX) noted.clear();
  noted.add(key);
  edge.later(saveRunByOthers(edge.env.DB, version).catch(() => noted.delete(key)));
}

/** The same without a note that somebody ran it. */
export async function findVersion(edge: Edge, caller: Caller, reference: ModelReference): Promise<VersionRow> {
  if (reference.kind === "version") return versionById(edge, caller, reference.version);
  const found = await requireModel(edge, caller, reference.owner, reference.name);
  if (reference.kind === "model_version") {
    const { owner, name, version } = reference;
    const row = await findVersionOf(edge.env.DB, owner, name, version, edge.later);
    if (row === null) throw unknownVersion();
    return row;
  }
  // A version that was made a moment ago is not in every memory yet; where there is none, asking once more costs only those who fail.
  const latest = found.latest ?? (await readModel(edge.env.DB, reference.owner, reference.name))?.latest ?? null;
  if (latest !== null) return latest;
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
  // Twice: the one that the caller may see may have been made a moment ago.
  for (const isAnew of [false, true]) {
    for (const version of await findVersions(edge.env.DB, id, edge.later, (rows) => rows.length > 0 && !isAnew)) {
      const found = await findModel(edge.env.DB, version.owner, version.name, edge.later);
      if (found !== null && maySee(caller, found)) return version;
    }
  }
  throw unknownVersion();
}

export function unknownVersion(): AppError {
  return new AppError("version.invalid", "The version does not exist, or you may not run it.");
}
