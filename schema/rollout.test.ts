import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type BootGroup, decideRollout, type RolloutInput, STRAGGLERS_MS } from "./rollout.ts";
import type { ScalingInstance } from "./scaling.ts";

const NOW = 1_000_000;

function anInstance(change: Partial<ScalingInstance> = {}): ScalingInstance {
  return { instance_id: "a", state: "ready", slots: 1, leased: 0, last_used_at: NOW, ...change };
}

function aGroup(boot_key: string, change: Partial<BootGroup> = {}): BootGroup {
  return { boot_key, queued: 0, waiting_since: null, instances: [], placing: 0, ...change };
}

function anInput(change: Partial<RolloutInput> = {}): RolloutInput {
  return {
    current: aGroup("new"),
    older: [],
    slots_per_instance: 1,
    min_instances: 0,
    max_instances: 3,
    idle_ttl_ms: 60_000,
    hold_until: 0,
    run_ms: null,
    start_ms: null,
    released_at: NOW,
    no_room: false,
    draining: 0,
    ...change,
  };
}

/** Found by chance once: room for one instance, wanted by older work and by the minimum of the new release at once. */
const A_TIGHT_HOST = {
  room: 1,
  slots: 1,
  events: [
    { at: 0, kind: "work" as const, pick: 0 },
    { at: 0, kind: "bounds" as const, pick: 1 },
    { at: 0, kind: "update" as const, pick: 0 },
  ],
};

const waiting = (since = NOW) => ({ queued: 1, waiting_since: since });

