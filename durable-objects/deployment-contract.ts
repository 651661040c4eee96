/** What predictions, the fleet and lanes ask of a DeploymentObject, and what the Worker shows of it. */
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import type { Meter, WaitingFor } from "../schema/prediction-document.ts";
import type { ScalingMeasures } from "../schema/scaling.ts";
import type { RunSpec } from "./prediction-contract.ts";

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

/** What each lane must know of the deployment: lane 0 keeps it. */
export interface LaneFacts {
  /** moving averages of its own history, milliseconds */
  boot_ms: number | null;
  setup_ms: number | null;
  run_ms: number | null;
  /** setups that failed in a row */
  setup_failures: number;
  /** class of the last one */
  setup_error: string | null;
  /** no new instance before this time */
  hold_until: number;
  /** why the newest refused ones were refused */
  refusal: string;
  /** its deployment was deleted */
  is_retired: boolean;
  /** why its account's caps allow no instance; null while they do */
  unpaid: string | null;
  /** how many there are */
  lanes: number;
}

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
