/** Weights that a training made, in R2. They are content-addressed and never change; versions refer to them. */
export interface WeightsRef {
  /** R2 key: `weights/<sha256>/<file name>` */
  key: string;
  sha256: string;
  size_bytes: number;
}
