/**
 * What is asked of a PredictionObject: plain data over native RPC. The classes implement these interfaces (each object's are in its own contract); callers
 * get them through stubs.ts. Expected outcomes are values. An exception over RPC is a broken invariant.
 * Warm path of a create: AccountObject.admit -> PredictionObject.create -> DeploymentObject.enqueue, one commit each, then one signed PUT to the origin.
 */
import type { AttemptAck, AttemptBatch } from "../schema/origin-protocol.ts";
import type { PackageRef } from "../schema/packages.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import type { Rates } from "../schema/pricing.ts";
import type { WebhookAttempt, WebhookEvent } from "../schema/webhooks.ts";
import type { WeightsRef } from "../schema/weights.ts";
import type { Lease, LeaseKey } from "./deployment-contract.ts";
import type { PredictionFigures } from "./prediction-counts.ts";

/** How to run a version; resolved by the Worker from the catalog and handed down, so no object reads D1. */
export interface RunSpec {
  /**
   * names the DeploymentObject: `version:<id>` for a public model on shared hardware, `version:<id>:<account id>` for a private one (no container life is
   * shared between accounts), either with `:<owner>/<name>` behind it where the package of an account is not the operator's, `deployment:<owner>/<name>` for a deployment of an account, `training:<prediction id>` for the one instance of a training
   */
  deployment_key: string;
  /** number of the deployment's release; 0 elsewhere. A DeploymentObject never goes back to an older one. */
  release: number;
  /** what origins have prepared: for a fine-tune the version that it was trained from */
  version_id: string;
  /** the version as callers know it, where its weights are loaded in setup: starts are counted for it. Absent: `version_id` */
  shown_version?: string;
  /** which function of the model the instance runs */
  mode: "predict" | "train";
  /** weights of a fine-tune that are loaded in setup; null for none, and where each prediction brings its own */
  weights: WeightsRef | null;
  /** weights of a fine-tune that go with each of its predictions (input `replicate_weights`), on the instances of its base */
  prediction_weights?: WeightsRef;
  /** owner/name */
  model: string;
  /** slots of one instance */
  slots: number;
  memory_bytes: number;
  hardware: string;
  /** safe to run again after the model started */
  idempotent: boolean;
  /** an output schema of the array kind: output events append */
  output_is_iterator: boolean;
  min_instances: number;
  /** 0 disables the deployment: nothing runs, and what runs or waits is canceled */
  max_instances: number;
  /** an instance with nothing to do lives this long */
  idle_ttl_ms: number;
  setup_timeout_ms: number;
  /** where origins that have not got the version take it from; absent for versions of the operator's folders */
  package?: PackageRef;
  /** false for models of others than the operator: only where models are kept apart. Absent is true. */
  is_trusted?: boolean;
  /** it asks for connections to public addresses, and its account may have them */
  egress?: boolean;
  /** devices of one instance; absent is none */
  gpus?: number;
  /**
   * Who pays for the whole life of its instances, setup and idle included, and what a second of one costs: deployments and private models. Absent on shared
   * hardware, where predictions pay for the time that they use.
   */
  online?: { account_id: string; deployment: string | null; rates: Rates };
}

export interface CreatePrediction {
  id: string;
  account_id: string;
  kind: "prediction" | "training";
  spec: RunSpec;
  /** the version as callers know it; differs from `spec.version_id` for fine-tunes */
  shown_version: string;
  /** of a training: owner/name of the model that gets the new version */
  destination: string | null;
  /** owner/name of the deployment it was created on */
  deployment: string | null;
  /** the batch that it is one input of */
  batch: { batch_id: string; index: number } | null;
  /** false for inputs of a batch and for what the platform asks of its own models: metered, and not in the account's list */
  is_listed: boolean;
  /** validated, defaults filled, nulls of optional members removed. Held in R2 by the caller when above 256 KiB: then `input_ref` is its R2 key, and it is sealed if it holds secrets. */
  input: Record<string, unknown> | null;
  input_ref: string | null;
  /** the same with secrets redacted, as shown; null when equal to `input` */
  shown_input: Record<string, unknown> | null;
  created_at: number;
  deadline_at: number | null;
  /** milliseconds after the end; null is forever */
  retention_ms: number | null;
  source: "api" | "web";
  webhook: string | null;
  webhook_events_filter: string[] | null;
  stream_kind: "text" | "files";
  /** lines for the prediction's own logs, such as names of input members that were dropped */
  log_lines: string[];
  /** hold the call until the end or this long, whichever is first; 0 answers at once */
  wait_ms: number;
  /** the prices of its creation. Absent: free */
  rates?: Rates;
  /** stopped when its cost reaches this (Cogway-Max-Cost, micro-dollars); null for none */
  max_cost_micros?: number | null;
  /** what its admission reserved; null where no cap is in force */
  reserved_micros?: number | null;
  /** id of the token that created it, for usage by token */
  token_id?: string | null;
  /** its account keeps nothing beyond delivery: when its data goes, so does what no webhook has taken */
  keeps_nothing?: boolean;
  /** W3C traceparent under which it runs */
  traceparent?: string | null;
  /** 0 before 1 (Cogway-Priority: low; inputs of batches); absent is 0 */
  priority?: 0 | 1;
  /** of its deployment, chosen by its PredictionObject for all its life; absent is 0 */
  lane?: number;
  /** the platform tries a version by it: no run in its model's statistics */
  is_canary?: true;
}

