/** Who calls the registry, and whether it may: the Docker token flow before every route of a repository. */
import type { Context, MiddlewareHandler } from "hono";
import { requireRights, unknownRepository } from "../domain/registry-access.ts";
import { RegistryError } from "../domain/registry-errors.ts";
import { ownerAndName } from "../domain/registry-names.ts";
import {
  grants,
  type RegistryAccess,
  type RegistryAction,
  readRegistryToken,
  registryService,
  scopeText,
} from "../domain/registry-token.ts";
import { type AppEnv, edgeOf, settingsOf } from "../env.ts";
import { findCallerByHash } from "../storage/accounts.ts";
import { limitReads } from "./read-limit.ts";

/** What a request needs; an upload is cancelled by who may make it. */
function actionsOf(method: string, path: string): RegistryAction[] {
  if (method === "GET" || method === "HEAD") return path.includes("/blobs/uploads/") ? ["pull", "push"] : ["pull"];
  return method === "DELETE" && !path.includes("/blobs/uploads/") ? ["delete"] : ["pull", "push"];
}

/** A mount also reads from where the blob is; a client that may not gets a token without it, and uploads. */
function mountScope(c: Context<AppEnv>): Pick<RegistryAccess, "name" | "actions">[] {
  const from = c.req.query("from");
  return from === undefined || ownerAndName(from) === null ? [] : [{ name: from, actions: ["pull"] }];
}

/** A refusal that tells clients where to get a token, and for what. */
export function challenge(c: Context<AppEnv>, scopes: Pick<RegistryAccess, "name" | "actions">[]): RegistryError {
  const settings = settingsOf(c.env);
  const parts = [
    `realm="${settings.publicUrl}/v2/token"`,
    `service="${registryService(settings)}"`,
    ...(scopes.length === 0 ? [] : [`scope="${scopes.map(scopeText).join(" ")}"`]),
  ];
  return new RegistryError("UNAUTHORIZED", "Log in first: any user name, and a Cogway token as the password.", {
    headers: { "www-authenticate": `Bearer ${parts.join(",")}` },
  });
}

/** Requires a live token of the registry. Null is what stands behind it: an origin's, without a caller. */
async function authenticateToken(
  c: Context<AppEnv>,
  scopes: Pick<RegistryAccess, "name" | "actions">[],
): Promise<void> {
  const [, text = ""] = /^bearer +(\S+) *$/i.exec(c.req.header("authorization") ?? "") ?? [];
  const token = text === "" ? null : await readRegistryToken(settingsOf(c.env), text);
  if (token === null || (token.path !== null && token.path !== c.req.path)) throw challenge(c, scopes);
  c.set("registryAccess", token.access);
  c.set("isUploadRelayed", token.path !== null);
  if (token.subject.kind === "origin") {
    c.set("originId", token.subject.origin_id);
    return;
  }
  const caller = await findCallerByHash(c.env.DB, token.subject.hash, edgeOf(c).later);
  if (caller === null) throw challenge(c, scopes);
  c.set("caller", caller);
}

/** Before `/v2/`: anybody who is logged in. */
export const requireLogin: MiddlewareHandler<AppEnv> = async (c, next) => {
  await authenticateToken(c, []);
  return c.get("caller") === undefined ? next() : limitReads(c, next);
};

/** Before everything of one repository, `/v2/:owner/:name/…`. */
export const guardRepository: MiddlewareHandler<AppEnv> = async (c, next) => {
  const name = `${c.req.param("owner")}/${c.req.param("name")}`;
  const actions = actionsOf(c.req.method, c.req.path);
  const wanted = [{ name, actions }, ...mountScope(c)];
  await authenticateToken(c, wanted);
  const access = c.get("registryAccess") ?? [];
  const isGranted = actions.every((action) => grants(access, name, action));
  const caller = c.get("caller");
  if (caller === undefined) {
    if (!isGranted) throw unknownRepository(name);
    return next();
  }
  return limitReads(c, async () => {
    await requireRights(edgeOf(c), caller, name, actions);
    if (!isGranted) throw challenge(c, wanted);
    await next();
  });
};
