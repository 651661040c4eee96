/**
 * How an instance's processes are run. Every failure is a typed result. `process` runs them on the host, `docker` in containers that are kept apart; all
 * pass driver-contract.ts. A driver never touches what it did not start.
 */
import type { Readable } from "node:stream";
import { z } from "zod";
import type { Launch } from "../builds/builder.ts";

export const InstanceRecordSchema = z.object({
  instance_id: z.string(),
  version_id: z.string(),
  deployment_key: z.string(),
  /** the driver's own name for what it started; two starts never have the same */
  handle: z.string(),
  /** where its coglet listens */
  address: z.object({ host: z.string(), port: z.number().int() }),
  /** devices that it has, by UUID */
  gpus: z.array(z.string()),
});
/** What was started: enough for another process of the origin to find it again. */
export type InstanceRecord = z.infer<typeof InstanceRecordSchema>;

export interface StartSpec {
  instance_id: string;
  version_id: string;
  deployment_key: string;
  /** what is started: programs and folder of the host, or an image */
  launch: Launch;
  /** everything that coglet and the model get, besides PORT, PATH, HOME and TMPDIR */
  env: Record<string, string>;
  /** further arguments of coglet's server */
  args: string[];
  /** what it may use; only a driver that isolates holds it to that */
  memory_bytes: number;
  /** cores that it may use */
  cpus: number;
  /** devices that it gets for itself, by UUID */
  gpus: string[];
  /** may open connections to public addresses */
  egress: boolean;
  /** a model of the operator */
  is_trusted: boolean;
  watch: Watch;
}

/** What the driver tells of a running instance. */
export interface Watch {
  /** each line that it writes, cut at LINE_CHARACTERS_MAX */
  onLine: (line: string) => void;
  /** once, when it is gone, whoever ended it */
  onExit: (exit: Exit) => void;
}

export interface Exit {
  code: number | null;
  signal: string | null;
  isOutOfMemory: boolean;
}

export type StartResult =
  | { kind: "started"; record: InstanceRecord }
  | {
      kind: "failed";
      /** `away`: the engine does not answer; another try may succeed */
      reason: "no_port" | "spawn" | "away";
      detail: string;
    };

export type StopResult = { kind: "stopped" } | { kind: "gone" };
export type Adopted = { kind: "adopted" } | { kind: "gone" };
/** Where the instance's file server listens: port 0 is any. */
export type FilesAddress = { kind: "ready"; host: string; port: number } | { kind: "failed"; detail: string };

export interface Driver {
  readonly name: string;
  /** whether models are kept apart from the host and from each other */
  readonly isolates: boolean;
  /** Null when it can work, else one line that says what the operator has to do. */
  check(): Promise<string | null>;
  /** Address on which the instance's file server has to listen, so that this instance reaches it and no other does. Before `start`. */
  filesAddress(spec: Pick<StartSpec, "instance_id" | "egress">): Promise<FilesAddress>;
  /** Answers when the process exists; whether it is ready is for its health check to say. */
  start(spec: StartSpec): Promise<StartResult>;
  /** Ends the processes of an instance: politely, after `graceMs` by force. Resolves when none is left, or when the engine does not answer. */
  stop(instanceId: string, graceMs: number): Promise<StopResult>;
  /** Holds the processes of an instance in memory without running, until `resume`. False when that did not work: they run on, or are gone. */
  pause(instanceId: string): Promise<boolean>;
  /** Lets a paused instance run on. False when there is nothing to resume. */
  resume(instanceId: string): Promise<boolean>;
  /**
   * A folder of the instance as a tar of its regular files; its bytes are the model's to choose. Absent where instances write to folders of the host. Rejects
   * where it cannot be read.
   */
  readFolder?(instanceId: string, path: string): Promise<Readable>;
  /** Frees what `filesAddress` made. After the last `stop` of an instance. */
  release(instanceId: string): Promise<void>;
  /** Instances whose processes run. */
  list(): Promise<InstanceRecord[]>;
  /** Takes over what an earlier origin process started. `gone`: it is not there any more, or the handle names another. */
  adopt(record: InstanceRecord, watch: Watch): Promise<Adopted>;
  /** Ends and removes everything of this origin (its data folder) whose instance is not in `known`. Answers how many instances that were. */
  reap(known: ReadonlySet<string>): Promise<number>;
  /** Bytes of memory that the processes of an instance use; null when unknown. */
  memoryBytes(instanceId: string): Promise<number | null>;
  /** False when it is known that coglet has no worker process. */
  isWorkerAlive(instanceId: string): boolean;
  /** Whether the kernel ended a process of it for want of memory since its last start. */
  ranOutOfMemory(instanceId: string): boolean;
  /** Removes coglet's own folder of an ended prediction, which coglet leaves behind. */
  sweep(instanceId: string, cogId: string): void;
  /** Ends what the driver itself does; instances go on. */
  close(): Promise<void>;
}
