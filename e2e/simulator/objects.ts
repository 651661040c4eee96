/**
 * A host of Durable Objects in one process: real classes of the product over SQLite in memory. It keeps what the platform promises, and nothing more:
 * - an object lives in memory until it crashes or is evicted, which may be between any two turns; its storage stays at the last commit
 * - writes of a turn are one commit, made a little later; nothing that the object sends leaves before it (output gate)
 * - an alarm rings at its time or later, at least once: again after a crash or a failure of its handler, until it returned
 * - a call to an object that crashes meanwhile fails, whatever became of it
 */
import { type Broken, Broken as BrokenError, type Network, type Reply, type Sender } from "./network.ts";
import { execute, ObjectLife, ObjectSlot, type SqlValue } from "./object-life.ts";
import { currentActor, EPOCH_MS, runAs } from "./timeline.ts";

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
