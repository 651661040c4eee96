/**
 * Runs of one model and how each version has run, told off the path of predictions: DeploymentObjects report what they ran every few seconds, and may report it twice.
 * An itty-durable actor: its fields are its whole state, one small value.
 */
import { mergeHistories, NO_HISTORY, type RunHistory } from "../schema/run-history.ts";
import { createDurable, type RunReport } from "./itty.ts";

/** Deployments that one counter remembers; a model has one for each version and named deployment. The longest silent goes first. */
const DEPLOYMENTS_MAX = 1_000;
/** Versions whose history it keeps: some 3 KB each. The longest silent goes first. */
const VERSIONS_MAX = 100;

export class RunCounter extends createDurable({ autoPersist: false, autoReturn: false }) {
  runs = 0;
  /** epoch milliseconds of the newest report with a run; null: none since this is kept */
  last_run_at: number | null = null;
  /** highest `seq` that was counted, by deployment, in the order of their last report */
  counted: Record<string, number> = {};
  /** by version, in the order of their last report */
  history: Record<string, RunHistory> = {};

  /** Adds a report unless it, or a later one of the same deployment, was added before. */
  async add(report: RunReport): Promise<{ total: number }> {
    if (report.seq > (this.counted[report.deployment_key] ?? 0)) {
      const { [report.deployment_key]: _, ...others } = this.counted;
      this.counted = Object.fromEntries(
        [...Object.entries(others), [report.deployment_key, report.seq] as const].slice(-DEPLOYMENTS_MAX),
      );
      this.runs += report.runs;
      if (report.runs > 0) this.last_run_at = Date.now();
      for (const [version, delta] of Object.entries(report.histories ?? {})) {
        const { [version]: known = NO_HISTORY, ...rest } = this.history;
        this.history = Object.fromEntries(
          [...Object.entries(rest), [version, mergeHistories(known, delta)] as const].slice(-VERSIONS_MAX),
        );
      }
      await this.persist();
    }
    return { total: this.runs };
  }

  total(): { total: number } {
    return { total: this.runs };
  }

  lastRun(): { at: number | null } {
    return { at: this.last_run_at };
  }

  version(versionId: string): { history: RunHistory | null } {
    return { history: this.history[versionId] ?? null };
  }

  versions(): { histories: Record<string, RunHistory> } {
    return { histories: this.history };
  }
}