describe("decideRollout", () => {
  it("guarantees that a disabled deployment has nothing, whatever waits", () => {
    const older = [aGroup("old", { ...waiting(), instances: [anInstance({ instance_id: "b", leased: 1 })] })];
    const current = aGroup("new", { ...waiting(), instances: [anInstance({ state: "starting" })] });
    expect(decideRollout(anInput({ current, older, max_instances: 0 }), NOW)).toMatchObject({
      wanted: 0,
      reason: "disabled",
      place: [],
      drain: ["a", "b"],
      decide_again_at: null,
    });
  });

  it("guarantees that an older instance is kept for late predictions only while nobody needs its room", () => {
    const older = [aGroup("old", { instances: [anInstance()] })];
    expect(decideRollout(anInput({ older }), NOW)).toMatchObject({
      drain: [],
      place: [],
      decide_again_at: NOW + STRAGGLERS_MS,
    });
    expect(decideRollout(anInput({ older }), NOW + STRAGGLERS_MS).drain).toEqual(["a"]);
    expect(decideRollout(anInput({ older, max_instances: 1 }), NOW).drain).toEqual(["a"]);
    expect(decideRollout(anInput({ older, no_room: true }), NOW).drain).toEqual(["a"]);
  });

  it("guarantees that the new release starts beside older work, one above the maximum at most", () => {
    const busy = anInstance({ leased: 1 });
    const older = [aGroup("old", { ...waiting(), instances: [busy, { ...busy, instance_id: "b" }] })];
    const input = anInput({ older, current: aGroup("new", waiting()), max_instances: 2, min_instances: 2 });
    expect(decideRollout(input, NOW)).toMatchObject({ place: ["new"], drain: [] });
    const started = { ...input, current: aGroup("new", { ...waiting(), placing: 1 }) };
    expect(decideRollout(started, NOW)).toMatchObject({ place: [], drain: [] });
    const done = { ...started, older: [aGroup("old", { instances: [busy] })], released_at: 0 };
    expect(decideRollout(done, NOW)).toMatchObject({ place: ["new"], drain: ["a"] });
  });

  it("guarantees that older work without an instance gets one, after a pause where one failed", () => {
    const input = anInput({
      older: [aGroup("old", waiting())],
      current: aGroup("new", { instances: [anInstance({ leased: 1 })] }),
      max_instances: 1,
    });
    expect(decideRollout(input, NOW)).toMatchObject({ place: ["old"], drain: [] });
    expect(decideRollout({ ...input, hold_until: NOW + 1 }, NOW)).toMatchObject({
      place: [],
      decide_again_at: NOW + 1,
    });
    const another = { ...input, older: [...input.older, aGroup("older", { ...waiting(1), placing: 1 })] };
    expect(decideRollout(another, NOW).place).toEqual([]);
  });

  it("guarantees that without room the work that waits longest gets it, from whoever came later or has nothing to do", () => {
    const current = aGroup("new", { ...waiting(NOW), instances: [anInstance({ leased: 1 })] });
    const input = anInput({ current, older: [aGroup("old", waiting(NOW - 1))], no_room: true, max_instances: 1 });
    expect(decideRollout(input, NOW).drain).toEqual(["a"]);
    expect(decideRollout({ ...input, draining: 1 }, NOW).drain).toEqual([]);
    const later = { ...input, older: [aGroup("old", waiting(NOW + 1))] };
    expect(decideRollout(later, NOW).drain).toEqual([]);
    const idle = { ...later, current: aGroup("new", { instances: [anInstance()] }), min_instances: 1 };
    expect(decideRollout(idle, NOW).drain).toEqual(["a"]);
  });

  it("guarantees that what gave its room does not take it again before the one that waits for it", () => {
    const input = anInput({ older: [aGroup("old", waiting())], min_instances: 1, max_instances: 1, no_room: true });
    expect(decideRollout(input, NOW).place).toEqual(["old"]);
    const first = { ...input, current: aGroup("new", waiting(NOW - 1)) };
    expect(decideRollout(first, NOW).place).toEqual(["new"]);
  });

  it("guarantees that the bounds hold, the minimum is reached and all work is done, in all histories of releases on hosts of any room", () => {
    fc.assert(
      fc.property(
        fc.record({
          room: fc.integer({ min: 1, max: 6 }),
          slots: fc.integer({ min: 1, max: 2 }),
          events: fc.array(
            fc.record({
              at: fc.nat(60),
              kind: fc.constantFrom("work", "work", "stale", "stale", "update", "bounds", "lost"),
              pick: fc.nat(5),
            }),
            { maxLength: 40 },
          ),
        }),
        ({ room, slots, events }) => {
          const world = new World(room, slots);
          for (let second = 0; second < 60; second++) {
            for (const event of events.filter(({ at }) => at === second)) world.apply(event.kind, event.pick);
            world.tick();
          }
          // Quiet from here on: what waits is done, then only the minimum is left and nothing moves any more.
          for (let second = 0; second < 3_000 && world.waiting() > 0; second++) world.tick();
          expect(world.waiting()).toBe(0);
          for (let second = 0; second < 200; second++) world.tick();
          const placed = world.placements;
          expect(world.currentCount()).toBe(Math.min(world.min, room));
          expect(world.count()).toBe(world.currentCount());
          for (let second = 0; second < 300; second++) world.tick();
          // On a host that is too small for the minimum it goes on asking; otherwise it is at rest.
          if (world.min <= room) expect(world.placements).toBe(placed);
        },
      ),
      { numRuns: 60, examples: [[A_TIGHT_HOST]] },
    );
  });
});

interface Simulated {
  id: string;
  key: string;
  state: "boot" | "ready" | "draining";
  ready_at: number;
  last_used_at: number;
  running: { until: number }[];
}

/** A deployment, its queue and its hosts, a second at a time: instances boot in 3 s, predictions run for 4 s. */
class World {
  readonly #room: number;
  readonly #slots: number;
  #now = NOW;
  #release = 1;
  #released_at = NOW;
  #instances: Simulated[] = [];
  #queue: { key: string; at: number }[] = [];
  #no_room = false;
  #hold_until = 0;
  min = 0;
  max = 2;
  placements = 0;

  constructor(room: number, slots: number) {
    this.#room = room;
    this.#slots = slots;
  }

  waiting(): number {
    return this.#queue.length + this.#instances.reduce((sum, instance) => sum + instance.running.length, 0);
  }

  count(): number {
    return this.#instances.length;
  }

