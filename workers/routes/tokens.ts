/** API tokens of the caller's account, and of organizations that it owns or administers. Beyond Replicate's HTTP API. */
import { createRoute, z } from "@hono/zod-openapi";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import {
  CreatedTokenSchema,
  CreateTokenSchema,
  ListTokensQuery,
  TokenPageSchema,
  TokenParams,
  TokenSchema,
  UpdateTokenSchema,
} from "../../schema/api/tokens.ts";
import { AppError } from "../../schema/problems.ts";
import { TOKEN_ID_LENGTH, tokenId } from "../../schema/tokens.ts";
import { decodeCursor, keysetPage, pageUrl } from "../domain/cursors.ts";
import { boundToken } from "../domain/mint-token.ts";
import { type Caller, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import {
  countLiveTokens,
  findManaged,
  findToken,
  insertToken,
  isTokenLive,
  listTokens,
  revokeToken,
  type TokenRow,
  updateToken,
} from "../storage/tokens.ts";
import { allow, json, newRouter } from "./router.ts";

export const tokens = newRouter();
const tags = ["tokens"];
const PAGE_ROWS = 100;
/** Live ones of an account: a program that makes one per run and forgets it is told so before the table is full of them. */
const LIVE_TOKENS_MAX = 1_000;

const TokenCursor = z.object({ side: z.enum(["after", "before"]), created_at: z.number().int(), id: z.string() });

tokens.openapi(
  createRoute({
    method: "post",
    path: "/v1/tokens",
    tags,
    summary: "Make a token, which is shown this once",
    description:
      "It can do no more than the token that makes it, and lives no longer. Members that are left out are passed on.",
    security: bearer,
    middleware: allow("tokens:admin"),
    request: { body: { required: true, content: json(CreateTokenSchema) } },
    responses: {
      201: { description: "What it may do, and the token itself", content: json(CreatedTokenSchema) },
      ...problems(404, 409),
    },
  }),
  async (c) => {
    const caller = callerOf(c);
    const body = c.req.valid("json");
    const now = Date.now();
    requireNoBudget(caller);
    const account = await requireManaged(c.env.DB, caller, body.account);
    c.set("auditAccount", account.id);
    // The caller may live on in this isolate's memory for a moment; what it makes would live for good.
    if (!(await isTokenLive(c.env.DB, caller.token.hash))) {
      throw new AppError("auth.unauthenticated", "Your token was revoked.");
    }
    const bounds = boundToken(
      caller,
      { scopes: body.scopes, allowed_models: body.allowed_models ?? null, expires_at: expiryOf(body, now) },
      account.id === caller.account_id,
      now,
    );
    if ((await countLiveTokens(c.env.DB, account.id, now)) >= LIVE_TOKENS_MAX) {
      const detail = `${account.username} has ${LIVE_TOKENS_MAX} live tokens. Revoke those that nothing uses.`;
      throw new AppError("account.limit_reached", detail);
    }
    const created_by = caller.token.created_by ?? caller.account_id;
    const wanted = { ...bounds, account_id: account.id, name: body.name, created_by, budget: body.budget ?? null };
    const made = await insertToken(c.env.DB, wanted, now);
    const row = await findToken(c.env.DB, account.id, made.id);
    if (row === null) throw new Error("the token that was just made is gone");
    return c.json({ ...show(row), token: made.token }, 201);
  },
);

tokens.openapi(
  createRoute({
    method: "get",
    path: "/v1/tokens",
    tags,
    summary: "List tokens, newest first",
    description: "Revoked and expired ones too. The tokens themselves are stored nowhere.",
    security: bearer,
    middleware: allow("tokens:admin"),
    request: { query: ListTokensQuery },
    responses: { 200: { description: "A page of tokens", content: json(TokenPageSchema) }, ...problems(404) },
  }),
  async (c) => {
    const query = c.req.valid("query");
    const account = await requireManaged(c.env.DB, callerOf(c), query.account);
    const cursor = decodeCursor(query.cursor, TokenCursor);
    const read = await listTokens(c.env.DB, account.id, cursor, PAGE_ROWS + 1);
    const page = keysetPage(read, PAGE_ROWS, cursor?.side, ({ token }) => ({
      created_at: token.created_at,
      id: tokenId(token.hash),
    }));
    const url = (position: unknown) => pageUrl(edgeOf(c).settings.publicUrl, "/v1/tokens", c.req.query(), position);
    return c.json({ previous: url(page.previous), next: url(page.next), results: page.rows.map(show) }, 200);
  },
);

tokens.openapi(
  createRoute({
    method: "get",
    path: "/v1/tokens/{token_id}",
    tags,
    summary: "Get a token",
    security: bearer,
    middleware: allow("tokens:admin"),
    request: { params: TokenParams },
    responses: { 200: { description: "What it may do", content: json(TokenSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { token_id } = c.req.valid("param");
    const row = await findToken(c.env.DB, callerOf(c).account_id, token_id);
    if (row === null) throw notFound(token_id);
    return c.json(show(row), 200);
  },
);

tokens.openapi(
  createRoute({
    method: "patch",
    path: "/v1/tokens/{token_id}",
    tags,
    summary: "Change a token's name or budget",
    description: "A budget counts within five seconds, for what starts from then on.",
    security: bearer,
    middleware: allow("tokens:admin"),
    request: { params: TokenParams, body: { required: true, content: json(UpdateTokenSchema) } },
    responses: { 200: { description: "What it may do", content: json(TokenSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { token_id } = c.req.valid("param");
    const caller = callerOf(c);
    const { name, budget } = c.req.valid("json");
    if (budget !== undefined) requireNoBudget(caller);
    const change = { ...(name === undefined ? {} : { name }), ...(budget === undefined ? {} : { budget }) };
    const isThere = await updateToken(c.env.DB, caller.account_id, token_id, change);
    const row = isThere ? await findToken(c.env.DB, caller.account_id, token_id) : null;
    if (row === null) throw notFound(token_id);
    return c.json(show(row), 200);
  },
);

tokens.openapi(
  createRoute({
    method: "delete",
    path: "/v1/tokens/{token_id}",
    tags,
    summary: "Revoke a token",
    description: "It is refused everywhere within five seconds, for good. Revoking it again changes nothing.",
    security: bearer,
    middleware: allow("tokens:admin"),
    request: { params: TokenParams },
    responses: { 204: { description: "It is revoked" }, ...problemResponses },
  }),
  async (c) => {
    const { token_id } = c.req.valid("param");
    const isRevoked = await revokeToken(c.env.DB, callerOf(c).account_id, token_id, Date.now());
    if (!isRevoked) throw notFound(token_id);
    return c.body(null, 204);
  },
);

/** Each token's cap is its own: one that could make others, or raise caps, would have none. */
function requireNoBudget(caller: Caller): void {
  if (caller.token.budget === null) return;
  const detail = "A token with a budget cannot make tokens or change budgets. Use one without.";
  throw new AppError("auth.forbidden", detail);
}

/** The account that is named, or the caller's own: one whose tokens the caller manages. */
async function requireManaged(
  db: D1Database,
  caller: Caller,
  username: string = caller.username,
): Promise<{ id: string; username: string }> {
  if (username === caller.username) return { id: caller.account_id, username };
  const account = await findManaged(db, caller.account_id, username);
  if (account !== null) return account;
  throw new AppError(
    "account.not_found",
    `There is no organization ${username.slice(0, 64)} that you own or administer.`,
  );
}

function expiryOf(body: z.infer<typeof CreateTokenSchema>, now: number): number | null {
  if (body.expires_at !== undefined) return Date.parse(body.expires_at);
  return body.expires_in === undefined ? null : now + body.expires_in * 1_000;
}

function show({ token, account, created_by }: TokenRow): z.infer<typeof TokenSchema> {
  const time = (ms: number | null) => (ms === null ? null : new Date(ms).toISOString());
  return {
    id: tokenId(token.hash),
    account,
    name: token.name,
    last_four: token.last_four,
    scopes: token.scopes,
    allowed_models: token.allowed_models,
    created_at: new Date(token.created_at).toISOString(),
    created_by,
    expires_at: time(token.expires_at),
    last_used_at: time(token.last_used_at),
    revoked: token.revoked_at !== null,
    budget: token.budget,
  };
}

function notFound(id: string): AppError {
  return new AppError("token.not_found", `You have no token ${id.slice(0, TOKEN_ID_LENGTH)}.`);
}
