/**
 * Who may see and run a model, and who may change what an account owns. Pure; the routes of models, deployments, trainings, batches and search all ask here.
 * A thing that a caller may not see is "not found" for it; one that it sees and may not change is refused (auth.forbidden).
 */
import type { Caller } from "../env.ts";

/** What decides about a model; CatalogModel is one. */
export interface ModelAccess {
  model: { owner: string; name: string; visibility: "public" | "private" };
  /** usernames of the users and organizations that it is shared with */
  shares: string[];
}

/** Whether the caller may see and run it: public, its own, its organization's or shared with either; and within the models that its token is bound to. */
export function maySee(caller: Caller, { model, shares }: ModelAccess): boolean {
  if (!isAllowed(caller, model.owner, model.name)) return false;
  return (
    model.visibility === "public" || mayPush(caller, model.owner) || shares.some((username) => isIn(caller, username))
  );
}

/** Whether the caller's token reaches this model at all; a token without such a bound reaches every model. */
export function isAllowed(caller: Caller, owner: string, name: string): boolean {
  return caller.allowed_models === null || caller.allowed_models.includes(`${owner}/${name}`);
}

/** Whether the caller may make and change models and deployments of `owner`, and train into them: its own account, or an organization in any role. */
export function mayPush(caller: Caller, owner: string): boolean {
  return isIn(caller, owner);
}

/** Whether the caller may also delete, share and publish them: its own account, or an organization that it owns or administers. */
export function mayManage(caller: Caller, owner: string): boolean {
  return (
    caller.username === owner ||
    caller.organizations.some(({ username, role }) => username === owner && role !== "member")
  );
}

function isIn(caller: Caller, username: string): boolean {
  return (
    caller.username === username || caller.organizations.some((organization) => organization.username === username)
  );
}
