/** With whom a private model is shared. For its owner; of an organization's model, for its owners and admins. */
import { createRoute } from "@hono/zod-openapi";
import { bearer, OwnerNameParams, problemResponses } from "../../schema/api/common.ts";
import { SharePageSchema, ShareParams, ShareSchema } from "../../schema/api/models.ts";
import { AppError } from "../../schema/problems.ts";
import { catalogChanged } from "../domain/catalog-changed.ts";
import { requireOwnModel } from "../domain/resolve-version.ts";
import { edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import {
  deleteShare,
  findAccount,
  listShares,
  SHARES_PER_MODEL_MAX,
  type ShareRow,
  saveShare,
} from "../storage/shares.ts";
import { allow, json, newRouter } from "./router.ts";

export const shares = newRouter();
const tags = ["models"];

function showShare({ account: { type, username, name }, created_at }: ShareRow) {
  return { account: { type, username, name }, created_at: new Date(created_at).toISOString() };
}

shares.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/shares",
    tags,
    summary: "List the accounts that a model is shared with",
    description: "By username. All of them are on one page.",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams },
    responses: { 200: { description: "A page of shares", content: json(SharePageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    await requireOwnModel(edgeOf(c), callerOf(c), owner, name, "manage");
    return c.json(
      { previous: null, next: null, results: (await listShares(c.env.DB, owner, name)).map(showShare) },
      200,
    );
  },
);

shares.openapi(
  createRoute({
    method: "put",
    path: "/v1/models/{owner}/{name}/shares/{username}",
    tags,
    summary: "Share a model with an account",
    description:
      "It may see and run the model from then on, private or not, and so may the members of an organization. It is seen everywhere within 5 seconds.",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: ShareParams },
    responses: { 200: { description: "Shared, now or before", content: json(ShareSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name, username } = c.req.valid("param");
    await requireOwnModel(edge, callerOf(c), owner, name, "manage");
    const account = await findAccount(c.env.DB, username);
    if (account === null) throw unknownAccount(username);
    const created_at = await saveShare(c.env.DB, owner, name, account.id, Date.now());
    if (created_at === null) {
      const detail = `${owner}/${name} is shared with ${SHARES_PER_MODEL_MAX} accounts, which is the limit. Share it with an organization instead.`;
      throw new AppError("account.limit_reached", detail);
    }
    catalogChanged(edge, [`${owner}/${name}`]);
    return c.json(showShare({ account, created_at }), 200);
  },
);

shares.openapi(
  createRoute({
    method: "delete",
    path: "/v1/models/{owner}/{name}/shares/{username}",
    tags,
    summary: "Share a model with an account no longer",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: ShareParams },
    responses: { 204: { description: "It is not shared with that account" }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name, username } = c.req.valid("param");
    await requireOwnModel(edge, callerOf(c), owner, name, "manage");
    if ((await findAccount(c.env.DB, username)) === null) throw unknownAccount(username);
    await deleteShare(c.env.DB, owner, name, username);
    catalogChanged(edge, [`${owner}/${name}`]);
    return c.body(null, 204);
  },
);

function unknownAccount(username: string): AppError {
  return new AppError("account.not_found", `There is no account ${username}.`);
}
