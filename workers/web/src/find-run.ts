/** Predictions, trainings and batches share their form of id: which of them an id names, its holder is not asked to know. */
import { type Api, ApiError, type Batch, type Prediction } from "./api.ts";

export type Run = { kind: "prediction"; prediction: Prediction } | { kind: "batch"; batch: Batch };

const isNotFound = (error: unknown) => error instanceof ApiError && error.status === 404;

/** `isBatchFirst`: where to look first, which saves a call. Fails as the lookup of a prediction does. */
export async function findRun(api: Pick<Api, "prediction" | "batch">, id: string, isBatchFirst: boolean): Promise<Run> {
  const batch = async (): Promise<Run> => ({ kind: "batch", batch: await api.batch(id) });
  const prediction = async (): Promise<Run> => ({ kind: "prediction", prediction: await api.prediction(id) });
  const [first, second] = isBatchFirst ? [batch, prediction] : [prediction, batch];
  try {
    return await first();
  } catch (error) {
    if (!isNotFound(error)) throw error;
    try {
      return await second();
    } catch (other) {
      throw isNotFound(other) && !isBatchFirst ? error : other;
    }
  }
}
