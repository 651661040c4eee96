/** Weights of fine-tunes, between origins and R2 (schema/origin-protocol.ts): kept at the end of a training, read by whoever runs the fine-tune. */
import { createRoute, z } from "@hono/zod-openapi";
import { predictionStub } from "../../durable-objects/stubs.ts";
import { keepWeights, WEIGHTS_BYTES_MAX } from "../../durable-objects/training-weights.ts";
import { problemResponses, problems } from "../../schema/api/common.ts";
import { isPredictionId } from "../../schema/ids.ts";
import { FileRefSchema } from "../../schema/origin-protocol.ts";
import { AppError } from "../../schema/problems.ts";
import { answerStored } from "../domain/stored-file.ts";
import { edgeOf } from "../env.ts";
import { jsonBody } from "../middleware/json-body.ts";
import { verifyOrigin } from "../middleware/verify-origin.ts";
import { json, newRouter, verbatim } from "./router.ts";

export const originWeights = newRouter();
const tags = ["origins"];
const security = [{ originSignature: [] as string[] }];
const FILE_REF_BYTES_MAX = 65_536;
const octets = { "application/octet-stream": { schema: { type: "string" as const, format: "binary" } } };
const signed = [jsonBody(FILE_REF_BYTES_MAX), verifyOrigin];

originWeights.openapi(
  createRoute({
    method: "post",
    path: "/origin/v1/weights/{prediction_id}/{attempt}",
    tags,
    summary: "Keep an output file of a live training as weights",
    security,
    middleware: signed,
    request: {
      params: z.object({ prediction_id: z.string(), attempt: z.coerce.number().int().min(1) }),
      body: { required: true, content: json(FileRefSchema) },
    },
    responses: { 200: { description: "Kept", content: json(z.object({ key: z.string() })) }, ...problems(404, 409) },
  }),
  async (c) => {
    const place = c.req.valid("param");
    const file = c.req.valid("json");
    const isLive =
      isPredictionId(place.prediction_id, edgeOf(c).settings.signingSecret) &&
      (await predictionStub(c.env, place.prediction_id).leasesHeld([place]))[0] === true;
    if (!isLive) throw new AppError("attempt.fenced", "No live attempt of this training has this number.");
    if (file.$cogway_file.size_bytes > WEIGHTS_BYTES_MAX) {
      throw new AppError("request.too_large", `Weights may have ${WEIGHTS_BYTES_MAX} bytes.`);
    }
    const kept = await keepWeights(c.env.FILES, place.prediction_id, file);
    if (kept === null) throw new AppError("output.not_found", "No such file of this training is stored.");
    return c.json({ key: kept.key }, 200);
  },
);

originWeights.openapi(
  createRoute({
    method: "get",
    path: "/origin/v1/weights/{sha256}/{name}",
    tags,
    summary: "Fetch weights of a fine-tune",
    description:
      "`Range` lets several parts of a large file be read at the same time, and a transfer that broke off be taken up.",
    security,
    middleware: signed,
    request: { params: z.object({ sha256: z.string().regex(/^[0-9a-f]{64}$/), name: z.string().regex(/^[\w.-]+$/) }) },
    responses: {
      200: { description: "The weights", content: octets },
      206: { description: "The asked range of them", content: octets },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { sha256, name } = c.req.valid("param");
    const key = `weights/${sha256}/${name}`;
    const head = await c.env.FILES.head(key);
    if (head === null) throw new AppError("output.not_found", "There are no such weights.");
    const content = {
      content_type: "application/octet-stream",
      size_bytes: head.size,
      etag: head.httpEtag,
      headers: {},
      name: null,
    };
    const answer = await answerStored(c.req.raw, content, async (range) => {
      const stored = await c.env.FILES.get(key, range.kind === "part" ? { range } : {});
      return stored?.body ?? null;
    });
    if (answer === null) throw new AppError("output.not_found", "There are no such weights.");
    return verbatim(answer);
  },
);
