/**
 * How what runs here ran, by model and version, until its model's counter has been told (deployment-runs.ts): each end and each start joins the commit that it
 * causes.
 */
import { NO_HISTORY, type RunHistory, withRun, withStart } from "../schema/run-history.ts";
import type { Release } from "./deployment-contract.ts";

/** Versions of one report: together some kilobytes. */
const VERSIONS_PER_REPORT = 4;

export class DeploymentHistory {
  readonly #sql: SqlStorage;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** A prediction ended. `lease`: the slot that it had, null for none. */
  ended(release: Release, model: string, lease: { queue_ms: number; is_cold: number } | null, now: number): void {
    const { end } = release;
    if (end === undefined) return;
    const { version, outcome, platform_failure, units } = end;
    const { queue_ms = null, is_cold = 0 } = lease ?? {};
    const run = {
      outcome,
      platform_failure,
      units,
      run_ms: release.ran_ms,
      queue_ms,
      is_cold: is_cold === 1,
      ended_at: now,
    };
    this.#change(model, version, (history) => withRun(history, run));
  }

  started(model: string, version: string, boot_ms: number | undefined, setup_ms: number | undefined): void {
    this.#change(model, version, (history) => withStart(history, boot_ms, setup_ms));
  }

  #change(model: string, version: string, change: (history: RunHistory) => RunHistory): void {
    const row = this.#sql
      .exec<{ history: string }>("SELECT history FROM histories WHERE model = ? AND version = ?", model, version)
      .toArray()[0];
    const known = row === undefined ? NO_HISTORY : (JSON.parse(row.history) as RunHistory);
    const text = JSON.stringify(change(known));
    this.#sql.exec("INSERT OR REPLACE INTO histories VALUES (?, ?, ?)", model, version, text);
  }

  /** A model that has something to tell; null for none. */
  nextModel(): string | null {
    return this.#sql.exec<{ model: string }>("SELECT model FROM histories LIMIT 1").toArray()[0]?.model ?? null;
  }

  /** Takes out what goes into one report of the model. Inside the write that stores the report. */
  take(model: string): Record<string, RunHistory> {
    const rows = this.#sql
      .exec<{ version: string; history: string }>(
        "SELECT version, history FROM histories WHERE model = ? LIMIT ?",
        model,
        VERSIONS_PER_REPORT,
      )
      .toArray();
    for (const { version } of rows) {
      this.#sql.exec("DELETE FROM histories WHERE model = ? AND version = ?", model, version);
    }
    return Object.fromEntries(rows.map(({ version, history }) => [version, JSON.parse(history) as RunHistory]));
  }
}
