/** What a caller may do with a repository of the registry. The sources and images of a model are its owner's, however public the model is. */
import type { Caller, Edge } from "../env.ts";
import { type CatalogModel, findModel, readModel } from "../storage/models.ts";
import { isAllowed, mayManage, mayPush, maySee } from "./model-access.ts";
import { RegistryError } from "./registry-errors.ts";
import { ownerAndName } from "./registry-names.ts";
import type { RegistryAccess, RegistryAction } from "./registry-token.ts";

/** Null where the repository cannot be one, or has no model. */
async function modelOf(edge: Edge, repository: string): Promise<CatalogModel | null> {
  const named = ownerAndName(repository);
  if (named === null) return null;
  // One that was made a moment ago is not in every memory yet.
  return (await findModel(edge.env.DB, ...named, edge.later)) ?? (await readModel(edge.env.DB, ...named));
}

/** Pure. The operator may read what it runs. */
export function rightsOn(caller: Caller, { model: { owner, name } }: CatalogModel): RegistryAction[] {
  if (!isAllowed(caller, owner, name)) return [];
  const mayRead = caller.scopes.includes("models:read") && (mayPush(caller, owner) || caller.scopes.includes("admin"));
  const mayWrite = caller.scopes.includes("models:write");
  return [
    ...(mayRead ? ["pull" as const] : []),
    ...(mayWrite && mayPush(caller, owner) ? ["push" as const] : []),
    ...(mayWrite && mayManage(caller, owner) ? ["delete" as const] : []),
  ];
}

export async function repositoryRights(edge: Edge, caller: Caller, repository: string): Promise<RegistryAction[]> {
  const found = await modelOf(edge, repository);
  return found === null ? [] : rightsOn(caller, found);
}

/** The subset of what is asked for that the caller may do. */
export async function grantedAccess(edge: Edge, caller: Caller, wanted: RegistryAccess[]): Promise<RegistryAccess[]> {
  const granted: RegistryAccess[] = [];
  for (const { name, actions } of wanted) {
    const rights = await repositoryRights(edge, caller, name);
    const both = actions.filter((action) => rights.includes(action));
    if (both.length > 0) granted.push({ type: "repository", name, actions: both });
  }
  return granted;
}

/** Throws what keeps the caller from it, in words that say what to do. */
export async function requireRights(
  edge: Edge,
  caller: Caller,
  repository: string,
  actions: RegistryAction[],
): Promise<void> {
  const found = await modelOf(edge, repository);
  const rights = found === null ? [] : rightsOn(caller, found);
  const missing = actions.find((action) => !rights.includes(action));
  if (missing === undefined) return;
  if (found === null || !maySee(caller, found)) throw unknownRepository(repository);
  const scope = missing === "pull" ? "models:read" : "models:write";
  if (!caller.scopes.includes(scope)) throw new RegistryError("DENIED", `This token lacks the scope ${scope}.`);
  const { owner } = found.model;
  const who = missing === "delete" ? `owners and admins of ${owner}` : `${owner} and its people`;
  throw new RegistryError("DENIED", `Only ${who} may ${missing} ${missing === "pull" ? "from" : "in"} ${repository}.`);
}

export function unknownRepository(repository: string): RegistryError {
  return new RegistryError(
    "NAME_UNKNOWN",
    ownerAndName(repository) === null
      ? `${repository} is no repository: each is the owner/name of a model.`
      : `There is no model ${repository}, or you may not see it. Make it first: POST /v1/models, or cogway push.`,
  );
}
