/**
 * What the objects say to each other and to the Worker: plain data over native RPC. The classes implement these interfaces; callers get them through stubs.ts.
 * Warm path of a create: AccountObject.admit -> PredictionObject.create -> DeploymentObject.enqueue, one commit each, then one signed PUT to the origin.
 * Expected outcomes are values. An exception over RPC is a broken invariant.
 */
import type {
  AttemptAck,
  AttemptBatch,
  Heartbeat,
  InstanceStatus,
  Register,
  RegisterResult,
} from "../schema/origin-protocol.ts";
import type { Meter, PredictionDocument, WaitingFor } from "../schema/prediction-document.ts";
import type { WeightsRef } from "../schema/weights.ts";

/** How to run a version; resolved by the Worker from the catalog and handed down, so no object reads D1. */
export interface RunSpec {
  /**
   * names the DeploymentObject: `version:<id>` for shared hardware, `deployment:<owner>/<name>` for a deployment of an account, `training:<prediction id>`
   * for the one instance of a training
   */
  deployment_key: string;
  /** number of the deployment's release; 0 elsewhere. A DeploymentObject never goes back to an older one. */
  release: number;
  /** what origins have prepared: for a fine-tune the version that it was trained from */
  version_id: string;
  /** which function of the model the instance runs */
  mode: "predict" | "train";
  /** weights of a fine-tune that are loaded in setup; null for none, and where each prediction brings its own (`replicate_weights`) */
  weights: WeightsRef | null;
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
  max_instances: number;
  /** an instance with nothing to do lives this long */
  idle_ttl_ms: number;
  setup_timeout_ms: number;
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
  /** validated, defaults filled, nulls of optional members removed. Held in R2 by the caller when above 256 KiB: then `input_ref` is its R2 key. */
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
  /** The input of a live prediction, for the origin (inputs kept in R2 are streamed by the Worker from `input_ref`). */
  inputOf(id: string): Promise<{ input: Record<string, unknown> | null; input_ref: string | null } | null>;
  /** SSE: the request is `https://prediction/stream/<id>` with the reader's Last-Event-ID; ends after `done`. 404 when unknown, 410 after removal. */
  fetch(request: Request): Promise<Response>;
}

export interface LeaseKey {
  prediction_id: string;
  attempt: number;
}

/** A time-limited claim on a slot of an instance. */
export interface Lease extends LeaseKey {
  instance_id: string;
  origin_id: string;
  leased_at: number;
}

export interface EnqueueRequest extends LeaseKey {
  account_id: string;
  spec: RunSpec;
  enqueued_at: number;
  /** 0 before 1: inputs of batches run when nothing else waits */
  priority: 0 | 1;
}

export type EnqueueResult =
  | { kind: "leased"; lease: Lease }
  | { kind: "queued"; queue_position: number }
  /** `deployment.queue_full` or a version that cannot be set up */
  | { kind: "refused"; code: string; detail: string };

export interface DeploymentApi {
  /** Idempotent by (prediction_id, attempt): the same lease or place again. */
  enqueue(request: EnqueueRequest): Promise<EnqueueResult>;
  /** Frees slots (or queue places) and grants them to the next in the same transaction. Idempotent. `instance_gone`: the origin does not know the instance. */
  release(releases: (LeaseKey & { ran_ms: number; instance_gone?: boolean })[]): Promise<void>;
  /** Why a queued prediction waits; null when it is not in the queue. */
  waitingFor(key: LeaseKey): Promise<WaitingFor | null>;
  /** Newest states of instances of this deployment, pushed by their origin. */
  instancesChanged(originId: string, instances: InstanceStatus[]): Promise<void>;
  /** These instances do not exist any more (their origin restarted or is lost). */
  instancesGone(originId: string, instanceIds: string[]): Promise<void>;
  /**
   * The fleet needs the room: drains the instance if it has nothing to do and min_instances allows. True when it goes.
   * `evenBusy`: another deployment starves, so one that has served for a while finishes what it runs and goes.
   */
  evictIdle(instanceId: string, evenBusy?: boolean): Promise<boolean>;
  /**
   * How it shall run from now on, told when a deployment or an official model is made or changed: it boots up to `min_instances` without waiting for a
   * prediction. Instances of an older release or another version finish what they run and go. A release that is older than the known one is ignored.
   */
  configure(spec: RunSpec): Promise<void>;
  /** For pages and tests: instances, queue length, leases. */
  describe(): Promise<DeploymentDescription>;
}

export interface DeploymentDescription {
  queue_length: number;
  leases: number;
  instances: {
    instance_id: string;
    origin_id: string;
    state: InstanceStatus["state"];
    slots: number;
    leased: number;
    idle_since: number | null;
  }[];
  wanted_instances: number;
  reason: string;
}

export interface PlaceRequest {
  deployment_key: string;
  version_id: string;
  mode: RunSpec["mode"];
  weights: RunSpec["weights"];
  slots: number;
  memory_bytes: number;
  hardware: string;
  setup_timeout_ms: number;
  /** its queue has waited so long for room that a busy instance of another deployment may be asked to finish and go */
  is_starving?: boolean;
}

