/** What record.ts keeps of a release beside its data folder. */
import { join } from "node:path";
import type { Prediction } from "../lib/api.ts";

/** data/, models/ and recorded.json */
export const STATE = join(import.meta.dirname, "state.tar.gz");
/** Copied into the archive, so that versions are found whatever becomes of the folders here. */
export const MODELS = ["noop", "tokens", "idempotent-tokens", "files"];
/** In every address of the recorded documents. */
export const PUBLIC_URL = "http://cogway.example";
export const OWNER = "keeper";
export const DEPLOYMENT = "steady";

export interface Recorded {
  commit: string;
  token: string;
  /** may read predictions alone */
  narrow_token: string;
  /** newest last; their data is kept for ever */
  ended: Prediction[];
  /** of the second that ended */
  stream: string[];
  /** of the third that ended */
  file: string;
  /** ran when everything was killed; of an idempotent version */
  running: Prediction;
  /** waited then */
  waiting: Prediction[];
}
