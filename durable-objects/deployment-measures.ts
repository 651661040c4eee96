/**
 * What one deployment measures of itself: when its work comes (arrivals.ts), and which instances were wanted when and why. Arrivals are counted in memory and written
 * with a commit that is made anyway, some seconds late: what a crash takes of them changes no promise.
 */
import { type Arrivals, NO_ARRIVALS, neededInstances, noteWork } from "../schema/arrivals.ts";
import type { RolloutDecision } from "../schema/rollout.ts";
import type { ScalingMeasures, ScalingReason } from "../schema/scaling.ts";

/** Arrivals are written this often while there is work, and when the last of it ends. */
const SAVE_MS = 5_000;
/** Decisions that are kept, and for how long. */
export const DECISIONS_MAX = 200;
export const DECISIONS_KEPT_MS = 7 * 86_400_000;

/** One change of what was wanted. */
export interface LoggedDecision {
  at: number;
  wanted_before: number;
  wanted: number;
  reason: ScalingReason;
  measures: ScalingMeasures;
}

export class DeploymentMeasures {
  readonly #sql: SqlStorage;
  #arrivals: Arrivals | null = null;
  #saved_at = 0;
  #needed: number | null = null;
  #came = 0;
  #logged: { wanted: number; reason: string } | null = null;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  /** For a transaction that was undone: decisions are read again. Arrivals of memory alone stay, they are no more exact than that. */
  forget(): void {
    this.#logged = null;
  }

  /** So many predictions came for the first time. */
  came(count = 1): void {
    this.#came += count;
  }

  /** Call at the end of a write, with what there is to do now. */
  note(load: { leased: number; queued: number; slots: number }, now: number): void {
    const after = neededInstances(load.leased, load.queued, load.slots);
    const known = this.arrivals();
    const before = this.#needed ?? (known.levels[0]?.idle_since === null ? after : 0);
    const came = this.#came;
    this.#needed = after;
    this.#came = 0;
    if (before === after && came === 0) return;
    this.#arrivals = noteWork(known, { before, after, came }, now);
    if (after > 0 && now - this.#saved_at < SAVE_MS) return;
    this.#saved_at = now;
    this.#sql.exec("INSERT OR REPLACE INTO arrivals VALUES (1, ?)", JSON.stringify(this.#arrivals));
  }

  arrivals(): Arrivals {
    if (this.#arrivals === null) {
      const row = this.#sql.exec<{ arrivals: string }>("SELECT arrivals FROM arrivals").toArray()[0];
      this.#arrivals = row === undefined ? NO_ARRIVALS : { ...NO_ARRIVALS, ...(JSON.parse(row.arrivals) as Arrivals) };
    }
    return this.#arrivals;
  }

  /** Remembers a decision that changes what is wanted, or that does something for another reason than the one before. Inside a write. */
  log(decision: RolloutDecision, now: number): void {
    const { wanted, reason, place, drain, measures } = decision;
    this.#logged ??= this.decisions(1)[0] ?? { wanted: 0, reason: "" };
    const before = this.#logged;
    const isSame = before.wanted === wanted && (before.reason === reason || place.length + drain.length === 0);
    if (isSame) return;
    this.#logged = { wanted, reason };
    this.#sql.exec(
      "INSERT INTO decisions (at, wanted_before, wanted, reason, measures) VALUES (?, ?, ?, ?, ?)",
      ...[now, before.wanted, wanted, reason, JSON.stringify(measures)],
    );
    this.#sql.exec(
      "DELETE FROM decisions WHERE n <= (SELECT max(n) FROM decisions) - ? OR at < ?",
      DECISIONS_MAX,
      now - DECISIONS_KEPT_MS,
    );
  }

  /** Newest first. */
  decisions(limit = DECISIONS_MAX): LoggedDecision[] {
    return this.#sql
      .exec<{ at: number; wanted_before: number; wanted: number; reason: ScalingReason; measures: string }>(
        "SELECT at, wanted_before, wanted, reason, measures FROM decisions ORDER BY n DESC LIMIT ?",
        limit,
      )
      .toArray()
      .map(({ measures, ...row }) => ({ ...row, measures: JSON.parse(measures) as ScalingMeasures }));
  }
}
