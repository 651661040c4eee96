/**
 * A host of Durable Objects in one process: real classes of the product over SQLite in memory. It keeps what the platform promises, and nothing more:
 * - an object lives in memory until it crashes or is evicted, which may be between any two turns; its storage stays at the last commit
 * - writes of a turn are one commit, made a little later; nothing that the object sends leaves before it (output gate)
 * - an alarm rings at its time or later, at least once: again after a crash or a failure of its handler, until it returned
 * - a call to an object that crashes meanwhile fails, whatever became of it
 */
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { type Broken, Broken as BrokenError, type Network, type Reply, type Sender } from "./network.ts";
import { currentActor, EPOCH_MS, runAs } from "./timeline.ts";

type SqlValue = string | number | null | Uint8Array;
type Row = Record<string, SqlValue>;
interface Prepared {
  statement: StatementSync | null;
  kind: "read" | "write" | "script";
  returns: boolean;
}

/** A commit takes up to this; most take less. */
const COMMIT_MS = 4;
/** The platform's first pause before it repeats an alarm's handler; doubled each time. */
const ALARM_RETRY_MS = 2_000;
const ALARM_RETRIES_MAX = 6;

export type ObjectClass = new (ctx: never, env: never) => object;

export interface HostEvents {
  /** After a commit, while the object is in memory. */
  committed(slot: ObjectSlot): void;
  /** Of what is logged or thrown and is no consequence of a broken connection. */
  fault(message: string): void;
  /** A call was carried out. */
  answered(call: { binding: string; name: string; method: string; args: unknown[]; result: unknown }): void;
  /** A call begins. */
  called(call: { binding: string; name: string; method: string; args: unknown[] }): void;
}

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

export class ObjectHost {
  readonly network: Network;
  readonly events: HostEvents;
  readonly slots = new Map<string, ObjectSlot>();
  readonly #classes: Record<string, ObjectClass>;
  readonly #envOf: (actor: Sender) => unknown;
  crashes = 0;

  constructor(
    network: Network,
    classes: Record<string, ObjectClass>,
    envOf: (actor: Sender) => unknown,
    events: HostEvents,
  ) {
    this.network = network;
    this.#classes = classes;
    this.#envOf = envOf;
    this.events = events;
  }

  /** A namespace as `caller` sees it. */
  namespace(caller: Sender, binding: string): unknown {
    return {
      getByName: (name: string) =>
        new Proxy(
          {},
          {
            get: (_target, method) =>
              // A stub is no promise.
              method === "then"
                ? undefined
                : (...args: unknown[]) => this.call(caller, binding, name, String(method), args),
          },
        ),
    };
  }

  async call(
    from: Sender,
    binding: string,
    name: string,
    method: string,
    args: unknown[],
    isPerfect = false,
  ): Promise<unknown> {
    const label = `${binding}/${name}.${method}`;
    const text = JSON.stringify(args);
    const answer = await this.network.exchange({
      ...{ from, label, text, isPerfect },
      serve: (sent, reply) => this.#serve(binding, name, method, JSON.parse(sent) as unknown[], reply),
    });
    return answer === "" ? undefined : JSON.parse(answer);
  }

