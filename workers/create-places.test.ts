import { describe, expect, it } from "vitest";
import { CreatePlaces, type Entry } from "./domain/create-places.ts";

const PLACES = 24;
const WAITING_MAX = 600;

function letIn(entry: Entry): Extract<Entry, { kind: "let in" }> {
  if (entry.kind !== "let in") throw new Error("refused");
  return entry;
}

/** Enters `count` times for one account; the entries in order. */
function enter(places: CreatePlaces, account: string, count: number): Entry[] {
  return Array.from({ length: count }, () => places.enter(account));
}

async function hasTurn(entry: Entry): Promise<boolean> {
  const { turn } = letIn(entry);
  return turn === null || Promise.race([turn.then(() => true), Promise.resolve().then(() => false)]);
}

describe("places of creates", () => {
  it("guarantee that a minute's worth of creates may come at once, and that each gets its turn in order", async () => {
    const places = new CreatePlaces();
    const entries = enter(places, "a", WAITING_MAX);
    expect(entries.every(({ kind }) => kind === "let in")).toBe(true);
    expect(await Promise.all(entries.slice(0, PLACES + 1).map(hasTurn))).toEqual([...Array(PLACES).fill(true), false]);
    for (const [n, entry] of entries.entries()) {
      expect(await hasTurn(entry)).toBe(true);
      letIn(entry).leave();
      letIn(entry).leave();
      const later = entries[n + PLACES + 1];
      if (later !== undefined) expect(await hasTurn(later)).toBe(false);
    }
  });

  it("guarantee that an account that floods delays another by one turn, and is refused in its place", async () => {
    const places = new CreatePlaces();
    const flood = enter(places, "flood", 2_000);
    expect(flood.filter(({ kind }) => kind === "let in")).toHaveLength(PLACES + WAITING_MAX);
    const other = places.enter("other");
    letIn(flood[0] as Entry).leave();
    letIn(flood[1] as Entry).leave();
    expect(await hasTurn(other)).toBe(true);
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

  it("guarantee that places of requests that were given up are found again", async () => {
    let now = 0;
    const places = new CreatePlaces(() => now);
    enter(places, "a", PLACES);
    const next = places.enter("a");
    expect(await hasTurn(next)).toBe(false);
    now = 5_001;
    places.enter("b");
    expect(await hasTurn(next)).toBe(true);
  });
});
