/** Models, versions and hardware on the wire: Replicate's HTTP API. */
import { z } from "@hono/zod-openapi";
import { NAME_PATTERN } from "../ids.ts";
import { PACKAGE_KINDS } from "../packages.ts";
import { CURSOR_CHARACTERS_MAX, pageOf } from "./common.ts";
import { PredictionSchema } from "./predictions.ts";

/** What {@link NAME_PATTERN} asks for, in words. */
export const NAME_RULE = "must be 1 to 64 of a-z, 0-9, '-', '_', '.', with a letter or digit at both ends";

const share = z.number().nullable();
const milliseconds = z.number().nullable();
export const VersionHistorySchema = z
  .object({
    runs: z.number().int().describe("predictions that ended, ever"),
    success_share: share.describe("of recent ends, cancels left out"),
    platform_failure_share: share.describe("of recent ends, cancels left out: failures that are not the model's"),
    run_p50_ms: milliseconds.describe("of those that succeeded"),
    run_p99_ms: milliseconds,
    queue_p50_ms: milliseconds.describe("from creation to a slot"),
    queue_p99_ms: milliseconds,
    boot_p50_ms: milliseconds.describe("an instance's process, environment and image"),
    setup_p50_ms: milliseconds.describe("loading of the model"),
    cold_start_share: share.describe("of predictions that had a slot: those that waited for an instance to start"),
    last_success_at: z.string().nullable(),
  })
  .openapi("VersionHistory");

export const VersionHealthSchema = z
  .object({
    status: z
      .enum(["healthy", "unhealthy", "unknown"])
      .describe("unhealthy: its example failed three times in a row; one success ends that"),
    unhealthy_since: z.string().nullable(),
    failures_in_row: z.number().int(),
    last_success_at: z.string().nullable().describe("of the example; predictions are in `history`"),
    last_error: z.string().nullable().describe("of the newest run of the example that failed; null once one succeeded"),
    runs: z
      .array(
        z.object({
          outcome: z.enum(["succeeded", "failed", "skipped", "not_run"]),
          at: z.string(),
          duration_ms: milliseconds,
          detail: z.string().nullable().describe("what failed, or why nothing ran"),
        }),
      )
      .describe("the newest tries, newest first; skipped: no idle room, or the platform failed; not_run: no example"),
  })
  .openapi("VersionHealth");

export const VersionSchema = z
  .object({
    id: z.string(),
    created_at: z.string(),
    cog_version: z.string(),
    openapi_schema: z.record(z.string(), z.unknown()),
    kind: z
      .enum(PACKAGE_KINDS)
      .nullable()
      .describe("extra member: pushed as a source or as an image; null: neither, such as a training's"),
    build: z.string().nullable().describe("extra member: id of the build that made it"),
    history: VersionHistorySchema.nullable()
      .optional()
      .describe("extra member of a single version: how it ran lately, some ten seconds old; null before its first end"),
    health: VersionHealthSchema.nullable()
      .optional()
      .describe("extra member of a single version: what the daily runs of its example say; null: none is planned"),
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
    stable: z.boolean().describe("extra member: a push that breaks callers is refused unless it is forced"),
    github_url: z.string().nullable(),
    paper_url: z.string().nullable(),
    license_url: z.string().nullable(),
    weights_url: z.string().nullable().describe("extra member"),
    weights_license: z.string().nullable().describe("extra member"),
    pricing: z
      .object({ unit: z.string(), price_micros: z.number().int(), per: z.number().int() })
      .nullable()
      .describe("extra member: what `per` units of an official model's output cost, in millionths of a dollar"),
    run_count: z.number().int(),
    unhealthy_since: z
      .string()
      .nullable()
      .describe("extra member: since then the example of its latest version fails, three times in a row at least"),
    cover_image_url: z.string().nullable(),
    default_example: z.union([PredictionSchema, z.null()]),
    latest_version: z.union([VersionSchema, z.null()]),
    created_at: z.string(),
    state: z.enum(["preparing", "failed"]).optional().describe("extra member, while there is no version"),
    state_reason: z
      .string()
      .optional()
      .describe("extra member: why it has no version, or why its newest one was refused"),
  })
  .openapi("Model");
export const SetupLogsSchema = z
  .object({
    results: z.array(
      z.object({
        instance: z.string(),
        version: z.string(),
        state: z.enum(["boot", "setup", "ready", "draining", "stopped", "failed", "paused"]),
        reason: z.string().nullable().describe("why it starts again, or ended"),
        logs: z.string().nullable().describe("the last 16 KiB of its setup and of what it wrote outside predictions"),
        at: z.string(),
      }),
    ),
  })
  .openapi("SetupLogs");

