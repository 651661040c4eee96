/** Builds of pushed sources, and what changed between two versions, on the wire. Cogway's own additions to Replicate's API. */
import { z } from "@hono/zod-openapi";
import { BUILD_STATUSES } from "../build-document.ts";
import { pageOf } from "./common.ts";

const line = (what: string) => z.array(z.string()).describe(what);

export const SchemaDiffSchema = z
  .object({
    breaking: line("what callers of the previous version must change; refused for stable models unless forced"),
    added: line("what is new and optional"),
    changed: line("what is otherwise different, such as defaults and descriptions"),
    previous_version: z.string().nullable().describe("the version that it is compared with"),
  })
  .openapi("SchemaDiff");

const summary = {
  id: z.string(),
  model: z.string().describe("owner/name"),
  manifest: z.string().describe("digest of the source's manifest in the registry"),
  status: z.enum(BUILD_STATUSES),
  version: z.string().nullable().describe("the version that it made, once it has succeeded"),
  error: z.string().nullable().describe("one message that says what to change, where it failed"),
  created_at: z.string(),
  completed_at: z.string().nullable(),
};

export const BuildSummarySchema = z.object(summary).openapi("BuildSummary");
export const BuildPageSchema = pageOf(BuildSummarySchema, "BuildPage");

export const BuildSchema = z
  .object({
    ...summary,
    stage: z.string().nullable().describe("fetch, resolve, environment, schema or image"),
    stages: z
      .array(z.object({ name: z.string(), started_at: z.string() }))
      .describe(
        "stages that it has begun, in their order: each ends as the next one begins, the last one with the build",
      ),
    waiting_for: z.string().nullable().describe("why it waits, while it does"),
    code: z.string().nullable().describe("stable name of a failure, such as `build.requirements`"),
    warnings: z.array(z.string()).describe("advice that did not stop it"),
    schema_diff: SchemaDiffSchema.nullable().describe(
      "against the version that was the latest; null for a first version",
    ),
    test_prediction: z.string().nullable().describe("id of the version's first prediction, from its example"),
    started_at: z.string().nullable(),
    urls: z.object({ get: z.string(), cancel: z.string(), logs: z.string(), events: z.string() }),
  })
  .openapi("Build");

export const CreateBuildSchema = z
  .strictObject({
    manifest: z
      .string()
      .regex(/^sha256:[0-9a-f]{64}$/, "must be the digest of a manifest, such as sha256:…")
      .describe("digest of a source manifest that the model's repository holds (`/v2/`)"),
    force: z.boolean().default(false).describe("make the version even where it breaks callers of a stable model"),
  })
  .openapi("BuildRequest");

export const BuildParams = z.object({ owner: z.string(), name: z.string(), build_id: z.string() });
