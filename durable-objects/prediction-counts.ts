/**
 * What a PredictionObject has done since it exists, for metrics: sums that survive evictions, and what is going on now. Written inside the commits of what they
 * count, so created = ended + in flight holds at every look.
 */
import { finalLines, type PaidBy, type PaidProgress } from "../schema/prediction-cost.ts";
import { TerminalPredictionStates } from "../schema/prediction-document.ts";
import { meterOf } from "../schema/prediction-lifecycle.ts";
import { sumMicros } from "../schema/pricing.ts";
import { LazyTables } from "./lazy-tables.ts";

const TABLE = "CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID";

/** A prediction's end by its state, what its creates and webhooks came to, and what was charged. */
export type CountName =
  | "created"
  | (typeof TerminalPredictionStates)[number]
  | "platform_failures"
  | "charged_micros"
  | "webhook_calls_failed"
  | "webhook_calls_taken";

export interface PredictionFigures {
  counts: Record<CountName, number>;
  /** micro-dollars of the time of instances that are paid by the hour */
  online_micros: number;
  /** live ones by internal state */
  in_flight: Record<string, number>;
  /** rows that others have not taken yet */
  outbox: number;
  webhooks_waiting: number;
}

const NAMES: CountName[] = [
  "created",
  ...TerminalPredictionStates,
  "platform_failures",
  "charged_micros",
  "webhook_calls_failed",
  "webhook_calls_taken",
];

/** Before the id of an account, for what its instances' time came to. */
const ONLINE = "online:";

export class PredictionCounts {
  readonly #sql: SqlStorage;
  readonly #tables: LazyTables;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLE, "counts");
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables.forget();
  }

  /** Inside a commit, before what it counts is stored: the first count takes over what lives. */
  add(name: CountName, by = 1): void {
    this.#createTable();
    this.#sql.exec(
      "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
      name,
      by,
    );
  }

  /** Inside a commit: how a prediction ended, and what it cost. */
  ended(progress: PaidProgress, paid: PaidBy, hardware: string): void {
    const meter = meterOf(progress.life, hardware);
    if (meter === null) return;
    this.add(meter.outcome);
    if (meter.platform_failure) this.add("platform_failures");
    const cost = sumMicros(finalLines(progress, paid, hardware) ?? []);
    if (cost > 0) this.add("charged_micros", cost);
  }

  /** Inside a commit: the sum that an account told of its instances' time. Accounts lie in the pool by their ids, as predictions do by theirs. */
  online(accountId: string, micros: number): void {
    this.#createTable();
    this.#sql.exec(
      "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
      `${ONLINE}${accountId}`,
      micros,
    );
  }

  #createTable(): void {
    if (!this.#tables.create()) return;
    // What an earlier release left alive is counted when it ends, so it is counted as created.
    const live = this.#has("predictions") ? this.#number("SELECT count(*) AS n FROM predictions WHERE is_live = 1") : 0;
    this.#sql.exec("INSERT INTO counts VALUES ('created', ?)", live);
  }

  figures(): PredictionFigures {
    const rows = this.#tables.exist()
      ? this.#sql.exec<{ name: string; value: number }>("SELECT name, value FROM counts").toArray()
      : [];
    const counts = Object.fromEntries(
      NAMES.map((name) => [name, rows.find((row) => row.name === name)?.value ?? 0]),
    ) as Record<CountName, number>;
    const online_micros = rows.reduce((sum, { name, value }) => sum + (name.startsWith(ONLINE) ? value : 0), 0);
    const live = this.#has("predictions")
      ? this.#sql
          .exec<{ state: string; n: number }>(
            "SELECT json_extract(progress, '$.life.state') AS state, count(*) AS n FROM predictions INDEXED BY predictions_live WHERE is_live = 1 GROUP BY state",
          )
          .toArray()
      : [];
    return {
      counts,
      online_micros,
      in_flight: Object.fromEntries(live.map(({ state, n }) => [state, n])),
      outbox: this.#has("outbox") ? this.#number("SELECT count(*) AS n FROM outbox") : 0,
      webhooks_waiting: this.#has("webhooks")
        ? this.#number(`SELECT count(*) AS n FROM webhooks WHERE due_at < ${Number.MAX_SAFE_INTEGER}`)
        : 0,
    };
  }

  #has(table: string): boolean {
    return this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = ?", table).toArray().length > 0;
  }

  #number(sql: string): number {
    return this.#sql.exec<{ n: number }>(sql).one().n;
  }
}
