import { describe, expect, it } from "vitest";
import { CreatePlaces, type Entry } from "./domain/create-places.ts";

const PLACES = 24;
const PLACES_MIN = 4;
const WAITING_MAX = 600;

function letIn(entry: Entry): Extract<Entry, { kind: "let in" }> {
  if (entry.kind !== "let in") throw new Error("refused");
  return entry;
}

/** Enters `count` times for one account; the entries in order. */
function enter(places: CreatePlaces, account: string, count: number): Entry[] {
  return Array.from({ length: count }, () => places.enter(account));
}

function hasTurn(entry: Entry): boolean {
  return letIn(entry).wait_ms() === 0;
}

describe("places of creates", () => {
  it("guarantee that a minute's worth of creates may come at once, and that each gets its turn in order", () => {
    const places = new CreatePlaces();
    const entries = enter(places, "a", WAITING_MAX);
    expect(entries.every(({ kind }) => kind === "let in")).toBe(true);
    expect(entries.slice(0, PLACES + 1).map(hasTurn)).toEqual([...Array(PLACES).fill(true), false]);
    for (const [n, entry] of entries.entries()) {
      expect(hasTurn(entry)).toBe(true);
      letIn(entry).leave();
      letIn(entry).leave();
      const later = entries[n + PLACES + 1];
      if (later !== undefined) expect(hasTurn(later)).toBe(false);
    }
  });

  it("guarantee that an account that floods delays another by one turn, and is refused in its place", () => {
    const places = new CreatePlaces();
    const flood = enter(places, "flood", 2_000);
    expect(flood.filter(({ kind }) => kind === "let in")).toHaveLength(PLACES + WAITING_MAX);
    const other = places.enter("other");
    letIn(flood[0] as Entry).leave();
    letIn(flood[1] as Entry).leave();
    expect(hasTurn(other)).toBe(true);
  });

  it("are looked for a few times by each who waits, not all the time", () => {
    let now = 0;
    const places = new CreatePlaces(() => now);
    const inside = enter(places, "a", PLACES);
    const looking = enter(places, "a", WAITING_MAX).map((entry) => ({ entry: letIn(entry), at: 0 }));
    let looks = 0;
    for (; looking.length > 0; now++) {
      if (now % 10 === 0) (inside.shift() as Entry & { kind: "let in" }).leave();
      for (const waiter of looking.filter(({ at }) => at <= now)) {
        const wait_ms = waiter.entry.wait_ms();
        looks++;
        waiter.at = now + wait_ms;
        if (wait_ms > 0) continue;
        looking.splice(looking.indexOf(waiter), 1);
        inside.push(waiter.entry);
      }
    }
    expect(looks / WAITING_MAX).toBeLessThan(25);
    expect(now).toBeLessThan(WAITING_MAX * 10 * 1.1);
  });

  it("are fewer while the timers of those who wait ring late, and all again when they do not", () => {
    let now = 1_000;
    const places = new CreatePlaces(() => now);
    let inside = enter(places, "a", PLACES).map(letIn);
    const waiting = enter(places, "a", WAITING_MAX).map(letIn);
    const last = waiting.at(-1);
    /** All leave; how many are let in then. */
    const turn = (): number => {
      for (const entry of inside) entry.leave();
      const next = waiting.findIndex((entry) => entry.wait_ms() > 0);
      inside = waiting.splice(0, next);
      return inside.length;
    };
    let due = now + (last?.wait_ms() ?? 0);
    for (let looks = 0; looks < 3; looks++) {
      now = due + 100;
      due = now + (last?.wait_ms() ?? 0);
    }
    expect(turn()).toBe(PLACES_MIN);
    for (let looks = 0; looks < PLACES - PLACES_MIN; looks++) {
      now += 100;
      last?.wait_ms();
    }
    expect(turn()).toBe(PLACES);
  });

  it("tell a true time where they are served in bursts", () => {
    let now = 0;
    const places = new CreatePlaces(() => now);
    const inside = enter(places, "a", PLACES + WAITING_MAX).map(letIn);
    // All places at once, every second.
    for (now = 1_000; now <= 5_000; now += 1_000) for (const entry of inside.splice(0, PLACES)) entry.leave();
    enter(places, "a", 5 * PLACES);
    const refused = places.enter("a");
    const served_s = WAITING_MAX / PLACES;
    expect(refused.kind === "refused" && Math.abs(refused.retry_after_s - served_s)).toBeLessThan(0.2 * served_s);
  });

  it("guarantee that who is refused and waits as told is let in", () => {
    let now = 0;
    const places = new CreatePlaces(() => now);
    const inside = enter(places, "a", PLACES);
    const waiting = ["a", "b", "c"].flatMap((account) => enter(places, account, WAITING_MAX / 3));
    const refused = places.enter("a");
    if (refused.kind !== "refused") throw new Error("let in");
    // Served as fast as before, while the others go on sending.
    const order = [...inside];
    for (let at = 0; at < refused.retry_after_s * 1_000; at += 10) {
      now = at;
      letIn(order.shift() ?? (waiting.shift() as Entry)).leave();
      places.enter("b");
      places.enter("c");
    }
    expect(places.enter("a").kind).toBe("let in");
    expect(places.enter("b").kind).toBe("refused");
  });

  it("guarantee that places of requests that were given up are found again", () => {
    let now = 0;
    const places = new CreatePlaces(() => now);
    enter(places, "a", PLACES);
    const next = places.enter("a");
    expect(hasTurn(next)).toBe(false);
    now = 5_001;
    places.enter("b");
    expect(hasTurn(next)).toBe(true);
  });
});
