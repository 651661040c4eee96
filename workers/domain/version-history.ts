/** How a version has run so far, from the counter of its model: up to some ten seconds old; and what its canaries say. */
import type { z } from "@hono/zod-openapi";
import { canaryStub, runCounter } from "../../durable-objects/stubs.ts";
import type { VersionHealthSchema, VersionHistorySchema, VersionSchema } from "../../schema/api/models.ts";
import { type CanaryState, healthStatus } from "../../schema/canaries.ts";
import { coldShare, endsOf, quantile, type RunHistory, successShare } from "../../schema/run-history.ts";
import type { Edge } from "../env.ts";
import { Memo } from "../storage/memo.ts";
import type { VersionRow } from "../storage/models.ts";
import { showVersion } from "./show-model.ts";

/** Counters are told every 10 s, so a younger answer tells little that is new. */
const HISTORY_LIFE_MS = 5_000;
const HISTORIES_MAX = 10_000;

const healths = new Memo<CanaryState | null>(HISTORY_LIFE_MS, HISTORIES_MAX);
const histories = new Memo<RunHistory | null>(HISTORY_LIFE_MS, HISTORIES_MAX);

/** Null: nothing of it ended yet. */
export function versionHistory(edge: Edge, owner: string, name: string, versionId: string): Promise<RunHistory | null> {
  const { env, later } = edge;
  const load = () => runCounter(env, `${owner}/${name}`).history(versionId);
  return histories.get(`${owner}/${name}:${versionId}`, load, later);
}

/** The same as it is shown. */
export function showHistory(history: RunHistory): z.infer<typeof VersionHistorySchema> {
  const { runs, platform_failures, last_success_at, run_ms, queue_ms, boot_ms, setup_ms } = history;
  const ends = endsOf(history);
  return {
    runs,
    success_share: successShare(history),
    platform_failure_share: ends === 0 ? null : platform_failures / ends,
    run_p50_ms: quantile(run_ms, 0.5),
    run_p99_ms: quantile(run_ms, 0.99),
    queue_p50_ms: quantile(queue_ms, 0.5),
    queue_p99_ms: quantile(queue_ms, 0.99),
    boot_p50_ms: quantile(boot_ms, 0.5),
    setup_p50_ms: quantile(setup_ms, 0.5),
    cold_start_share: coldShare(history),
    last_success_at: last_success_at === null ? null : new Date(last_success_at).toISOString(),
  };
}

/** A version with how it ran and whether it is well. */
export async function showVersionWhole(edge: Edge, version: VersionRow): Promise<z.infer<typeof VersionSchema>> {
  const { owner, name, id } = version;
  const load = () => canaryStub(edge.env).health({ owner, name, version: id });
  const [history, health] = await Promise.all([
    versionHistory(edge, owner, name, id),
    healths.get(`${owner}/${name}:${id}`, load, edge.later),
  ]);
  return {
    ...showVersion(version),
    history: history === null ? null : showHistory(history),
    health: health === null ? null : showHealth(health),
  };
}

function showHealth(state: CanaryState): z.infer<typeof VersionHealthSchema> {
  const at = (time: number | null) => (time === null ? null : new Date(time).toISOString());
  const failed = state.failures_in_row > 0 ? state.results.find(({ outcome }) => outcome === "failed") : undefined;
  return {
    status: healthStatus(state),
    unhealthy_since: at(state.unhealthy_since),
    failures_in_row: state.failures_in_row,
    last_success_at: at(state.last_success_at),
    last_error: failed?.detail ?? null,
    runs: state.results.map((result) => ({ ...result, at: new Date(result.at).toISOString() })),
  };
}
