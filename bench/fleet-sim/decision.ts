/**
 * How long production's decisions take, each on its own: placement by number of hosts, scaling by number of instances, the queue by its length. The aim: at most
 * 50 µs an event, and the same with 10 hosts as with 10,000.
 */
import { type Arrivals, NO_ARRIVALS, noteWork } from "../../schema/arrivals.ts";
import { decideRollout } from "../../schema/rollout.ts";
import { printTable, summarize } from "../lib/stats.ts";
import { Hosts, type Placed } from "./hosts.ts";
import { Random } from "./random.ts";
import { GPUS_PER_HOST, HARDWARE, type Trace } from "./traces.ts";
import { Waiting } from "./waiting.ts";

const HOSTS = [10, 100, 1_000, 10_000];
const INSTANCES = [1, 10, 100, 1_000];
const QUEUES = [0, 10, 100, 1_000, 9_000];
/** Each is measured so often, after as many to warm up. */
const EVENTS = 2_000;
/** The quietest of so many rounds counts: other programs on the machine are no part of a decision. */
const ROUNDS = 3;
const DEPLOYMENTS = 500;

export function measureDecisions(): void {
  console.log("\n## one decision, µs\n");
  printTable(
    ["decision", "by", "p50", "p99", "mean CPU"],
    [
      ...HOSTS.map((hosts) => row("placement, fleet 70 % full", `${hosts} hosts`, () => placements(hosts, 0.7))),
      ...HOSTS.map((hosts) => row("placement, fleet full: evicts", `${hosts} hosts`, () => placements(hosts, 1))),
      ...INSTANCES.map((count) => row("scaling", `${count} instances`, () => scalings(count))),
      ...QUEUES.map((length) => row("queue: append and take", `${length} waiting`, () => queueing(length))),
    ],
  );
}

/** Microseconds. */
interface Round {
  p50: number;
  p99: number;
  /** of all threads, the garbage collector's too: other programs do not count */
  mean_cpu: number;
}

function row(name: string, by: string, measure: () => Round): string[] {
  const rounds = Array.from({ length: ROUNDS }, measure);
  const { p50, p99, mean_cpu } = rounds.reduce((best, round) => (round.p99 < best.p99 ? round : best));
  return [name, by, p50.toFixed(1), p99.toFixed(1), mean_cpu.toFixed(1)];
}

/** Times of the second half. */
function timed(event: (i: number) => void, between: (i: number) => void = () => {}): Round {
  const times_us: number[] = [];
  let before = process.cpuUsage();
  for (let i = 0; i < 2 * EVENTS; i++) {
    if (i === EVENTS) before = process.cpuUsage();
    const began = performance.now();
    event(i);
    if (i >= EVENTS) times_us.push((performance.now() - began) * 1_000);
    between(i);
  }
  const { user, system } = process.cpuUsage(before);
  const { p50, p99 } = summarize(times_us);
  return { p50, p99, mean_cpu: (user + system) / EVENTS };
}

/** Places, and lets another one go, so the fleet stays as full; what an instance's start and end cost the index is in it. */
function placements(count: number, full: number): Round {
  const hosts = new Hosts({ hosts: count } as Trace);
  const random = new Random(1, `placements/${count}`);
  const deployment = (index: number) => ({
    ...{ hardware: index % HARDWARE.length, start_ms: 0, fetch_ms: 0, mean_load: 0, max_instances: 1 },
  });
  const running = new Map<string, Placed>();
  const remove = (instance_id: string): void => {
    const gone = running.get(instance_id);
    running.delete(instance_id);
    if (gone !== undefined) hosts.remove(gone);
  };
  let placed = 0;
  const place = (): void => {
    const index = Math.floor(random.uniform() * DEPLOYMENTS);
    const found = hosts.place(index, deployment(index), `i${placed}`, placed++, ({ instance_id }) => {
      remove(instance_id);
      return true;
    });
    if (found === null) return;
    hosts.warm(found.origin_id, index);
    hosts.changed(found, { is_idle: full === 1 || random.uniform() < 0.5, idle_since: placed });
    running.set(found.instance.instance_id, found);
  };
  const most = Math.floor(count * GPUS_PER_HOST * full);
  for (let i = 0; i < most; i++) place();
  return timed(place, () => {
    // The one that was placed first goes.
    for (const instance_id of running.keys()) {
      if (full === 1 || running.size <= most) break;
      remove(instance_id);
    }
  });
}

/** An arrival that waits, on a deployment of so many busy instances. */
function scalings(count: number): Round {
  const begin = Date.UTC(2026, 0, 5);
  let arrivals: Arrivals = NO_ARRIVALS;
  const instances = Array.from({ length: count }, (_, i) => ({
    ...{ instance_id: `i${i}`, state: "ready" as const, slots: 1, leased: 1 },
    ...{ last_used_at: begin, placed_at: begin },
  }));
  return timed((i) => {
    const now = begin + i * 500;
    arrivals = noteWork(arrivals, { before: count + (i % 2), after: count + ((i + 1) % 2), came: 1 }, now);
    const current = { boot_key: "b", queued: 1 + (i % 3), waiting_since: now, instances, placing: 0 };
    decideRollout(
      {
        ...{ current, older: [], released_at: 0, draining: 0, no_room: false, slots_per_instance: 1 },
        ...{ min_instances: 0, max_instances: 2_000, idle_ttl_ms: 60_000, hold_until: 0 },
        ...{ run_ms: 5_000, start_ms: 30_000, arrivals },
      },
      now,
    );
  });
}

/** One more waits, and the next one is taken, in SQLite. */
function queueing(length: number): Round {
  const waiting = new Waiting();
  const account = (i: number): number => (i * 7) % 50;
  for (let i = 0; i < length; i++) waiting.add(i, account(i), i);
  return timed((i) => {
    waiting.add(length + i, account(i), length + i);
    waiting.take();
  });
}