  currentCount(): number {
    return this.#instances.filter(({ key }) => key === this.#key()).length;
  }

  #key(release = this.#release): string {
    return `r${release}`;
  }

  apply(kind: string, pick: number): void {
    if (kind === "work") this.#queue.push({ key: this.#key(), at: this.#now });
    else if (kind === "stale" && this.#now < this.#released_at + STRAGGLERS_MS) {
      this.#queue.push({ key: this.#key(Math.max(1, this.#release - 1)), at: this.#now });
    } else if (kind === "update") {
      this.#release += 1;
      this.#released_at = this.#now;
    } else if (kind === "bounds") {
      this.max = 1 + pick;
      this.min = Math.min(pick % 3, this.max);
    } else if (kind === "lost") {
      const lost = this.#instances[pick % Math.max(1, this.#instances.length)];
      for (const _ of lost?.running ?? []) this.#queue.push({ key: lost?.key ?? "", at: this.#now });
      this.#instances = this.#instances.filter((instance) => instance !== lost);
    }
  }

  tick(): void {
    this.#now += 1_000;
    for (const instance of this.#instances) {
      const before = instance.running.length;
      instance.running = instance.running.filter(({ until }) => until > this.#now);
      if (before > 0) instance.last_used_at = this.#now;
      if (instance.state === "boot" && this.#now >= instance.ready_at) {
        instance.state = "ready";
        instance.last_used_at = this.#now;
      }
    }
    this.#instances = this.#instances.filter(({ state, running }) => state !== "draining" || running.length > 0);
    this.#grant();
    const live = this.#instances.filter(({ state }) => state !== "draining");
    const before = live.length;
    const decision = decideRollout(this.#input(live), this.#now);
    for (const instance of this.#instances) if (decision.drain.includes(instance.id)) instance.state = "draining";
    for (const key of decision.place) this.#place(key);
    // What was above a lowered maximum drains at once; nothing grows above it, but for one beside an older release.
    expect(before - decision.drain.length + decision.place.length).toBeLessThanOrEqual(
      Math.max(this.max, this.min) + 1,
    );
  }

  #grant(): void {
    for (const item of [...this.#queue]) {
      const free = this.#instances.find(
        ({ key, state, running }) => key === item.key && state === "ready" && running.length < this.#slots,
      );
      if (free === undefined) continue;
      free.running.push({ until: this.#now + 4_000 });
      this.#queue.splice(this.#queue.indexOf(item), 1);
    }
  }

  #place(key: string): void {
    this.placements += 1;
    this.#no_room = this.#instances.length >= this.#room;
    this.#hold_until = this.#no_room ? this.#now + 2_000 : 0;
    if (this.#no_room) return;
    const id = `i${this.placements}`;
    const ready_at = this.#now + 3_000;
    this.#instances.push({ id, key, state: "boot", ready_at, last_used_at: this.#now, running: [] });
  }

  #input(live: Simulated[]): RolloutInput {
    const keys = new Set([...live.map(({ key }) => key), ...this.#queue.map(({ key }) => key)]);
    const group = (key: string): BootGroup => {
      const waits = this.#queue.filter((item) => item.key === key);
      return {
        boot_key: key,
        queued: waits.length,
        waiting_since: waits.length === 0 ? null : Math.min(...waits.map(({ at }) => at)),
        instances: live
          .filter((instance) => instance.key === key)
          .map(({ id, state, running, last_used_at }) => ({
            instance_id: id,
            state: state === "ready" ? "ready" : "starting",
            slots: this.#slots,
            leased: running.length,
            last_used_at,
          })),
        placing: 0,
      };
    };
    return anInput({
      current: group(this.#key()),
      older: [...keys].filter((key) => key !== this.#key()).map(group),
      slots_per_instance: this.#slots,
      min_instances: this.min,
      max_instances: this.max,
      idle_ttl_ms: 60_000,
      hold_until: this.#hold_until,
      released_at: this.#released_at,
      no_room: this.#no_room,
      draining: this.#instances.filter(({ state }) => state === "draining").length,
    });
  }
}
