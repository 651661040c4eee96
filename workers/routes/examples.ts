/** Examples of models: Replicate's list, and routes that change it. */
import { createRoute } from "@hono/zod-openapi";
import { accountStub, predictionStub } from "../../durable-objects/stubs.ts";
import { bearer, OwnerNameParams, problemResponses } from "../../schema/api/common.ts";
import { AddExampleSchema, ExampleParams } from "../../schema/api/models.ts";
import { PredictionPageSchema, PredictionSchema } from "../../schema/api/predictions.ts";
import { isPredictionId } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { AppError } from "../../schema/problems.ts";
import { catalogChanged } from "../domain/catalog-changed.ts";
import { requireModel, requireOwnModel } from "../domain/resolve-version.ts";
import { exampleOf } from "../domain/show-model.ts";
import { showPrediction } from "../domain/show-prediction.ts";
import { invalidInput } from "../domain/validate-input.ts";
import { edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import {
  deleteExample,
  EXAMPLE_CHARACTERS_MAX,
  EXAMPLES_PER_MODEL_MAX,
  insertExample,
  listExamples,
} from "../storage/examples.ts";
import { allow, json, newRouter } from "./router.ts";

export const examples = newRouter();
const tags = ["models"];

examples.openapi(
  createRoute({
    method: "get",
    path: "/v1/models/{owner}/{name}/examples",
    tags,
    summary: "List a model's examples",
    description: "The default one first, then the newest. All of them are on one page.",
    security: bearer,
    middleware: allow("models:read"),
    request: { params: OwnerNameParams },
    responses: {
      200: { description: "A page of predictions", content: json(PredictionPageSchema) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const { model } = await requireModel(edge, callerOf(c), owner, name);
    const [first, others] = await Promise.all([exampleOf(edge, model), listExamples(c.env.DB, model)]);
    const documents = [...(first === null ? [] : [first]), ...others.map(({ document }) => document)];
    const results = documents.map((document) =>
      showPrediction(edge, document, { userAgent: c.req.header("user-agent") }),
    );
    return c.json({ previous: null, next: null, results }, 200);
  },
);

examples.openapi(
  createRoute({
    method: "post",
    path: "/v1/models/{owner}/{name}/examples",
    tags,
    summary: "Add a prediction of yours to a model's examples",
    description:
      "For those who may change the model. Whoever sees the model sees the prediction from then on: its input, output and logs. Its data is kept for as long. The first example is the default one.",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: OwnerNameParams, body: { required: true, content: json(AddExampleSchema) } },
    responses: { 201: { description: "The example", content: json(PredictionSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name } = c.req.valid("param");
    const { prediction_id: id } = c.req.valid("json");
    await requireOwnModel(edge, callerOf(c), owner, name, "push");
    const { account_id } = callerOf(c);
    const found = isPredictionId(id, edge.settings.signingSecret)
      ? await predictionStub(c.env, id).get(id, account_id)
      : null;
    if (found === null || found.kind !== "prediction") {
      throw new AppError("prediction.not_found", `You have no prediction ${id}.`);
    }
    const fault = unfit(found, `${owner}/${name}`);
    const document = fault === null ? await predictionStub(c.env, id).keep(id, account_id) : null;
    if (document === null) {
      const description = fault ?? "was to keep no data";
      throw invalidInput([{ type: "format", field: "prediction_id", description }]);
    }
    await accountStub(c.env, account_id).dropDocument(id);
    if (!(await insertExample(c.env.DB, owner, name, asExample(document), Date.now()))) {
      const detail = `${owner}/${name} has ${EXAMPLES_PER_MODEL_MAX} examples, which is the limit. Delete one first.`;
      throw new AppError("account.limit_reached", detail);
    }
    catalogChanged(edge, [`${owner}/${name}`]);
    return c.json(showPrediction(edge, document, { userAgent: c.req.header("user-agent") }), 201);
  },
);

/** Why a prediction cannot be an example of this model; null when it can. */
function unfit(document: PredictionDocument, model: string): string | null {
  if (document.model !== model) return `is a prediction of ${document.model}, not of ${model}`;
  if (document.data_removed) return "has no data any more";
  if (document.state !== "succeeded") return "has not succeeded";
  if (JSON.stringify(document).length > EXAMPLE_CHARACTERS_MAX) {
    return `has more than ${EXAMPLE_CHARACTERS_MAX} characters of input, output and logs. Make one with files by URL`;
  }
  return null;
}

/** What is nobody else's business: whom it told, and what it ran on. */
function asExample(document: PredictionDocument): PredictionDocument {
  return { ...document, webhook: null, webhook_events_filter: null, deployment: null, expires_at: null };
}

examples.openapi(
  createRoute({
    method: "delete",
    path: "/v1/models/{owner}/{name}/examples/{prediction_id}",
    tags,
    summary: "Take a prediction out of a model's examples",
    description:
      "The prediction itself stays. Where it was the default example, the newest one that is left takes its place.",
    security: bearer,
    middleware: allow("models:write"),
    request: { params: ExampleParams },
    responses: { 204: { description: "It is no example any more" }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { owner, name, prediction_id } = c.req.valid("param");
    await requireOwnModel(edge, callerOf(c), owner, name, "push");
    if (!(await deleteExample(c.env.DB, owner, name, prediction_id))) {
      throw new AppError("prediction.not_found", `${owner}/${name} has no such example.`);
    }
    catalogChanged(edge, [`${owner}/${name}`]);
    return c.body(null, 204);
  },
);
