/**
 * How many creates this isolate admits at once. It has one thread: without a bound every create that comes is begun, all of them take longer, and so does
 * everything else. Whoever finds no place waits, each account in its own line, with its body unread; the lines are served in turn, so an account that sends
 * thousands delays its own. Beyond the bound an account that has less than its share waiting still gets in; the others are told when their line is served.
 */

/** Begun at once; more would make each slower and none sooner. Reads then wait behind no more than these. */
const PLACES = 24;
/** A whole minute's worth of an account's creates may come at once (docs/rate-limits.md). */
const WAITING_MAX = 600;
/** Beyond it nobody waits, whatever their share. */
const WAITING_HARD_MAX = 2 * WAITING_MAX;
/** The place of a request that was given up is never given back: it is free again after this, many times what an admission takes. */
const ABANDONED_MS = 5_000;
/** A first guess of the time between two that are served, and how much of it each newer one replaces. */
const SERVED_EVERY_MS = 10;
const NEWER_SHARE = 0.1;
const RETRY_AFTER_MAX_S = 30;

export type Entry =
  /** `turn` resolves when there is a place; `leave` gives it back, calling it again does nothing */
  { kind: "let in"; turn: Promise<void> | null; leave: () => void } | { kind: "refused"; retry_after_s: number };

interface Waiter {
  ticket: object;
  go: () => void;
}

export class CreatePlaces {
  /** since when each place is taken */
  readonly #taken = new Map<object, number>();
  readonly #lines = new Map<string, Waiter[]>();
  readonly #now: () => number;
  #waiting = 0;
  #everyMs = SERVED_EVERY_MS;
  #servedAt = 0;

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
    if (this.#taken.size < PLACES) {
      this.#taken.set(ticket, this.#now());
      return { kind: "let in", turn: null, leave };
    }
    const line = this.#lines.get(account) ?? [];
    const lines = this.#lines.size + (line.length === 0 ? 1 : 0);
    const hasShare = this.#waiting < WAITING_HARD_MAX && line.length < Math.ceil(WAITING_MAX / lines);
    if (this.#waiting >= WAITING_MAX && !hasShare) {
      const untilServed_ms = Math.max(line.length, 1) * lines * this.#everyMs;
      return { kind: "refused", retry_after_s: Math.min(Math.ceil(untilServed_ms / 1_000), RETRY_AFTER_MAX_S) };
    }
    const turn = new Promise<void>((resolve) => line.push({ ticket, go: resolve }));
    this.#lines.set(account, line);
    this.#waiting++;
    return { kind: "let in", turn, leave };
  }

  #serve(): void {
    while (this.#taken.size < PLACES) {
      const [first] = this.#lines;
      if (first === undefined) return;
      const [account, line] = first;
      const waiter = line.shift();
      // Behind the other lines, where it has more.
      this.#lines.delete(account);
      if (waiter === undefined) continue;
      if (line.length > 0) this.#lines.set(account, line);
      this.#waiting--;
      const now = this.#now();
      this.#everyMs += NEWER_SHARE * (Math.min(now - this.#servedAt, 1_000) - this.#everyMs);
      this.#servedAt = now;
      this.#taken.set(waiter.ticket, now);
      waiter.go();
    }
  }

  #freeAbandoned(): void {
    const before = this.#now() - ABANDONED_MS;
    for (const [ticket, since] of this.#taken) if (since < before) this.#taken.delete(ticket);
  }
}
