/** Batches: one version over many inputs. Beyond Replicate's HTTP API. */
import { createRoute, type z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { resultsKey } from "../../durable-objects/batch-results.ts";
import { accountStub, batchStub } from "../../durable-objects/stubs.ts";
import {
  BatchHeadersSchema,
  BatchPageSchema,
  BatchParams,
  BatchSchema,
  CreateBatchSchema,
  ListBatchesQuery,
} from "../../schema/api/batches.ts";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import type { BatchDocument } from "../../schema/batches.ts";
import { isPredictionId, parseModelReference } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import { rateLimitFields } from "../../schema/rate-limit.ts";
import { createBatch } from "../domain/create-batch.ts";
import { parseRetention } from "../domain/create-headers.ts";
import { type KeptResponse, keepAnswer } from "../domain/create-prediction.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { fetchPublic } from "../domain/fetch-public.ts";
import { PredictionCursor, pageEnds } from "../domain/list-predictions.ts";
import { openOwnFile } from "../domain/own-files.ts";
import { unknownVersion } from "../domain/resolve-version.ts";
import { answerStored } from "../domain/stored-file.ts";
import { invalidInput } from "../domain/validate-input.ts";
import { type AppEnv, type Caller, type Edge, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { CREATE_BODY_BYTES_MAX } from "../middleware/json-body.ts";
import { answerOnce, type Idempotency } from "./answer-once.ts";
import { allow, json, newRouter, verbatim } from "./router.ts";

export const batches = newRouter();
const tags = ["batches"];
/** Objects per page; each is asked for its progress. */
const PAGE_ROWS = 20;
/** Results of a batch are kept this long unless it says otherwise: longer than a prediction's, since nobody waits beside a batch. */
const RETENTION_MS = 86_400_000;

batches.openapi(
  createRoute({
    method: "post",
    path: "/v1/batches",
    tags,
    summary: "Run one version over many inputs",
    description:
      'The inputs are JSONL: each line is an input object, or `{"input": {…}, "custom_id": "…"}`. They run behind everything else, count as one create, and each runs once. ' +
      "All lines are validated before any of them runs.",
    security: bearer,
    middleware: allow("predictions:write", CREATE_BODY_BYTES_MAX),
    request: { headers: BatchHeadersSchema, body: { required: true, content: json(CreateBatchSchema) } },
    responses: {
      201: {
        description: "The batch, which runs",
        headers: {
          location: { description: "the batch's URL", schema: { type: "string" } },
          "ratelimit-remaining": { description: "creates left right now", schema: { type: "integer" } },
          "ratelimit-reset": { description: "seconds until all are back", schema: { type: "integer" } },
        },
        content: json(BatchSchema),
      },
      ...problems(402),
    },
  }),
  async (c) => verbatim(await answerOnce(c, (idempotency) => answerCreate(c, c.req.valid("json"), idempotency))),
);

async function answerCreate(
  c: Context<AppEnv>,
  body: z.infer<typeof CreateBatchSchema>,
  idempotency: Idempotency | null,
): Promise<KeptResponse> {
  const edge = edgeOf(c);
  const caller = callerOf(c);
  const reference = parseModelReference(body.version);
  if (reference === null) throw unknownVersion();
  const { inputs } = body;
  if (caller.zero_retention) {
    const detail =
      "Your account keeps nothing beyond its delivery, and results of a batch wait to be fetched. Create predictions.";
    throw new AppError("auth.forbidden", detail);
  }
  const result = await createBatch(edge, {
    caller,
    reference,
    source:
      inputs === undefined
        ? { kind: "stream", open: () => openInputs(edge, caller, body) }
        : { kind: "inputs", inputs },
    max_concurrency: body.max_concurrency,
    retention_ms: parseRetention(c.req.header("cogway-retention"), RETENTION_MS),
    made_by: "api",
    idempotency,
  });
  if (result.kind === "replayed") {
    const { response, document } = result;
    return document === null ? response : { ...response, body: JSON.stringify(show(c, document)) };
  }
  const shown = show(c, result.document);
  const answer: KeptResponse = { status: 201, headers: [["location", shown.urls.get]], body: JSON.stringify(shown) };
  if (idempotency !== null) await keepAnswer(edge, caller, idempotency.key, answer);
  const { remaining, reset_s } = result;
  const limits = rateLimitFields("creates", { per_minute: caller.creates_per_minute, remaining, reset_s });
  return { ...answer, headers: [...answer.headers, ...limits] };
}

/** Inputs of a batch: a file of the caller's by id or address, or any public address. */
async function openInputs(
  edge: Edge,
  caller: Caller,
  { input_file, input_url = "" }: z.infer<typeof CreateBatchSchema>,
): Promise<ReadableStream<Uint8Array>> {
  if (input_file === undefined) {
    return (
      (await openOwnFile(edge, caller, input_url, "input_url")) ?? fetchPublic(edge.settings, input_url, "input_url")
    );
  }
  const url = input_file.includes("/") ? input_file : `${edge.settings.publicUrl}/v1/files/${input_file}`;
  const file = await openOwnFile(edge, caller, url, "input_file");
  if (file !== null) return file;
  const fault = {
    type: "format",
    field: "input_file",
    description: "must be the id or URL of a file that you uploaded",
  };
  throw invalidInput([fault]);
}

batches.openapi(
  createRoute({
    method: "get",
    path: "/v1/batches",
    tags,
    summary: "List your batches, newest first",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { query: ListBatchesQuery },
    responses: { 200: { description: "A page of batches", content: json(BatchPageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { settings } = edgeOf(c);
    const { account_id, allowed_models } = callerOf(c);
    const cursor = decodeCursor(c.req.valid("query").cursor, PredictionCursor);
    const { rows, more } = await accountStub(c.env, account_id).list({
      kind: "batch",
      limit: PAGE_ROWS,
      ...(cursor === null ? {} : { [cursor.side]: cursor }),
    });
    const found = await Promise.all(rows.map((row) => batchStub(c.env, row.prediction_id).get(account_id)));
    const ends = pageEnds(rows, more, cursor);
    const url = (position: unknown) => pageUrl(settings.publicUrl, "/v1/batches", c.req.query(), position);
    return c.json(
      {
        previous: url(ends.previous),
        next: url(ends.next),
        // A row without a batch is being loaded, or its inputs were refused. A token that is bound to models knows only batches of these.
        results: found.flatMap((document) =>
          document === null || allowed_models?.includes(document.model) === false ? [] : [show(c, document)],
        ),
      },
      200,
    );
  },
);

batches.openapi(
  createRoute({
    method: "get",
    path: "/v1/batches/{batch_id}",
    tags,
    summary: "Get a batch and its progress",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { params: BatchParams },
    responses: { 200: { description: "The batch as it is now", content: json(BatchSchema) }, ...problemResponses },
  }),
  async (c) => c.json(show(c, await requireBatch(c, c.req.valid("param").batch_id)), 200),
);

batches.openapi(
  createRoute({
    method: "post",
    path: "/v1/batches/{batch_id}/cancel",
    tags,
    summary: "Cancel a batch",
    description: "Inputs that wait end at once, running ones are canceled. What ended before keeps its result.",
    security: bearer,
    middleware: allow("predictions:write"),
    request: { params: BatchParams },
    responses: { 200: { description: "The batch", content: json(BatchSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { id } = await requireBatch(c, c.req.valid("param").batch_id);
    const document = await batchStub(c.env, id).cancel(callerOf(c).account_id);
    if (document === null) throw notFound(id);
    return c.json(show(c, document), 200);
  },
);

batches.openapi(
  createRoute({
    method: "get",
    path: "/v1/batches/{batch_id}/results",
    tags,
    summary: "Get the results of a batch that ended: JSONL, one line for each input, in their order",
    description: "`Range` takes up a download that broke off.",
    security: bearer,
    middleware: allow("predictions:read"),
    request: { params: BatchParams },
    responses: {
      200: { description: "Results (schema BatchResult, one a line)", content: { "application/x-ndjson": {} } },
      206: { description: "A part of them", content: { "application/x-ndjson": {} } },
      ...problems(409, 410, 416),
    },
  }),
  async (c) => {
    const document = await requireBatch(c, c.req.valid("param").batch_id);
    if (document.data_removed) throw resultsRemoved();
    if (document.completed_at === null) {
      throw new AppError("batch.unfinished", "The results are there when the batch has ended: see its counts.", {
        retry_after: RESULTS_RETRY_S,
      });
    }
    return verbatim(await sendResults(c, document.id));
  },
);

const RESULTS_TYPE = "application/x-ndjson";
/** A batch that still runs is asked again after this. */
const RESULTS_RETRY_S = 5;

async function sendResults(c: Context<AppEnv>, id: string): Promise<Response> {
  const key = resultsKey(id);
  const head = await c.env.FILES.head(key);
  if (head === null) throw resultsRemoved();
  const content = { content_type: RESULTS_TYPE, size_bytes: head.size, etag: head.httpEtag, headers: {}, name: null };
  const answer = await answerStored(c.req.raw, content, async (range) => {
    const object = await c.env.FILES.get(key, range.kind === "part" ? { range } : {});
    return object?.body ?? null;
  });
  if (answer === null) throw resultsRemoved();
  return answer;
}

function resultsRemoved(): AppError {
  return new AppError("output.not_found", "The results of this batch were removed.");
}

async function requireBatch(c: Context<AppEnv>, id: string): Promise<BatchDocument> {
  if (!isPredictionId(id, edgeOf(c).settings.signingSecret)) throw notFound(id);
  const { account_id, allowed_models } = callerOf(c);
  const document = await batchStub(c.env, id).get(account_id);
  if (document === null || allowed_models?.includes(document.model) === false) throw notFound(id);
  return document;
}

function notFound(id: string): AppError {
  return new AppError("batch.not_found", `The batch ${id.slice(0, 64)} does not exist.`);
}

function show(c: Context<AppEnv>, document: BatchDocument): z.infer<typeof BatchSchema> {
  const url = `${edgeOf(c).settings.publicUrl}/v1/batches/${document.id}`;
  const time = (ms: number | null): string | null => (ms === null ? null : new Date(ms).toISOString());
  const { state } = document;
  return {
    id: document.id,
    model: document.model,
    version: document.version,
    status: state === "loading" ? "processing" : state,
    max_concurrency: document.max_concurrency,
    counts: document.counts,
    created_at: new Date(document.created_at).toISOString(),
    started_at: time(document.started_at),
    completed_at: time(document.completed_at),
    expires_at: time(document.expires_at),
    data_removed: document.data_removed,
    urls: { get: url, cancel: `${url}/cancel`, results: `${url}/results` },
  };
}
