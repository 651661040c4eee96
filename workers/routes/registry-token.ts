/** Where clients of the registry get their tokens (the Docker token flow): the password is a Cogway token, whatever the user name. */
import type { Context } from "hono";
import { isTokenWellFormed } from "../../schema/tokens.ts";
import { grantedAccess } from "../domain/registry-access.ts";
import { RegistryError } from "../domain/registry-errors.ts";
import { parseScopes, signRegistryToken } from "../domain/registry-token.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { limitReads } from "../middleware/read-limit.ts";
import { findCaller } from "../storage/accounts.ts";

/** A form with a token, a service and some scopes. */
const FORM_BYTES_MAX = 65_536;

/** GET: HTTP Basic, and the scopes in the query. */
export async function tokenByBasic(c: Context<AppEnv>): Promise<Response> {
  const [, encoded = ""] = /^basic +(\S+) *$/i.exec(c.req.header("authorization") ?? "") ?? [];
  const credentials = Buffer.from(encoded, "base64").toString();
  const password = credentials.slice(credentials.indexOf(":") + 1);
  return answerToken(c, password, c.req.queries("scope") ?? []);
}

/** POST: the OAuth 2 form that some clients try first. */
export async function tokenByForm(c: Context<AppEnv>): Promise<Response> {
  const length = Number(c.req.header("content-length") ?? Number.NaN);
  if (!(length <= FORM_BYTES_MAX)) throw new RegistryError("SIZE_INVALID", "The form is too large.", { status: 413 });
  const form = new URLSearchParams(await c.req.text());
  const grant = form.get("grant_type");
  if (grant !== "password" && grant !== "refresh_token") {
    throw new RegistryError("UNSUPPORTED", "grant_type is to be password or refresh_token.", { status: 400 });
  }
  const secret = form.get(grant === "password" ? "password" : "refresh_token") ?? "";
  return answerToken(c, secret, form.getAll("scope"));
}

async function answerToken(c: Context<AppEnv>, secret: string, scopes: string[]): Promise<Response> {
  const edge = edgeOf(c);
  const caller = isTokenWellFormed(secret) ? await findCaller(c.env.DB, secret, edge.later) : null;
  if (caller === null) {
    throw new RegistryError(
      "UNAUTHORIZED",
      "The password is to be a Cogway token that is live. The user name may be any.",
      {
        headers: { "www-authenticate": 'Basic realm="cogway"' },
      },
    );
  }
  c.set("caller", caller);
  await limitReads(c, async () => {
    const access = await grantedAccess(edge, caller, parseScopes(scopes));
    const subject = { kind: "token", hash: caller.token.hash } as const;
    const { token, ...times } = await signRegistryToken(edge.settings, subject, access);
    c.res = Response.json({ token, access_token: token, ...times });
  });
  return c.res;
}
