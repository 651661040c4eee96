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
import type { PackageRef } from "../schema/packages.ts";
import type { Meter, PredictionDocument, WaitingFor } from "../schema/prediction-document.ts";
import type { Rates } from "../schema/pricing.ts";
import type { ScalingMeasures } from "../schema/scaling.ts";
import type { WebhookAttempt, WebhookEvent } from "../schema/webhooks.ts";
import type { WeightsRef } from "../schema/weights.ts";
import type { DeploymentFacts } from "./deployment-record.ts";
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

export interface LeaseKey {
  prediction_id: string;
  attempt: number;
  /** of its deployment (schema/lanes.ts), where it is told to a prediction; absent is 0 */
  lane?: number;
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
  /** 0 before 1: what was created with low priority and inputs of batches run when nothing else waits */
  priority: 0 | 1;
}

/** `lanes`: how many the deployment has by now, for predictions that are still to come; absent is 1 */
export type EnqueueResult =
  | { kind: "leased"; lease: Lease; lanes?: number }
  | { kind: "queued"; queue_position: number; lanes?: number }
  /** `deployment.queue_full` or a version that cannot be set up */
  | { kind: "refused"; code: string; detail: string };

/** The end of an attempt. */
export interface Release extends LeaseKey {
  ran_ms: number;
  /** the prediction ended with it: how, for the history of its version (as callers know that). Absent: another attempt follows */
  end?: {
    version: string;
    outcome: Meter["outcome"];
    platform_failure: boolean;
    units?: Record<string, number>;
  };
  /** the origin does not know the instance */
  instance_gone?: boolean;
  /** the platform tried a version by it: no run of its model */
  is_canary?: true;
  /** owner/name whose run it was: fine-tunes run on the instances of their base. Absent is the model of the deployment. */
  model?: string;
}

export interface DeploymentApi {
  /** Idempotent by (prediction_id, attempt): the same lease or place again. An attempt ends all older ones of its prediction; an older one is refused. */
  enqueue(request: EnqueueRequest): Promise<EnqueueResult>;
  /** Frees slots (or queue places) and grants them to the next in the same transaction. Idempotent. */
  release(releases: Release[]): Promise<void>;
  /**
   * Why a prediction waits, in the queue or in its slot on an instance that starts again; null when it waits for nothing here. `place`: it waits there, in
   * another lane.
   */
  waitingFor(key: LeaseKey, place?: QueuePlace): Promise<WaitingFor | null>;
  /**
   * Their host is drained: they serve on until enough others are ready for what runs and waits, which are placed where there are none, then finish what
   * they run and go. Answers those that go now. Called again and again until all are gone.
   */
  replaceInstances(instanceIds: string[]): Promise<string[]>;
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
   * From then on only this or a newer release changes the bounds of its instances: what `enqueue` brings may be seconds old.
   */
  configure(spec: RunSpec): Promise<void>;
  /**
   * Ends the deployment where nothing runs, nothing waits and no prediction used it for `unused_ms`; nothing is taken in until it is configured anew.
   * Idempotent. `free_at`: when it has been unused for long enough, should nothing more come; null while it runs something or has instances.
   */
  retire(unused_ms: number): Promise<{ retired: true } | { retired: false; instances: number; free_at: number | null }>;
  /** Of lane 0, by another lane: its share of the slots. Null: a newer report was heard. */
  share(report: LaneReport): Promise<LaneShare | null>;
  /** For pages and tests: instances, queue length and leases of all lanes. */
  describe(): Promise<DeploymentDescription>;
  /** What scaling rests on, its targets, and its newest decisions; null: never used. */
  scaling(): Promise<DeploymentScaling | null>;
  /** What its newest instances said of their setups and ends, newest first: for the model's people and the operator. */
  setupReports(): Promise<SetupReport[]>;
}

/** A place in the queue: 1 is next. */
export interface QueuePlace {
  position: number;
  enqueued_at: number;
  boot_key: string;
}

