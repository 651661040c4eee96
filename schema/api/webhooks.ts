/** Webhooks on the wire: keys, the log of deliveries, replays and tests. */
import { z } from "@hono/zod-openapi";
import { WEBHOOK_ERRORS, WEBHOOK_EVENTS } from "../webhooks.ts";
import { pageOf } from "./common.ts";

export const WebhookSecretSchema = z
  .object({ key: z.string().openapi({ example: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }) })
  .openapi("WebhookSecret");

export const RotatedWebhookSecretSchema = z
  .object({ key: z.string(), previous_valid_until: z.string().describe("until then the old key signs as well") })
  .openapi("RotatedWebhookSecret");

const error = z
  .enum(WEBHOOK_ERRORS)
  .nullable()
  .describe(
    "why it failed: no answer in time, no connection to a public address, a redirect, another status than 2xx, 410 Gone",
  );
const status = z.number().int().nullable().describe("HTTP status of the answer, null without one");

export const WebhookEventSchema = z
  .object({
    id: z.string().describe("the header webhook-id of all its attempts"),
    event: z.enum(WEBHOOK_EVENTS),
    state: z.enum(["pending", "delivered", "failed"]),
    created_at: z.string(),
    tried: z.number().int().describe("attempts of the schedule, without replays"),
    attempts: z
      .array(z.object({ at: z.string(), duration_ms: z.number(), status, error, is_replay: z.boolean() }))
      .describe("the newest 25"),
    next_attempt_at: z.string().nullable(),
  })
  .openapi("WebhookEvent");
export const WebhookEventPageSchema = pageOf(WebhookEventSchema, "WebhookEventPage");

const event = z.string().describe("an event's id, or the name of a kind for the newest of it");
export const PredictionEventParams = z.object({ prediction_id: z.string(), event });
export const TrainingEventParams = z.object({ training_id: z.string(), event });

/** A URL longer than this is refused. */
const URL_CHARACTERS_MAX = 2_048;

export const TestWebhookSchema = z
  .strictObject({ url: z.string().max(URL_CHARACTERS_MAX), event: z.enum(WEBHOOK_EVENTS).default("completed") })
  .openapi("WebhookTestRequest");
export const WebhookTestResultSchema = z
  .object({ id: z.string(), event: z.enum(WEBHOOK_EVENTS), status, duration_ms: z.number(), error })
  .openapi("WebhookTestResult");
