/** Models, versions and hardware: Replicate's HTTP API. */
import { createRoute, z } from "@hono/zod-openapi";
import { bearer, CursorQuerySchema, OwnerNameParams, problemResponses } from "../../schema/api/common.ts";
import {
  HardwareListSchema,
  ListModelsQuery,
  ModelPageSchema,
  ModelSchema,
  VersionPageSchema,
  VersionParams,
  VersionSchema,
} from "../../schema/api/models.ts";
import { AppError } from "../../schema/problems.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { requireModel } from "../domain/resolve-version.ts";
import { showModel, showVersion } from "../domain/show-model.ts";
import { edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { findVersions, listHardware, listModels, listVersions, readReadme } from "../storage/models.ts";
import { allow, json, newRouter } from "./router.ts";

export const models = newRouter();
const tags = ["models"];
/** Objects per page, as Replicate has it. */
const PAGE_ROWS = 100;
/** The catalog is small and changes by hand: pages are counted, not remembered. */
const OffsetCursor = z.object({ offset: z.number().int().min(0) });

/** One page of rows that were read with one more than fits, and what lies around it. */
function pageAt<T>(rows: T[], offset: number): { rows: T[]; next: unknown; previous: unknown } {
  return {
    rows: rows.slice(0, PAGE_ROWS),
    next: rows.length > PAGE_ROWS ? { offset: offset + PAGE_ROWS } : null,
    previous: offset === 0 ? null : { offset: Math.max(0, offset - PAGE_ROWS) },
  };
}

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/models",
    tags,
    summary: "List public models",
    security: bearer,
    middleware: allow("models:read"),
    request: { query: ListModelsQuery },
    responses: { 200: { description: "A page of models", content: json(ModelPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { cursor, ...sorting } = c.req.valid("query");
    const offset = decodeCursor(cursor, OffsetCursor)?.offset ?? 0;
    const page = pageAt(await listModels(c.env.DB, { ...sorting, limit: PAGE_ROWS + 1, offset }), offset);
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, "/v1/models", c.req.query(), position);
    const results = await Promise.all(page.rows.map((row) => showModel(edge, row, c.req.header("user-agent"))));
    return c.json({ previous: url(page.previous), next: url(page.next), results }, 200);
  },
);

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}",
    tags,
    summary: "Get a model",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams },
    responses: { 200: { description: "The model", content: json(ModelSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const found = await requireModel(edge, callerOf(c), owner, name);
    return c.json(await showModel(edge, found, c.req.header("user-agent")), 200);
  },
);

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/readme",
    tags,
    summary: "Get a model's README",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams },
    responses: {
      200: { description: "Markdown", content: { "text/plain": { schema: z.string() } } },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { owner, name } = c.req.valid("param");
    await requireModel(edgeOf(c), callerOf(c), owner, name);
    const readme = await readReadme(c.env.DB, owner, name);
    if (readme === null) throw new AppError("model.not_found", `The model ${owner}/${name} has no README.`);
    return c.text(readme, 200);
  },
);

models.openapi(
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
    const offset = decodeCursor(c.req.valid("query").cursor, OffsetCursor)?.offset ?? 0;
    const page = pageAt(await listVersions(c.env.DB, owner, name, PAGE_ROWS + 1, offset), offset);
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, c.req.path, c.req.query(), position);
    return c.json(
      { previous: url(page.previous), next: url(page.next), results: page.rows.map((row) => showVersion(row)) },
      200,
    );
  },
);

models.openapi(
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
    const rows = await findVersions(c.env.DB, version_id, edge.later);
    const version = rows.find((row) => row.owner === owner && row.name === name);
    if (version === undefined) throw new AppError("version.not_found", "This model has no version of this id.");
    return c.json(showVersion(version), 200);
  },
);

models.openapi(
  createRoute({
    method: "get",
    path: "/v1/hardware",
    tags,
    summary: "List hardware",
    security: bearer,
    middleware: allow("models:read"),
    responses: { 200: { description: "All of it; no pages", content: json(HardwareListSchema) }, ...problemResponses },
  }),
  async (c) => c.json(await listHardware(c.env.DB), 200),
);