/** What a lane of a deployment holds of the slots that lane 0 divides, and what it has to do (deployment-lanes.ts). */
export interface LaneReport {
  lane: number;
  /** rises with each report: an older one that comes late is ignored */
  n: number;
  /** it has had nothing to do for a while, holds nothing, and says nothing until it has */
  is_resting: boolean;
  /** slots that it may lease, and those that it does */
  holds: { instance_id: string; slots: number; leased: number; last_used_at: number }[];
  demand: { boot_key: string; spec: RunSpec; queued: number; waiting_since: number }[];
  /** instances that their origin does not know */
  gone: string[];
  /** predictions that came for the first time, and leases, since its last report that was answered */
  came: number;
  leases: number;
}

/** What a lane may lease from now on: slots of ready instances, with what it must know of the deployment. */
export interface LaneShare {
  spec: RunSpec;
  facts: LaneFacts;
  /** in order of placement */
  shares: { instance_id: string; origin_id: string; boot_key: string; slots: number; placed_at: number }[];
  /** boot keys whose queues are refused */
  refused: string[];
}

/** What a lane must know of the deployment: lane 0 keeps it. */
export type LaneFacts = Pick<
  DeploymentFacts,
  | "boot_ms"
  | "setup_ms"
  | "run_ms"
  | "setup_failures"
  | "setup_error"
  | "hold_until"
  | "refusal"
  | "is_retired"
  | "unpaid"
  | "lanes"
>;

export interface SetupReport {
  instance_id: string;
  version_id: string;
  state: InstanceStatus["state"];
  reason: string | null;
  logs: string | null;
  at: number;
}

export interface DeploymentScaling {
  wanted_instances: number;
  reason: string;
  /** objects that share the work: more than one above so many leases a second */
  lanes: number;
  measures: ScalingMeasures;
  targets: {
    min_instances: number;
    max_instances: number;
    queue_delay_ms: number;
    utilisation: number;
    stable_window_ms: number;
    panic_window_ms: number;
  };
  /** epoch milliseconds until which nothing new is placed, and why; null while nothing holds it back */
  held_back: { until: number; detail: string } | null;
  /** newest first */
  decisions: { at: number; wanted_before: number; wanted: number; reason: string; measures: ScalingMeasures }[];
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
    /** booted as the current release says; others finish the work of older ones */
    is_current: boolean;
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
  package?: PackageRef;
  is_trusted?: boolean;
  egress?: boolean;
  gpus?: number;
  /** its queue has waited so long for room that a busy instance of another deployment may be asked to finish and go */
  is_starving?: boolean;
  /** false: only where there is room, without asking another instance to go. Absent is true. */
  evicts?: boolean;
  /** how much its instances are worth keeping while idle: least valuable ones make room first. Absent: as if used once an hour. */
  use?: InstanceUse;
}

/** What an idle instance saves when it is kept: expected use times the cost of starting it anew. */
export interface InstanceUse {
  arrivals_per_hour: number;
  /** from placement to ready */
  cold_start_ms: number;
}

