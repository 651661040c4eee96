/**
 * What must outlive the process of builds: which were taken, and events that the edge has not acknowledged. A build that ran when the process ended is not
 * taken up: it is forgotten, so that the edge, which asks, starts it anew. SQLite, as the journal of attempts, in a file of its own.
 */
import { DatabaseSync } from "node:sqlite";
import { type BuildState, BuildStateSchema } from "../../schema/origin-protocol.ts";

/** Ended builds are remembered this long, so that a start that is sent again does not build twice. */
const ENDED_TTL_MS = 24 * 3_600_000;

export class BuildStore {
  readonly #db: DatabaseSync;

  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    this.#db.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = NORMAL;
      CREATE TABLE IF NOT EXISTS builds (
        build_id TEXT PRIMARY KEY, state TEXT NOT NULL, last_event_i INTEGER NOT NULL, ended_at INTEGER) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS build_events (
        build_id TEXT NOT NULL, i INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (build_id, i)) WITHOUT ROWID;
      DELETE FROM build_events WHERE build_id IN (SELECT build_id FROM builds WHERE state <> 'finished');
      DELETE FROM builds WHERE state <> 'finished';
    `);
    this.#db.prepare("DELETE FROM builds WHERE ended_at < ?").run(Date.now() - ENDED_TTL_MS);
    this.#db.exec("DELETE FROM build_events WHERE build_id NOT IN (SELECT build_id FROM builds)");
  }

  add(buildId: string): void {
    this.#db.prepare("INSERT OR IGNORE INTO builds VALUES (?, 'queued', -1, NULL)").run(buildId);
  }

  state(buildId: string): BuildState | null {
    const row = this.#db.prepare("SELECT build_id, state, last_event_i FROM builds WHERE build_id = ?").get(buildId);
    return row === undefined ? null : BuildStateSchema.parse({ ...row });
  }

  setRunning(buildId: string): void {
    this.#db.prepare("UPDATE builds SET state = 'running' WHERE build_id = ?").run(buildId);
  }

  /** Gives the event the next index of its build. The last event ends the build. */
  append(buildId: string, event: Record<string, unknown>, isLast: boolean): void {
    const state = this.state(buildId);
    if (state === null) return;
    const i = state.last_event_i + 1;
    this.#db.exec("BEGIN");
    try {
      this.#db.prepare("INSERT INTO build_events VALUES (?, ?, ?)").run(buildId, i, JSON.stringify({ i, ...event }));
      this.#db
        .prepare(
          "UPDATE builds SET last_event_i = ?, state = iif(?, 'finished', state), ended_at = ? WHERE build_id = ?",
        )
        .run(i, isLast ? 1 : 0, isLast ? Date.now() : null, buildId);
      this.#db.exec("COMMIT");
    } catch (error) {
      this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  /** The oldest events that were not acknowledged, as JSON texts; at least one where there is any. */
  pending(buildId: string, bytesMax: number, eventsMax: number): string[] {
    const bodies: string[] = [];
    let bytes = 0;
    const rows = this.#db.prepare("SELECT body FROM build_events WHERE build_id = ? ORDER BY i LIMIT ?");
    for (const row of rows.iterate(buildId, eventsMax)) {
      const body = String(row["body"]);
      bytes += body.length;
      if (bodies.length > 0 && bytes > bytesMax) break;
      bodies.push(body);
    }
    return bodies;
  }

  /** Builds with events that were not acknowledged. */
  unsent(): string[] {
    return this.#db
      .prepare("SELECT DISTINCT build_id FROM build_events")
      .all()
      .map((row) => String(row["build_id"]));
  }

  acknowledge(buildId: string, throughI: number): void {
    this.#db.prepare("DELETE FROM build_events WHERE build_id = ? AND i <= ?").run(buildId, throughI);
  }

  /** As if it had never been taken. */
  forget(buildId: string): void {
    this.#db.prepare("DELETE FROM build_events WHERE build_id = ?").run(buildId);
    this.#db.prepare("DELETE FROM builds WHERE build_id = ?").run(buildId);
  }

  close(): void {
    this.#db.close();
  }
}