export type PlaceResult =
  | { kind: "placed"; instance_id: string; origin_id: string }
  /**
   * `no_origin`: none is alive with this hardware; `no_room`: all full, try again when something changes; `no_version`: no origin that is alive can
   * boot this version (each refused with a code `version.…`)
   */
  | { kind: "refused"; reason: "no_origin" | "no_room" | "no_version"; detail: string };

/** What another object needs to call an origin. Held in isolate memory for 5 s at most (origin-directory.ts). */
export interface OriginEntry {
  origin_id: string;
  url: string;
  key: { key_id: string; secret: string };
  alive: boolean;
}

export interface FleetApi {
  /** With a join token (checked here against env.JOIN_TOKEN_SHA256, used once) or for a known origin (the Worker has verified its signature). */
  register(
    request: Register,
    verifiedOriginId: string | null,
  ): Promise<{ ok: true; result: RegisterResult } | { ok: false; code: string; detail: string }>;
  heartbeat(originId: string, heartbeat: Heartbeat): Promise<{ known: boolean; unowned: string[] }>;
  /** Chooses an origin, boots the instance there (evicting an idle one of another deployment where room is short) and reserves its room. */
  place(request: PlaceRequest): Promise<PlaceResult>;
  drain(originId: string, instanceId: string, reason: "idle" | "evicted" | "released"): Promise<void>;
  /** Live keys of all origins: key_id -> origin. Two may be live while one is rotated; revoked ones are absent. */
  keys(): Promise<{ origin_id: string; key_id: string; secret: string }[]>;
  origins(): Promise<OriginEntry[]>;
  rotateKey(originId: string): Promise<{ key_id: string; secret: string } | null>;
  revokeKey(keyId: string): Promise<void>;
  /** For /healthz: how many origins are alive. */
  health(): Promise<{ origins_alive: number }>;
}

export interface AdmitRequest {
  /** lists show one kind */
  kind: "prediction" | "training";
  prediction_id: string;
  created_at: number;
  /** names the list row until the prediction ends */
  model: string;
  version: string;
  source: "api" | "web";
  idempotency: { key: string; body_sha256: string } | null;
  limits: AccountLimits;
  /** exempt from the create limit: the operator's own example runs */
  exempt?: boolean;
}

export interface AccountLimits {
  /** token bucket: rate and burst; 600 unless the account's `limits` raise it */
  creates_per_minute: number;
}

export type AdmitResult =
  | { kind: "admitted"; remaining: number; reset_s: number }
  | { kind: "limited"; retry_after_ms: number; limit: number }
  /** same key, same body, answered before: `response` is to be replayed byte for byte */
  | {
      kind: "replay";
      prediction_id: string;
      response: { status: number; headers: [string, string][]; body: string };
      /**
       * Present when the body is not kept: its data was removed (`document` is the data_removed one), it was above 256 KiB, or the first request
       * ended without an answer. The caller renders `document` (null: what the PredictionObject has now) with the status and headers.
       */
      render?: { document: PredictionDocument | null };
    }
  /** same key, same body, the first request is still unanswered */
  | { kind: "in_flight"; prediction_id: string; retry_after_ms: number }
  | { kind: "key_reused" };

/** One line of the end of a prediction. Idempotent by id. */
export interface Settlement {
  prediction_id: string;
  /** public document up to 16 KiB of JSON; null when larger: pages then read the PredictionObject */
  document: PredictionDocument | null;
  meter: Meter;
}

export interface ListRow {
  prediction_id: string;
  created_at: number;
  /** the stored end; null while live or when too large */
  document: PredictionDocument | null;
}

export interface AccountApi {
  /** One transaction: limit, idempotency, list row. An admission not confirmed in 30 s is checked against its PredictionObject, then unlisted. */
  admit(request: AdmitRequest): Promise<AdmitResult>;
  /** The answer of a create with an Idempotency-Key, kept 24 h for replays. */
  answered(
    idempotencyKey: string,
    response: { status: number; headers: [string, string][]; body: string },
  ): Promise<void>;
  /** The create failed after admission (refused, or the object could not be reached): unlist, free the key. */
  unadmit(predictionId: string): Promise<void>;
  /** From PredictionObjects' outboxes, batched. */
  settle(settlements: Settlement[]): Promise<void>;
  /** Data removed: the list row's copy too. `document` is the data_removed one. */
  removeData(documents: PredictionDocument[]): Promise<void>;
  /** The document of an ended prediction in the list, as far as it is held here; null otherwise. */
  document(predictionId: string): Promise<PredictionDocument | null>;
  /**
   * Newest first. `before` is the last row (created_at, prediction_id) of the page before this one; `after` is the first row of the page after it:
   * then `more` says whether there are newer rows still.
   */
  list(query: {
    kind: "prediction" | "training";
    limit: number;
    before?: { created_at: number; prediction_id: string } | null;
    after?: { created_at: number; prediction_id: string } | null;
    created_after?: number | null;
    created_before?: number | null;
    source?: "web" | null;
  }): Promise<{ rows: ListRow[]; more: boolean }>;
  meters(limit: number): Promise<{ prediction_id: string; meter: Meter }[]>;
}

/** One input of a batch has ended. Idempotent by index. */
export interface BatchSettlement {
  index: number;
  prediction_id: string;
  document: PredictionDocument;
}

export interface BatchApi {
  /** From PredictionObjects' outboxes, told at least once. */
  settled(settlements: BatchSettlement[]): Promise<void>;
}
