/** What a BuildObject is asked, by the Worker: plain data over native RPC, as in contracts.ts. One object a build, named by its id. */
import type { BuildAck, BuildEvents } from "../schema/origin-protocol.ts";

export interface CreateBuild {
  id: string;
  account_id: string;
  owner: string;
  name: string;
  /** digest of the source manifest, which the repository holds */
  manifest: string;
  is_trusted: boolean;
  /** makes a version that breaks callers of a stable model all the same */
  is_forced: boolean;
  created_at: number;
}

/** A build as callers see it (schema/api/builds.ts). */
export interface BuildDocument {
  id: string;
  owner: string;
  name: string;
  manifest: string;
  status: "queued" | "building" | "succeeded" | "failed" | "canceled";
  /** the stage that it is in */
  stage: string | null;
  /** why it waits, while it is queued */
  waiting_for: string | null;
  version_id: string | null;
  error: string | null;
  code: string | null;
  warnings: string[];
  /** against the version that was the latest: one line each */
  schema_diff: { breaking: string[]; added: string[]; changed: string[]; previous_version: string | null } | null;
  /** the first prediction of the version, from its example */
  test_prediction_id: string | null;
  created_at: number;
  started_at: number | null;
  completed_at: number | null;
}

export interface BuildApi {
  /** Idempotent by id. */
  create(request: CreateBuild): Promise<BuildDocument>;
  get(): Promise<BuildDocument | null>;
  cancel(): Promise<BuildDocument | null>;
  applyEvents(events: BuildEvents["events"], originId: string): Promise<BuildAck>;
  /** SSE of stages, log lines and the end, with ids; ends after `done`. The request carries Last-Event-ID. */
  fetch(request: Request): Promise<Response>;
}