export type PlaceResult =
  /** `resumed`: it was paused and goes on as it was, so it is ready within milliseconds */
  | { kind: "placed"; instance_id: string; origin_id: string; resumed?: boolean }
  /**
   * `no_origin`: none is alive that has this hardware and runs such packages; `no_room`: all full, try again when something changes; `no_version`: no origin that is alive can
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
  /** With a join token (one of inviteOrigin, or of env.JOIN_TOKEN_SHA256; used once) or for a known origin (the Worker has verified its signature). */
  register(
    request: Register,
    verifiedOriginId: string | null,
    /** micro-dollars a second of its hardware, by SKU, where they are known */
    prices?: Record<string, number>,
  ): Promise<{ ok: true; result: RegisterResult } | { ok: false; code: string; detail: string }>;
  heartbeat(originId: string, heartbeat: Heartbeat): Promise<{ known: boolean; unowned: string[] }>;
  /** Chooses an origin, boots the instance there (evicting an idle one of another deployment where room is short) and reserves its room. */
  place(request: PlaceRequest): Promise<PlaceResult>;
  /** False: it records no such instance (any more). */
  drain(originId: string, instanceId: string, reason: "idle" | "evicted" | "released"): Promise<boolean>;
  rotateKey(originId: string): Promise<{ key_id: string; secret: string } | null>;
  revokeKey(keyId: string): Promise<void>;
  /** The origin that a build goes to: alive, builds sources, and keeps models apart unless this one is trusted; the one that builds least. */
  placeBuild(
    buildId: string,
    isTrusted: boolean,
    /** origins that could not take it just now */
    except: string[],
  ): Promise<{ origin_id: string } | { refused: string }>;
  /** It counts no more for where others go. Idempotent. */
  buildEnded(buildId: string, originId: string): Promise<void>;
  /** For /healthz: how many origins are alive. */
  health(): Promise<{ origins_alive: number }>;
  /**
   * Origins that joined and were not removed, with what runs there, for the operator: `limit` of them behind the one whose id is `after`, shard by shard in the
   * order of their ids.
   */
  listOrigins(after: string | null, limit: number): Promise<OriginListing[]>;
  /** How many origins and instances there are, by state. */
  figures(): Promise<FleetFigures>;
  /**
   * `on`: nothing new goes there, neither instances nor builds; its instances serve on until others replace them where that is needed, then finish what they
   * run and go. Kept over restarts of either side until `on` is false. Null: no such origin.
   */
  drainOrigin(originId: string, on: boolean): Promise<OriginListing | null>;
  /** Forgets an origin and its keys. `in_use`: it is alive and runs instances, so drain it first. */
  removeOrigin(originId: string): Promise<"removed" | "unknown" | "in_use">;
  /** A join token for one more origin, shown this once; it ends when it is used, and at `expires_at` (epoch milliseconds). */
  inviteOrigin(): Promise<{ join_token: string; expires_at: number }>;
}

/** One shard of the fleet: at most 500 origins. Callers use the whole, {@link FleetApi}. */
export interface FleetShardApi extends FleetApi {
  /** Live keys of its origins: key_id -> origin. Two may be live while one is rotated; revoked ones are absent. */
  keys(): Promise<{ origin_id: string; key_id: string; secret: string }[]>;
  origins(): Promise<OriginEntry[]>;
  /** Of the first shard: how many there are. */
  shards(): Promise<number>;
  /** Whether it takes one more origin. */
  hasRoom(): Promise<boolean>;
  /** Takes an origin whose join token the first shard has checked, under the id that it chose. Idempotent, but for a new key each time. */
  adopt(originId: string, request: Register, prices: Record<string, number>): Promise<RegisterResult>;
}

export interface FleetFigures {
  origins: Partial<Record<OriginListing["state"], number>>;
  /** `unknown`: no heartbeat has told of it */
  instances: Partial<Record<InstanceStatus["state"] | "unknown", number>>;
}

/** One origin as its operator sees it. */
export interface OriginListing {
  origin_id: string;
  url: string;
  region: string;
  driver: string;
  /** `draining`: it still runs instances; `drained`: nothing runs there; `lost`: silent for too long */
  state: "ready" | "draining" | "drained" | "lost";
  hardware: Register["hardware"];
  capacity: Register["capacity"];
  /** what its instances take of it */
  used: { instances: number; memory_bytes: number; gpus: number };
  instances: {
    instance_id: string;
    deployment_key: string;
    version_id: string;
    /** as its last heartbeat said; null before the first */
    state: InstanceStatus["state"] | null;
    /** epoch milliseconds; null while it runs something */
    idle_since: number | null;
    memory_bytes: number;
    gpus: number;
  }[];
  /** versions whose image, environment and weights it has, the newest first */
  warm_versions: string[];
  /** epoch milliseconds; null when it was not heard since the fleet's object started */
  last_seen_at: number | null;
}
