/** Versions of models: Replicate's HTTP API. */
import { createRoute, z } from "@hono/zod-openapi";
import type { SetupReport } from "../../durable-objects/deployment-contract.ts";
import { deploymentStub } from "../../durable-objects/stubs.ts";
import { SchemaDiffSchema } from "../../schema/api/builds.ts";
import { bearer, CursorQuerySchema, OwnerNameParams, problemResponses, problems } from "../../schema/api/common.ts";
import { SetupLogsSchema, VersionPageSchema, VersionParams, VersionSchema } from "../../schema/api/models.ts";
import { AppError } from "../../schema/problems.ts";
import { schemaDiff } from "../../schema/schema-compatibility.ts";
import { decodeCursor, keysetPage, pageUrl } from "../domain/cursors.ts";
import { deleteModelVersion } from "../domain/delete-version.ts";
import { mayPush } from "../domain/model-access.ts";
import { requireInsight, requireModel, requireOwnModel } from "../domain/resolve-version.ts";
import { sharedRunSpec } from "../domain/run-spec.ts";
import { showVersion } from "../domain/show-model.ts";
import { showVersionWhole } from "../domain/version-history.ts";
import { type Caller, type Edge, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { findAccountId } from "../storage/accounts.ts";
import { findVersion, listVersions, type VersionRow } from "../storage/models.ts";
import { allow, json, newRouter } from "./router.ts";

export const versions = newRouter();
const tags = ["models"];
const PAGE_ROWS = 100;
const VersionCursor = z.object({ side: z.enum(["after", "before"]), created_at: z.number().int(), id: z.string() });

versions.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/versions",
    tags,
    summary: "List a model's versions, newest first",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams, query: CursorQuerySchema },
    responses: { 200: { description: "A page of versions", content: json(VersionPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    await requireModel(edge, callerOf(c), owner, name);
    const cursor = decodeCursor(c.req.valid("query").cursor, VersionCursor);
    const read = await listVersions(c.env.DB, owner, name, PAGE_ROWS + 1, cursor);
    const page = keysetPage(read, PAGE_ROWS, cursor?.side, ({ created_at, id }) => ({ created_at, id }));
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, c.req.path, c.req.query(), position);
    return c.json({ previous: url(page.previous), next: url(page.next), results: page.rows.map(showVersion) }, 200);
  },
);

versions.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/versions/{version_id}",
    tags,
    summary: "Get a version",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: VersionParams },
    responses: { 200: { description: "The version", content: json(VersionSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name, version_id } = c.req.valid("param");
    await requireModel(edge, callerOf(c), owner, name);
    return c.json(await showVersionWhole(edge, await requireVersion(edge, owner, name, version_id)), 200);
  },
);

versions.openapi(
  createRoute({
    method: "delete",
    path: "/v1/models/{owner}/{name}/versions/{version_id}",
    tags,
    summary: "Delete a version",
    description:
      "Only of a private model, and only while nothing refers to it: no deployment, no fine-tune, no default example, no prediction that waits or runs, and no run by another account. Predictions that it made keep their own retention. The newest version that is left becomes the latest.",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: VersionParams },
    responses: { 202: { description: "It is gone; its weights follow" }, ...problems(409) },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name, version_id } = c.req.valid("param");
    const found = await requireOwnModel(edge, callerOf(c), owner, name, "manage");
    await deleteModelVersion(edge, callerOf(c), found, await requireVersion(edge, owner, name, version_id));
    return c.body(null, 202);
  },
);

versions.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/versions/{version_id}/diff",
    tags,
    summary: "Compare a version's schema with another one's",
    description: "With the version that was made before it, unless `from` names another one of the model.",
    security: bearer,
    middleware: allow("models:read"),
    request: {
      params: VersionParams,
      query: z.object({ from: z.string().max(64).optional().describe("id of the version to compare with") }),
    },
    responses: {
      200: { description: "What is different, one line each", content: json(SchemaDiffSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name, version_id } = c.req.valid("param");
    const { from } = c.req.valid("query");
    await requireModel(edge, callerOf(c), owner, name);
    const version = await requireVersion(edge, owner, name, version_id);
    const older = { side: "after" as const, created_at: version.created_at, id: version.id };
    const before =
      from === undefined
        ? (await listVersions(c.env.DB, owner, name, 1, older))[0]
        : await requireVersion(edge, owner, name, from);
    const none = { breaking: [], added: [], changed: [], previous_version: null };
    return c.json(before === undefined ? none : schemaDiff(before, version), 200);
  },
);

versions.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/setup-logs",
    tags,
    summary: "Read how a version's instances started and ended",
    description:
      "The newest instances first: of a public model those that serve everybody, of a private one your own. For the model's people and the operator; of a prediction's own logs its caller has them.",
    security: bearer,
    middleware: allow("models:read"),
    request: {
      params: OwnerNameParams,
      query: z.object({ version: z.string().max(64).optional().describe("default: the latest") }),
    },
    responses: { 200: { description: "Newest first; no pages", content: json(SetupLogsSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const wanted = c.req.valid("query").version;
    const { latest } = await requireInsight(edge, callerOf(c), owner, name);
    const version = wanted === undefined ? latest : await requireVersion(edge, owner, name, wanted);
    const reports = version === null ? [] : await readSetupReports(edge, callerOf(c), version);
    const results = reports.map(({ instance_id, version_id, state, reason, logs, at }) => {
      return { instance: instance_id, version: version_id, state, reason, logs, at: new Date(at).toISOString() };
    });
    return c.json({ results }, 200);
  },
);

async function readSetupReports(edge: Edge, caller: Caller, version: VersionRow): Promise<SetupReport[]> {
  // The operator looks at what its owner sees.
  const isOwn = mayPush(caller, version.owner);
  const accountId = isOwn ? caller.account_id : await findAccountId(edge.env.DB, version.owner);
  if (accountId === null) return [];
  const { deployment_key } = await sharedRunSpec(edge, version, accountId);
  return deploymentStub(edge.env, deployment_key).setupReports();
}

async function requireVersion(edge: Edge, owner: string, name: string, id: string): Promise<VersionRow> {
  const version = await findVersion(edge.env.DB, owner, name, id, edge.later);
  if (version === null) throw new AppError("version.not_found", "This model has no version of this id.");
  return version;
}
