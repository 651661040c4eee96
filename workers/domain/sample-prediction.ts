/** The prediction that a test of a webhook tells about: what the event would show, and that it is a test. Pure. */
import { newPredictionId } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { renderPrediction } from "../../schema/render-prediction.ts";
import type { WebhookEvent } from "../../schema/webhooks.ts";
import type { Settings } from "../env.ts";

export function sampleBody(
  { publicUrl, signingSecret, predictionPoolSize }: Settings,
  accountId: string,
  event: WebhookEvent,
  webhook: string,
  now: number,
): string {
  const isEnd = event === "completed";
  const document: PredictionDocument = {
    id: newPredictionId(signingSecret, predictionPoolSize),
    account_id: accountId,
    kind: "prediction",
    model: "cogway/test",
    version: "0".repeat(64),
    destination: null,
    state: isEnd ? "succeeded" : "processing",
    input: { text: "test" },
    output: event === "output" || isEnd ? "test" : null,
    error: null,
    error_code: null,
    logs: event === "logs" || isEnd ? "test\n" : "",
    metrics: isEnd ? { predict_time: 0.1, total_time: 0.2 } : {},
    created_at: now - 200,
    started_at: now - 100,
    completed_at: isEnd ? now : null,
    deadline_at: null,
    expires_at: isEnd ? now : null,
    data_removed: false,
    source: "api",
    deployment: null,
    webhook,
    webhook_events_filter: [event],
    stream_kind: "text",
    meter: null,
  };
  return JSON.stringify({ ...renderPrediction(document, { publicUrl, signingSecret }), test: true });
}
