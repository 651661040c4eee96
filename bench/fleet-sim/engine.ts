/**
 * Runs one trace under one policy on a virtual clock. Queue and placement are production's own code; what production's DeploymentObject does between them is
 * done here in the same order: a prediction takes a free instance or waits, an instance that is free takes the next one, and the policy is asked.
 *
 * Simulated: hosts (a start takes the time that the trace says; nothing fails), and the ways between all parts (they take no time).
 */
import type { PlacementInstance } from "../../schema/placement-hosts.ts";
import { EventHeap } from "./event-heap.ts";
import { Hosts, type Placed } from "./hosts.ts";
import type { Cause, Decision, InstanceView, Policy, PolicyMaker } from "./rivals/policy.ts";
import { HARDWARE, type Trace } from "./traces.ts";
import { Waiting } from "./waiting.ts";

/** As production pauses after a placement that found no room. */
const PLACE_RETRY_MS = 500;
const PLACE_RETRY_MAX_MS = 5_000;

export interface Outcome {
  predictions: number;
  /** those that waited for an instance to start: what served them became ready after they came */
  cold: number;
  /** of each prediction, in order of arrival, milliseconds from its arrival to its start */
  delays_ms: Float64Array;
  /** from placement to end, of all instances */
  held_ms: number;
  busy_ms: number;
  /** of the held time, that before an instance was ready */
  starting_ms: number;
  dollars: number;
  instances: number;
  /** of these, starts on hosts that had to fetch image and weights */
  fetches: number;
  /** placements that found no room */
  refused: number;
  most_gpus: number;
}

interface Instance extends InstanceView {
  owner: Owner;
  placed: Placed;
  is_going: boolean;
  ready_at: number;
  /** index of the prediction that runs on it */
  running: number | null;
}

/** A deployment that has had something to do. */
interface Owner {
  index: number;
  policy: Policy;
  waiting: Waiting | null;
  /** those that were not told to go, in the order in which they were placed */
  instances: Instance[];
  in_flight: number;
  decide_at: number | null;
  place_failures: number;
  hold_until: number;
}

type Event = { kind: "ready" | "end"; instance: Instance } | { kind: "decide"; owner: Owner; at: number };

export function simulate(trace: Trace, maker: PolicyMaker): Outcome {
  const simulation = new Simulation(trace, maker);
  return simulation.run();
}

class Simulation {
  readonly #trace: Trace;
  readonly #maker: PolicyMaker;
  readonly #hosts: Hosts;
  readonly #owners: (Owner | undefined)[];
  readonly #events = new EventHeap<Event>();
  readonly #outcome: Outcome;
  #now = 0;
  #unfinished = 0;
  #gpus = 0;

  constructor(trace: Trace, maker: PolicyMaker) {
    this.#trace = trace;
    this.#maker = maker;
    this.#hosts = new Hosts(trace);
    this.#owners = new Array(trace.deployments.length);
    const predictions = trace.arrives_at.length;
    const delays_ms = new Float64Array(predictions).fill(Number.NaN);
    const zero = {
      cold: 0,
      held_ms: 0,
      busy_ms: 0,
      starting_ms: 0,
      dollars: 0,
      instances: 0,
      fetches: 0,
      refused: 0,
      most_gpus: 0,
    };
    this.#outcome = { predictions, delays_ms, ...zero };
  }

