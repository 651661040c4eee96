/** What the CanaryObject is asked, and what it asks of the Worker, which knows the catalog: plain data over native RPC, as in prediction-contract.ts. */
import type { CanaryState } from "../schema/canaries.ts";
import type { CreatePrediction } from "./prediction-contract.ts";

/** A version of a public model. */
export interface CanaryVersion {
  owner: string;
  name: string;
  version: string;
}

export interface CanaryApi {
  /** There is something to run on: an origin joined. Begins the daily round where it had not begun. */
  wake(): Promise<void>;
  /** These models (owner/name) were made, changed or deleted. */
  changed(models: string[]): Promise<void>;
  /** Null: no canary knows of it (yet). */
  health(version: CanaryVersion): Promise<CanaryState | null>;
}

/** A version as the catalog has it. */
export interface ListedVersion extends CanaryVersion {
  is_latest: boolean;
  /** of its model, as search and pages have it */
  unhealthy_since: number | null;
}

/** What a canary needs of a prediction's making; the object adds id and times. */
export type CanaryRun = Pick<
  CreatePrediction,
  "spec" | "shown_version" | "input" | "shown_input" | "stream_kind" | "log_lines"
>;

export type Prepared =
  | { kind: "run"; run: CanaryRun }
  /** `is_lasting`: until the example or the version changes; else it may be otherwise in an hour */
  | { kind: "not_run"; is_lasting: boolean; detail: string }
  /** deleted, or private by now */
  | { kind: "gone" };

/** The Worker's part (workers/canary-runs.ts). */
export interface CanaryRunsApi {
  /** Versions of public models by name, behind `after`. */
  page(after: CanaryVersion | null, limit: number): Promise<ListedVersion[]>;
  /** Versions of these models, as many as `page` gives; none of those that are private or gone. */
  versionsOf(models: string[], limit: number): Promise<ListedVersion[]>;
  prepare(version: CanaryVersion): Promise<Prepared>;
  /** What search and pages say of the model from now on, if this is its latest version. */
  mark(version: CanaryVersion, unhealthy_since: number | null): Promise<void>;
  /** Tells the owner by its alert webhook and page. Idempotent by model and `unhealthy_since`. */
  tellOwner(
    version: CanaryVersion,
    facts: { unhealthy_since: number; used_at: number; error: string | null },
  ): Promise<void>;
}
