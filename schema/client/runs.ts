/** Predictions, trainings and batches: made once however often a request is repeated, followed, and waited for. */
import type { z } from "zod";
import type { BatchResultSchema, BatchSchema, CreateBatchSchema } from "../api/batches.ts";
import type { CreatePredictionSchema, PredictionSchema, TrainingSchema } from "../api/predictions.ts";
import type { WebhookEventSchema } from "../api/webhooks.ts";
import { CogwayError } from "./error.ts";
import { followEvents, type PredictionEvent, readLines } from "./events.ts";
import { type CallOptions, type Http, sleep } from "./http.ts";
import { type WaitOptions, waitForEnd } from "./wait.ts";

export type Prediction = z.infer<typeof PredictionSchema>;
export type Training = z.infer<typeof TrainingSchema>;
export type Batch = z.infer<typeof BatchSchema>;
export type BatchResult = z.infer<typeof BatchResultSchema>;
export type WebhookEvent = z.infer<typeof WebhookEventSchema>;

/** What runs: one of these members says so. */
export type PredictionRequest = Omit<z.input<typeof CreatePredictionSchema>, "version"> &
  (
    | { version: string; model?: never; deployment?: never }
    | { model: string; version?: never; deployment?: never }
    | { deployment: string; version?: never; model?: never }
  );

export interface CreateOptions extends CallOptions {
  /** seconds to hold the request for the end, 60 at most; the answer may come before the end */
  wait?: number;
  /** how long the data is kept after the end: `0` until it was delivered, such as `12h` or `7d`, or `forever` */
  retention?: string;
  /** such as `90s`: ended if it takes longer */
  cancelAfter?: string;
  /** dollars, such as `0.05`: refused where it is expected to cost more, stopped when it has cost as much */
  maxCost?: string;
  /** one of your own, so that even a new process repeats and does not create; else each call has a new one */
  idempotencyKey?: string;
}

const ENDED = new Set(["succeeded", "failed", "canceled", "aborted"]);

export function predictions(http: Http) {
  const get = (id: string, options?: CallOptions) =>
    http.json<Prediction>("GET", `/v1/predictions/${encodeURIComponent(id)}`, options);
  const events = (prediction: Prediction, options: CallOptions = {}): AsyncGenerator<PredictionEvent> => {
    const url = prediction.urls["stream"];
    if (url === undefined) throw new CogwayError("client.unexpected", `${prediction.model} does not stream.`);
    return followEvents((headers, signal) => http.openAddress(url, headers, signal), options.signal);
  };
  const wait = (id: string, options: WaitOptions = {}) =>
    waitForEnd(
      (call) => get(id, call),
      ({ status }) => ENDED.has(status),
      options,
      async (prediction, call) => {
        if (prediction.urls["stream"] === undefined) return;
        for await (const { event } of events(prediction, call)) if (event === "done") return;
      },
    );
  const create = (request: PredictionRequest, options: CreateOptions = {}) => {
    const { model, deployment, ...body } = request;
    const path =
      model !== undefined
        ? `/v1/models/${named(model)}/predictions`
        : deployment !== undefined
          ? `/v1/deployments/${named(deployment)}/predictions`
          : "/v1/predictions";
    return http.json<Prediction>("POST", path, { ...createOptions(options), body });
  };
  return {
    create,
    get,
    cancel: (id: string, options?: CallOptions) =>
      http.json<Prediction>("POST", `/v1/predictions/${encodeURIComponent(id)}/cancel`, options),
    /** Its end, or `client.timeout`. */
    wait,
    /** Creates it and waits for its end, whichever that is: look at `status`. */
    run: async (request: PredictionRequest, options: CreateOptions & WaitOptions = {}) => {
      const made = await create(request, options);
      return ENDED.has(made.status) ? made : wait(made.id, options);
    },
    /** Output and logs as they come, from the start, resumed where a connection breaks. */
    events,
    ...webhookLog(http, "predictions"),
  };
}

export function trainings(http: Http) {
  const get = (id: string, options?: CallOptions) =>
    http.json<Training>("GET", `/v1/trainings/${encodeURIComponent(id)}`, options);
  return {
    get,
    /** Its end, or `client.timeout`. */
    wait: (id: string, options: WaitOptions = {}) =>
      waitForEnd(
        (call) => get(id, call),
        ({ status }) => ENDED.has(status),
        options,
      ),
    ...webhookLog(http, "trainings"),
  };
}

