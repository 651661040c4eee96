/** What the operator does to models, tokens and accounts of others: pause, ban, export, delete. */
import { createRoute, type z } from "@hono/zod-openapi";
import { z as zod } from "zod";
import {
  EraseQuery,
  ErasureSchema,
  ManagedAccountSchema,
  PausedModelSchema,
  PauseModelSchema,
  TokenIdParams,
  UpdateAccountSchema,
  UsernameParams,
} from "../../schema/api/admin.ts";
import { bearer, OwnerNameParams, problems } from "../../schema/api/common.ts";
import { AppError } from "../../schema/problems.ts";
import { OPERATOR_ACCOUNT_ID } from "../../schema/tables/operator-seed.ts";
import { catalogChanged } from "../domain/catalog-changed.ts";
import { decodeCursor, encodeCursor } from "../domain/cursors.ts";
import { eraseNext, STEPS } from "../domain/erase-account.ts";
import { exportAccount } from "../domain/export-account.ts";
import { edgeOf } from "../env.ts";
import {
  type AccountRow,
  banToken,
  readAccount,
  setPaused,
  setZeroRetention,
  soleOwnership,
} from "../storage/admin.ts";
import { allow, json, newRouter, verbatim } from "./router.ts";

export const admin = newRouter();
const tags = ["operating"];
const PositionSchema = zod.object({
  step: zod.enum(STEPS),
  before: zod.object({ created_at: zod.number().int(), prediction_id: zod.string() }).nullable(),
  input: zod.number().int().min(0).optional(),
});

