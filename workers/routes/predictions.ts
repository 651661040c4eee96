/** Predictions: Replicate's HTTP API. */
import { createRoute, type z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { bearer, OwnerNameParams, problemResponses, problems } from "../../schema/api/common.ts";
import {
  CreateHeadersSchema,
  CreateModelPredictionSchema,
  CreatePredictionSchema,
  ListPredictionsQuery,
  PredictionPageSchema,
  PredictionParams,
  PredictionSchema,
} from "../../schema/api/predictions.ts";
import { type ModelReference, parseModelReference } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { AppError } from "../../schema/problems.ts";
import { rateLimitFields } from "../../schema/rate-limit.ts";
import {
  parseCancelAfter,
  parseMaxCost,
  parsePrefer,
  parsePriority,
  parseRetention,
} from "../domain/create-headers.ts";
import { createPrediction, type KeptResponse, keepAnswer } from "../domain/create-prediction.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { cancelPrediction, findPrediction } from "../domain/find-prediction.ts";
import { listPredictions, PredictionCursor } from "../domain/list-predictions.ts";
import { unknownVersion } from "../domain/resolve-version.ts";
import { showPrediction } from "../domain/show-prediction.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { CREATE_BODY_BYTES_MAX } from "../middleware/json-body.ts";
import type { ReleaseRow } from "../storage/deployments.ts";
import { answerOnce, type Idempotency } from "./answer-once.ts";
import { allow, json, newRouter, verbatim } from "./router.ts";

export const predictions = newRouter();
const tags = ["predictions"];
/** What every create route answers. */
export const created = {
  201: {
    description: "The prediction: ended, or as it is after the wait that `Prefer` asked for",
    headers: {
      location: { description: "its URL", schema: { type: "string" } },
      "preference-applied": { description: "what was honoured of `Prefer`", schema: { type: "string" } },
      "ratelimit-remaining": { description: "creates left right now", schema: { type: "integer" } },
      "ratelimit-reset": { description: "seconds until all are back", schema: { type: "integer" } },
    },
    content: json(PredictionSchema),
  },
  ...problems(402, 404, 409),
} as const;

predictions.openapi(
  createRoute({
    method: "post",
    path: "/v1/predictions",
    tags,
    summary: "Create a prediction",
    security: bearer,
    middleware: allow("predictions:write", CREATE_BODY_BYTES_MAX),
    request: { headers: CreateHeadersSchema, body: { required: true, content: json(CreatePredictionSchema) } },
    responses: created,
  }),
  async (c) => {
    const body = c.req.valid("json");
    const reference = parseModelReference(body.version);
    if (reference === null) throw unknownVersion();
    return verbatim(await create(c, reference, body));
  },
);

predictions.openapi(
  createRoute({
    method: "post",
    path: "/v1/models/{owner}/{name}/predictions",
    tags,
    summary: "Create a prediction with a model's latest version",
    security: bearer,
    middleware: allow("predictions:write", CREATE_BODY_BYTES_MAX),
    request: {
      params: OwnerNameParams,
      headers: CreateHeadersSchema,
      body: { required: true, content: json(CreateModelPredictionSchema) },
    },
    responses: created,
  }),
  async (c) => verbatim(await create(c, { kind: "model", ...c.req.valid("param") }, c.req.valid("json"))),
);

type CreateBody = z.infer<typeof CreateModelPredictionSchema>;

/** The answer of every create route. `release`: the deployment's, where it runs there. With a destination it is a training. */
export async function create(
  c: Context<AppEnv>,
  reference: ModelReference,
  body: CreateBody & { destination?: string },
  release?: ReleaseRow,
): Promise<Response> {
  return answerOnce(c, (idempotency) => answerCreate(c, reference, body, release, idempotency));
}

async function answerCreate(
  c: Context<AppEnv>,
  reference: ModelReference,
  body: CreateBody & { destination?: string },
  release: ReleaseRow | undefined,
  idempotency: Idempotency | null,
): Promise<KeptResponse> {
  const edge = edgeOf(c);
  const caller = callerOf(c);
  const prefer = parsePrefer(c.req.header("prefer"));
  const result = await createPrediction(edge, {
    caller,
    reference,
    ...(release === undefined ? {} : { release }),
    input: body.input,
    webhook: body.webhook ?? null,
    // Each at most once: a body may repeat them a million times.
    webhook_events_filter: body.webhook_events_filter === undefined ? null : [...new Set(body.webhook_events_filter)],
    source: isFromPage(c) ? "web" : "api",
    wait_ms: prefer.wait_ms,
    cancel_after_ms: parseCancelAfter(c.req.header("cancel-after")),
    retention_ms: parseRetention(c.req.header("cogway-retention"), edge.settings.retentionMs),
    max_cost_micros: parseMaxCost(c.req.header("cogway-max-cost")),
    priority: parsePriority(c.req.header("cogway-priority")),
    idempotency,
    ...(body.destination === undefined ? {} : { destination: body.destination }),
  });
  if (result.kind === "replayed") {
    if (result.document === null) return result.response;
    return { ...result.response, body: JSON.stringify(show(c, result.document)) };
  }
  c.set("predictionId", result.document.id);
  const asTimedOut = prefer.wait_ms > 0 && !result.settled;
  const answer: KeptResponse = {
    status: 201,
    headers: [
      ["location", `${edge.settings.publicUrl}/v1/${result.document.kind}s/${result.document.id}`],
      ...(prefer.applied === null ? [] : [["preference-applied", prefer.applied] satisfies [string, string]]),
    ],
    body: JSON.stringify(showPrediction(edge, result.document, { userAgent: c.req.header("user-agent"), asTimedOut })),
  };
  if (idempotency !== null) await keepAnswer(edge, caller, idempotency.key, answer);
  const limits = rateLimitFields("creates", {
    per_minute: caller.creates_per_minute,
    remaining: result.remaining,
    reset_s: result.reset_s,
  });
  return { ...answer, headers: [...answer.headers, ...limits] };
}

/** Browsers say so of requests that our own pages make, under whichever name they were opened. */
function isFromPage(c: Context<AppEnv>): boolean {
  return c.req.header("sec-fetch-site") === "same-origin";
}

function show(c: Context<AppEnv>, document: PredictionDocument) {
  return showPrediction(edgeOf(c), document, { userAgent: c.req.header("user-agent") });
}

predictions.openapi(
  createRoute({
    method: "get",
    path: "/v1/predictions/{prediction_id}",
    tags,
    summary: "Get a prediction",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { params: PredictionParams },
    responses: {
      200: { description: "The prediction as it is now", content: json(PredictionSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const id = c.req.valid("param").prediction_id;
    const document = await findPrediction(edgeOf(c), callerOf(c), id);
    if (document === null) throw notFound(id);
    return c.json(show(c, document), 200);
  },
);

predictions.openapi(
  createRoute({
    method: "post",
    path: "/v1/predictions/{prediction_id}/cancel",
    tags,
    summary: "Cancel a prediction",
    description: "Answers when the end is reached. Canceling one that ended changes nothing.",
    security: bearer,
    middleware: allow("predictions:write"),
    request: { params: PredictionParams },
    responses: { 200: { description: "The ended prediction", content: json(PredictionSchema) }, ...problemResponses },
  }),
  async (c) => {
    const id = c.req.valid("param").prediction_id;
    const document = await cancelPrediction(edgeOf(c), callerOf(c), id);
    if (document === null) throw notFound(id);
    return c.json(show(c, document), 200);
  },
);

predictions.openapi(
  createRoute({
    method: "get",
    path: "/v1/predictions",
    tags,
    summary: "List your predictions, newest first",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { query: ListPredictionsQuery },
    responses: {
      200: { description: "A page of predictions", content: json(PredictionPageSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const query = c.req.valid("query");
    const edge = edgeOf(c);
    const page = await listPredictions(edge, callerOf(c), {
      kind: "prediction",
      limit: query.limit,
      cursor: decodeCursor(query.cursor, PredictionCursor),
      created_after: query.created_after ?? null,
      created_before: query.created_before ?? null,
      source: query.source ?? null,
    });
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, "/v1/predictions", c.req.query(), position);
    return c.json(
      {
        previous: url(page.previous),
        next: url(page.next),
        results: page.documents.map((document) => show(c, document)),
      },
      200,
    );
  },
);

function notFound(id: string): AppError {
  return new AppError("prediction.not_found", `The prediction ${id.slice(0, 64)} does not exist.`);
}