export interface PredictionApi {
  /** Idempotent by id. `settled`: whether the end was reached within wait_ms. */
  create(request: CreatePrediction): Promise<{ document: PredictionDocument; settled: boolean }>;
  /** null: no such prediction of this account. */
  get(id: string, accountId: string): Promise<PredictionDocument | null>;
  /** For pages of a list: documents in the order asked, null where gone. */
  getMany(ids: string[], accountId: string): Promise<(PredictionDocument | null)[]>;
  /** Answers when the end is reached (by force after 5 s, so within about 8 s). Terminal already: the unchanged document. */
  cancel(id: string, accountId: string): Promise<PredictionDocument | null>;
  /** Cancels what lives of these and removes all data at once, whatever was asked for (their account is deleted). Answers those that have not ended yet. Idempotent. */
  erase(ids: string[], accountId: string): Promise<string[]>;
  /** From now on its data is kept for ever, since something shows it. Null when it has not ended, has no data any more, or was asked to keep none. */
  keep(id: string, accountId: string): Promise<PredictionDocument | null>;
  /** From the origin, through the Worker. Resolves when stored. */
  applyEvents(batches: AttemptBatch[], originId: string): Promise<AttemptAck[]>;
  /**
   * The DeploymentObject found a slot for queued predictions. A grant that is no longer wanted is answered in `declined`, and its slot goes to the
   * next. Told at least once: a lease that the attempt holds already (or had in the answer of `enqueue`) is a repeat and never declined.
   */
  leasesGranted(grants: Lease[]): Promise<{ declined: LeaseKey[] }>;
  /** The DeploymentObject gives up on them (setup keeps failing, queue deadline): each fails with this reason. */
  leasesRefused(refusals: { prediction_id: string; code: string; detail: string }[]): Promise<void>;
  /** Of these leases, which are still held by a live attempt? The DeploymentObject asks about old ones. */
  leasesHeld(keys: LeaseKey[]): Promise<boolean[]>;
  /** The input of a live prediction, for the origin (inputs kept in R2 are streamed by the Worker from `input_ref`, where they may be sealed). */
  inputOf(
    id: string,
  ): Promise<{ input: Record<string, unknown> | null; input_ref: string | null; is_sealed: boolean } | null>;
  /** Its webhook events with their attempts, in order. null: no such prediction of this account. */
  webhooks(id: string, accountId: string): Promise<WebhookLog | null>;
  /** Sends an event again, and answers what came of it. `event`: its id, or the name of a kind for the newest of it. */
  replayWebhook(id: string, accountId: string, event: string): Promise<ReplayResult>;
  /** For metrics: sums since the object exists, and what goes on now. */
  figures(): Promise<PredictionFigures>;
  /** For metrics: what the time of an account's instances came to, in all. It only grows, so a repeat or an older sum changes nothing. */
  countOnline(accountId: string, micros: number): Promise<void>;
  /** SSE: the request is `https://prediction/stream/<id>` with the reader's Last-Event-ID; ends after `done`. 404 when unknown, 410 after removal. */
  fetch(request: Request): Promise<Response>;
}

/** One event that was told, or is still to be. */
export interface WebhookLogEntry {
  /** the header `webhook-id` of all its attempts */
  id: string;
  event: WebhookEvent;
  state: "pending" | "delivered" | "failed";
  created_at: number;
  /** attempts of the schedule, without replays */
  tried: number;
  /** the newest ones */
  attempts: WebhookAttempt[];
  next_attempt_at: number | null;
}

export interface WebhookLog {
  kind: "prediction" | "training";
  /** owner/name */
  model: string;
  events: WebhookLogEntry[];
}

export type ReplayResult =
  | { kind: "sent"; event: WebhookLogEntry }
  | { kind: "limited"; retry_after_ms: number }
  /** no such prediction of this account, or no such event of it */
  | { kind: "unknown" };
