/** Batches on the wire. Beyond Replicate's HTTP API. */
import { z } from "@hono/zod-openapi";
import { BATCH_CONCURRENCY_DEFAULT, BATCH_CONCURRENCY_MAX } from "../batches.ts";
import { CURSOR_CHARACTERS_MAX, pageOf } from "./common.ts";
import { CreateHeadersSchema } from "./predictions.ts";

/** Inputs that the body itself may carry; more come as a file. */
const INLINE_INPUTS_MAX = 1_000;
const URL_CHARACTERS_MAX = 2_048;
/** A data URI of about 8 MiB of JSONL; more comes as a file. */
const DATA_URI_CHARACTERS_MAX = 12_000_000;

export const CreateBatchSchema = z
  .strictObject({
    version: z.string().describe("a version id, owner/name, or owner/name:version"),
    input_file: z
      .string()
      .max(URL_CHARACTERS_MAX)
      .optional()
      .describe("id or URL of a file that you uploaded: JSONL, one input a line"),
    input_url: z.string().max(DATA_URI_CHARACTERS_MAX).optional().describe("an http(s) URL or data URI of such a file"),
    inputs: z.array(z.record(z.string(), z.unknown())).min(1).max(INLINE_INPUTS_MAX).optional().describe("the lines"),
    max_concurrency: z
      .number()
      .int()
      .min(1)
      .max(BATCH_CONCURRENCY_MAX)
      .default(BATCH_CONCURRENCY_DEFAULT)
      .describe("inputs that run or wait in the queue at once"),
  })
  .refine(
    (body) => [body.input_file, body.input_url, body.inputs].filter((source) => source !== undefined).length === 1,
    "give exactly one of input_file, input_url and inputs",
  )
  .openapi("BatchRequest");

/** As for predictions; a batch is read whole before it answers, so there is nothing to wait for. */
export const BatchHeadersSchema = CreateHeadersSchema.pick({ "idempotency-key": true, "cogway-retention": true });

export const BatchSchema = z
  .object({
    id: z.string(),
    model: z.string(),
    version: z.string(),
    status: z.enum(["processing", "canceling", "succeeded", "canceled"]),
    max_concurrency: z.number().int(),
    counts: z
      .object({
        total: z.number().int(),
        pending: z.number().int(),
        running: z.number().int(),
        succeeded: z.number().int(),
        failed: z.number().int(),
        canceled: z.number().int(),
      })
      .describe("how many inputs are in which state: the progress"),
    created_at: z.string(),
    started_at: z.string().nullable(),
    completed_at: z.string().nullable(),
    expires_at: z.string().nullable().describe("when its results are removed, known once it ended"),
    data_removed: z.boolean(),
    urls: z.object({ get: z.string(), cancel: z.string(), results: z.string() }),
  })
  .openapi("Batch");
export const BatchPageSchema = pageOf(BatchSchema, "BatchPage");
export const BatchParams = z.object({ batch_id: z.string() });
export const ListBatchesQuery = z.object({ cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional() });

/** One line of the results. */
export const BatchResultSchema = z
  .object({
    index: z.number().int().describe("the input's line, from 0"),
    custom_id: z.string().nullable(),
    prediction_id: z.string().nullable().describe("null when it never started"),
    status: z.enum(["succeeded", "failed", "canceled", "aborted"]),
    output: z.unknown(),
    error: z.string().nullable(),
    metrics: z.record(z.string(), z.unknown()),
  })
  .openapi("BatchResult");
