/** How a stored prediction is shown: Replicate's object, with URLs put in and internal members left out. Pure. */
import { outputPath, streamToken } from "./capabilities.ts";
import { type FileRef, FileRefSchema } from "./origin-protocol.ts";
import type { PredictionDocument } from "./prediction-document.ts";
import { isTerminal, publicStatus } from "./prediction-lifecycle.ts";
import { usd } from "./pricing.ts";

/** What a rendering needs beside the document. */
export interface View {
  /** base of all absolute URLs, without a slash at its end */
  publicUrl: string;
  signingSecret: string;
  /** 1.x clients do not know `aborted` and would poll for ever */
  abortedAsCanceled?: boolean;
  /** the answer of a create whose sync wait ran out: clients poll only while they see `starting` */
  asTimedOut?: boolean;
}

/** The view of this edge, before what one request adds to it. */
export function viewOf(env: { PUBLIC_URL: string; SIGNING_SECRET: string }): View {
  return { publicUrl: env.PUBLIC_URL.replace(/\/+$/, ""), signingSecret: env.SIGNING_SECRET };
}

/** `value` with every file in it, at any depth, replaced by its signed URL. */
export function renderOutput(value: unknown, predictionId: string, view: View): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map((item) => renderOutput(item, predictionId, view));
  const file = asFileRef(value);
  if (file !== null) return view.publicUrl + outputPath(view.signingSecret, predictionId, file.$cogway_file);
  return Object.fromEntries(
    Object.entries(value).map(([key, member]) => [key, renderOutput(member, predictionId, view)]),
  );
}

/** The file that `value` stands for; null for anything else. */
export function asFileRef(value: unknown): FileRef | null {
  if (typeof value !== "object" || value === null || !("$cogway_file" in value)) return null;
  const parsed = FileRefSchema.safeParse(value);
  return parsed.success ? parsed.data : null;
}

/** The wire's object. Extra members (`waiting_for`, `error_code`, `expires_at`) are ignored by Replicate's clients. */
export function renderPrediction(document: PredictionDocument, view: View): Record<string, unknown> {
  const { publicUrl, signingSecret } = view;
  const { id, state } = document;
  const status = publicStatus(state, document.started_at);
  const base = `${publicUrl}/v1/${document.kind}s/${id}`;
  const streams = document.stream_kind === "files" ? "files/streams" : "streams";
  return {
    id,
    model: document.model,
    version: document.version,
    input: document.input,
    logs: view.asTimedOut ? "" : document.logs,
    output: view.asTimedOut ? null : renderOutput(document.output, id, view),
    data_removed: document.data_removed,
    error: document.error,
    ...(document.error_code === null ? {} : { error_code: document.error_code }),
    source: document.source,
    status: view.asTimedOut ? "starting" : status === "aborted" && view.abortedAsCanceled ? "canceled" : status,
    created_at: time(document.created_at),
    started_at: view.asTimedOut ? null : time(document.started_at),
    completed_at: time(document.completed_at),
    ...(document.deadline_at === null ? {} : { deadline: time(document.deadline_at) }),
    ...(isTerminal(state) ? { expires_at: time(document.expires_at) } : {}),
    ...(document.destination == null ? {} : { destination: document.destination }),
    ...(document.deployment === null ? {} : { deployment: document.deployment }),
    ...(document.webhook === null ? {} : { webhook: document.webhook }),
    ...(document.webhook_events_filter === null ? {} : { webhook_events_filter: document.webhook_events_filter }),
    ...(document.trace_id == null ? {} : { trace_id: document.trace_id }),
    metrics: document.metrics,
    ...renderCost(document, view),
    ...(isTerminal(state) || document.waiting_for === undefined ? {} : { waiting_for: document.waiting_for }),
    urls: {
      get: base,
      cancel: `${base}/cancel`,
      web: `${publicUrl}/p/${id}`,
      ...(document.data_removed ? {} : { stream: `${publicUrl}/v1/${streams}/${streamToken(signingSecret, id)}` }),
    },
  };
}

/** Micro-dollars, and the same in dollars; null until the end. What ended before there were prices was free. */
function renderCost(
  { state, cost_micros }: PredictionDocument,
  view: View,
): { cost: number | null; cost_usd: string | null } {
  if (!isTerminal(state) || view.asTimedOut) return { cost: null, cost_usd: null };
  const cost = cost_micros ?? 0;
  return { cost, cost_usd: usd(cost) };
}

function time(epochMs: number): string;
function time(epochMs: number | null): string | null;
function time(epochMs: number | null): string | null {
  return epochMs === null ? null : new Date(epochMs).toISOString();
}
