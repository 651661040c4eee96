/**
 * What must outlive the process: attempts, events that the edge has not acknowledged, and the processes that were started. SQLite in WAL mode with
 * synchronous=NORMAL: a commit survives `kill -9` of the process, not of the host, whose attempts end with it anyway.
 *
 * Writes are queued and committed together once per turn of the event loop; `flush` commits them now. Whoever tells the outside of a write calls
 * `flush` first, so nothing was ever told that the journal does not hold.
 */
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { z } from "zod";
import { InstanceBootSchema } from "../schema/origin-protocol.ts";
import { InstanceRecordSchema } from "./drivers/driver.ts";

/** Unacknowledged events on disk. Above it the text of the oldest log lines goes (their indexes stay, so no gap appears). */
export const JOURNAL_EVENT_BYTES_MAX = 1024 ** 3;
/** Ended attempts are remembered this long, so that a start that is sent again does not run twice. */
export const ENDED_ATTEMPT_TTL_MS = 24 * 3_600_000;
/** What the bound frees at a time, in rows. */
const LOG_ROWS_PER_SWEEP = 1_000;

export interface AttemptKey {
  prediction_id: string;
  attempt: number;
}

export interface AttemptRow extends AttemptKey {
  instance_id: string;
  version_id: string;
  state: "waiting" | "running" | "finished" | "lost";
  started: boolean;
  last_event_i: number;
  accepted_at: number;
}

const SavedInstanceSchema = z.object({
  record: InstanceRecordSchema,
  /** what another process needs to go on with it; null where it can only be ended */
  resume: z
    .object({
      boot: InstanceBootSchema,
      /** the instance's file server, as its coglet knows it */
      files: z.object({ host: z.string(), port: z.number().int(), secret: z.string() }),
    })
    .nullable()
    // Written by another release: ended, then.
    .catch(null),
});
/** An instance whose processes were started. */
export type SavedInstance = z.infer<typeof SavedInstanceSchema>;

/** Events of one attempt as JSON texts, in order of `i`. */
export interface PendingAttempt extends AttemptKey {
  events: string[];
  through_i: number;
}

export class Journal {
  readonly #db: DatabaseSync;
  readonly #sql: ReturnType<typeof prepare>;
  readonly #eventBytesMax: number;
  #writes: (() => void)[] = [];
  #dirty = new Map<string, { key: AttemptKey; last_event_i: number }>();
  #timer: NodeJS.Immediate | null = null;
  #eventBytes: number;
  #isClosed = false;

