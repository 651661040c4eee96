/** What of an object survives, and its life in memory: its storage as the platform keeps it, with transactions, savepoints and the output gate. */
import { DatabaseSync, type StatementSync } from "node:sqlite";
import type { Broken, Sender } from "./network.ts";
import type { ObjectHost } from "./objects.ts";

export type SqlValue = string | number | null | Uint8Array;
type Row = Record<string, SqlValue>;
interface Prepared {
  statement: StatementSync | null;
  kind: "read" | "write" | "script";
  returns: boolean;
}

/** A commit takes up to this; most take less. */
const COMMIT_MS = 4;
/** What of an object survives: its storage and its alarm. */
export class ObjectSlot {
  readonly binding: string;
  readonly name: string;
  readonly db = new DatabaseSync(":memory:");
  readonly prepared = new Map<string, Prepared>();
  alarm: number | null = null;
  /** what the platform's clock is set to */
  armedFor: number | null = null;
  armedN = 0;
  /** the alarm whose handler runs */
  handling: number | null = null;
  alarmFailures = 0;
  life: ObjectLife | null = null;

  constructor(binding: string, name: string) {
    this.binding = binding;
    this.name = name;
  }

  prepare(query: string): Prepared {
    const known = this.prepared.get(query);
    if (known !== undefined) return known;
    const isScript = /;\s*\S/.test(query.replace(/'[^']*'/g, ""));
    const word = /^\s*(\w+)/.exec(query)?.[1]?.toUpperCase() ?? "";
    const isWrite = !["SELECT", "WITH", "PRAGMA"].includes(word);
    const isDdl = isScript || ["CREATE", "DROP", "ALTER"].includes(word);
    const made: Prepared = isDdl
      ? { statement: null, kind: "script", returns: false }
      : {
          statement: this.db.prepare(query),
          kind: isWrite ? "write" : "read",
          returns: !isWrite || /\bRETURNING\b/i.test(query),
        };
    if (!isDdl) this.prepared.set(query, made);
    return made;
  }

  /** Reads what is in storage, for those who look from outside. */
  read<T>(query: string, ...values: SqlValue[]): T[] {
    return this.db.prepare(query).all(...values) as T[];
  }

  hasTable(name: string): boolean {
    return this.read("SELECT 1 FROM sqlite_master WHERE name = ?", name).length > 0;
  }
}

/** An object in memory. */
export class ObjectLife implements Sender {
  readonly name: string;
  readonly slot: ObjectSlot;
  readonly #host: ObjectHost;
  isAlive = true;
  instance: object = {};
  /** calls that it serves: told when it dies */
  readonly serving = new Set<(error: Broken) => void>();
  #held: (() => void)[] = [];
  #isOpen = false;
  #alarmBefore: number | null = null;
  #savepoint: { isMade: boolean; alarm: number | null } | null = null;

  constructor(host: ObjectHost, slot: ObjectSlot) {
    this.#host = host;
    this.slot = slot;
    this.name = `${slot.binding}/${slot.name}`;
  }

  leave(send: () => void): void {
    if (!this.isAlive) return;
    if (this.#isOpen) this.#held.push(send);
    else send();
  }

  /** Before a write. */
  begin(): void {
    if (!this.isAlive) throw new Error("a dead object writes");
    const { db } = this.slot;
    if (!this.#isOpen) {
      this.#isOpen = true;
      this.#alarmBefore = this.slot.alarm;
      db.exec("BEGIN");
      const { timeline, random } = this.#host.network;
      timeline.after(random.between(0, COMMIT_MS), this, () => this.#commit());
    }
    if (this.#savepoint !== null && !this.#savepoint.isMade) {
      this.#savepoint = { isMade: true, alarm: this.slot.alarm };
      db.exec("SAVEPOINT one");
    }
  }

  transaction<T>(write: () => T): T {
    const outer = this.#savepoint;
    if (outer !== null) return write();
    this.#savepoint = { isMade: false, alarm: null };
    try {
      const result = write();
      if (this.#savepoint.isMade) this.slot.db.exec("RELEASE one");
      return result;
    } catch (error) {
      if (this.#savepoint.isMade) {
        this.slot.db.exec("ROLLBACK TO one; RELEASE one");
        this.slot.alarm = this.#savepoint.alarm;
      }
      throw error;
    } finally {
      this.#savepoint = null;
    }
  }

  #commit(): void {
    const { network } = this.#host;
    const { random } = network;
    if (random.chance(network.rates.crash)) {
      this.#host.crash(this, "before its commit");
      return;
    }
    this.slot.db.exec("COMMIT");
    this.#isOpen = false;
    network.timeline.trace(`${this.name} commits`);
    this.#host.arm(this.slot);
    this.#host.events.committed(this.slot);
    const held = this.#held;
    this.#held = [];
    const crashes = random.chance(network.rates.crash);
    const leaving = crashes ? held.slice(0, random.int(0, held.length)) : held;
    for (const send of leaving) send();
    if (crashes) this.#host.crash(this, `after its commit, with ${leaving.length} of ${held.length} messages sent`);
  }

  /** Its memory is gone, and what it wrote since the last commit. */
  die(): void {
    this.isAlive = false;
    this.#held = [];
    if (!this.#isOpen) return;
    this.slot.db.exec("ROLLBACK");
    // Statements know the tables of the transaction that was undone.
    this.slot.prepared.clear();
    this.slot.alarm = this.#alarmBefore;
    this.#isOpen = false;
  }
}

export function execute(life: ObjectLife, query: string, values: SqlValue[]): unknown {
  const { slot } = life;
  const prepared = slot.prepare(query);
  if (prepared.kind !== "read") life.begin();
  if (prepared.statement === null) {
    slot.db.exec(query);
    slot.prepared.clear();
    return cursor([], 0);
  }
  const bound = values.map((value) =>
    value === undefined ? null : typeof value === "boolean" ? Number(value) : value,
  );
  if (prepared.returns) return cursor(prepared.statement.all(...bound) as Row[], 1);
  return cursor([], Number(prepared.statement.run(...bound).changes));
}

function cursor(rows: Row[], rowsWritten: number): unknown {
  return {
    rowsWritten,
    rowsRead: rows.length,
    toArray: () => rows,
    one: () => {
      if (rows.length !== 1) throw new Error(`${rows.length} rows where one was expected`);
      return rows[0];
    },
    [Symbol.iterator]: () => rows[Symbol.iterator](),
  };
}
