/** What every part of a DeploymentObject has of it; each adds what it alone needs. */
import type { Alarms } from "./alarms.ts";
import type { DeploymentQueue } from "./deployment-queue.ts";

export interface Surroundings<Deadline extends string> {
  env: Env;
  queue: DeploymentQueue;
  alarms: Pick<Alarms<Deadline>, "get" | "set" | "setNoLaterThan" | "clear">;
  /** runs with the next group commit; `now` is epoch milliseconds */
  write: <T>(change: (now: number) => T) => Promise<T>;
  /** runs after the commit in progress, once however often it was asked for */
  followUp: (task: () => Promise<void>) => void;
}