  #serve(binding: string, name: string, method: string, args: unknown[], reply: (reply: Reply) => void): void {
    const life = this.wake(this.slot(binding, name), name);
    const { timeline, random } = this.network;
    const died = (error: Broken): void => reply({ error });
    life.serving.add(died);
    timeline.after(0, life, () => {
      const { called, answered } = this.events;
      called({ binding, name, method, args });
      const work = (life.instance as Record<string, (...args: unknown[]) => Promise<unknown>>)[method]?.(...args);
      Promise.resolve(work).then(
        (result) => {
          const text = result === undefined ? "" : JSON.stringify(result);
          life.leave(() => {
            life.serving.delete(died);
            answered({ binding, name, method, args, result });
            reply({ text });
          });
        },
        (error: unknown) => {
          if (!isConsequence(error)) this.events.fault(`${life.name}.${method} threw ${describe(error)}`);
          life.leave(() => {
            life.serving.delete(died);
            reply({ error: new BrokenError(`${life.name}.${method}: ${String(error)}`, false) });
          });
        },
      );
      if (random.chance(this.network.rates.crash / 2)) {
        timeline.after(0, null, () => this.crash(life, "after a turn"));
      }
    });
  }

  slot(binding: string, name: string): ObjectSlot {
    const key = `${binding}/${name}`;
    const known = this.slots.get(key);
    if (known !== undefined) return known;
    const slot = new ObjectSlot(binding, name);
    this.slots.set(key, slot);
    return slot;
  }

  /** The object in memory; its constructor runs when it was not. `name` is what its id knows: an object that its alarm wakes may not know its own. */
  wake(slot: ObjectSlot, name: string | undefined): ObjectLife {
    if (slot.life !== null) return slot.life;
    const life = new ObjectLife(this, slot);
    slot.life = life;
    const made = this.#classes[slot.binding];
    if (made === undefined) throw new Error(`no class for ${slot.binding}`);
    const id = { name, toString: () => `${slot.binding}/${slot.name}` };
    const ctx = {
      id,
      storage: this.#storage(life),
      waitUntil: swallow,
      blockConcurrencyWhile: (run: () => unknown) => run(),
    };
    runAs(life, () => {
      life.instance = new made(ctx as never, this.#envOf(life) as never);
    });
    return life;
  }

  #storage(life: ObjectLife): unknown {
    const { slot } = life;
    const setAlarm = async (at: number | null): Promise<void> => {
      if (!life.isAlive) return;
      life.begin();
      slot.alarm = at;
    };
    return {
      sql: { exec: (query: string, ...values: SqlValue[]) => execute(life, query, values), databaseSize: 0 },
      transactionSync: <T>(write: () => T): T => life.transaction(write),
      setAlarm: (at: number | Date) => setAlarm(Number(at)),
      deleteAlarm: () => setAlarm(null),
      getAlarm: async () => slot.alarm,
      sync: async () => undefined,
    };
  }

  /** Sets the platform's clock to the alarm that is durable. */
  arm(slot: ObjectSlot): void {
    if (slot.alarm === slot.armedFor) return;
    slot.armedFor = slot.alarm;
    slot.armedN += 1;
    if (slot.alarm === null) return;
    const n = slot.armedN;
    const { timeline, random } = this.network;
    const late = random.chance(this.network.rates.slow) ? random.between(0, 3_000) : random.between(0, 5);
    timeline.at(slot.alarm - EPOCH_MS + late, null, () => {
      if (slot.armedN === n) this.#ring(slot);
    });
  }

  #ring(slot: ObjectSlot): void {
    const { timeline } = this.network;
    // One handler at a time: the next rings when this one is through.
    if (slot.handling !== null) {
      timeline.after(1, null, () => slot.alarm !== null && this.#ring(slot));
      return;
    }
    if (slot.alarm === null) return;
    const life = this.wake(slot, undefined);
    timeline.after(0, life, () => {
      if (slot.alarm === null || slot.handling !== null) return;
      timeline.trace(`${life.name} rings`);
      slot.handling = slot.alarm;
      slot.alarm = null;
      slot.armedFor = null;
      const alarm = (life.instance as { alarm?: () => Promise<void> }).alarm?.();
      Promise.resolve(alarm).then(
        // It is done when what it wrote is durable.
        () => life.leave(() => this.#handled(slot, true)),
        (error: unknown) => {
          if (!life.isAlive) return;
          this.events.fault(`${life.name} let ${describe(error)} out of its alarm`);
          this.#handled(slot, false);
        },
      );
    });
  }

  #handled(slot: ObjectSlot, isDone: boolean): void {
    const at = slot.handling;
    slot.handling = null;
    if (isDone) {
      slot.alarmFailures = 0;
      return;
    }
    slot.alarmFailures += 1;
    if (at === null || slot.alarm !== null || slot.alarmFailures > ALARM_RETRIES_MAX) {
      this.arm(slot);
      return;
    }
    slot.alarm = EPOCH_MS + Math.ceil(this.network.timeline.now) + ALARM_RETRY_MS * 2 ** (slot.alarmFailures - 1);
    this.arm(slot);
  }

  crash(life: ObjectLife, why: string): void {
    if (!life.isAlive) return;
    const { timeline, random } = this.network;
    const { slot } = life;
    this.crashes += 1;
    timeline.trace(`${life.name} crashes ${why}`);
    life.die();
    slot.life = null;
    for (const died of life.serving) died(new BrokenError(`${life.name} crashed`, random.chance(0.5)));
    life.serving.clear();
    if (slot.handling === null) {
      this.arm(slot);
      return;
    }
    // A crash is no failure of the handler: it does not count.
    slot.alarmFailures = 0;
    this.#handled(slot, false);
    slot.alarmFailures = 0;
  }

  /** As kill -9 of workerd: all objects at once. */
  crashAll(): void {
    for (const slot of this.slots.values()) if (slot.life !== null) this.crash(slot.life, "with its isolate");
  }

  close(): void {
    for (const slot of this.slots.values()) slot.db.close();
  }
}

function execute(life: ObjectLife, query: string, values: SqlValue[]): unknown {
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

function swallow(work: unknown): void {
  Promise.resolve(work).catch(() => undefined);
}

/** Whether an error says no more than that a connection broke. */
export function isConsequence(error: unknown): boolean {
  if (error instanceof DOMException && error.name === "TimeoutError") return true;
  return /network: /.test(String(error));
}

function describe(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message).split("\n").slice(0, 4).join(" | ") : String(error);
}

/** Who runs now, as a sender. */
export function currentSender(): Sender {
  const actor = currentActor();
  if (actor === null || !("leave" in actor)) throw new Error("nobody runs");
  return actor as Sender;
}
