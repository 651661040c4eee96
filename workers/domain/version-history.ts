/** How a version has run so far, from the counter of its model: up to some ten seconds old. */
import type { z } from "@hono/zod-openapi";
import { runCounter } from "../../durable-objects/stubs.ts";
import type { VersionHistorySchema } from "../../schema/api/models.ts";
import { coldShare, endsOf, quantile, type RunHistory, successShare } from "../../schema/run-history.ts";
import type { Edge } from "../env.ts";
import { Memo } from "../storage/memo.ts";

/** Counters are told every 10 s, so a younger answer tells little that is new. */
const HISTORY_LIFE_MS = 5_000;
const HISTORIES_MAX = 10_000;

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
