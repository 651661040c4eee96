/** The caller's account, and the operator's route that makes accounts. */
import { createRoute } from "@hono/zod-openapi";
import { AccountSchema, CreateAccountSchema, CreatedAccountSchema } from "../../schema/api/account.ts";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import { AppError } from "../../schema/problems.ts";
import type { StoredLimits } from "../../schema/tables/accounts.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { DEFAULT_CREATES_PER_MINUTE, DEFAULT_READS_PER_MINUTE, insertAccount } from "../storage/accounts.ts";
import { allow, json, newRouter } from "./router.ts";

export const account = newRouter();

account.openapi(
  createRoute({
    method: "get",
    path: "/v1/account",
    tags: ["account"],
    summary: "Get the account of your token",
    security: bearer,
    middleware: allow("account:read"),
    responses: { 200: { description: "The account", content: json(AccountSchema) }, ...problemResponses },
  }),
  (c) => {
    const { type, username, name } = callerOf(c);
    return c.json({ type, username, name, github_url: null, avatar_url: null }, 200);
  },
);

account.openapi(
  createRoute({
    method: "post",
    path: "/admin/v1/accounts",
    tags: ["operating"],
    summary: "Make an account with a token, which is shown this once",
    security: bearer,
    middleware: allow("admin"),
    request: { body: { required: true, content: json(CreateAccountSchema) } },
    responses: {
      201: { description: "The account and its token", content: json(CreatedAccountSchema) },
      ...problems(409),
    },
  }),
  async (c) => {
    const { type, username, name, limits } = c.req.valid("json");
    const made = await insertAccount(c.env.DB, { type, username, name, limits: storedLimits(limits) });
    if (made === null) throw new AppError("account.name_taken", `The username ${username} is taken.`);
    return c.json(
      {
        account: {
          id: made.account.id,
          type,
          username,
          name,
          limits: {
            creates_per_minute: limits?.creates_per_minute ?? DEFAULT_CREATES_PER_MINUTE,
            reads_per_minute: limits?.reads_per_minute ?? DEFAULT_READS_PER_MINUTE,
            egress: limits?.egress ?? false,
          },
          created_at: new Date(made.account.created_at).toISOString(),
        },
        token: made.token,
      },
      201,
    );
  },
);

/** Only the members that are set: later defaults reach accounts that have no limit of their own. */
function storedLimits(limits: { [K in keyof StoredLimits]?: StoredLimits[K] | undefined } = {}): StoredLimits {
  return Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined));
}