  constructor(path: string, options: { eventBytesMax?: number } = {}) {
    this.#eventBytesMax = options.eventBytesMax ?? JOURNAL_EVENT_BYTES_MAX;
    this.#db = new DatabaseSync(path);
    this.#db.exec(`
      PRAGMA journal_mode = WAL;
      PRAGMA synchronous = NORMAL;
      CREATE TABLE IF NOT EXISTS attempts (
        prediction_id TEXT NOT NULL, attempt INTEGER NOT NULL, instance_id TEXT NOT NULL, version_id TEXT NOT NULL,
        state TEXT NOT NULL, started INTEGER NOT NULL, last_event_i INTEGER NOT NULL, accepted_at INTEGER NOT NULL,
        PRIMARY KEY (prediction_id, attempt)) WITHOUT ROWID;
      CREATE TABLE IF NOT EXISTS events (
        seq INTEGER PRIMARY KEY, prediction_id TEXT NOT NULL, attempt INTEGER NOT NULL, i INTEGER NOT NULL,
        is_log INTEGER NOT NULL, size INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (prediction_id, attempt, i));
      CREATE TABLE IF NOT EXISTS started_instances (instance_id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
    `);
    takeOldInstances(this.#db);
    this.#sql = prepare(this.#db);
    this.#eventBytes = Number(this.#sql.eventBytes.get()?.bytes ?? 0);
  }

  // ---- attempts

  insertAttempt(row: AttemptRow): void {
    this.#write(() =>
      this.#sql.insertAttempt.run(
        row.prediction_id,
        row.attempt,
        row.instance_id,
        row.version_id,
        row.state,
        row.started ? 1 : 0,
        row.last_event_i,
        row.accepted_at,
      ),
    );
  }

  setAttemptState(key: AttemptKey, state: AttemptRow["state"], started: boolean): void {
    this.#write(() => this.#sql.setAttemptState.run(state, started ? 1 : 0, key.prediction_id, key.attempt));
  }

  attempt(key: AttemptKey): AttemptRow | null {
    this.flush();
    const row = this.#sql.attempt.get(key.prediction_id, key.attempt);
    return row === undefined ? null : attemptRow(row);
  }

  /** Attempts that had no end when the process died. */
  liveAttempts(): AttemptRow[] {
    this.flush();
    return this.#sql.liveAttempts.all().map(attemptRow);
  }

  /** Forgets ended attempts whose events were all acknowledged and that are older than {@link ENDED_ATTEMPT_TTL_MS}. */
  sweepAttempts(now: number): void {
    this.#write(() => this.#sql.sweepAttempts.run(now - ENDED_ATTEMPT_TTL_MS));
  }

  // ---- events

  /** `body` is the event's JSON text, whose members `i` and `type` agree with the arguments. */
  appendEvent(key: AttemptKey, i: number, body: string, isLog: boolean): void {
    this.#eventBytes += body.length;
    this.#dirty.set(`${key.prediction_id} ${key.attempt}`, { key, last_event_i: i });
    this.#write(() => this.#sql.insertEvent.run(key.prediction_id, key.attempt, i, isLog ? 1 : 0, body.length, body));
  }

  /**
   * The oldest unacknowledged events within the bounds, grouped by attempt; at least one where there is any. Attempts for which `isHeld` is true are
   * left out whole.
   */
  nextBatch(bytesMax: number, eventsMax: number, isHeld: (key: AttemptKey) => boolean): PendingAttempt[] {
    this.flush();
    const attempts = new Map<string, PendingAttempt>();
    let bytes = 0;
    let events = 0;
    for (const row of this.#sql.events.iterate()) {
      const key = { prediction_id: String(row.prediction_id), attempt: Number(row.attempt) };
      if (isHeld(key)) continue;
      const body = String(row.body);
      if (events > 0 && (bytes + body.length > bytesMax || events >= eventsMax)) break;
      bytes += body.length;
      events += 1;
      const name = `${key.prediction_id} ${key.attempt}`;
      const pending = attempts.get(name) ?? { ...key, events: [], through_i: -1 };
      pending.events.push(body);
      pending.through_i = Number(row.i);
      attempts.set(name, pending);
    }
    return [...attempts.values()];
  }

  /** The edge has stored events up to and including `throughI`. */
  acknowledge(key: AttemptKey, throughI: number): void {
    this.#write(() => {
      const { bytes } = this.#sql.bytesThrough.get(key.prediction_id, key.attempt, throughI) ?? {};
      this.#eventBytes -= Number(bytes ?? 0);
      this.#sql.deleteEvents.run(key.prediction_id, key.attempt, throughI);
    });
  }

  /** Events of this attempt are of no use any more. */
  forgetEvents(key: AttemptKey): void {
    this.acknowledge(key, Number.MAX_SAFE_INTEGER);
  }

  hasEvents(): boolean {
    this.flush();
    return this.#sql.anyEvent.get() !== undefined;
  }

  /** Bytes of unacknowledged events. */
  get eventBytes(): number {
    return this.#eventBytes;
  }

  // ---- processes

  saveInstance(saved: SavedInstance): void {
    this.#write(() => this.#sql.saveInstance.run(saved.record.instance_id, JSON.stringify(saved)));
    this.flush();
  }

  deleteInstance(instanceId: string): void {
    this.#write(() => this.#sql.deleteInstance.run(instanceId));
  }

  instances(): SavedInstance[] {
    this.flush();
    return this.#sql.instances.all().flatMap(({ body }) => {
      const parsed = SavedInstanceSchema.safeParse(JSON.parse(String(body)));
      return parsed.success ? [parsed.data] : [];
    });
  }

  // ---- commits

  #write(change: () => void): void {
    if (this.#isClosed) return;
    this.#writes.push(change);
    this.#timer ??= setImmediate(() => this.flush());
  }

  /** Commits what is queued. Synchronous, some 30 microseconds. */
  flush(): void {
    if (this.#timer !== null) clearImmediate(this.#timer);
    this.#timer = null;
    if (this.#writes.length === 0 || this.#isClosed) return;
    const writes = this.#writes;
    this.#writes = [];
    this.#db.exec("BEGIN");
    try {
      for (const write of writes) write();
      for (const { key, last_event_i } of this.#dirty.values()) {
        this.#sql.setLastEvent.run(last_event_i, key.prediction_id, key.attempt);
      }
      this.#dirty.clear();
      if (this.#eventBytes > this.#eventBytesMax) this.#dropOldestLogs();
      this.#db.exec("COMMIT");
    } catch (error) {
      // A full disk: nothing of this turn is kept, and whoever flushed hears of it.
      this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  #dropOldestLogs(): void {
    for (const row of this.#sql.oldestLogs.all(LOG_ROWS_PER_SWEEP)) {
      if (this.#eventBytes <= this.#eventBytesMax * 0.9) return;
      const body = String(row.body);
      const emptied = JSON.stringify({ ...JSON.parse(body), data: "" });
      this.#eventBytes -= body.length - emptied.length;
      this.#sql.emptyLog.run(emptied, emptied.length, Number(row.seq));
    }
  }

  close(): void {
    this.flush();
    this.#isClosed = true;
    this.#db.close();
  }
}

function prepare(
  db: DatabaseSync,
): Record<
  | "insertAttempt"
  | "setAttemptState"
  | "setLastEvent"
  | "attempt"
  | "liveAttempts"
  | "sweepAttempts"
  | "insertEvent"
  | "events"
  | "anyEvent"
  | "bytesThrough"
  | "deleteEvents"
  | "eventBytes"
  | "oldestLogs"
  | "emptyLog"
  | "saveInstance"
  | "deleteInstance"
  | "instances",
  StatementSync
> {
  return {
    insertAttempt: db.prepare("INSERT OR IGNORE INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
    setAttemptState: db.prepare("UPDATE attempts SET state = ?, started = ? WHERE prediction_id = ? AND attempt = ?"),
    setLastEvent: db.prepare("UPDATE attempts SET last_event_i = ? WHERE prediction_id = ? AND attempt = ?"),
    attempt: db.prepare("SELECT * FROM attempts WHERE prediction_id = ? AND attempt = ?"),
    liveAttempts: db.prepare("SELECT * FROM attempts WHERE state IN ('waiting', 'running')"),
    sweepAttempts: db.prepare(
      "DELETE FROM attempts WHERE state IN ('finished', 'lost') AND accepted_at < ? AND NOT EXISTS (SELECT 1 FROM events WHERE events.prediction_id = attempts.prediction_id AND events.attempt = attempts.attempt)",
    ),
    insertEvent: db.prepare(
      "INSERT OR IGNORE INTO events (prediction_id, attempt, i, is_log, size, body) VALUES (?, ?, ?, ?, ?, ?)",
    ),
    events: db.prepare("SELECT prediction_id, attempt, i, body FROM events ORDER BY seq"),
    anyEvent: db.prepare("SELECT 1 FROM events LIMIT 1"),
    bytesThrough: db.prepare(
      "SELECT SUM(size) AS bytes FROM events WHERE prediction_id = ? AND attempt = ? AND i <= ?",
    ),
    deleteEvents: db.prepare("DELETE FROM events WHERE prediction_id = ? AND attempt = ? AND i <= ?"),
    eventBytes: db.prepare("SELECT SUM(size) AS bytes FROM events"),
    oldestLogs: db.prepare("SELECT seq, body FROM events WHERE is_log = 1 AND size > 200 ORDER BY seq LIMIT ?"),
    emptyLog: db.prepare("UPDATE events SET body = ?, size = ? WHERE seq = ?"),
    saveInstance: db.prepare("INSERT OR REPLACE INTO started_instances VALUES (?, ?)"),
    deleteInstance: db.prepare("DELETE FROM started_instances WHERE instance_id = ?"),
    instances: db.prepare("SELECT body FROM started_instances"),
  };
}

/** The first release kept process numbers in columns; its rows can only be ended. */
function takeOldInstances(db: DatabaseSync): void {
  if (db.prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'instances'").get() === undefined) return;
  const insert = db.prepare("INSERT OR REPLACE INTO started_instances VALUES (?, ?)");
  db.exec("BEGIN");
  for (const row of db.prepare("SELECT * FROM instances").all()) {
    const saved: SavedInstance = {
      record: {
        instance_id: String(row.instance_id),
        version_id: String(row.version_id),
        deployment_key: String(row.deployment_key),
        handle: `${Number(row.pid)}:${String(row.start_ticks)}`,
        address: { host: "127.0.0.1", port: Number(row.port) },
        gpus: [],
      },
      resume: null,
    };
    insert.run(saved.record.instance_id, JSON.stringify(saved));
  }
  db.exec("DROP TABLE instances");
  db.exec("COMMIT");
}

function attemptRow(row: Record<string, unknown>): AttemptRow {
  const state = String(row.state);
  return {
    prediction_id: String(row.prediction_id),
    attempt: Number(row.attempt),
    instance_id: String(row.instance_id),
    version_id: String(row.version_id),
    state: state === "waiting" || state === "running" || state === "lost" ? state : "finished",
    started: Number(row.started) === 1,
    last_event_i: Number(row.last_event_i),
    accepted_at: Number(row.accepted_at),
  };
}