/** Breaks of one download of results that are mended. */
const RESULT_BREAKS_MAX = 5;
const RESULT_PAUSE_MS = 500;

export function batches(http: Http) {
  const path = (id: string) => `/v1/batches/${encodeURIComponent(id)}`;
  const get = (id: string, options?: CallOptions) => http.json<Batch>("GET", path(id), options);
  return {
    /** Not repeated when the connection breaks: look into the list before you create it again. */
    create: (request: z.input<typeof CreateBatchSchema>, options: CallOptions = {}) =>
      http.json<Batch>("POST", "/v1/batches", { ...options, body: request, extraMs: LOADING_MS }),
    list: (options?: CallOptions) => http.pages<Batch>("/v1/batches", options),
    get,
    cancel: (id: string, options?: CallOptions) => http.json<Batch>("POST", `${path(id)}/cancel`, options),
    /** Its end, or `client.timeout`. */
    wait: (id: string, options: WaitOptions = {}) =>
      waitForEnd(
        (call) => get(id, call),
        ({ completed_at }) => completed_at !== null,
        options,
      ),
    /** Each input's result, in the order of the inputs, resumed where a connection breaks. The batch must have ended. */
    results: (id: string, options: CallOptions = {}) => results(http, `${path(id)}/results`, options),
  };
}

/** All inputs of a batch are read and validated before it is answered. */
const LOADING_MS = 270_000;

async function* results(http: Http, path: string, options: CallOptions): AsyncGenerator<BatchResult> {
  const encoder = new TextEncoder();
  let offset = 0;
  for (let breaks = 0; ; breaks++) {
    const answer = await http.open(path, { ...options, headers: offset === 0 ? {} : { range: `bytes=${offset}-` } });
    const length = Number(answer.headers.get("content-length") ?? Number.NaN);
    const end = Number.isNaN(length) ? null : (answer.status === 206 ? offset : 0) + length;
    if (answer.body === null || end === 0) return;
    try {
      for await (const line of readLines(answer.body)) {
        offset += encoder.encode(line).byteLength + 1;
        breaks = 0;
        yield JSON.parse(line) as BatchResult;
      }
      if (end === null || offset >= end) return;
    } catch (error) {
      options.signal?.throwIfAborted();
      if (breaks >= RESULT_BREAKS_MAX) throw error;
    }
    if (breaks >= RESULT_BREAKS_MAX) throw new CogwayError("client.unreachable", "The results kept breaking off.");
    await sleep(RESULT_PAUSE_MS, options.signal);
  }
}

/** What was told to the webhook of a prediction or training, and how to tell it again. */
function webhookLog(http: Http, kind: "predictions" | "trainings") {
  const path = (id: string) => `/v1/${kind}/${encodeURIComponent(id)}/webhooks`;
  return {
    /** Each event with its attempts. */
    webhooks: (id: string, options?: CallOptions) => http.pages<WebhookEvent>(path(id), options),
    /** Sends an event again: by its id, or the newest of a kind such as `completed`. */
    replayWebhook: (id: string, event: string, options?: CallOptions) =>
      http.json<WebhookEvent>("POST", `${path(id)}/${encodeURIComponent(event)}/replay`, options),
  };
}

function createOptions({ wait, retention, cancelAfter, maxCost, idempotencyKey, signal }: CreateOptions) {
  const headers: Record<string, string> = { "idempotency-key": idempotencyKey ?? newKey() };
  if (wait !== undefined) headers["prefer"] = `wait=${wait}`;
  if (retention !== undefined) headers["cogway-retention"] = retention;
  if (cancelAfter !== undefined) headers["cancel-after"] = cancelAfter;
  if (maxCost !== undefined) headers["cogway-max-cost"] = maxCost;
  return { headers, extraMs: (wait ?? 0) * 1_000, ...(signal === undefined ? {} : { signal }) };
}

/** 128 random bits. `crypto.randomUUID` is missing in browsers on plain http. */
function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The path of an `owner/name`. */
export function named(reference: string): string {
  return reference.split("/").map(encodeURIComponent).join("/");
}
