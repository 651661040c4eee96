/**
 * What is stored of a prediction, and how it becomes the wire's object. The stored document has no URLs of files and no secrets of the platform:
 * those are put in when it is shown, so a changed PUBLIC_URL never breaks an old row.
 */
import { z } from "zod";

/** Internal states; `publicStatus` (schema/prediction-lifecycle.ts) maps them to Replicate's. */
export const PREDICTION_STATES = [
  "queued",
  "starting",
  "processing",
  "canceling",
  "succeeded",
  "failed",
  "canceled",
  "aborted",
] as const;
export type PredictionState = (typeof PREDICTION_STATES)[number];

export const TerminalPredictionStates = [
  "succeeded",
  "failed",
  "canceled",
  "aborted",
] as const satisfies PredictionState[];

/** Measured once for each terminal prediction: the later ledger's raw material. */
export const MeterSchema = z.object({
  hardware: z.string(),
  /** seconds of model time that were used, from coglet's own measure; 0 when it never started */
  predict_time_s: z.number().min(0),
  outcome: z.enum(["succeeded", "failed", "canceled", "aborted"]),
  /** a failure of the platform, never the caller's or the model's to pay */
  platform_failure: z.boolean(),
  /** what was made or read beyond time, whole units by name (schema/pricing.ts): images, tokens, seconds of video */
  units: z.record(z.string(), z.number().int().min(0)).optional(),
});
export type Meter = z.infer<typeof MeterSchema>;

/**
 * A prediction as stored and as passed between objects and Workers. JSON only. Times are epoch milliseconds.
 * `output` may hold FileRef objects (schema/origin-protocol.ts) at any depth. Input values of `x-cog-secret` members are already redacted.
 */
export interface PredictionDocument {
  id: string;
  account_id: string;
  kind: "prediction" | "training";
  /** `owner/name` */
  model: string;
  version: string;
  /** of a training: owner/name of the model that gets the new version */
  destination: string | null;
  state: PredictionState;
  input: Record<string, unknown>;
  output: unknown;
  error: string | null;
  /** code of a failure that is the platform's, such as `origin.lost` */
  error_code: string | null;
  logs: string;
  metrics: Record<string, unknown>;
  created_at: number;
  started_at: number | null;
  completed_at: number | null;
  /** Cancel-After */
  deadline_at: number | null;
  /** when the data goes, known once terminal; null with retention `forever` */
  expires_at: number | null;
  data_removed: boolean;
  source: "api" | "web";
  deployment: string | null;
  webhook: string | null;
  webhook_events_filter: string[] | null;
  /** `files`: the output is a file or an iterator of files, so the stream URL starts with /v1/files/ */
  stream_kind: "text" | "files";
  meter: Meter | null;
  /** micro-dollars; known once terminal. Absent in rows of earlier releases */
  cost_micros?: number | null;
  /** W3C trace id (32 hex characters) that the request, the log, the webhooks and the model's spans share. Absent in rows of earlier releases */
  trace_id?: string | null;
  /** why it waits, while it does; filled in for a read, never stored */
  waiting_for?: WaitingFor;
}

/** Why a prediction has not started yet. Extra members of the public object, which clients ignore. */
export interface WaitingFor {
  reason: "capacity" | "boot" | "setup" | "rate" | "slot";
  /** 1 is next */
  queue_position: number | null;
  elapsed_ms: number;
  /** a guess from this version's own history; null when there is none */
  estimate_ms: number | null;
  /** class of the last boot or setup failure, where one repeats */
  last_error?: string;
  /** what the platform knows beyond that: how far a boot is, that a model starts again and again, what no host has */
  detail?: string;
}