export const ModelPageSchema = pageOf(ModelSchema, "ModelPage");

export const ListModelsQuery = z.object({
  cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional(),
  sort_by: z.enum(["model_created_at", "latest_version_created_at"]).default("latest_version_created_at"),
  sort_direction: z.enum(["asc", "desc"]).default("desc"),
  owner: z
    .string()
    .max(64)
    .optional()
    .describe("extra parameter: only models of this account, private ones that you may see among them"),
});
export const VersionParams = z.object({ owner: z.string(), name: z.string(), version_id: z.string() });
export const ExampleParams = z.object({ owner: z.string(), name: z.string(), prediction_id: z.string() });
export const ShareParams = z.object({ owner: z.string(), name: z.string(), username: z.string() });
export const HardwareListSchema = z.array(
  z.object({
    name: z.string(),
    sku: z.string(),
    price_micros: z
      .number()
      .int()
      .nullable()
      .describe(
        "extra member: micro-dollars a second, before discounts; null where the operator set no price: then it is free",
      ),
    price_usd: z.string().nullable().describe("extra member: the same in dollars, as text with six decimals"),
  }),
);

/** Long texts are for READMEs. */
const LINE_CHARACTERS_MAX = 255;
const DESCRIPTION_CHARACTERS_MAX = 10_000;
const README_CHARACTERS_MAX = 262_144;
const URL_CHARACTERS_MAX = 2_048;
const TAGS_MAX = 20;
const TAG_CHARACTERS_MAX = 50;

const line = (charactersMax: number) =>
  z
    .string()
    .trim()
    .min(1)
    .max(charactersMax)
    .regex(/^\P{Cc}*$/u, "must not have control characters");
const text = (charactersMax: number) =>
  z
    .string()
    .max(charactersMax)
    .regex(/^[\P{Cc}\n\r\t]*$/u, "must not have control characters");
const webUrl = z
  .string()
  .max(URL_CHARACTERS_MAX)
  .refine(isWebUrl, "must be an http or https URL without a name or password in it");

function isWebUrl(value: string): boolean {
  if (!URL.canParse(value) || /[\p{Cc}\s]/u.test(value)) return false;
  const { protocol, username, password } = new URL(value);
  return (protocol === "https:" || protocol === "http:") && username === "" && password === "";
}

const urls = { github_url: webUrl.nullable(), paper_url: webUrl.nullable(), license_url: webUrl.nullable() };
const description = text(DESCRIPTION_CHARACTERS_MAX).nullable();
const visibility = z.enum(["public", "private"]);

export const CreateModelSchema = z
  .strictObject({
    owner: z.string().min(1).max(64),
    name: z.string().regex(NAME_PATTERN, NAME_RULE),
    visibility,
    hardware: z.string().min(1).max(64).describe("a SKU of `GET /v1/hardware`"),
    description: description.optional(),
    ...z.object({ ...urls, cover_image_url: webUrl.nullable() }).partial().shape,
  })
  .openapi("ModelRequest");

/** Null takes a value away. */
export const UpdateModelSchema = z
  .strictObject({
    description,
    readme: text(README_CHARACTERS_MAX).nullable(),
    ...urls,
    weights_url: webUrl.nullable(),
    title: line(LINE_CHARACTERS_MAX).nullable().describe("extra member"),
    tags: z.array(line(TAG_CHARACTERS_MAX)).max(TAGS_MAX).describe("extra member"),
    visibility: visibility.describe("extra member"),
    cover_image_url: webUrl.nullable().describe("extra member"),
    latest_version: z
      .string()
      .regex(/^[0-9a-f]{64}$/, "must be the id of a version")
      .describe("extra member: the version that runs where none is named; any of the model's, so also an older one"),
    stable: z
      .boolean()
      .describe(
        "extra member: refuse pushes whose schema breaks callers of the latest version, unless they are forced",
      ),
  })
  .partial()
  .openapi("ModelUpdate");

export const AddExampleSchema = z.strictObject({ prediction_id: z.string().max(64) }).openapi("ExampleRequest");

export const ShareSchema = z
  .object({
    account: z.object({ type: z.enum(["user", "organization"]), username: z.string(), name: z.string() }),
    created_at: z.string(),
  })
  .openapi("Share");
export const SharePageSchema = pageOf(ShareSchema, "SharePage");
