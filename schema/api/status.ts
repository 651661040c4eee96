/** How models are doing right now, on the wire. */
import { z } from "@hono/zod-openapi";
import { CursorQuerySchema, pageOf } from "./common.ts";

const ModelStatusSchema = z
  .object({
    model: z.string(),
    version: z.string().nullable().describe("the latest; null where it has none yet"),
    state: z.enum(["ready", "preparing", "failed", "paused"]),
    reason: z.string().nullable().describe("why it does not run"),
    queue_length: z
      .number()
      .int()
      .describe("predictions that wait for a slot of the latest version, on shared hardware"),
    running: z.number().int().describe("those that have one"),
    instances: z.record(z.string(), z.number().int()).describe("by state"),
    wanted_instances: z.number().int(),
    last_error: z
      .object({ at: z.string(), state: z.string(), reason: z.string().nullable() })
      .nullable()
      .describe("how the newest instance that failed or stopped by itself ended"),
  })
  .openapi("ModelStatus");
export const StatusPageSchema = pageOf(ModelStatusSchema, "StatusPage");
export const StatusQuery = CursorQuerySchema;
