/** Predictions on the wire: Replicate's HTTP API. */
import { z } from "@hono/zod-openapi";
import { CURSOR_CHARACTERS_MAX, pageOf } from "./common.ts";

/** A webhook URL longer than this is refused. */
const WEBHOOK_URL_CHARACTERS_MAX = 2_048;

const common = {
  input: z.record(z.string(), z.unknown()).describe("the model's inputs, as its version's schema says"),
  webhook: z.string().max(WEBHOOK_URL_CHARACTERS_MAX).optional().describe("called with the prediction as it goes on"),
  webhook_events_filter: z.array(z.enum(["start", "output", "logs", "completed"])).optional(),
  stream: z.boolean().optional().describe("accepted for older clients; every prediction can be streamed"),
};

export const CreatePredictionSchema = z
  .strictObject({ version: z.string().describe("a version id, owner/name, or owner/name:version"), ...common })
  .openapi("PredictionRequest");
export const CreateModelPredictionSchema = z.strictObject(common).openapi("ModelPredictionRequest");

export const PredictionSchema = z
  .object({
    id: z.string(),
    model: z.string(),
    version: z.string(),
    input: z.record(z.string(), z.unknown()),
    output: z.unknown(),
    logs: z.string(),
    error: z.string().nullable(),
    status: z.enum(["starting", "processing", "succeeded", "failed", "canceled", "aborted"]),
    data_removed: z.boolean(),
    source: z.enum(["api", "web"]),
    created_at: z.string(),
    started_at: z.string().nullable(),
    completed_at: z.string().nullable(),
    expires_at: z.string().nullable().optional().describe("once it ended: when its data goes, null for never"),
    metrics: z.record(z.string(), z.unknown()),
    trace_id: z
      .string()
      .optional()
      .describe(
        "extra member: W3C trace id of the request that made it, also in logs, webhooks and the model's own spans",
      ),
    cost: z
      .number()
      .int()
      .nullable()
      .describe("extra member: what it costs, in micro-dollars (millionths of a dollar); null until it ended"),
    cost_usd: z.string().nullable().describe("extra member: the same in dollars, as text with six decimals"),
    urls: z.record(z.string(), z.string()).describe("get, cancel, web, and stream where the model streams"),
  })
  .catchall(z.unknown())
  .openapi("Prediction");
export const PredictionPageSchema = pageOf(PredictionSchema, "PredictionPage");

export const CreateHeadersSchema = z.object({
  prefer: z
    .string()
    .optional()
    .openapi({ example: "wait=30" })
    .describe("`wait`, `wait=n` (1 to 60 s) or `respond-async`"),
  "cancel-after": z.string().optional().openapi({ example: "1h30m" }).describe("5 s to 24 h; bare numbers are seconds"),
  "cogway-retention": z
    .string()
    .optional()
    .openapi({ example: "7d" })
    .describe(
      "how long the data is kept after the end: `0` until it was delivered, a duration up to `366d`, or `forever`",
    ),
  "cogway-max-cost": z
    .string()
    .optional()
    .openapi({ example: "0.05" })
    .describe(
      "dollars with at most six decimals: refused (402) where it is expected to cost more, and stopped when it has cost as much",
    ),
  "cogway-priority": z
    .string()
    .optional()
    .openapi({ example: "low" })
    .describe("`normal`, or `low`: it runs when nothing of normal priority waits for the same instances"),
  "idempotency-key": z.string().optional().describe("at most 255 characters, kept 24 h"),
});
export const PredictionParams = z.object({ prediction_id: z.string() });

export const CreateTrainingSchema = z
  .strictObject({
    destination: z.string().describe("owner/name of a model that exists and is yours: it gets the new version"),
    version: z
      .string()
      .optional()
      .describe("accepted, since the Go client sends it; the version in the path is trained"),
    ...common,
    input: common.input.describe("the inputs of the trainer, as `TrainingInput` of the version's schema says"),
  })
  .openapi("TrainingRequest");
export const TrainingSchema = PredictionSchema.extend({
  output: z.unknown().describe("once it succeeded: `version` (owner/name:id, the new one) and `weights` (a URL)"),
  destination: z.string().describe("owner/name of the model that gets the new version"),
}).openapi("Training");
export const TrainingPageSchema = pageOf(TrainingSchema, "TrainingPage");
export const TrainingParams = z.object({ training_id: z.string() });
/** A date or date-time of ISO 8601, as epoch milliseconds. */
const time = z
  .string()
  .regex(/^\d{4}-\d\d-\d\d(?:$|T)/, "must be an ISO 8601 date-time")
  .transform((text) => Date.parse(text))
  .refine((ms) => !Number.isNaN(ms), "must be an ISO 8601 date-time");

/** Objects per page, as Replicate has it. */
const PAGE_ROWS_MAX = 100;

export const ListPredictionsQuery = z.object({
  cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional(),
  limit: z.coerce.number().int().min(1).max(PAGE_ROWS_MAX).default(PAGE_ROWS_MAX).describe("objects per page"),
  created_after: time.optional().openapi({ type: "string", format: "date-time", description: "inclusive" }),
  created_before: time.optional().openapi({ type: "string", format: "date-time", description: "exclusive" }),
  source: z.literal("web").optional().describe("only those made on the web page, of the last 14 days"),
});
