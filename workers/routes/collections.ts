/** Collections of models: Replicate's HTTP API, and the operator's routes that keep them. */
import { createRoute, z } from "@hono/zod-openapi";
import {
  CollectionPageSchema,
  CollectionParams,
  CollectionWithModelsSchema,
  SaveCollectionSchema,
  SavedCollectionSchema,
} from "../../schema/api/collections.ts";
import { bearer, CursorQuerySchema, problemResponses } from "../../schema/api/common.ts";
import { parseModelReference } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import { catalogChanged } from "../domain/catalog-changed.ts";
import { decodeCursor, keysetPage, pageUrl } from "../domain/cursors.ts";
import { showModel } from "../domain/show-model.ts";
import { invalidInput } from "../domain/validate-input.ts";
import { edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import {
  deleteCollection,
  knownModels,
  listCollectionModels,
  listCollections,
  readCollection,
  saveCollection,
} from "../storage/collections.ts";
import { allow, json, newRouter } from "./router.ts";

export const collections = newRouter();
const PAGE_ROWS = 100;
const CollectionCursor = z.object({ side: z.enum(["after", "before"]), slug: z.string() });

collections.openapi(
  createRoute({
    method: "get",
    path: "/v1/collections",
    tags: ["collections"],
    summary: "List collections",
    description: "Those that hold a public model that can run.",
    security: bearer,
    middleware: allow("models:read"),
    request: { query: CursorQuerySchema },
    responses: {
      200: { description: "A page of collections", content: json(CollectionPageSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const cursor = decodeCursor(c.req.valid("query").cursor, CollectionCursor);
    const read = await listCollections(c.env.DB, callerOf(c), PAGE_ROWS + 1, cursor);
    const page = keysetPage(read, PAGE_ROWS, cursor?.side, ({ slug }) => ({ slug }));
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, c.req.path, c.req.query(), position);
    const results = page.rows.map(({ name, slug, description }) => ({ name, slug, description }));
    return c.json({ previous: url(page.previous), next: url(page.next), results }, 200);
  },
);

collections.openapi(
  createRoute({
    method: "get",
    path: "/v1/collections/{slug}",
    tags: ["collections"],
    summary: "Get a collection with its models",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: z.object({ slug: z.string() }) },
    responses: {
      200: { description: "The collection", content: json(CollectionWithModelsSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { slug } = c.req.valid("param");
    const found = await readCollection(c.env.DB, slug);
    if (found === null) throw unknownCollection(slug);
    const { name, description, full_description } = found;
    const rows = await listCollectionModels(c.env.DB, callerOf(c), slug);
    const models = await Promise.all(rows.map((row) => showModel(edge, row, c.req.header("user-agent"))));
    return c.json({ name, slug, description, full_description, models }, 200);
  },
);

collections.openapi(
  createRoute({
    method: "put",
    path: "/admin/v1/collections/{slug}",
    tags: ["operating"],
    summary: "Make a collection, or replace it",
    description:
      "Models that are private, or have no version, may be in it: they show once they are public and can run.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: CollectionParams, body: { required: true, content: json(SaveCollectionSchema) } },
    responses: { 200: { description: "As it is now", content: json(SavedCollectionSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { slug } = c.req.valid("param");
    const { name, description, full_description = null, models } = c.req.valid("json");
    const known = await knownModels(c.env.DB, models);
    const members = models.flatMap((path) => {
      const reference = parseModelReference(path);
      return reference?.kind === "model" && known.has(path) ? { owner: reference.owner, name: reference.name } : [];
    });
    const faults = models.flatMap((path, i) =>
      known.has(path) ? [] : { type: "enum", field: `models.${i}`, description: `There is no model ${path}` },
    );
    if (faults.length > 0) throw invalidInput(faults);
    await saveCollection(c.env.DB, { slug, name, description, full_description }, members, Date.now());
    catalogChanged(edgeOf(c), []);
    return c.json({ slug, name, description, full_description, models }, 200);
  },
);

collections.openapi(
  createRoute({
    method: "delete",
    path: "/admin/v1/collections/{slug}",
    tags: ["operating"],
    summary: "Delete a collection; its models stay",
    security: bearer,
    middleware: allow("admin"),
    request: { params: CollectionParams },
    responses: { 204: { description: "Deleted" }, ...problemResponses },
  }),
  async (c) => {
    const { slug } = c.req.valid("param");
    if (!(await deleteCollection(c.env.DB, slug))) throw unknownCollection(slug);
    catalogChanged(edgeOf(c), []);
    return c.body(null, 204);
  },
);

function unknownCollection(slug: string): AppError {
  return new AppError("collection.not_found", `There is no collection ${slug.slice(0, 64)}.`);
}
