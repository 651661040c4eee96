/** Calls of the public API. Types are the wire's own (schema/api); nothing else of the server is known here. */
import type { z } from "zod";
import type { AccountSchema } from "../../../schema/api/account.ts";
import type { BatchSchema } from "../../../schema/api/batches.ts";
import type {
  BillingSchema,
  EstimateSchema,
  InvoicePageSchema,
  InvoiceSchema,
  UpdateBillingSchema,
  UsageSchema,
} from "../../../schema/api/billing.ts";
import type { BuildSchema, BuildSummarySchema, SchemaDiffSchema } from "../../../schema/api/builds.ts";
import type { CollectionSchema, CollectionWithModelsSchema } from "../../../schema/api/collections.ts";
import type { FileSchema } from "../../../schema/api/files.ts";
import type { ModelSchema, VersionSchema } from "../../../schema/api/models.ts";
import type { PredictionSchema } from "../../../schema/api/predictions.ts";
import type { SearchResultSchema } from "../../../schema/api/search.ts";
import type { StatusPageSchema } from "../../../schema/api/status.ts";
import type { WebhookEventSchema } from "../../../schema/api/webhooks.ts";
import type { WaitingFor } from "../../../schema/prediction-document.ts";
import type { ProblemDocument } from "../../../schema/problems.ts";

export type Account = z.infer<typeof AccountSchema>;
export type Model = z.infer<typeof ModelSchema>;
export type Version = z.infer<typeof VersionSchema>;
/** Of a training it has a `destination`, and no prediction has one. */
export type Prediction = z.infer<typeof PredictionSchema> & {
  waiting_for?: WaitingFor;
  destination?: string;
  webhook?: string;
};
export type Batch = z.infer<typeof BatchSchema>;
export type Build = z.infer<typeof BuildSchema>;
export type BuildSummary = z.infer<typeof BuildSummarySchema>;
export type SchemaDiff = z.infer<typeof SchemaDiffSchema>;
export type CollectionSummary = z.infer<typeof CollectionSchema>;
export type Collection = z.infer<typeof CollectionWithModelsSchema>;
export type SearchResult = z.infer<typeof SearchResultSchema>;
export type WebhookEvent = z.infer<typeof WebhookEventSchema>;
export type UploadedFile = z.infer<typeof FileSchema>;
export type Billing = z.infer<typeof BillingSchema>;
export type Usage = z.infer<typeof UsageSchema>;
export type Invoice = z.infer<typeof InvoiceSchema>;
export type InvoicePage = z.infer<typeof InvoicePageSchema>;
/** How one model does right now. */
export type ModelStatus = z.infer<typeof StatusPageSchema>["results"][number];
export type Estimate = z.infer<typeof EstimateSchema>;
export interface Page<T> {
  previous: string | null;
  next: string | null;
  results: T[];
}

/** A refusal by the server (its problem document), or `problem: null` when it could not be reached or did not answer as expected. */
export class ApiError extends Error {
  readonly status: number;
  readonly problem: ProblemDocument | null;
  constructor(status: number, problem: ProblemDocument | null, cause?: unknown) {
    super(problem?.detail ?? (status === 0 ? "The server could not be reached" : `The server answered ${status}`), {
      cause,
    });
    this.status = status;
    this.problem = problem;
  }
}

/**
 * A URL of the API as seen from this page: only path and query are kept. The server writes absolute URLs with its public name, and this page may have
 * been opened under another one (localhost for 127.0.0.1, a tunnel), to which calls would be cross-origin.
 */
export function ownOrigin(url: string): string {
  const parsed = new URL(url, location.origin);
  return parsed.pathname + parsed.search;
}

