/**
 * Leaves one entry in the audit log of the caller's account for each request that changed a setting, a right or a thing of value. What runs models and moves
 * their data (the data plane) is not here: predictions have their own logs, and an entry for each would bury the others and put a commit on their path.
 *
 * The entry is stored before the answer. Should that fail, the change stands and is answered, and the entry goes to the error log, whole.
 */
import type { Context, MiddlewareHandler } from "hono";
import { routePath } from "hono/route";
import { auditStub } from "../../durable-objects/stubs.ts";
import { tokenId } from "../../schema/tokens.ts";
import type { AppEnv } from "../env.ts";

/** Tries to store an entry. */
const TRIES_MAX = 3;
/** What an answer may hold to be searched for the id of what was made. */
const ANSWER_CHARACTERS_MAX = 65_536;
const CHANGING = new Set(["POST", "PUT", "PATCH", "DELETE"]);

interface Audited {
  action: string;
  /** members of the body whose values are shown; of all others the name alone. None of these may hold a secret */
  shows?: string[];
  /** member of the answer that names what was made; else the address does */
  made?: string;
}

/** Every changing route of the API that is audited. A test holds this and {@link DATA_PLANE} equal to the routes. */
export const AUDITED: Record<string, Audited> = {
  "POST /v1/models": { action: "model.created", shows: ["owner", "name", "visibility", "hardware"] },
  "PATCH /v1/models/{owner}/{name}": { action: "model.changed", shows: ["visibility", "is_official", "is_stable"] },
  "DELETE /v1/models/{owner}/{name}": { action: "model.deleted" },
  "DELETE /v1/models/{owner}/{name}/versions/{version_id}": { action: "version.deleted" },
  "POST /v1/models/{owner}/{name}/examples": { action: "example.added", shows: ["prediction_id"] },
  "DELETE /v1/models/{owner}/{name}/examples/{prediction_id}": { action: "example.removed" },
  "PUT /v1/models/{owner}/{name}/shares/{username}": { action: "share.added" },
  "DELETE /v1/models/{owner}/{name}/shares/{username}": { action: "share.removed" },
  "POST /v1/models/{owner}/{name}/builds": { action: "build.created", shows: ["manifest", "force"], made: "id" },
  "POST /v1/models/{owner}/{name}/builds/{build_id}/cancel": { action: "build.canceled" },
  "PUT /v2/{owner}/{name}/manifests/{reference}": { action: "manifest.pushed" },
  "DELETE /v2/{owner}/{name}/manifests/{reference}": { action: "manifest.deleted" },
  "DELETE /v2/{owner}/{name}/blobs/{digest}": { action: "blob.deleted" },
  "POST /v1/deployments": {
    action: "deployment.created",
    shows: ["name", "model", "version", "hardware", "min_instances", "max_instances"],
  },
  "PATCH /v1/deployments/{owner}/{name}": {
    action: "deployment.changed",
    shows: ["version", "hardware", "min_instances", "max_instances"],
  },
  "DELETE /v1/deployments/{owner}/{name}": { action: "deployment.deleted" },
  "POST /v1/webhooks/default/secret/rotate": { action: "webhook_secret.rotated" },
  "GET /v1/webhooks/default/secret": { action: "webhook_secret.read" },
  "POST /v1/tokens": {
    action: "token.created",
    shows: ["name", "account", "scopes", "allowed_models", "expires_at", "expires_in", "budget"],
    made: "id",
  },
  "PATCH /v1/tokens/{token_id}": { action: "token.changed", shows: ["name", "budget"] },
  "DELETE /v1/tokens/{token_id}": { action: "token.revoked" },
  "POST /v1/organizations": { action: "organization.created", shows: ["username"] },
  "PATCH /v1/organizations/{username}": { action: "organization.changed", shows: ["name"] },
  "PUT /v1/organizations/{username}/members/{member}": { action: "member.set", shows: ["role"] },
  "DELETE /v1/organizations/{username}/members/{member}": { action: "member.removed" },
  "POST /admin/v1/accounts": { action: "account.created", shows: ["type", "username", "limits"] },
  "PATCH /v1/account/billing": { action: "billing.changed", shows: ["budget", "day_micros", "month_micros"] },
  "PATCH /admin/v1/accounts/{username}/terms": { action: "terms.changed", shows: ["billing", "discount_ppm"] },
  "POST /admin/v1/accounts/{username}/credits": { action: "credit.booked", shows: ["id", "kind", "amount_micros"] },
  "POST /admin/v1/prices": { action: "price.added", shows: ["sku", "model", "unit", "price_micros", "valid_from"] },
  "PATCH /admin/v1/accounts/{username}": { action: "account.changed", shows: ["zero_retention"] },
  "DELETE /admin/v1/accounts/{username}": { action: "account.deleted" },
  "GET /admin/v1/accounts/{username}/export": { action: "account.exported" },
  "POST /admin/v1/tokens/{token_id}/ban": { action: "token.banned" },
  "POST /admin/v1/models/{owner}/{name}/pause": { action: "model.paused", shows: ["reason"] },
  "POST /admin/v1/models/{owner}/{name}/resume": { action: "model.resumed" },
  "POST /admin/v1/origins": { action: "origin.invited" },
  "POST /admin/v1/origins/{origin_id}/drain": { action: "origin.drained" },
  "POST /admin/v1/origins/{origin_id}/undrain": { action: "origin.undrained" },
  "DELETE /admin/v1/origins/{origin_id}": { action: "origin.removed" },
  "PUT /admin/v1/collections/{slug}": { action: "collection.set", shows: ["name", "models"] },
  "DELETE /admin/v1/collections/{slug}": { action: "collection.deleted" },
};

