/**
 * Tells an account about its money: at 50, 80 and 100 % of each cap, once a period, and about deployments that are paid for and run nothing. An alert is
 * recorded in the transaction of its cause and sent by the account's alarm until its webhook took it, so each comes at least once. Without a webhook it is
 * shown on the page alone.
 */
import type { Budget } from "../schema/ledger.ts";
import { dayOf, endOfDay, endOfMonth, monthOf } from "../schema/ledger.ts";
import { usd } from "../schema/pricing.ts";
import { nextAttemptAt, signedHeaders } from "../schema/webhooks.ts";
import type { Alert, AlertType, ForsakenModel, IdleDeployment } from "./alerts-contract.ts";
import { LazyTables } from "./lazy-tables.ts";
import { callWebhook } from "./webhook-call.ts";

const TABLES = `
CREATE TABLE IF NOT EXISTS alerts (
  n INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  type TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  detail TEXT NOT NULL,
  data TEXT NOT NULL,
  url TEXT,
  state TEXT NOT NULL,
  tried INTEGER NOT NULL,
  due_at INTEGER
);
CREATE INDEX IF NOT EXISTS alerts_due ON alerts (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS idle_deployments (
  deployment TEXT PRIMARY KEY,
  idle_since INTEGER NOT NULL,
  instances INTEGER NOT NULL,
  hour_micros INTEGER NOT NULL
) WITHOUT ROWID;
`;

/** Per cent of a cap. */
const THRESHOLDS = [50, 80, 100] as const;
/**
 * Kept for the page; older ones go, unless they are still to be sent, or of a day or month that still runs: three for each cap of the account and its tokens,
 * whose rows are what tells them once.
 */
const KEPT_MAX = 500;
const SHOWN_MAX = 50;
/** Calls of one turn of the alarm, one after the other: the rest follow in the next. */
const CALLS_PER_TURN = 10;

/** A cap, and what is spent of it. */
export interface CapState {
  /** `account` or `token:<id>` */
  scope: string;
  budget: Budget;
  spent: { day_micros: number; month_micros: number };
  /** the cap that just refused something: it counts as reached */
  refused?: "day" | "month" | undefined;
}

type AlertRow = {
  n: number;
  id: string;
  type: AlertType;
  created_at: number;
  detail: string;
  data: string;
  url: string | null;
  state: Alert["state"];
  tried: number;
  due_at: number | null;
};

