/**
 * What the instances of a deployment last said of their setups and ends: reasons, and the logs that go to the model's people and the operator. Written when
 * an instance says something new, inside a group commit.
 */
import type { InstanceStatus } from "../schema/origin-protocol.ts";
import type { SetupReport } from "./deployment-contract.ts";
import { LazyTables } from "./lazy-tables.ts";

/** The newest instances; older ones say nothing new. */
const REPORTS_MAX = 10;
/** Origins send the last 16 KiB. */
const LOGS_CHARACTERS_MAX = 65_536;
const REASON_CHARACTERS_MAX = 2_000;

const TABLE = `
CREATE TABLE IF NOT EXISTS reports (
  instance_id TEXT PRIMARY KEY,
  version_id TEXT NOT NULL,
  state TEXT NOT NULL,
  reason TEXT,
  logs TEXT,
  at INTEGER NOT NULL
) WITHOUT ROWID;
`;

export class InstanceReports {
  readonly #sql: SqlStorage;
  readonly #tables: LazyTables;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    this.#tables = new LazyTables(sql, TABLE, "reports");
  }

  /** For a transaction that was undone. */
  forget(): void {
    this.#tables.forget();
  }

  save({ instance_id, version_id, state, reason, logs }: InstanceStatus, now: number): void {
    if (reason === undefined && logs === undefined) return;
    this.#tables.create();
    // Logs come at the end of a setup and at an end: those of the setup before stay until then.
    this.#sql.exec(
      `INSERT INTO reports (instance_id, version_id, state, reason, logs, at) VALUES (?, ?, ?, ?, ?, ?)
        ON CONFLICT (instance_id) DO UPDATE SET state = excluded.state, reason = excluded.reason,
          logs = coalesce(excluded.logs, logs), at = excluded.at`,
      ...[instance_id, version_id, state],
      reason?.slice(0, REASON_CHARACTERS_MAX) ?? null,
      logs?.slice(-LOGS_CHARACTERS_MAX) ?? null,
      now,
    );
    this.#sql.exec(
      "DELETE FROM reports WHERE instance_id NOT IN (SELECT instance_id FROM reports ORDER BY at DESC LIMIT ?)",
      REPORTS_MAX,
    );
  }

  /** Newest first. */
  list(): SetupReport[] {
    if (!this.#tables.exist()) return [];
    return this.#sql
      .exec<{
        instance_id: string;
        version_id: string;
        state: InstanceStatus["state"];
        reason: string | null;
        logs: string | null;
        at: number;
      }>("SELECT instance_id, version_id, state, reason, logs, at FROM reports ORDER BY at DESC, instance_id")
      .toArray();
  }
}