  run(): Outcome {
    const { arrives_at, deployment, duration_ms } = this.#trace;
    this.#openPinned();
    let next = 0;
    let end = duration_ms;
    for (;;) {
      const arrival = arrives_at[next] ?? Number.POSITIVE_INFINITY;
      const at = Math.min(arrival, this.#events.nextAt());
      if (at === Number.POSITIVE_INFINITY || (next >= arrives_at.length && this.#unfinished === 0 && at > end)) break;
      this.#now = at;
      if (arrival === at) {
        this.#arrive(next, this.#owner(deployment[next] ?? 0));
        next++;
      } else {
        this.#happen(this.#events.take());
      }
      if (this.#unfinished > 0) end = Math.max(end, at);
    }
    this.#now = end;
    for (const owner of this.#owners) for (const instance of owner?.instances ?? []) this.#end(instance);
    return this.#outcome;
  }

  /** Fixed instances are there from the start, whether anything comes or not. */
  #openPinned(): void {
    this.#trace.deployments.forEach((deployment, index) => {
      const policy = this.#maker.make(deployment, index, this.#trace);
      if ((policy.min_instances ?? 0) > 0) this.#decide(this.#owner(index), "time");
    });
  }

  #owner(index: number): Owner {
    const known = this.#owners[index];
    if (known !== undefined) return known;
    const deployment = this.#trace.deployments[index];
    if (deployment === undefined) throw new Error(`the trace has no deployment ${index}`);
    const owner: Owner = {
      index,
      policy: this.#maker.make(deployment, index, this.#trace),
      waiting: null,
      instances: [],
      in_flight: 0,
      decide_at: null,
      place_failures: 0,
      hold_until: 0,
    };
    this.#owners[index] = owner;
    return owner;
  }

  #happen(event: Event | undefined): void {
    if (event === undefined) return;
    if (event.kind === "decide") {
      // A later question was asked meanwhile in place of this one.
      if (event.owner.decide_at !== event.at) return;
      event.owner.decide_at = null;
      this.#decide(event.owner, "time");
    } else if (event.kind === "ready") this.#becomeReady(event.instance);
    else this.#endRun(event.instance);
  }

  // ---- predictions

  #arrive(index: number, owner: Owner): void {
    this.#unfinished++;
    owner.in_flight++;
    const free = owner.waiting === null ? owner.instances.find(isFree) : undefined;
    if (free !== undefined) this.#start(index, free);
    else {
      owner.waiting ??= new Waiting();
      owner.waiting.add(index, this.#trace.account[index] ?? 0, this.#now);
    }
    this.#worked(owner, 1);
    this.#decide(owner, "arrival");
  }

  #worked(owner: Owner, came: 0 | 1): void {
    const queued = owner.waiting?.length ?? 0;
    owner.policy.worked?.(came, owner.in_flight - queued, queued, this.#now);
  }

  #start(index: number, instance: Instance): void {
    const arrived = this.#trace.arrives_at[index] ?? 0;
    if (!Number.isNaN(this.#outcome.delays_ms[index])) throw new Error(`prediction ${index} was started twice`);
    this.#outcome.delays_ms[index] = this.#now - arrived;
    if (instance.ready_at > arrived) this.#outcome.cold++;
    instance.leased = 1;
    instance.running = index;
    this.#hosts.changed(instance.placed, { is_idle: false });
    const run_ms = this.#trace.run_ms[index] ?? 0;
    this.#outcome.busy_ms += run_ms;
    this.#events.add(this.#now + run_ms, { kind: "end", instance });
  }

  #endRun(instance: Instance): void {
    const { owner, running } = instance;
    this.#unfinished--;
    owner.in_flight--;
    owner.policy.ended?.(this.#trace.run_ms[running ?? 0] ?? 0);
    this.#becomeFree(instance);
    if (instance.is_going) this.#end(instance);
    else this.#grant(instance);
    this.#worked(owner, 0);
    this.#decide(owner, "end");
  }

  #becomeReady(instance: Instance): void {
    // It was told to go before it was up.
    if (instance.is_going) return;
    instance.state = "ready";
    instance.ready_at = this.#now;
    this.#hosts.warm(instance.placed.origin_id, instance.owner.index);
    instance.owner.policy.started?.(this.#now - instance.placed_at);
    this.#becomeFree(instance);
    this.#grant(instance);
    this.#worked(instance.owner, 0);
    this.#decide(instance.owner, "ready");
  }

  #becomeFree(instance: Instance): void {
    instance.leased = 0;
    instance.running = null;
    instance.last_used_at = this.#now;
    this.#hosts.changed(instance.placed, { is_idle: true, idle_since: this.#now });
  }

