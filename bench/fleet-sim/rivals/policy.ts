/**
 * What decides in a simulation how many instances a deployment has. All else (queue, placement, hosts, starts) is the same for every policy.
 */
import type { Deployment, Trace } from "../traces.ts";

export interface InstanceView {
  instance_id: string;
  state: "starting" | "ready";
  placed_at: number;
  /** predictions that run on it: none or one */
  leased: number;
  /** when its last prediction ended, or when it became ready, or was placed */
  last_used_at: number;
}

/** One deployment as it is at `now`. Those that were told to go are not seen any more; they end what they run. */
export interface DeploymentView {
  now: number;
  queued: number;
  /** since when the first of them waits; null when none does */
  waiting_since: number | null;
  instances: readonly InstanceView[];
  /** a placement found no room: none is tried before this time */
  hold_until: number;
}

export interface Decision {
  /** instances to start now */
  place: number;
  /** ids of instances that shall go */
  drain: readonly string[];
  /** when to ask again although nothing happened; null when there is no such time */
  decide_again_at: number | null;
}

export type Cause = "arrival" | "end" | "ready" | "time";

/** Of one deployment. It is asked after every arrival, end of a run, and instance that became ready, and at the time that it named. */
export interface Policy {
  decide: (view: DeploymentView, cause: Cause) => Decision;
  /** told before `decide` is asked, when a prediction came (1) or ended (0): what runs and waits now */
  worked?: (came: 0 | 1, running: number, queued: number, now: number) => void;
  /** told how long a run took, and a start from placement to ready */
  ended?: (run_ms: number) => void;
  started?: (start_ms: number) => void;
  /** so many are not given up for another deployment's room */
  readonly min_instances?: number;
}

export interface PolicyMaker {
  name: string;
  /** `index` is that of the deployment in its trace */
  make: (deployment: Deployment, index: number, trace: Trace) => Policy;
}
