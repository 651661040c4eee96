/** How origins deliver the files that models made: whole, or in parts (schema/origin-protocol.ts). Bytes stream into R2; none is kept that was not signed. */
import { createHash } from "node:crypto";
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import {
  abortAttempt,
  beginUpload,
  completeUpload,
  outputKey,
  putPart,
  type UploadPlace,
} from "../../durable-objects/output-uploads.ts";
import { predictionStub } from "../../durable-objects/stubs.ts";
import { problems } from "../../schema/api/common.ts";

import { isPredictionId } from "../../schema/ids.ts";
import {
  FileRefSchema,
  OUTPUT_PART_BYTES,
  OutputBeginSchema,
  OutputCompleteSchema,
  OutputPartSchema,
} from "../../schema/origin-protocol.ts";
import { AppError } from "../../schema/problems.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { jsonBody } from "../middleware/json-body.ts";
import { claimedDigest, held, verifyOrigin, verifyOriginHeaders } from "../middleware/verify-origin.ts";
import { json, newRouter } from "./router.ts";

export const originOutputs = newRouter();
const tags = ["origins"];
const security = [{ originSignature: [] as string[] }];

/** All parts of the largest file. */
const COMPLETE_BODY_BYTES_MAX = 4_194_304;
const signed = [jsonBody(COMPLETE_BODY_BYTES_MAX), verifyOrigin];
const bytes = { required: true, content: { "*/*": { schema: { type: "string", format: "binary" } } } } as const;

const OutputParams = z.object({
  prediction_id: z.string(),
  attempt: z.coerce.number().int().min(1),
  n: z.coerce.number().int().min(0),
  // One plain segment: what is stored under a prediction's prefix stays there.
  name: z
    .string()
    .min(1)
    .max(255)
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
    .regex(/^(?!\.{1,2}$)[^/\\\u0000-\u001f\u007f]+$/),
});
const FILE_PATH = "/origin/v1/outputs/{prediction_id}/{attempt}/{n}/{name}";

originOutputs.openapi(
  createRoute({
    method: "put",
    path: FILE_PATH,
    tags,
    summary: "Deliver an output file of a live attempt",
    security,
    middleware: [verifyOriginHeaders],
    request: { params: OutputParams, body: bytes },
    responses: { 201: { description: "Stored", content: json(FileRefSchema) }, ...problems(404, 409) },
  }),
  async (c) => {
    const { prediction_id, n, name, ...place } = c.req.valid("param");
    const size_bytes = bodySize(c);
    if (!(await isLive(c, { prediction_id, ...place }))) throw fenced();
    const content_type = c.req.header("content-type") ?? "application/octet-stream";
    const sha256 = claimedDigest(c);
    const body = c.req.raw.body?.pipeThrough(new FixedLengthStream(size_bytes)) ?? new Uint8Array();
    const options = { sha256, httpMetadata: { contentType: content_type } };
    await held(c.env.FILES.put(outputKey(prediction_id, { n, name }), body, options));
    return c.json({ $cogway_file: { n, name, content_type, size_bytes, sha256 } }, 201);
  },
);

originOutputs.openapi(
  createRoute({
    method: "post",
    path: `${FILE_PATH}/parts`,
    tags,
    summary: "Begin an output file in parts",
    security,
    middleware: signed,
    request: { params: OutputParams, body: { required: true, content: json(OutputBeginSchema) } },
    responses: { 200: { description: "Begun", content: json(z.object({})) }, ...problems(404, 409) },
  }),
  async (c) => {
    const { name, ...place } = c.req.valid("param");
    await requireLive(c, place);
    await beginUpload(c.env.FILES, place, { n: place.n, name, ...c.req.valid("json") });
    return c.json({}, 200);
  },
);

originOutputs.openapi(
  createRoute({
    method: "put",
    path: `${FILE_PATH}/parts/{part}`,
    tags,
    summary: "Deliver a part of an output file",
    security,
    middleware: [verifyOriginHeaders],
    request: {
      params: OutputParams.extend({ part: z.coerce.number().pipe(OutputPartSchema.shape.part) }),
      body: bytes,
    },
    responses: { 200: { description: "Stored", content: json(OutputPartSchema) }, ...problems(404, 409) },
  }),
  async (c) => {
    const { name: _, part, ...place } = c.req.valid("param");
    const size = bodySize(c);
    const { body } = c.req.raw;
    if (body === null) throw new AppError("request.malformed", "A part has bytes.");
    await requireLive(c, place);
    const stored = await held(putPart(c.env.FILES, place, part, verified(body, size, claimedDigest(c))));
    if (stored === null) throw unknownUpload();
    return c.json(stored, 200);
  },
);

originOutputs.openapi(
  createRoute({
    method: "post",
    path: `${FILE_PATH}/complete`,
    tags,
    summary: "Put an output file together out of its parts",
    security,
    middleware: signed,
    request: { params: OutputParams, body: { required: true, content: json(OutputCompleteSchema) } },
    responses: { 201: { description: "Stored", content: json(FileRefSchema) }, ...problems(404, 409) },
  }),
  async (c) => {
    const { name: _, ...place } = c.req.valid("param");
    await requireLive(c, place);
    const stored = await completeUpload(c.env.FILES, place, c.req.valid("json").parts);
    if (stored === null) throw unknownUpload();
    return c.json(stored, 201);
  },
);

async function isLive(c: Context<AppEnv>, key: { prediction_id: string; attempt: number }): Promise<boolean> {
  if (!isPredictionId(key.prediction_id, edgeOf(c).settings.signingSecret)) return false;
  return (await predictionStub(c.env, key.prediction_id).leasesHeld([key]))[0] === true;
}

/** An attempt that is over finds its uploads ended. */
async function requireLive(c: Context<AppEnv>, place: UploadPlace): Promise<void> {
  if (await isLive(c, place)) return;
  await abortAttempt(c.env.FILES, place);
  throw fenced();
}

function bodySize(c: Context<AppEnv>): number {
  const size = Number(c.req.header("content-length") ?? Number.NaN);
  if (!Number.isSafeInteger(size)) throw new AppError("request.malformed", "Content-Length is needed.");
  if (size > OUTPUT_PART_BYTES) {
    throw new AppError("request.too_large", `Files of more than ${OUTPUT_PART_BYTES} bytes come in parts.`);
  }
  return size;
}

/** Passes a body on, but the last of it only when the whole is what was signed: R2 checks files, not parts, and never sees a wrong one complete. */
function verified(body: ReadableStream<Uint8Array>, size: number, sha256: string): ReadableStream {
  const hash = createHash("sha256");
  let last: Uint8Array | null = null;
  const check = new TransformStream<Uint8Array, Uint8Array>({
    transform(chunk, controller) {
      if (last !== null) controller.enqueue(last);
      hash.update(chunk);
      last = chunk;
    },
    flush(controller) {
      if (hash.digest("hex") !== sha256) throw new Error("the SHA-256 is another");
      if (last !== null) controller.enqueue(last);
    },
  });
  return body.pipeThrough(check).pipeThrough(new FixedLengthStream(size));
}

function fenced(): AppError {
  return new AppError("attempt.fenced", "No live attempt of this prediction has this number.");
}

function unknownUpload(): AppError {
  return new AppError("upload.unknown", "There is no such upload with these parts. Begin it again.");
}
