/**
 * One prediction or training of the caller's account, as far as its token reaches: a token that is bound to models knows only what ran on these.
 * Everything that starts from an id goes through here, so that no route forgets a check.
 */
import { accountStub, predictionStub } from "../../durable-objects/stubs.ts";
import { isPredictionId } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import type { Caller, Edge } from "../env.ts";

/** Whether a token's bound lets it know of this prediction. */
export function reaches(caller: Caller, document: PredictionDocument): boolean {
  return caller.allowed_models === null || caller.allowed_models.includes(document.model);
}

/** Null where there is none that the caller may know of. An id that is not one of ours is refused before any object is touched. */
export async function findPrediction(edge: Edge, caller: Caller, id: string): Promise<PredictionDocument | null> {
  if (!isPredictionId(id, edge.settings.signingSecret)) return null;
  const document =
    (await predictionStub(edge.env, id).get(id, caller.account_id)) ??
    // A day after its data is removed only the account's row is left of a prediction.
    (await accountStub(edge.env, caller.account_id).document(id));
  return document !== null && reaches(caller, document) ? document : null;
}

/** The ended prediction; null as with {@link findPrediction}. */
export async function cancelPrediction(edge: Edge, caller: Caller, id: string): Promise<PredictionDocument | null> {
  if (!isPredictionId(id, edge.settings.signingSecret)) return null;
  if (caller.allowed_models !== null && (await findPrediction(edge, caller, id)) === null) return null;
  return (
    (await predictionStub(edge.env, id).cancel(id, caller.account_id)) ??
    (await accountStub(edge.env, caller.account_id).document(id))
  );
}