export class AccountAlerts {
  readonly #sql: SqlStorage;
  readonly #tables: LazyTables;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLES, "idle_deployments");
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables.forget();
  }

  /** Inside a commit in which something was spent or refused: records each threshold that was reached. True where there is something to send. */
  check({ scope, budget, spent, refused }: CapState, webhook: string | null, now: number): boolean {
    const caps = [
      { length: "day", cap: budget.day_micros, spent: spent.day_micros, period: dayOf(now), ends: endOfDay(now) },
      {
        length: "month",
        cap: budget.month_micros,
        spent: spent.month_micros,
        period: monthOf(now),
        ends: endOfMonth(now),
      },
    ] as const;
    let isNew = false;
    for (const { length, cap, spent: micros, period, ends } of caps) {
      if (cap === null) continue;
      for (const percent of THRESHOLDS) {
        const isSpent = BigInt(micros) * 100n >= BigInt(cap) * BigInt(percent);
        // What is left may be too little for anything, and never be spent.
        const isUsedUp = percent === 100 && refused === length;
        if (!isSpent && !isUsedUp) continue;
        const budgetOf = `${scope === "account" ? "The account's" : "A token's"} budget for this ${length}`;
        const what =
          percent === 100
            ? `${budgetOf} is used up: new predictions that may cost more than what is left are refused.`
            : `${budgetOf} is ${percent} % spent.`;
        const detail = `${what} $${usd(micros)} of $${usd(cap)} is spent; it begins anew at ${new Date(ends).toISOString()}.`;
        const data = {
          percent,
          period: length,
          scope: scope === "account" ? "account" : "token",
          token_id: scope === "account" ? null : scope.slice("token:".length),
          cap_micros: cap,
          spent_micros: micros,
          resets_at: new Date(ends).toISOString(),
        };
        // A cap that was changed is another one.
        const id = `alert_${scope.replace(":", "_")}_${period}_${cap}_${percent}`;
        isNew = this.#record({ id, type: "budget.threshold", detail, data }, webhook, now) || isNew;
      }
    }
    return isNew;
  }

  /** Inside a commit. True where there is something to send. */
  idle(idle: IdleDeployment, webhook: string | null, now: number): boolean {
    this.#tables.create();
    const { deployment, idle_since, instances, hour_micros } = idle;
    this.#sql.exec(
      "INSERT OR REPLACE INTO idle_deployments VALUES (?, ?, ?, ?)",
      ...[deployment, idle_since, instances, hour_micros],
    );
    const hours = Math.floor((now - idle_since) / 3_600_000);
    const detail = `${deployment} has run nothing for ${hours} hours, and its ${instances} instance${instances === 1 ? "" : "s"} cost $${usd(hour_micros)} an hour all the same. Set its min_instances to 0, or delete it, if nothing needs it.`;
    const data = { deployment, idle_since: new Date(idle_since).toISOString(), instances, hour_micros };
    const id = `alert_idle_${deployment.replace("/", "_")}_${idle_since}`;
    return this.#record({ id, type: "deployment.idle", detail, data }, webhook, now);
  }

  /** Inside a commit. True where there is something to send. */
  unhealthy(forsaken: ForsakenModel, webhook: string | null, now: number): boolean {
    const { model, version, unhealthy_since, used_at, error } = forsaken;
    const days = Math.floor((now - used_at) / 86_400_000);
    const why = error === null ? "" : ` It fails with: ${error}`;
    const detail = `The example of ${model} fails, and nobody has run the model for ${days} days. Push a version that works, or make the model private.${why}`;
    const since = {
      unhealthy_since: new Date(unhealthy_since).toISOString(),
      used_at: new Date(used_at).toISOString(),
    };
    const id = `alert_unhealthy_${model.replace("/", "_")}_${unhealthy_since}`;
    return this.#record(
      { id, type: "model.unhealthy", detail, data: { model, version, ...since, error } },
      webhook,
      now,
    );
  }

  /** Inside a commit. */
  busy(deployment: string): void {
    if (this.#tables.exist()) this.#sql.exec("DELETE FROM idle_deployments WHERE deployment = ?", deployment);
  }

  #record(alert: Pick<Alert, "id" | "type" | "detail" | "data">, url: string | null, now: number): boolean {
    this.#tables.create();
    const { id, type, detail, data } = alert;
    const [state, due] = url === null ? ["shown", null] : ["pending", now];
    const added = this.#sql.exec(
      `INSERT OR IGNORE INTO alerts (id, type, created_at, detail, data, url, state, tried, due_at) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?)`,
      ...[id, type, now, detail, JSON.stringify(data), url, state, due],
    ).rowsWritten;
    if (added === 0) return false;
    this.#sql.exec(
      `DELETE FROM alerts WHERE due_at IS NULL AND n <= (SELECT max(n) FROM alerts) - ?
        AND coalesce(json_extract(data, '$.resets_at'), '') <= ?`,
      KEPT_MAX,
      new Date(now).toISOString(),
    );
    return url !== null;
  }

  /** When the next call is due; null for never. */
  nextDue(): number | null {
    if (!this.#tables.exist()) return null;
    return this.#sql.exec<{ due: number | null }>("SELECT min(due_at) AS due FROM alerts").one().due;
  }

  /** Calls what is due. `save` runs a change in a commit. */
  async send(keys: readonly string[], save: (change: () => void) => Promise<void>): Promise<void> {
    if (!this.#tables.exist()) return;
    const due = this.#sql
      .exec<AlertRow>("SELECT * FROM alerts WHERE due_at <= ? ORDER BY due_at LIMIT ?", Date.now(), CALLS_PER_TURN)
      .toArray();
    for (const row of due) {
      const { id, type, created_at, detail } = row;
      const data = JSON.parse(row.data) as Record<string, unknown>;
      const body = JSON.stringify({ type, timestamp: new Date(created_at).toISOString(), data: { ...data, detail } });
      const headers = signedHeaders(keys, { id, event: type, body }, Date.now());
      const { error, retry_after_ms } = await callWebhook(row.url ?? "", headers, body);
      const tried = row.tried + 1;
      const failure = error === null ? null : { now: Date.now(), error, retryAfterMs: retry_after_ms };
      const next = failure === null ? null : nextAttemptAt({ created_at, tried }, failure, Math.random());
      const state = failure === null ? "delivered" : next === null ? "failed" : "pending";
      await save(() => {
        this.#sql.exec("UPDATE alerts SET state = ?, tried = ?, due_at = ? WHERE id = ?", state, tried, next, id);
      });
    }
  }

  list(): { alerts: Alert[]; idle: IdleDeployment[] } {
    if (!this.#tables.exist()) return { alerts: [], idle: [] };
    const rows = this.#sql.exec<AlertRow>("SELECT * FROM alerts ORDER BY n DESC LIMIT ?", SHOWN_MAX).toArray();
    const alerts = rows.map(({ id, type, created_at, detail, state, tried, data }) => ({
      ...{ id, type, created_at, detail, state, attempts: tried },
      data: JSON.parse(data) as Record<string, unknown>,
    }));
    const idle = this.#sql
      .exec<{ deployment: string; idle_since: number; instances: number; hour_micros: number }>(
        "SELECT * FROM idle_deployments ORDER BY idle_since",
      )
      .toArray();
    return { alerts, idle };
  }
}
