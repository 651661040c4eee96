/**
 * Virtual time. A run is a queue of events; each event is one turn: its code and all promise jobs that follow from it. Between two turns is where a crash can
 * be. Nothing real is waited for, so a run is a function of its seed.
 *
 * Date, timers, Math.random and AbortSignal.timeout of the whole thread are replaced once ({@link replaceGlobals}): each run has a worker thread for itself.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { currentRandom } from "./random.ts";

/** Shortly before a day and a month end, where budgets begin anew. */
export const EPOCH_MS = Date.UTC(2026, 2, 31, 23, 59, 45);

/** Whoever runs code: an object's life in memory, a request in the Worker, an origin's process, a client. Dead ones run nothing more. */
export interface Actor {
  readonly name: string;
  isAlive: boolean;
}

interface Event {
  at: number;
  n: number;
  actor: Actor | null;
  run: () => void;
}

const realSetImmediate = setImmediate;
const RealDate = Date;

export class Timeline {
  now = 0;
  turns = 0;
  readonly #heap: Event[] = [];
  #n = 0;
  #hashA = 0x811c9dc5;
  #hashB = 0x01000193;
  /** kept only when asked for */
  lines: string[] | null = null;

  /** Runs `run` as a turn of `actor`, unless it is dead by then. */
  at(time: number, actor: Actor | null, run: () => void): void {
    this.#push({ at: Math.max(time, this.now), n: this.#n++, actor, run });
  }

  after(ms: number, actor: Actor | null, run: () => void): void {
    this.at(this.now + ms, actor, run);
  }

  /** One more line of what happened: part of the run's hash. */
  trace(line: string): void {
    let a = this.#hashA;
    let b = this.#hashB;
    for (let i = 0; i < line.length; i++) {
      const code = line.charCodeAt(i);
      a = Math.imul(a ^ code, 0x01000193);
      b = Math.imul(b + code, 0x85ebca6b) ^ (b >>> 13);
    }
    this.#hashA = a;
    this.#hashB = b;
    this.lines?.push(`${this.now.toFixed(3).padStart(12)} ${line}`);
  }

  hash(): string {
    const hex = (value: number): string => (value >>> 0).toString(16).padStart(8, "0");
    return hex(this.#hashA) + hex(this.#hashB);
  }

  /** Takes turns until `isOver` says so, or nothing is left, or `untilMs`. */
  async run(untilMs: number, isOver: () => boolean): Promise<void> {
    for (;;) {
      const next = this.#heap[0];
      if (next === undefined || next.at > untilMs || isOver()) return;
      this.#pop();
      this.now = next.at;
      if (next.actor !== null && !next.actor.isAlive) continue;
      this.turns += 1;
      running.run(next.actor, next.run);
      // Promise jobs of the turn are all run before this goes on.
      await new Promise((resolve) => realSetImmediate(resolve));
    }
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let i = heap.push(event) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if (!isBefore(event, heap[parent] as Event)) break;
      heap[i] = heap[parent] as Event;
      i = parent;
    }
    heap[i] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child += 1;
      if (!isBefore(heap[child] as Event, last)) break;
      heap[i] = heap[child] as Event;
      i = child;
    }
    heap[i] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.at < b.at || (a.at === b.at && a.n < b.n);
}

const running = new AsyncLocalStorage<Actor | null>();
let timeline = new Timeline();

/** Who runs now. */
export function currentActor(): Actor | null {
  return running.getStore() ?? null;
}

export function runAs(actor: Actor, run: () => void): void {
  running.run(actor, run);
}

export function setTimeline(next: Timeline): void {
  timeline = next;
}

class VirtualTimer {
  isCleared = false;
  #runs: () => void;
  constructor(runs: () => void) {
    this.#runs = runs;
  }
  fire(): void {
    if (!this.isCleared) this.#runs();
  }
  /** Node's timers have these. */
  unref(): this {
    return this;
  }
  ref(): this {
    return this;
  }
}

export function replaceGlobals(): void {
  class VirtualDate extends RealDate {
    constructor(...args: unknown[]) {
      if (args.length === 0) super(VirtualDate.now());
      else super(...(args as [number]));
    }
    static override now(): number {
      return EPOCH_MS + Math.floor(timeline.now);
    }
  }
  const setVirtualTimeout = (run: (...args: unknown[]) => void, ms = 0, ...args: unknown[]): VirtualTimer => {
    const timer = new VirtualTimer(() => run(...args));
    timeline.after(Math.max(0, Number(ms) || 0), currentActor(), () => timer.fire());
    return timer;
  };
  const setVirtualInterval = (run: (...args: unknown[]) => void, ms = 0, ...args: unknown[]): VirtualTimer => {
    const actor = currentActor();
    const timer = new VirtualTimer(() => {
      again();
      run(...args);
    });
    const again = (): void => timeline.after(Math.max(1, ms), actor, () => timer.fire());
    again();
    return timer;
  };
  const clear = (timer: unknown): void => {
    if (timer instanceof VirtualTimer) timer.isCleared = true;
  };
  Object.assign(globalThis, {
    Date: VirtualDate,
    setTimeout: setVirtualTimeout,
    setInterval: setVirtualInterval,
    clearTimeout: clear,
    clearInterval: clear,
  });
  Math.random = () => currentRandom().next();
  AbortSignal.timeout = (ms: number): AbortSignal => {
    const controller = new AbortController();
    setVirtualTimeout(() => controller.abort(new DOMException("The operation timed out.", "TimeoutError")), ms);
    return controller.signal;
  };
}