  #grant(instance: Instance): void {
    const { owner } = instance;
    const next = owner.waiting?.take() ?? null;
    if (owner.waiting?.length === 0) {
      owner.waiting.giveBack();
      owner.waiting = null;
    }
    if (next !== null) this.#start(next, instance);
  }

  // ---- instances

  #decide(owner: Owner, cause: Cause): void {
    const { instances, waiting, hold_until } = owner;
    const decision = owner.policy.decide(
      {
        now: this.#now,
        queued: waiting?.length ?? 0,
        waiting_since: waiting?.since ?? null,
        instances,
        hold_until,
      },
      cause,
    );
    this.#carryOut(owner, decision);
  }

  #carryOut(owner: Owner, decision: Decision): void {
    if (decision.drain.length > 0) {
      const going = new Set(decision.drain);
      for (const instance of owner.instances.filter(({ instance_id }) => going.has(instance_id))) this.#drain(instance);
    }
    let again = decision.decide_again_at;
    if (decision.place > 0 && this.#now >= owner.hold_until) this.#placeAll(owner, decision.place);
    if (decision.place > 0 && owner.hold_until > this.#now)
      again = Math.min(again ?? owner.hold_until, owner.hold_until);
    if (again === null || (owner.decide_at !== null && owner.decide_at <= again)) return;
    owner.decide_at = Math.max(again, this.#now);
    this.#events.add(owner.decide_at, { kind: "decide", owner, at: owner.decide_at });
  }

  #placeAll(owner: Owner, count: number): void {
    for (let i = 0; i < count; i++) {
      if (this.#place(owner)) {
        owner.place_failures = 0;
        continue;
      }
      this.#outcome.refused++;
      owner.hold_until = this.#now + Math.min(PLACE_RETRY_MS * 2 ** owner.place_failures, PLACE_RETRY_MAX_MS);
      owner.place_failures++;
      return;
    }
  }

  #place(owner: Owner): boolean {
    const deployment = this.#trace.deployments[owner.index];
    if (deployment === undefined) return false;
    const instance_id = `i${this.#outcome.instances}`;
    const evict = (victim: PlacementInstance): boolean => this.#evict(victim);
    const placed = this.#hosts.place(owner.index, deployment, instance_id, this.#now, evict);
    if (placed === null) return false;
    const instance: Instance = {
      ...{ instance_id, state: "starting", leased: 0, last_used_at: this.#now },
      ...{
        owner,
        placed,
        placed_at: this.#now,
        ready_at: Number.POSITIVE_INFINITY,
        running: null,
        is_going: false,
      },
    };
    owner.instances.push(instance);
    this.#outcome.instances++;
    if (!placed.isWarm) this.#outcome.fetches++;
    this.#gpus++;
    this.#outcome.most_gpus = Math.max(this.#outcome.most_gpus, this.#gpus);
    const start_ms = deployment.start_ms + (placed.isWarm ? 0 : deployment.fetch_ms);
    this.#events.add(this.#now + start_ms, { kind: "ready", instance });
    return true;
  }

  /** As production's scaler: an idle one goes unless its deployment would have fewer than it must. */
  #evict(victim: PlacementInstance): boolean {
    const owner = this.#owners[Number(victim.deployment_key)];
    const instance = owner?.instances.find(({ instance_id }) => instance_id === victim.instance_id);
    if (owner === undefined || instance === undefined || instance.leased > 0 || owner.waiting !== null) return false;
    if (owner.instances.length <= (owner.policy.min_instances ?? 0)) return false;
    this.#drain(instance);
    return true;
  }

  /** It takes nothing new; what it runs ends. */
  #drain(instance: Instance): void {
    instance.owner.instances.splice(instance.owner.instances.indexOf(instance), 1);
    instance.is_going = true;
    if (instance.leased === 0) this.#end(instance);
    else this.#hosts.changed(instance.placed, { is_draining: true });
  }

  #end(instance: Instance): void {
    const held_ms = this.#now - instance.placed_at;
    const hardware = this.#trace.deployments[instance.owner.index]?.hardware ?? 0;
    this.#outcome.held_ms += held_ms;
    this.#outcome.starting_ms += Math.min(instance.ready_at, this.#now) - instance.placed_at;
    this.#outcome.dollars += (held_ms / 1_000) * (HARDWARE[hardware]?.price ?? 0);
    this.#hosts.remove(instance.placed);
    this.#gpus--;
  }
}

function isFree(instance: Instance): boolean {
  return instance.state === "ready" && instance.leased === 0;
}
