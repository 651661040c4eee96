/** Search on the wire: Replicate's HTTP API, with extra members that say how it was found. */
import { z } from "@hono/zod-openapi";
import { CURSOR_CHARACTERS_MAX } from "./common.ts";
import { ModelPageSchema, ModelSchema } from "./models.ts";

/** A description of a task takes a few sentences; the embeddings model reads about so much. */
export const QUERY_CHARACTERS_MAX = 1_000;
const LIMIT_DEFAULT = 20;
const LIMIT_MAX = 50;

const query = z
  .string()
  .trim()
  .min(1)
  .max(QUERY_CHARACTERS_MAX)
  .describe("words, or what the model shall do in your own words");

export const SearchQuerySchema = z.object({
  query,
  limit: z.coerce.number().int().min(1).max(LIMIT_MAX).default(LIMIT_DEFAULT).describe("of each kind"),
});

export const SearchModelsQuerySchema = z.object({
  query,
  cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional(),
});

export const SearchModeSchema = z
  .enum(["hybrid", "text"])
  .describe("extra member: `text` when no instance of the embeddings model was ready, so that words alone decided");

export const SearchResultSchema = z
  .object({
    query: z.string(),
    models: z.array(
      z.object({
        model: ModelSchema,
        metadata: z.object({
          generated_description: z.string().nullable(),
          tags: z.array(z.string()),
          score: z.number().describe("higher is better; comparable within one answer"),
        }),
      }),
    ),
    collections: z.array(
      z.object({
        name: z.string(),
        slug: z.string(),
        description: z.string(),
        models: z.array(z.string()).nullable().describe("owner/name"),
      }),
    ),
    pages: z.array(z.object({ name: z.string(), href: z.string() })),
    mode: SearchModeSchema,
    is_complete: z.boolean().describe("extra member: false while the index, or its vectors, are being made"),
  })
  .openapi("SearchResult");

export const SearchErrorSchema = z.object({ detail: z.string() }).openapi("SearchError");

export const SearchedModelPageSchema = ModelPageSchema.extend({ mode: SearchModeSchema }).openapi("SearchedModelPage");
