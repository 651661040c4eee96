/** What origins call, but for output files (origin-outputs.ts): schema/origin-protocol.ts. All of it is signed, but the first registration, which carries a join token. */
import { createRoute, z } from "@hono/zod-openapi";
import { forgetOrigins } from "../../durable-objects/origin-directory.ts";
import { canaryStub, fleetStub, predictionStub } from "../../durable-objects/stubs.ts";
import { problemResponses } from "../../schema/api/common.ts";
import { isPredictionId, NAME_PATTERN } from "../../schema/ids.ts";
import {
  EventBatchResultSchema,
  EventBatchSchema,
  HeartbeatResultSchema,
  HeartbeatSchema,
  ModelAnnounceSchema,
  type Register,
  RegisterResultSchema,
  RegisterSchema,
} from "../../schema/origin-protocol.ts";
import { AppError } from "../../schema/problems.ts";
import { unseal } from "../../schema/sealed.ts";
import { OPERATOR_USERNAME } from "../../schema/tables/operator-seed.ts";
import { announceModel } from "../domain/announce-model.ts";
import { deliverEvents } from "../domain/deliver-events.ts";
import { type Edge, edgeOf } from "../env.ts";
import { jsonBody } from "../middleware/json-body.ts";
import { isSigned, originOf, verifyOrigin, verifySignature } from "../middleware/verify-origin.ts";
import { saveHardware } from "../storage/models.ts";
import { hardwarePrice } from "../storage/prices.ts";
import { json, newRouter, verbatim } from "./router.ts";

export const origins = newRouter();
const tags = ["origins"];
const security = [{ originSignature: [] as string[] }];

/** A batch holds 1 MiB of events, or one event of up to 4 MiB; a model's README and schema are far smaller. */
const ORIGIN_BODY_BYTES_MAX = 16_777_216;
/** Outputs of models may nest as deep as they like: one that is refused would hold up all that come behind it. */
const ORIGIN_JSON_DEPTH_MAX = 100_000;
const boundedBody = jsonBody(ORIGIN_BODY_BYTES_MAX, ORIGIN_JSON_DEPTH_MAX);
const signed = [boundedBody, verifyOrigin];

origins.openapi(
  createRoute({
    method: "post",
    path: "/origin/v1/register",
    tags,
    summary: "Join with a one-time token, or come back",
    security,
    middleware: [boundedBody],
    request: { body: { required: true, content: json(RegisterSchema) } },
    responses: { 200: { description: "Known", content: json(RegisterResultSchema) }, ...problemResponses },
  }),
  async (c) => {
    const request = c.req.valid("json");
    const originId = isSigned(c) ? await verifySignature(c, await c.req.text()) : null;
    const answer = await fleetStub(c.env).register(request, originId, await pricesOf(edgeOf(c), request.hardware));
    if (!answer.ok) throw new AppError("origin.unauthenticated", answer.detail);
    forgetOrigins();
    await saveHardware(c.env.DB, request.hardware, Date.now());
    c.executionCtx.waitUntil(canaryStub(c.env).wake());
    return c.json(answer.result, 200);
  },
);

/** What a second of each costs, where the operator says so: the fleet takes the cheapest hardware that fits. As of now; later prices come with the next registration. */
async function pricesOf(edge: Edge, hardware: Register["hardware"]): Promise<Record<string, number>> {
  const priced = await Promise.all(
    hardware.map(async ({ sku }) => [sku, await hardwarePrice(edge.env.DB, sku, Date.now(), edge.later)] as const),
  );
  return Object.fromEntries(priced.flatMap(([sku, price]) => (price === null ? [] : [[sku, price.price_micros]])));
}

origins.openapi(
  createRoute({
    method: "post",
    path: "/origin/v1/heartbeat",
    tags,
    summary: "Report that the origin is alive, and what it runs",
    security,
    middleware: signed,
    request: { body: { required: true, content: json(HeartbeatSchema) } },
    responses: { 200: { description: "Heard", content: json(HeartbeatResultSchema) }, ...problemResponses },
  }),
  async (c) => c.json(await fleetStub(c.env).heartbeat(originOf(c), c.req.valid("json")), 200),
);

origins.openapi(
  createRoute({
    method: "post",
    path: "/origin/v1/events",
    tags,
    summary: "Deliver events of all attempts",
    security,
    middleware: signed,
    request: { body: { required: true, content: json(EventBatchSchema) } },
    responses: { 200: { description: "What was stored", content: json(EventBatchResultSchema) }, ...problemResponses },
  }),
  async (c) => c.json({ acks: await deliverEvents(edgeOf(c), c.req.valid("json"), originOf(c)) }, 200),
);

origins.openapi(
  createRoute({
    method: "put",
    path: "/origin/v1/models/{name}",
    tags,
    summary: "Announce a model of the operator",
    security,
    middleware: signed,
    request: {
      params: z.object({ name: z.string().regex(NAME_PATTERN) }),
      body: { required: true, content: json(ModelAnnounceSchema) },
    },
    responses: { 200: { description: "In the catalog", content: json(z.object({})) }, ...problemResponses },
  }),
  async (c) => {
    const { name } = c.req.valid("param");
    await announceModel(edgeOf(c), OPERATOR_USERNAME, name, c.req.valid("json"));
    return c.json({}, 200);
  },
);

origins.openapi(
  createRoute({
    method: "get",
    path: "/origin/v1/inputs/{prediction_id}",
    tags,
    summary: "Fetch the input of a live prediction",
    security,
    middleware: signed,
    request: { params: z.object({ prediction_id: z.string() }) },
    responses: {
      200: { description: "The input", content: json(z.record(z.string(), z.unknown())) },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { prediction_id } = c.req.valid("param");
    const gone = new AppError("prediction.not_found", "No live prediction has this id.");
    if (!isPredictionId(prediction_id, edgeOf(c).settings.signingSecret)) throw gone;
    const found = await predictionStub(c.env, prediction_id).inputOf(prediction_id);
    if (found?.input_ref == null) {
      if (found?.input == null) throw gone;
      return c.json(found.input, 200);
    }
    const stored = await c.env.FILES.get(found.input_ref);
    if (stored === null) throw gone;
    const body = found.is_sealed ? unseal(c.env.SIGNING_SECRET, await stored.text()) : stored.body;
    return verbatim(new Response(body, { headers: { "content-type": "application/json" } }));
  },
);
