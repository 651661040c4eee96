/** Collections of models on the wire: Replicate's HTTP API, and the operator's routes that keep them. */
import { z } from "@hono/zod-openapi";
import { NAME_PATTERN } from "../ids.ts";
import { pageOf } from "./common.ts";
import { ModelSchema, NAME_RULE } from "./models.ts";

export const CollectionSchema = z
  .object({ name: z.string(), slug: z.string(), description: z.string() })
  .openapi("CollectionSummary");
export const CollectionPageSchema = pageOf(CollectionSchema, "CollectionPage");

export const CollectionWithModelsSchema = CollectionSchema.extend({
  full_description: z.string().nullable().describe("Markdown"),
  models: z.array(ModelSchema),
}).openapi("Collection");

export const CollectionParams = z.object({ slug: z.string().regex(NAME_PATTERN, NAME_RULE) });

/** One answer shows them all, with their schemas and examples. */
const COLLECTION_MODELS_MAX = 100;
const words = (charactersMax: number) =>
  z
    .string()
    .trim()
    .min(1)
    .max(charactersMax)
    .regex(/^[\P{Cc}\n\r\t]*$/u, "must not have control characters");

export const SaveCollectionSchema = z
  .strictObject({
    name: words(255),
    description: words(1_000),
    full_description: words(100_000).nullable().optional(),
    models: z
      .array(z.string().max(129).describe("owner/name"))
      .max(COLLECTION_MODELS_MAX)
      .refine((names) => new Set(names).size === names.length, "must not repeat itself"),
  })
  .openapi("CollectionRequest");

export const SavedCollectionSchema = CollectionSchema.extend({
  full_description: z.string().nullable(),
  models: z.array(z.string()).describe("owner/name"),
}).openapi("SavedCollection");