export interface Api {
  account(): Promise<Account>;
  /** Public ones. */
  models(next?: string): Promise<Page<Model>>;
  /** Those of one account, private ones that the caller may see among them. */
  modelsOf(owner: string): Promise<Page<Model>>;
  model(owner: string, name: string): Promise<Model>;
  readme(owner: string, name: string): Promise<string | null>;
  /** For those who may push to it. */
  updateModel(owner: string, name: string, change: { latest_version?: string; stable?: boolean }): Promise<Model>;
  versions(owner: string, name: string, next?: string): Promise<Page<Version>>;
  version(owner: string, name: string, id: string): Promise<Version>;
  /** What is different in its schema: against the version before it, or `from`. */
  versionDiff(owner: string, name: string, id: string, from?: string): Promise<SchemaDiff>;
  /** For the model's people and the operator, as all of its builds. */
  builds(owner: string, name: string, next?: string): Promise<Page<BuildSummary>>;
  build(owner: string, name: string, id: string, signal?: AbortSignal): Promise<Build>;
  cancelBuild(build: Build): Promise<Build>;
  buildLog(build: Build): Promise<Blob>;
  /** Opens its event stream; refusals are thrown. */
  openBuildEvents(build: Build, lastEventId: string | null, signal: AbortSignal): Promise<Response>;
  examples(owner: string, name: string): Promise<Page<Prediction>>;
  collections(): Promise<Page<CollectionSummary>>;
  collection(slug: string): Promise<Collection>;
  search(query: string): Promise<SearchResult>;
  createPrediction(model: Model, version: string | null, input: Record<string, unknown>): Promise<Prediction>;
  /** A prediction or training. */
  prediction(id: string, signal?: AbortSignal): Promise<Prediction>;
  predictions(next?: string): Promise<Page<Prediction>>;
  trainings(next?: string): Promise<Page<Prediction>>;
  cancel(prediction: Prediction): Promise<Prediction>;
  webhooks(prediction: Prediction): Promise<Page<WebhookEvent>>;
  replayWebhook(prediction: Prediction, event: string): Promise<WebhookEvent>;
  batches(next?: string): Promise<Page<Batch>>;
  batch(id: string): Promise<Batch>;
  cancelBatch(id: string): Promise<Batch>;
  /** JSONL, one line an input. */
  batchResults(id: string): Promise<Blob>;
  uploadFile(file: File): Promise<UploadedFile>;
  billing(): Promise<Billing>;
  updateBilling(change: z.infer<typeof UpdateBillingSchema>): Promise<Billing>;
  /** Days, such as `2026-11-25`, the last one included. */
  usage(query: { from: string; to: string; group_by: string }): Promise<Usage>;
  invoices(): Promise<InvoicePage>;
  invoice(month: string): Promise<Invoice>;
  invoiceCsv(month: string): Promise<Blob>;
  estimate(request: { model?: string; version?: string; input: Record<string, unknown> }): Promise<Estimate>;
  /** How the models do that the caller may see, by name. */
  status(next?: string): Promise<Page<ModelStatus>>;
  /** Opens an event stream. The URL itself grants access. */
  openStream(url: string, lastEventId: string | null, signal: AbortSignal): Promise<Response>;
}

