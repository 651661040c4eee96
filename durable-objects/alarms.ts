/**
 * Many named deadlines over the one alarm of an object. A deadline is forgotten only after its handler returned, so a crash in between runs the
 * handler again: handlers are idempotent. Nothing is written before the first deadline is set.
 *
 * The platform drops an alarm after six failures of its handler, so {@link Alarms.run} lets no exception out: a deadline whose handler
 * failed comes again after a pause that doubles.
 */

/** First pause after a failed handler; doubled each time up to {@link RETRY_MAX_MS}. */
const RETRY_FIRST_MS = 1_000;
const RETRY_MAX_MS = 60_000;

/** When the object's alarm must ring: the earliest deadline, null for none. */
export function nextAlarm(deadlines: Iterable<number>): number | null {
  let next: number | null = null;
  for (const dueAt of deadlines) if (next === null || dueAt < next) next = dueAt;
  return next;
}

export class Alarms<Name extends string> {
  readonly #storage: DurableObjectStorage;
  #deadlines: Map<Name, number> | null = null;
  #tableExists = false;
  /** what the platform's alarm is set to: null is not at all, undefined is not known to this process */
  #armedFor: number | null | undefined;
  readonly #failures = new Map<Name, number>();
  /** deadlines whose handlers run now: spent, unless they are set again meanwhile */
  readonly #handling = new Map<Name, number>();

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
  }

  /** Sets the deadline `name` to `dueAt` (epoch milliseconds), replacing an earlier or later one. Joins the current commit. */
  set(name: Name, dueAt: number): void {
    const deadlines = this.#load();
    if (this.get(name) === dueAt) return;
    if (!this.#tableExists) {
      this.#storage.sql.exec("CREATE TABLE IF NOT EXISTS deadlines (name TEXT PRIMARY KEY, due_at INTEGER NOT NULL)");
      this.#tableExists = true;
    }
    // A spent deadline that is set to the same time again must not look spent.
    const due = this.#handling.get(name) === dueAt ? dueAt + 1 : dueAt;
    deadlines.set(name, due);
    this.#storage.sql.exec("INSERT OR REPLACE INTO deadlines VALUES (?, ?)", name, due);
    this.#arm();
  }

  /** Sets the deadline unless one of this name is due earlier. */
  setNoLaterThan(name: Name, dueAt: number): void {
    const known = this.get(name);
    if (known === null || dueAt < known) this.set(name, dueAt);
  }

  clear(name: Name): void {
    if (!this.#load().delete(name)) return;
    this.#storage.sql.exec("DELETE FROM deadlines WHERE name = ?", name);
    this.#arm();
  }

  /** When it is due; null when it is not set, or being handled and not set again. */
  get(name: Name): number | null {
    const dueAt = this.#load().get(name);
    return dueAt === undefined || this.#handling.get(name) === dueAt ? null : dueAt;
  }

  /** Reads everything anew: for a caller whose transaction was undone. */
  forget(): void {
    this.#deadlines = null;
    this.#tableExists = false;
    this.#armedFor = undefined;
  }

  /** The body of `alarm()`: calls `handle` for each deadline that is due. A handler may set its own deadline again. */
  async run(handle: (name: Name) => Promise<void> | void): Promise<void> {
    // The alarm that rang is spent, whatever time it stood for.
    this.#armedFor = null;
    const now = Date.now();
    for (const [name, dueAt] of [...this.#load()]) {
      if (dueAt > now) continue;
      this.#handling.set(name, dueAt);
      try {
        await handle(name);
        this.#failures.delete(name);
        if (this.get(name) === null) this.clear(name);
      } catch (error) {
        const failures = (this.#failures.get(name) ?? 0) + 1;
        this.#failures.set(name, failures);
        console.error(JSON.stringify({ event: "alarm_failed", name, failures, error: String(error) }));
        this.set(name, Date.now() + Math.min(RETRY_FIRST_MS * 2 ** (failures - 1), RETRY_MAX_MS));
      } finally {
        this.#handling.delete(name);
      }
    }
    this.#arm();
  }

  #load(): Map<Name, number> {
    if (this.#deadlines !== null) return this.#deadlines;
    const found = this.#storage.sql.exec("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'deadlines'");
    this.#tableExists = found.toArray().length > 0;
    this.#deadlines = new Map();
    if (this.#tableExists) {
      for (const row of this.#storage.sql.exec<{ name: Name; due_at: number }>("SELECT name, due_at FROM deadlines")) {
        this.#deadlines.set(row.name, row.due_at);
      }
    }
    return this.#deadlines;
  }

  #arm(): void {
    const next = nextAlarm(this.#load().values());
    if (next === this.#armedFor) return;
    this.#armedFor = next;
    // Written with the commit of the rows; the output gate waits for both.
    void (next === null ? this.#storage.deleteAlarm() : this.#storage.setAlarm(next));
  }
}
