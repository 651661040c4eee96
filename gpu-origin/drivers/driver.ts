/**
 * How an instance's processes are run. Every failure is a typed result. The `process` driver runs on the host; others come later; all pass
 * driver-contract.ts.
 */
import type { InstanceRecord } from "../journal.ts";

export interface StartSpec {
  instance_id: string;
  version_id: string;
  deployment_key: string;
  /** working folder: the model's own, with .cog/openapi_schema.json in it */
  cwd: string;
  /** folder of the environment's programs; `python` in it has cog and coglet */
  binDir: string;
  /** everything that coglet and the model get, besides PORT, PATH and TMPDIR */
  env: Record<string, string>;
  /** further arguments of coglet's server */
  args: string[];
  /** called for each line that the process writes */
  onLine: (line: string) => void;
  /** called once when the process is gone, whoever ended it */
  onExit: (exit: { code: number | null; signal: string | null }) => void;
}

export type StartResult =
  | { kind: "started"; record: InstanceRecord }
  | { kind: "failed"; reason: "no_port" | "spawn"; detail: string };

export type StopResult = { kind: "stopped" } | { kind: "gone" };

export interface Driver {
  readonly name: string;
  /** Answers when the process exists; whether it is ready is for its health check to say. */
  start(spec: StartSpec): Promise<StartResult>;
  /** Ends the processes of an instance: politely, after `graceMs` by force. Resolves when none is left. */
  stop(instanceId: string, graceMs: number): Promise<StopResult>;
  /** Instances whose processes run. */
  list(): Promise<InstanceRecord[]>;
  /** Takes over what an earlier origin process started, so that it can be stopped here. `gone`: it is not there any more, or the id names another. */
  adopt(record: InstanceRecord): Promise<{ kind: "adopted" } | { kind: "gone" }>;
  /** Bytes of memory that the processes of an instance use; null when unknown. */
  memoryBytes(instanceId: string): Promise<number | null>;
}
