/**
 * Keeps the weights of a training beyond its data: a copy under their digest, to which versions refer. R2 has no copy of its own, so the bytes stream
 * through the Worker that an origin calls before it tells the end of the training; the object of the training then finds them there.
 */
import type { FileRef } from "../schema/origin-protocol.ts";
import { type WeightsRef, weightsRef } from "../schema/weights.ts";
import { outputKey } from "./output-uploads.ts";

/** Below R2's bound of one put, 5 GiB less 5 MiB. */
export const WEIGHTS_BYTES_MAX = 5_000_000_000;

/** Idempotent. Null when there is no such file. */
export async function keepWeights(files: R2Bucket, predictionId: string, file: FileRef): Promise<WeightsRef | null> {
  const ref = weightsRef(file);
  if ((await files.head(ref.key))?.size === ref.size_bytes) return ref;
  const stored = await files.get(outputKey(predictionId, file.$cogway_file));
  if (stored === null || stored.size !== ref.size_bytes) return null;
  const { body } = stored;
  // R2 takes streams of known length only, and holds what comes to the digest.
  await files.put(ref.key, body.pipeThrough(new FixedLengthStream(ref.size_bytes)), { sha256: ref.sha256 });
  return ref;
}