admin.openapi(
  createRoute({
    method: "post",
    path: "/admin/v1/models/{owner}/{name}/pause",
    tags,
    summary: "Let nothing new start on a model",
    description:
      "Creates of predictions, trainings and batches on it answer 503 with the reason, everywhere within five seconds. What was accepted before runs to its end, since its caller was promised that; cancel it, or its deployment, where it must not.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: OwnerNameParams, body: { required: true, content: json(PauseModelSchema) } },
    responses: { 200: { description: "It is paused", content: json(PausedModelSchema) }, ...problems(404) },
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    const { reason } = c.req.valid("json");
    if (!(await setPaused(c.env.DB, owner, name, reason))) throw unknownModel(owner, name);
    catalogChanged(edgeOf(c), [`${owner}/${name}`]);
    return c.json({ model: `${owner}/${name}`, paused_reason: reason }, 200);
  },
);

admin.openapi(
  createRoute({
    method: "post",
    path: "/admin/v1/models/{owner}/{name}/resume",
    tags,
    summary: "Let a paused model run again",
    security: bearer,
    middleware: allow("admin"),
    request: { params: OwnerNameParams },
    responses: { 200: { description: "It runs", content: json(PausedModelSchema) }, ...problems(404) },
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    if (!(await setPaused(c.env.DB, owner, name, null))) throw unknownModel(owner, name);
    catalogChanged(edgeOf(c), [`${owner}/${name}`]);
    return c.json({ model: `${owner}/${name}`, paused_reason: null }, 200);
  },
);

admin.openapi(
  createRoute({
    method: "post",
    path: "/admin/v1/tokens/{token_id}/ban",
    tags,
    summary: "Revoke a token of any account",
    description: "By its id, which audit logs and usage name. Refused everywhere within five seconds, for good.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: TokenIdParams },
    responses: { 204: { description: "It is revoked" }, ...problems(404) },
  }),
  async (c) => {
    const { token_id } = c.req.valid("param");
    if (!(await banToken(c.env.DB, token_id, Date.now()))) {
      throw new AppError("token.not_found", `There is no token ${token_id}.`);
    }
    return c.body(null, 204);
  },
);

admin.openapi(
  createRoute({
    method: "get",
    path: "/admin/v1/accounts/{username}",
    tags,
    summary: "Get an account",
    security: bearer,
    middleware: allow("admin"),
    request: { params: UsernameParams },
    responses: { 200: { description: "The account", content: json(ManagedAccountSchema) }, ...problems(404) },
  }),
  async (c) => c.json(show(await requireAccount(c.env.DB, c.req.valid("param").username)), 200),
);

admin.openapi(
  createRoute({
    method: "patch",
    path: "/admin/v1/accounts/{username}",
    tags,
    summary: "Turn zero retention of an account on or off",
    description: "For what is created from then on, within five seconds; what runs already keeps its own retention.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: UsernameParams, body: { required: true, content: json(UpdateAccountSchema) } },
    responses: { 200: { description: "The account", content: json(ManagedAccountSchema) }, ...problems(404) },
  }),
  async (c) => {
    const account = await requireAccount(c.env.DB, c.req.valid("param").username);
    const { zero_retention } = c.req.valid("json");
    await setZeroRetention(c.env.DB, account.id, zero_retention);
    return c.json(show({ ...account, zero_retention }), 200);
  },
);

admin.openapi(
  createRoute({
    method: "get",
    path: "/admin/v1/accounts/{username}/export",
    tags,
    summary: "Export everything that is kept of an account",
    description:
      "Lines of JSON, each with its `kind`: account, membership, token (never its text), model, version, deployment, prediction, training, batch, file, ledger, audit; the last is `end`. Bytes of files are at the addresses that the lines name.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: UsernameParams },
    responses: {
      200: {
        description: "The lines",
        content: { "application/x-ndjson": { schema: { type: "string" } } },
      },
      ...problems(404),
    },
  }),
  async (c) => {
    const account = await requireAccount(c.env.DB, c.req.valid("param").username);
    const disposition = `attachment; filename="${account.username}.ndjson"`;
    const headers = { "content-type": "application/x-ndjson", "content-disposition": disposition };
    return verbatim(new Response(exportAccount(edgeOf(c), account), { headers }));
  },
);

admin.openapi(
  createRoute({
    method: "delete",
    path: "/admin/v1/accounts/{username}",
    tags,
    summary: "Delete an account, a piece with each call",
    description:
      "The first call ends all its tokens. Ask again with the `cursor` of the answer until it is `erased`; from the start after a fault, since every piece may be repeated. Predictions are canceled, and inputs, outputs, files, deployments and models go. What stays: the ledger and its list without inputs and outputs, as long as the law asks for books; the audit log; the username, so that nobody takes it.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: UsernameParams, query: EraseQuery },
    responses: { 200: { description: "How far it is", content: json(ErasureSchema) }, ...problems(404, 409) },
  }),
  async (c) => {
    const account = await requireAccount(c.env.DB, c.req.valid("param").username);
    if (account.id === OPERATOR_ACCOUNT_ID) {
      throw new AppError("auth.forbidden", "The operator's account owns the platform's models and cannot be deleted.");
    }
    const position = decodeCursor(c.req.valid("query").cursor, PositionSchema);
    const organization = account.deleted_at === null ? await soleOwnership(c.env.DB, account.id) : null;
    if (organization !== null) {
      const detail = `${account.username} is the only owner of ${organization}. Make somebody else an owner, or delete that first.`;
      throw new AppError("organization.last_owner", detail);
    }
    const { removed, next, waiting_for } = await eraseNext(edgeOf(c), account, position);
    return c.json(
      {
        state: next === null ? ("erased" as const) : ("erasing" as const),
        cursor: next === null ? null : encodeCursor(next),
        step: position?.step ?? STEPS[0],
        removed,
        waiting_for,
      },
      200,
    );
  },
);

async function requireAccount(db: D1Database, username: string): Promise<AccountRow> {
  const account = await readAccount(db, username);
  if (account !== null) return account;
  throw new AppError("account.not_found", `There is no account ${username}.`);
}

function unknownModel(owner: string, name: string): AppError {
  return new AppError("model.not_found", `There is no model ${owner}/${name}.`.slice(0, 300));
}

function show(account: AccountRow): z.infer<typeof ManagedAccountSchema> {
  const { id, type, username, zero_retention, deleted_at, created_at } = account;
  return {
    id,
    type,
    username,
    zero_retention,
    deleted_at: deleted_at === null ? null : new Date(deleted_at).toISOString(),
    created_at: new Date(created_at).toISOString(),
  };
}
