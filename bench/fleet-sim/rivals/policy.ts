/**
 * What decides in a simulation how many instances a deployment has. All else (queue, placement, hosts, starts) is the same for every policy.
 */
import type { Deployment, Trace } from "../traces.ts";

export interface InstanceView {
  instance_id: string;
  state: "starting" | "ready";
  /** predictions that run on it: none or one */
  leased: number;
  /** when its last prediction ended, or when it became ready, or was placed */
  last_used_at: number;
}

/** One deployment as it is at `now`. Those that were told to go are not seen any more; they end what they run. */
export interface DeploymentView {
  now: number;
  queued: number;
  instances: readonly InstanceView[];
}

export interface Decision {
  /** instances to start now */
  place: number;
  /** ids of instances that shall go */
  drain: readonly string[];
  /** when to ask again although nothing happened; null when there is no such time */
  decide_again_at: number | null;
}

/** Of one deployment. It is asked after every arrival, end of a run, and instance that became ready or was refused, and at the time that it named. */
export interface Policy {
  decide: (view: DeploymentView) => Decision;
  /** told before `decide`, whenever the number of predictions that wait or run changes */
  inFlightChanged?: (inFlight: number, now: number) => void;
}

export interface PolicyMaker {
  name: string;
  /** `index` is that of the deployment in its trace */
  make: (deployment: Deployment, index: number, trace: Trace) => Policy;
}
