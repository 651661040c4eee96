/** A build as it is stored and passed on, and how callers see it (schema/api/builds.ts). Pure. Times are epoch milliseconds. */

import type { z } from "zod";
import type { BuildSchema, BuildSummarySchema } from "./api/builds.ts";
import type { SchemaDiff } from "./schema-compatibility.ts";

export const BUILD_STATUSES = ["queued", "building", "succeeded", "failed", "canceled"] as const;

/** How a build ended. */
export interface BuildEnd {
  status: "succeeded" | "failed" | "canceled";
  version_id: string | null;
  error: string | null;
  code: string | null;
  warnings: string[];
  schema_diff: SchemaDiff | null;
  test_prediction_id: string | null;
}

/** A build as it is passed between objects and the Worker. */
export interface BuildDocument extends Omit<BuildEnd, "status"> {
  id: string;
  owner: string;
  name: string;
  manifest: string;
  status: (typeof BUILD_STATUSES)[number];
  stage: string | null;
  /** in the order in which they began */
  stages: { name: string; started_at: number }[];
  waiting_for: string | null;
  created_at: number;
  started_at: number | null;
  completed_at: number | null;
}

/** What became of making the version of a good end. `is_new`: false where its content was pushed before. */
export type BuildPublication =
  | {
      kind: "published";
      version_id: string;
      is_new: boolean;
      schema_diff: SchemaDiff | null;
      test_prediction_id: string | null;
    }
  | { kind: "refused"; code: string; detail: string; schema_diff: SchemaDiff | null };

export function showBuildSummary(
  build: {
    [member in "id" | "owner" | "name" | "manifest" | "version_id" | "error"]: BuildDocument[member];
  } & Pick<BuildDocument, "status" | "created_at" | "completed_at">,
): z.infer<typeof BuildSummarySchema> {
  return {
    id: build.id,
    model: `${build.owner}/${build.name}`,
    manifest: build.manifest,
    status: build.status,
    version: build.version_id,
    error: build.error,
    created_at: new Date(build.created_at).toISOString(),
    completed_at: isoOf(build.completed_at),
  };
}

export function showBuild(build: BuildDocument, publicUrl: string): z.infer<typeof BuildSchema> {
  const url = `${publicUrl}/v1/models/${build.owner}/${build.name}/builds/${build.id}`;
  return {
    ...showBuildSummary(build),
    stage: build.stage,
    stages: build.stages.map(({ name, started_at }) => ({ name, started_at: new Date(started_at).toISOString() })),
    waiting_for: build.waiting_for,
    code: build.code,
    warnings: build.warnings,
    schema_diff: build.schema_diff,
    test_prediction: build.test_prediction_id,
    started_at: isoOf(build.started_at),
    urls: { get: url, cancel: `${url}/cancel`, logs: `${url}/logs`, events: `${url}/events` },
  };
}

function isoOf(at: number | null): string | null {
  return at === null ? null : new Date(at).toISOString();
}