/** Changing routes that are not audited: what runs models, and the bytes for it. */
export const DATA_PLANE = new Set([
  "POST /v1/predictions",
  "POST /v1/models/{owner}/{name}/predictions",
  "POST /v1/deployments/{owner}/{name}/predictions",
  "POST /v1/predictions/{prediction_id}/cancel",
  "POST /v1/predictions/{prediction_id}/webhooks/{event}/replay",
  "POST /v1/models/{owner}/{name}/versions/{version_id}/trainings",
  "POST /v1/trainings/{training_id}/cancel",
  "POST /v1/trainings/{training_id}/webhooks/{event}/replay",
  "POST /v1/estimates",
  "POST /v1/batches",
  "POST /v1/batches/{batch_id}/cancel",
  "POST /v1/webhooks/test",
  "POST /v1/files",
  "DELETE /v1/files/{file_id}",
  "POST /v1/files/uploads",
  "PUT /v1/files/uploads/{upload_id}/parts/{n}",
  "POST /v1/files/uploads/{upload_id}/complete",
  "DELETE /v1/files/uploads/{upload_id}",
]);

/** Bytes of pushes; what they make is audited by its manifest. Not in the OpenAPI document: the registry has a document of its own. */
const REGISTRY_BYTES = /^(?:POST|PATCH|PUT|DELETE) \/v2\/(?:token$|\{owner\}\/\{name\}\/blobs\/uploads(?:\/|$))/;

export const audit: MiddlewareHandler<AppEnv> = async (c, next) => {
  await next();
  const caller = c.get("caller");
  if (caller === undefined || c.res.status >= 400) return;
  const route = `${c.req.method} ${routePath(c, -1).replaceAll(/:(\w+)/g, "{$1}")}`;
  const row = AUDITED[route] ?? unlisted(route);
  if (row === null) return;
  await store(c, {
    at: Date.now(),
    actor: caller.account_id,
    token_id: tokenId(caller.token.hash),
    action: row.action,
    target: await targetOf(c, row),
    details: detailsOf(c, row),
    ip: c.req.header("cf-connecting-ip") ?? null,
    request_id: c.get("requestId"),
  });
};

/** A changing route that nobody listed is audited all the same, by its own name: forgetting one hides nothing. */
function unlisted(route: string): Audited | null {
  const method = route.split(" ")[0] ?? "";
  if (!CHANGING.has(method) || DATA_PLANE.has(route) || REGISTRY_BYTES.test(route)) return null;
  return { action: route };
}

type Entry = Parameters<ReturnType<typeof auditStub>["append"]>[0];

async function store(c: Context<AppEnv>, entry: Entry): Promise<void> {
  const account = c.get("auditAccount") ?? entry.actor;
  for (let tries = 1; ; tries++) {
    try {
      return await auditStub(c.env, account).append(entry);
    } catch (error) {
      if (tries < TRIES_MAX) continue;
      console.error(JSON.stringify({ level: "error", event: "audit_lost", account, entry, error: String(error) }));
      return;
    }
  }
}

/** What the address names, and what the answer says was made. */
async function targetOf(c: Context<AppEnv>, row: Audited): Promise<string> {
  const named = Object.values(c.req.param()).join("/");
  if (row.made === undefined) return named === "" ? nameInBody(c) : named;
  const text = c.res.body === null ? "" : await c.res.clone().text();
  if (text.length > ANSWER_CHARACTERS_MAX) return named;
  const made: unknown = (JSON.parse(text) as Record<string, unknown>)[row.made];
  return [named, typeof made === "string" ? made : ""].filter((part) => part !== "").join("/");
}

function nameInBody(c: Context<AppEnv>): string {
  const { owner, username, name } = bodyOf(c);
  return [owner, username ?? name].filter((part) => typeof part === "string").join("/");
}

function detailsOf(c: Context<AppEnv>, { shows = [] }: Audited): Record<string, unknown> {
  const body = bodyOf(c);
  const shown = Object.entries(body).filter(([name]) => shows.includes(name));
  const others = Object.keys(body).filter((name) => !shows.includes(name));
  return { ...Object.fromEntries(shown), ...(others.length === 0 ? {} : { also_set: others.slice(0, 50) }) };
}

/** The body as the route's schema took it: no member that it does not know. */
function bodyOf(c: Context<AppEnv>): Record<string, unknown> {
  const valid = (c.req as unknown as { valid: (target: "json") => unknown }).valid("json");
  return typeof valid === "object" && valid !== null ? (valid as Record<string, unknown>) : {};
}
