/** Trainings: Replicate's HTTP API. A training is a prediction of another kind: it runs a version's trainer, and ends as a version of another model. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { bearer, OwnerNameParams, problemResponses } from "../../schema/api/common.ts";
import {
  CreateHeadersSchema,
  CreateTrainingSchema,
  ListPredictionsQuery,
  TrainingPageSchema,
  TrainingParams,
  TrainingSchema,
} from "../../schema/api/predictions.ts";
import { parseModelReference } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { AppError } from "../../schema/problems.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { cancelPrediction, findPrediction } from "../domain/find-prediction.ts";
import { listPredictions, PredictionCursor } from "../domain/list-predictions.ts";
import { unknownVersion } from "../domain/resolve-version.ts";
import { showPrediction } from "../domain/show-prediction.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { CREATE_BODY_BYTES_MAX } from "../middleware/json-body.ts";
import { create, created } from "./predictions.ts";
import { allow, json, newRouter, verbatim } from "./router.ts";

export const trainings = newRouter();
const tags = ["trainings"];

trainings.openapi(
  createRoute({
    method: "post",
    path: "/v1/models/{owner}/{name}/versions/{version_id}/trainings",
    tags,
    summary: "Train a version, and push what comes of it to a model of yours",
    description:
      "Ends with a new version of the destination, which is as private as that model. The trainer runs once, on an instance of its own.",
    security: bearer,
    middleware: allow("predictions:write", CREATE_BODY_BYTES_MAX),
    request: {
      params: OwnerNameParams.extend({ version_id: z.string() }),
      headers: CreateHeadersSchema,
      body: { required: true, content: json(CreateTrainingSchema) },
    },
    responses: { ...created, 201: { ...created[201], description: "The training", content: json(TrainingSchema) } },
  }),
  async (c) => {
    const { owner, name, version_id } = c.req.valid("param");
    const reference = parseModelReference(`${owner}/${name}:${version_id}`);
    if (reference === null) throw unknownVersion();
    return verbatim(await create(c, reference, c.req.valid("json")));
  },
);

trainings.openapi(
  createRoute({
    method: "get",
    path: "/v1/trainings/{training_id}",
    tags,
    summary: "Get a training",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { params: TrainingParams },
    responses: {
      200: { description: "The training as it is now", content: json(TrainingSchema) },
      ...problemResponses,
    },
  }),
  async (c) => c.json(show(c, await requireTraining(c, c.req.valid("param").training_id)), 200),
);

trainings.openapi(
  createRoute({
    method: "post",
    path: "/v1/trainings/{training_id}/cancel",
    tags,
    summary: "Cancel a training",
    description: "Answers when the end is reached. Canceling one that ended changes nothing.",
    security: bearer,
    middleware: allow("predictions:write"),
    request: { params: TrainingParams },
    responses: { 200: { description: "The ended training", content: json(TrainingSchema) }, ...problemResponses },
  }),
  async (c) => {
    const training = await requireTraining(c, c.req.valid("param").training_id);
    const canceled = await cancelPrediction(edgeOf(c), callerOf(c), training.id);
    return c.json(show(c, canceled ?? training), 200);
  },
);

trainings.openapi(
  createRoute({
    method: "get",
    path: "/v1/trainings",
    tags,
    summary: "List your trainings, newest first",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { query: ListPredictionsQuery },
    responses: { 200: { description: "A page of trainings", content: json(TrainingPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const query = c.req.valid("query");
    const edge = edgeOf(c);
    const page = await listPredictions(edge, callerOf(c), {
      kind: "training",
      limit: query.limit,
      cursor: decodeCursor(query.cursor, PredictionCursor),
      created_after: query.created_after ?? null,
      created_before: query.created_before ?? null,
      source: query.source ?? null,
    });
    const url = (position: unknown) => pageUrl(edge.settings.publicUrl, "/v1/trainings", c.req.query(), position);
    const results = page.documents.map((document) => show(c, document));
    return c.json({ previous: url(page.previous), next: url(page.next), results }, 200);
  },
);

async function requireTraining(c: Context<AppEnv>, id: string): Promise<PredictionDocument> {
  const document = await findPrediction(edgeOf(c), callerOf(c), id);
  if (document?.kind === "training") return document;
  throw new AppError("training.not_found", `The training ${id.slice(0, 64)} does not exist.`);
}

function show(c: Context<AppEnv>, document: PredictionDocument): z.infer<typeof TrainingSchema> {
  const shown = showPrediction(edgeOf(c), document, { userAgent: c.req.header("user-agent") });
  return { ...shown, destination: document.destination ?? "" };
}
