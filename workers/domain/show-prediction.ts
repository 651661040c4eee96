/** A stored prediction as this edge shows it to one caller. */
import type { z } from "@hono/zod-openapi";
import type { PredictionSchema } from "../../schema/api/predictions.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { renderPrediction } from "../../schema/render-prediction.ts";
import type { Edge } from "../env.ts";

/** They know no status `aborted`: one polls for ever, the other raises. */
const CLIENTS_WITHOUT_ABORTED = /^replicate-(?:javascript|python)\/1\./;

export function showPrediction(
  edge: Edge,
  document: PredictionDocument,
  request: { userAgent?: string | undefined; asTimedOut?: boolean } = {},
): z.infer<typeof PredictionSchema> {
  const { publicUrl, signingSecret } = edge.settings;
  const shown = renderPrediction(document, {
    publicUrl,
    signingSecret,
    abortedAsCanceled: CLIENTS_WITHOUT_ABORTED.test(request.userAgent ?? ""),
    asTimedOut: request.asTimedOut ?? false,
  });
  // The renderer is untyped and the schema is its contract: a test parses what it makes.
  return shown as z.infer<typeof PredictionSchema>;
}