/** `onUnauthenticated` is told of every 401, so that one place signs the reader out. */
export function createApi(token: string, onUnauthenticated: () => void): Api {
  async function call(path: string, init: RequestInit = {}): Promise<Response> {
    const headers = new Headers(init.headers);
    headers.set("authorization", `Bearer ${token}`);
    let response: Response;
    try {
      response = await fetch(path, { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      throw new ApiError(0, null, error);
    }
    if (response.ok) return response;
    if (response.status === 401) onUnauthenticated();
    throw new ApiError(response.status, await problemOf(response));
  }
  async function json<T>(path: string, init?: RequestInit): Promise<T> {
    const response = await call(path, init);
    return (await response.json()) as T;
  }
  const modelUrl = (owner: string, name: string) =>
    `/v1/models/${encodeURIComponent(owner)}/${encodeURIComponent(name)}`;
  const runUrl = (run: Prediction) =>
    `/v1/${isTraining(run) ? "trainings" : "predictions"}/${encodeURIComponent(run.id)}`;
  const batchUrl = (id: string) => `/v1/batches/${encodeURIComponent(id)}`;
  return {
    account: () => json("/v1/account"),
    models: (next) => json(next === undefined ? "/v1/models" : ownOrigin(next)),
    modelsOf: (owner) => json(`/v1/models?${new URLSearchParams({ owner })}`),
    model: (owner, name) => json(modelUrl(owner, name)),
    async readme(owner, name) {
      try {
        return await (await call(`${modelUrl(owner, name)}/readme`)).text();
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) return null;
        throw error;
      }
    },
    updateModel: (owner, name, change) =>
      json(modelUrl(owner, name), {
        method: "PATCH",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(change),
      }),
    versions: (owner, name, next) => json(next === undefined ? `${modelUrl(owner, name)}/versions` : ownOrigin(next)),
    version: (owner, name, id) => json(`${modelUrl(owner, name)}/versions/${encodeURIComponent(id)}`),
    versionDiff: (owner, name, id, from) =>
      json(
        `${modelUrl(owner, name)}/versions/${encodeURIComponent(id)}/diff${from === undefined ? "" : `?${new URLSearchParams({ from })}`}`,
      ),
    builds: (owner, name, next) => json(next === undefined ? `${modelUrl(owner, name)}/builds` : ownOrigin(next)),
    build: (owner, name, id, signal) =>
      json(`${modelUrl(owner, name)}/builds/${encodeURIComponent(id)}`, signal === undefined ? {} : { signal }),
    cancelBuild: (build) => json(ownOrigin(build.urls.cancel), { method: "POST" }),
    buildLog: async (build) => (await call(ownOrigin(build.urls.logs))).blob(),
    openBuildEvents: (build, lastEventId, signal) =>
      call(ownOrigin(build.urls.events), { headers: eventStreamHeaders(lastEventId), signal, cache: "no-store" }),
    examples: (owner, name) => json(`${modelUrl(owner, name)}/examples`),
    collections: () => json("/v1/collections"),
    collection: (slug) => json(`/v1/collections/${encodeURIComponent(slug)}`),
    search: (query) => json(`/v1/search?${new URLSearchParams({ query })}`),
    createPrediction: (model, version, input) =>
      json(version === null ? `${modelUrl(model.owner, model.name)}/predictions` : "/v1/predictions", {
        method: "POST",
        headers: { "content-type": "application/json", prefer: "respond-async" },
        body: JSON.stringify(version === null ? { input } : { version, input }),
      }),
    prediction: (id, signal) =>
      json(`/v1/predictions/${encodeURIComponent(id)}`, signal === undefined ? {} : { signal }),
    predictions: (next) => json(next === undefined ? "/v1/predictions" : ownOrigin(next)),
    trainings: (next) => json(next === undefined ? "/v1/trainings" : ownOrigin(next)),
    cancel: (prediction) => json(`${runUrl(prediction)}/cancel`, { method: "POST" }),
    webhooks: (prediction) => json(`${runUrl(prediction)}/webhooks`),
    replayWebhook: (prediction, event) =>
      json(`${runUrl(prediction)}/webhooks/${encodeURIComponent(event)}/replay`, { method: "POST" }),
    batches: (next) => json(next === undefined ? "/v1/batches" : ownOrigin(next)),
    batch: (id) => json(batchUrl(id)),
    cancelBatch: (id) => json(`${batchUrl(id)}/cancel`, { method: "POST" }),
    batchResults: async (id) => (await call(`${batchUrl(id)}/results`)).blob(),
    uploadFile(file) {
      const body = new FormData();
      body.append("content", file, file.name);
      return json("/v1/files", { method: "POST", body });
    },
    billing: () => json("/v1/account/billing"),
    updateBilling: (change) => json("/v1/account/billing", jsonBody("PATCH", change)),
    usage: (query) => json(`/v1/usage?${new URLSearchParams(query)}`),
    invoices: () => json("/v1/invoices"),
    invoice: (month) => json(`/v1/invoices/${encodeURIComponent(month)}`),
    invoiceCsv: async (month) => (await call(`/v1/invoices/${encodeURIComponent(month)}.csv`)).blob(),
    estimate: (request) => json("/v1/estimates", jsonBody("POST", request)),
    status: (next) => json(next === undefined ? "/v1/status" : ownOrigin(next)),
    openStream: (url, lastEventId, signal) =>
      fetch(ownOrigin(url), { headers: eventStreamHeaders(lastEventId), signal, cache: "no-store" }),
  };
}

function jsonBody(method: string, body: unknown): RequestInit {
  return { method, headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

function eventStreamHeaders(lastEventId: string | null): Record<string, string> {
  return { accept: "text/event-stream", ...(lastEventId === null ? {} : { "last-event-id": lastEventId }) };
}

async function problemOf(response: Response): Promise<ProblemDocument | null> {
  if (!/json/.test(response.headers.get("content-type") ?? "")) return null;
  try {
    const body: unknown = await response.json();
    return typeof body === "object" && body !== null && "detail" in body ? (body as ProblemDocument) : null;
  } catch {
    return null;
  }
}

const ENDED = new Set<Prediction["status"]>(["succeeded", "failed", "canceled", "aborted"]);
export const hasEnded = (prediction: Prediction) => ENDED.has(prediction.status);
export const isTraining = (prediction: Prediction) => prediction.destination !== undefined;
export const isBuildOver = (build: { completed_at: string | null }) => build.completed_at !== null;
export const isBatchOver = (batch: Batch) => batch.completed_at !== null;
