/** Webhook secrets, the log of deliveries, replays and test-sends. */
import { createRoute, type z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { WebhookLog, WebhookLogEntry } from "../../durable-objects/prediction-contract.ts";
import { accountStub, predictionStub } from "../../durable-objects/stubs.ts";
import { bearer, problemResponses } from "../../schema/api/common.ts";
import { PredictionParams, TrainingParams } from "../../schema/api/predictions.ts";
import {
  PredictionEventParams,
  RotatedWebhookSecretSchema,
  TestWebhookSchema,
  TrainingEventParams,
  WebhookEventPageSchema,
  WebhookEventSchema,
  WebhookSecretSchema,
  WebhookTestResultSchema,
} from "../../schema/api/webhooks.ts";
import { isPredictionId } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import { userUrlFault } from "../../schema/public-url.ts";
import { sampleBody } from "../domain/sample-prediction.ts";
import { invalidInput } from "../domain/validate-input.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { allow, json, newRouter } from "./router.ts";

export const webhooks = newRouter();
const tags = ["webhooks"];
const logResponses = {
  200: {
    description: "Its events, oldest first: all of `start` and `completed`, the newest of the others",
    content: json(WebhookEventPageSchema),
  },
  ...problemResponses,
} as const;
const replayResponses = {
  200: { description: "The event, with the attempt that was made", content: json(WebhookEventSchema) },
  ...problemResponses,
} as const;
const replayDescription =
  "Sends the event again now: with the same `webhook-id`, a new timestamp and signature, and the object as it is now. At most 10 a minute.";

webhooks.openapi(
  createRoute({
    method: "get",
    path: "/v1/webhooks/default/secret",
    tags,
    summary: "Get the key that your webhooks are signed with",
    security: bearer,
    middleware: allow("webhooks:secret"),
    responses: { 200: { description: "The key", content: json(WebhookSecretSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { keys } = await accountStub(c.env, callerOf(c).account_id).webhookKeys();
    return c.json({ key: keys[0] ?? "" }, 200);
  },
);

webhooks.openapi(
  createRoute({
    method: "post",
    path: "/v1/webhooks/default/secret/rotate",
    tags,
    summary: "Make a new key for your webhooks",
    description: "For 24 hours both keys sign every webhook, so that receivers can change over.",
    security: bearer,
    middleware: allow("webhooks:secret"),
    responses: { 200: { description: "The new key", content: json(RotatedWebhookSecretSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { key, previous_valid_until } = await accountStub(c.env, callerOf(c).account_id).rotateWebhookKey();
    return c.json({ key, previous_valid_until: new Date(previous_valid_until).toISOString() }, 200);
  },
);

webhooks.openapi(
  createRoute({
    method: "post",
    path: "/v1/webhooks/test",
    tags,
    summary: "Call a receiver with a sample prediction",
    description:
      "Signed as a webhook is, with `test: true` in the body; answers what the receiver said. At most 10 a minute.",
    security: bearer,
    middleware: allow("predictions:write"),
    request: { body: { required: true, content: json(TestWebhookSchema) } },
    responses: { 200: { description: "What came of it", content: json(WebhookTestResultSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { url, event } = c.req.valid("json");
    const { settings, env } = edgeOf(c);
    const { account_id } = callerOf(c);
    const reason = userUrlFault(url, settings.allowPrivateCidrs);
    if (reason !== null) {
      throw invalidInput([{ type: "format", field: "url", description: `Does not match format 'uri': ${reason}` }]);
    }
    const body = sampleBody(settings, account_id, event, url, Date.now());
    const result = await accountStub(env, account_id).testWebhook({ url, event, body });
    if (result.kind === "limited") throw limited("Test calls", result.retry_after_ms);
    const { id, status, duration_ms, error } = result;
    return c.json({ id, event, status, duration_ms, error }, 200);
  },
);

webhooks.openapi(
  createRoute({
    method: "get",
    path: "/v1/predictions/{prediction_id}/webhooks",
    tags,
    summary: "List the webhook events of a prediction with their attempts",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { params: PredictionParams },
    responses: logResponses,
  }),
  async (c) => c.json(page(await requireLog(c, "prediction", c.req.valid("param").prediction_id)), 200),
);

webhooks.openapi(
  createRoute({
    method: "get",
    path: "/v1/trainings/{training_id}/webhooks",
    tags,
    summary: "List the webhook events of a training with their attempts",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { params: TrainingParams },
    responses: logResponses,
  }),
  async (c) => c.json(page(await requireLog(c, "training", c.req.valid("param").training_id)), 200),
);

webhooks.openapi(
  createRoute({
    method: "post",
    path: "/v1/predictions/{prediction_id}/webhooks/{event}/replay",
    tags,
    summary: "Send a webhook event of a prediction again",
    description: replayDescription,
    security: bearer,
    middleware: allow("predictions:write"),
    request: { params: PredictionEventParams },
    responses: replayResponses,
  }),
  async (c) => {
    const { prediction_id, event } = c.req.valid("param");
    return c.json(await replay(c, "prediction", prediction_id, event), 200);
  },
);

webhooks.openapi(
  createRoute({
    method: "post",
    path: "/v1/trainings/{training_id}/webhooks/{event}/replay",
    tags,
    summary: "Send a webhook event of a training again",
    description: replayDescription,
    security: bearer,
    middleware: allow("predictions:write"),
    request: { params: TrainingEventParams },
    responses: replayResponses,
  }),
  async (c) => {
    const { training_id, event } = c.req.valid("param");
    return c.json(await replay(c, "training", training_id, event), 200);
  },
);

type Kind = "prediction" | "training";

async function requireLog(c: Context<AppEnv>, kind: Kind, id: string): Promise<WebhookLog> {
  const { account_id, allowed_models } = callerOf(c);
  const log = isPredictionId(id, edgeOf(c).settings.signingSecret)
    ? await predictionStub(c.env, id).webhooks(id, account_id)
    : null;
  if (log?.kind === kind && (allowed_models === null || allowed_models.includes(log.model))) return log;
  throw new AppError(
    `${kind}.not_found`,
    `The ${kind} ${id.slice(0, 64)} does not exist, or its webhooks are forgotten: they are kept for a day after its data.`,
  );
}

async function replay(
  c: Context<AppEnv>,
  kind: Kind,
  id: string,
  event: string,
): Promise<z.infer<typeof WebhookEventSchema>> {
  await requireLog(c, kind, id);
  const result = await predictionStub(c.env, id).replayWebhook(id, callerOf(c).account_id, event);
  switch (result.kind) {
    case "sent":
      return show(result.event);
    case "limited":
      throw limited("Replays", result.retry_after_ms);
    case "unknown":
      throw new AppError(
        "webhook.not_found",
        `The ${kind} has no webhook event ${event.slice(0, 64)}: GET /v1/${kind}s/${id}/webhooks lists those it has.`,
      );
  }
}

function page({ events }: WebhookLog): z.infer<typeof WebhookEventPageSchema> {
  return { previous: null, next: null, results: events.map(show) };
}

function show(entry: WebhookLogEntry): z.infer<typeof WebhookEventSchema> {
  const { created_at, attempts, next_attempt_at } = entry;
  return {
    ...entry,
    created_at: time(created_at),
    attempts: attempts.map((attempt) => ({ ...attempt, at: time(attempt.at) })),
    next_attempt_at: next_attempt_at === null ? null : time(next_attempt_at),
  };
}

function time(epochMs: number): string {
  return new Date(epochMs).toISOString();
}

function limited(what: string, retryAfterMs: number): AppError {
  const retry_after = Math.ceil(retryAfterMs / 1_000);
  return new AppError("rate.limited", `${what} are limited to 10 a minute; try again in ${retry_after}s.`, {
    retry_after,
  });
}
