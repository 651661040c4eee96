/** Versions of models: Replicate's HTTP API. */
import { createRoute, z } from "@hono/zod-openapi";
import { bearer, CursorQuerySchema, OwnerNameParams, problemResponses, problems } from "../../schema/api/common.ts";
import { VersionPageSchema, VersionParams, VersionSchema } from "../../schema/api/models.ts";
import { AppError } from "../../schema/problems.ts";
import { decodeCursor, keysetPage, pageUrl } from "../domain/cursors.ts";
import { deleteModelVersion } from "../domain/delete-version.ts";
import { requireModel, requireOwnModel } from "../domain/resolve-version.ts";
import { showVersion } from "../domain/show-model.ts";
import { type Edge, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
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
    return c.json(showVersion(await requireVersion(edge, owner, name, version_id)), 200);
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

async function requireVersion(edge: Edge, owner: string, name: string, id: string): Promise<VersionRow> {
  const version = await findVersion(edge.env.DB, owner, name, id, edge.later);
  if (version === null) throw new AppError("version.not_found", "This model has no version of this id.");
  return version;
}
