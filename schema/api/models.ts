/** Models, versions and hardware on the wire: Replicate's HTTP API. */
import { z } from "@hono/zod-openapi";
import { CURSOR_CHARACTERS_MAX, pageOf } from "./common.ts";
import { PredictionSchema } from "./predictions.ts";

export const VersionSchema = z
  .object({
    id: z.string(),
    created_at: z.string(),
    cog_version: z.string(),
    openapi_schema: z.record(z.string(), z.unknown()),
  })
  .openapi("Version");
export const VersionPageSchema = pageOf(VersionSchema, "VersionPage");

export const ModelSchema = z
  .object({
    url: z.string(),
    owner: z.string(),
    name: z.string(),
    title: z.string().nullable().describe("extra member"),
    description: z.string().nullable(),
    tags: z.array(z.string()).describe("extra member"),
    visibility: z.enum(["public", "private"]),
    is_official: z.boolean(),
    github_url: z.string().nullable(),
    paper_url: z.string().nullable(),
    license_url: z.string().nullable(),
    weights_license: z.string().nullable().describe("extra member"),
    run_count: z.number().int(),
    cover_image_url: z.string().nullable(),
    default_example: z.union([PredictionSchema, z.null()]),
    latest_version: z.union([VersionSchema, z.null()]),
    created_at: z.string(),
    state: z.enum(["preparing", "failed"]).optional().describe("extra member, while there is no version"),
    state_reason: z.string().optional().describe("extra member: why it has no version"),
  })
  .openapi("Model");
export const ModelPageSchema = pageOf(ModelSchema, "ModelPage");

export const ListModelsQuery = z.object({
  cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional(),
  sort_by: z.enum(["model_created_at", "latest_version_created_at"]).default("latest_version_created_at"),
  sort_direction: z.enum(["asc", "desc"]).default("desc"),
});
export const VersionParams = z.object({ owner: z.string(), name: z.string(), version_id: z.string() });
export const HardwareListSchema = z.array(z.object({ name: z.string(), sku: z.string() }));
