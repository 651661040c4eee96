/** Search over models, collections and docs: Replicate's HTTP API. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { CollectionCard, PageCard } from "../../durable-objects/search-catalog.ts";
import { bearer, problemResponses } from "../../schema/api/common.ts";
import {
  QUERY_CHARACTERS_MAX,
  SearchErrorSchema,
  SearchedModelPageSchema,
  SearchModelsQuerySchema,
  SearchQuerySchema,
  SearchResultSchema,
} from "../../schema/api/search.ts";
import { AppError } from "../../schema/problems.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { searchCatalog } from "../domain/search-models.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { allow, json, newRouter } from "./router.ts";

export const search = newRouter();
const tags = ["search"];
/** Says in a header what the member `mode` says, for clients that drop what they do not know. */
const MODE_HEADER = "cogway-search-mode";
const MODELS_PER_PAGE = 20;
const OffsetCursor = z.object({ offset: z.number().int().min(0).max(10_000) });

const modeHeader = z.object({ [MODE_HEADER]: z.enum(["hybrid", "text"]).describe("as the member `mode`") });
const refusal = { content: json(SearchErrorSchema) };

search.openapi(
  createRoute({
    method: "get",
    path: "/v1/search",
    tags,
    summary: "Search models, collections and docs",
    description:
      "Finds by words, typos allowed, and by meaning: describe the task. Private models are found by those who may see them. Ranked by match, use and health.",
    security: bearer,
    middleware: allow("models:read"),
    request: { query: SearchQuerySchema },
    responses: {
      200: { description: "The best of each kind first", headers: modeHeader, content: json(SearchResultSchema) },
      400: { description: "No query, or one that is too long", ...refusal },
      ...problemResponses,
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { query, limit } = c.req.valid("query");
    const asked = { query, limit, offset: 0, scope: "all" as const };
    const found = await searchCatalog(edge, callerOf(c), asked, c.req.header("user-agent"));
    c.header(MODE_HEADER, found.mode);
    return c.json(
      {
        query,
        models: found.models.map(({ model, tags, score }) => ({
          model,
          metadata: { generated_description: model.description, tags, score: Math.round(score * 10_000) / 10_000 },
        })),
        collections: found.collections.map((card) => JSON.parse(card) as CollectionCard),
        pages: found.pages.map((card) => {
          const { name, href } = JSON.parse(card) as PageCard;
          return { name, href: edge.settings.publicUrl + href };
        }),
        mode: found.mode,
        is_complete: found.is_complete,
      },
      200,
    );
  },
  // What is no problem document: Replicate's clients read `detail` of plain JSON here.
  (result, c) => {
    return result.success ? undefined : c.json({ detail: faultOf(result.error) }, 400);
  },
);

function faultOf(error: z.ZodError): string {
  const [issue] = error.issues;
  if (issue?.path[0] === "limit") return "`limit` must be a whole number from 1 to 50.";
  return issue?.code === "too_big"
    ? `\`query\` is longer than ${QUERY_CHARACTERS_MAX} characters.`
    : "`query` is missing: pass what you are looking for, such as ?query=remove+the+background.";
}

search.openapi(
  createRoute({
    method: "get",
    path: "/v1/search/models",
    tags,
    summary: "Search public models, page by page",
    description: "The same as `QUERY /v1/models`, whose `next` points here.",
    security: bearer,
    middleware: allow("models:read"),
    request: { query: SearchModelsQuerySchema },
    responses: {
      200: { description: "A page of models, best first", headers: modeHeader, content: json(SearchedModelPageSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { query, cursor } = c.req.valid("query");
    return c.json(await pageOfModels(c, query, decodeCursor(cursor, OffsetCursor)?.offset ?? 0), 200);
  },
);

/** OpenAPI 3.1 knows no QUERY: openapi-document.ts adds {@link queryModelsOperation} as an extension. */
search.on(["QUERY"], ["/v1/models"], ...allow("models:read"), async (c) => {
  const query = queryOf(await c.req.text());
  const { offset } = decodeCursor(c.req.query("cursor"), OffsetCursor) ?? { offset: 0 };
  return c.json(await pageOfModels(c, query, offset), 200);
});

/** The text of a body: bare, or as the JSON string that Replicate's JavaScript client makes of it. */
function queryOf(body: string): string {
  const text = body.trim();
  const query = (isJsonString(text) ? (JSON.parse(text) as string) : text).trim();
  if (query === "")
    throw new AppError("request.malformed", "Send what you are looking for as the body, as plain text.");
  if (query.length > QUERY_CHARACTERS_MAX) {
    throw new AppError(
      "request.malformed",
      `The query is longer than ${QUERY_CHARACTERS_MAX} characters. Describe the task in a sentence.`,
    );
  }
  return query;
}

function isJsonString(text: string): boolean {
  if (!/^".*"$/s.test(text)) return false;
  try {
    return typeof JSON.parse(text) === "string";
  } catch {
    return false;
  }
}

async function pageOfModels(
  c: Context<AppEnv>,
  query: string,
  offset: number,
): Promise<z.infer<typeof SearchedModelPageSchema>> {
  const edge = edgeOf(c);
  const asked = { query, limit: MODELS_PER_PAGE, offset, scope: "models" as const };
  const found = await searchCatalog(edge, callerOf(c), asked, c.req.header("user-agent"));
  c.header(MODE_HEADER, found.mode);
  const url = (position: { offset: number } | null) =>
    pageUrl(edge.settings.publicUrl, "/v1/search/models", { query }, position);
  return {
    previous: url(offset === 0 ? null : { offset: Math.max(0, offset - MODELS_PER_PAGE) }),
    next: url(found.has_more ? { offset: offset + MODELS_PER_PAGE } : null),
    results: found.models.map(({ model }) => model),
    mode: found.mode,
  };
}

/** The operation of QUERY on /v1/models, for the document's `x-query`. */
export const queryModelsOperation = {
  tags,
  summary: "Search public models",
  description: "The body is what you are looking for, as plain text. The next pages come from `GET /v1/search/models`.",
  security: bearer,
  requestBody: {
    required: true,
    content: { "text/plain": { schema: { type: "string", maxLength: QUERY_CHARACTERS_MAX } } },
  },
  responses: {
    200: {
      description: "A page of models, best first",
      headers: { [MODE_HEADER]: { description: "as the member `mode`", schema: { type: "string" as const } } },
      content: { "application/json": { schema: { $ref: "#/components/schemas/SearchedModelPage" } } },
    },
  },
};
