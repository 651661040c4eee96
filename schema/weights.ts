/** Weights that trainings make: where they lie, and how they are found in what a trainer returns. Pure. */
import { type FileRef, FileRefSchema, type WeightsSource } from "./origin-protocol.ts";

/** Weights that a training made, in R2. They are content-addressed and never change; versions refer to them. */
export interface WeightsRef {
  /** R2 key: `weights/<sha256>/<file name>` */
  key: string;
  sha256: string;
  size_bytes: number;
}

/** The input through which a model takes weights with each prediction. A model that has none gets them in setup. */
export const WEIGHTS_INPUT = "replicate_weights";

/** The weights in what a trainer returned: a file, or the member `weights` of an object. Null when there are none. */
export function weightsOf(output: unknown): FileRef | null {
  const member = typeof output === "object" && output !== null && "weights" in output ? output.weights : output;
  return FileRefSchema.safeParse(member).data ?? null;
}

/** Where a file is kept as weights. Its name becomes one that needs no escaping in a path: only its extension means something to models. */
export function weightsRef({ $cogway_file: file }: FileRef): WeightsRef {
  const name = file.name.replaceAll(/[^\w.-]+/g, "-");
  return { key: `weights/${file.sha256}/${name}`, sha256: file.sha256, size_bytes: file.size_bytes };
}

export function weightsSource({ key, sha256, size_bytes }: WeightsRef): WeightsSource {
  return { path: `/origin/v1/${key}`, sha256, size_bytes };
}
