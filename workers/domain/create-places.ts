/**
 * How many creates this isolate admits at once. It has one thread: without a bound every create that comes is begun, all of them take longer, and so does
 * everything else. Whoever finds no place waits, each account in its own line, with its body unread; the lines are served in turn, so an account that sends
 * thousands delays its own. Beyond the bound an account that has less than its share waiting still gets in; the others are told when their line is served.
 *
 * Nothing here wakes a request: one that waits for a promise that another request resolves has no I/O of its own, and the platform ends it as hung. Each looks
 * again after a time of its own, half of what its line needs by what was measured, so it looks a few times only.
 */

/**
 * Begun at once: many where each mostly waits for other machines, few where they fill the thread, since whatever else comes (a read, an origin's event) waits
 * behind all of them at each of its steps. Under ten times what a machine can do reads took 338 ms with 24, 44 with 10, 10 with 4 (p50; bench/README.md, overload).
 */
const PLACES_MAX = 24;
const PLACES_MIN = 4;
/** A timer that rings later than this says that the thread is full. */
const LATE_MAX_MS = 10;
/** Full: half of the places. Not full: one more. Looked at so often, for the next look to see what the last change did. */
const RESIZE_EVERY_MS = 100;
const SHRINK_TO = 0.5;
/** A whole minute's worth of an account's creates may come at once (docs/rate-limits.md). */
const WAITING_MAX = 600;
/** Beyond it nobody waits, whatever their share. */
const WAITING_HARD_MAX = 2 * WAITING_MAX;
/** The place of a request that was given up is never given back: it is free again after this, many times what an admission takes. */
const ABANDONED_MS = 5_000;
/** A first guess of the time between two that are served. */
const SERVED_EVERY_MS = 10;
/** It is measured over spells of at least so long, and of more than one burst: they are served in bursts, when the thread comes to it. How much a newer one replaces. */
const MEASURE_MS = 1_000;
const NEWER_SHARE = 0.5;
const RETRY_AFTER_MAX_S = 30;
const LOOK_MIN_MS = 5;
/** Looks cost too, and hundreds may wait: 600 a second at most. */
const LOOK_MAX_MS = 1_000;

export type Entry =
  /** `wait_ms` says when to look again, 0 when there is a place; `leave` gives it back, calling it again does nothing */
  { kind: "let in"; wait_ms: () => number; leave: () => void } | { kind: "refused"; retry_after_s: number };

interface Line {
  waiting: object[];
  /** how many have got a place or have left */
  served: number;
}

export class CreatePlaces {
  /** since when each place is taken */
  readonly #taken = new Map<object, number>();
  readonly #lines = new Map<string, Line>();
  readonly #now: () => number;
  #places = PLACES_MAX;
  #resizedAt = 0;
  #waiting = 0;
  #everyMs = SERVED_EVERY_MS;
  /** of a spell in which somebody waited all the time */
  #spell = { from: 0, served: 0 };

  constructor(now: () => number = Date.now) {
    this.#now = now;
  }

  enter(account: string): Entry {
    this.#freeAbandoned();
    this.#serve();
    const ticket = {};
    const leave = (): void => {
      if (this.#taken.delete(ticket)) this.#serve();
    };
    if (this.#taken.size < this.#places) {
      this.#taken.set(ticket, this.#now());
      return { kind: "let in", wait_ms: () => 0, leave };
    }
    const line = this.#lines.get(account) ?? { waiting: [], served: 0 };
    const lines = this.#lines.size + (line.waiting.length === 0 ? 1 : 0);
    const hasShare = this.#waiting < WAITING_HARD_MAX && line.waiting.length < Math.ceil(WAITING_MAX / lines);
    if (this.#waiting >= WAITING_MAX && !hasShare) {
      const untilServed_ms = Math.max(line.waiting.length, 1) * lines * this.#everyMs;
      return { kind: "refused", retry_after_s: Math.min(Math.ceil(untilServed_ms / 1_000), RETRY_AFTER_MAX_S) };
    }
    if (this.#waiting === 0) this.#spell = { from: this.#now(), served: 0 };
    const number = line.served + line.waiting.push(ticket);
    this.#lines.set(account, line);
    this.#waiting++;
    let due = Number.POSITIVE_INFINITY;
    const wait_ms = (): number => {
      const now = this.#now();
      if (due !== Number.POSITIVE_INFINITY) this.#resize(now, now - due);
      this.#freeAbandoned();
      this.#serve();
      const before = number - line.served;
      if (before <= 0) return 0;
      const half_ms = (before * this.#lines.size * this.#everyMs) / 2;
      const wait = Math.min(Math.max(half_ms, LOOK_MIN_MS), LOOK_MAX_MS);
      due = now + wait;
      return wait;
    };
    return { kind: "let in", wait_ms, leave };
  }

  /** Those who wait look again by timers: how late these ring is how long anything waits for this thread. */
  #resize(now: number, late_ms: number): void {
    if (now - this.#resizedAt < RESIZE_EVERY_MS) return;
    this.#resizedAt = now;
    const isFull = late_ms > LATE_MAX_MS;
    this.#places = isFull
      ? Math.max(Math.floor(this.#places * SHRINK_TO), PLACES_MIN)
      : Math.min(this.#places + 1, PLACES_MAX);
  }

  #serve(): void {
    while (this.#taken.size < this.#places) {
      const [first] = this.#lines;
      if (first === undefined) return;
      const [account, line] = first;
      const ticket = line.waiting.shift();
      // Behind the other lines, where it has more.
      this.#lines.delete(account);
      if (ticket === undefined) continue;
      line.served++;
      if (line.waiting.length > 0) this.#lines.set(account, line);
      this.#waiting--;
      const now = this.#now();
      this.#measure(now);
      this.#taken.set(ticket, now);
    }
  }

  #measure(now: number): void {
    const took_ms = now - this.#spell.from;
    this.#spell.served++;
    if (took_ms < MEASURE_MS || this.#spell.served <= PLACES_MAX) return;
    this.#everyMs += NEWER_SHARE * (took_ms / this.#spell.served - this.#everyMs);
    this.#spell = { from: now, served: 0 };
  }

  #freeAbandoned(): void {
    const before = this.#now() - ABANDONED_MS;
    for (const [ticket, since] of this.#taken) if (since < before) this.#taken.delete(ticket);
  }
}
