/** What a prediction's own spans are: the whole of it, and its wait for a slot. What runs it writes the rest (gpu-origin/prediction-spans.ts). */
import { parseTraceparent, predictionContext, type Span, spanIdOf } from "../schema/tracing.ts";
import type { PredictionRow } from "./prediction-store.ts";

/** From its creation to its end; null where nobody wants its spans. */
export function predictionSpan({ id, request, stage }: PredictionRow, now: number): Span | null {
  const parent = parseTraceparent(request.traceparent);
  if (parent?.sampled !== true) return null;
  const { life } = stage;
  const { span_id } = predictionContext(parent, id);
  return {
    trace_id: parent.trace_id,
    span_id,
    // In a trace of its own it is the first.
    parent_span_id: parent.span_id === span_id ? null : parent.span_id,
    name: request.kind,
    kind: "internal",
    start_ms: life.created_at,
    end_ms: life.completed_at ?? now,
    attributes: {
      "cogway.prediction.id": id,
      "cogway.model": request.spec.model,
      "cogway.version": request.shown_version,
      "cogway.status": life.state,
      "cogway.attempts": life.attempt,
      ...(request.deployment === null ? {} : { "cogway.deployment": request.deployment }),
      ...(life.error_code === null ? {} : { "error.type": life.error_code }),
    },
    // A model's own words may tell of its input.
    error: life.state === "failed" ? (life.error_code ?? "the model failed") : null,
  };
}

/** From `since`, when its attempt began to wait, to `now`, when its slot was there. */
export function queueSpan({ id, request, stage }: PredictionRow, since: number, now: number): Span | null {
  const parent = parseTraceparent(request.traceparent);
  if (parent?.sampled !== true) return null;
  const { attempt } = stage.life;
  return {
    trace_id: parent.trace_id,
    span_id: spanIdOf(`queue ${id} ${attempt}`),
    parent_span_id: predictionContext(parent, id).span_id,
    name: "queue",
    kind: "internal",
    start_ms: since,
    end_ms: now,
    attributes: { "cogway.prediction.id": id, "cogway.attempt": attempt },
    error: null,
  };
}
