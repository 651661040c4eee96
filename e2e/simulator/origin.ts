/**
 * A pretended origin: it keeps the protocol (schema/origin-protocol.ts) and pushes events with the origin's own code, but its instances and models are timers.
 * Its disk outlives its process (origin-journal.ts). Like a real one it may die, come back, lose its disk, or run on
 * behind a broken network while the edge has given its predictions to others.
 */
import {
  type AttemptAck,
  type AttemptCancel,
  type AttemptStart,
  type AttemptState,
  HEARTBEAT_INTERVAL_MS,
  type Heartbeat,
  type InstanceBoot,
  type InstanceStatus,
  ORIGIN_PROTOCOL_VERSION,
  type Register,
} from "../../schema/origin-protocol.ts";
import type { Sender } from "./network.ts";
import type { OriginHost } from "./origin-host.ts";
import type { AttemptKey, AttemptRecord, ModelPlan, OriginJournal } from "./origin-journal.ts";

/** What is used of the origin's EventPush. Its own types are Node's alone, and these here are the edge's too: they do not go together in one program. */
interface Push {
  start(): void;
  wake(): void;
  pushStatus(status: InstanceStatus): void;
}
const EVENT_PUSH: string = "../../gpu-origin/event-push.ts";
const { EventPush } = (await import(EVENT_PUSH)) as {
  EventPush: new (journal: OriginJournal, edge: object, log: object, onUnwanted: (key: AttemptKey) => void) => Push;
};

/** Ended instances are listed for as long. */
const ENDED_LISTED_MS = 30_000;
const REGISTER_AGAIN_MS = 1_000;
/** The edge cancels at the deadline; this much later the origin does so itself. */
const DEADLINE_GUARD_MS = 3_000;

interface SimInstance {
  boot: InstanceBoot;
  state: InstanceStatus["state"];
  reason: string | null;
  ended_at: number | null;
  running: Set<Run>;
}

/** An attempt in the process's memory. */
interface Run {
  record: AttemptRecord;
  instance: SimInstance;
  isGiven: boolean;
  given_at: number;
  isOver: boolean;
  isForced: boolean;
  isAsked: boolean;
}

/** What the origin calls at the edge. */
export interface EdgeCalls {
  register(from: Sender, host: OriginHost, request: Register, originId: string | null): Promise<{ origin_id: string }>;
  heartbeat(from: Sender, host: OriginHost, heartbeat: Heartbeat): Promise<{ known: boolean; unowned: string[] }>;
  events(from: Sender, host: OriginHost, body: string): Promise<{ acks: AttemptAck[] }>;
}

export interface OriginEvents {
  /** An attempt got into the journal. */
  accepted(
    host: OriginHost,
    record: Pick<AttemptRecord, "prediction_id" | "attempt" | "instance_id">,
    running: AttemptKey[],
  ): void;
  /** The last event of an attempt is in the journal. */
  finished(key: AttemptKey, end: { status: string; outputs: unknown[]; predict_time_s: number }): void;
}

export class OriginProcess implements Sender {
  readonly host: OriginHost;
  readonly name: string;
  isAlive = true;
  readonly #instances = new Map<string, SimInstance>();
  readonly #runs = new Map<string, Run>();
  readonly #push: Push;
  readonly #incarnation: string;

  constructor(host: OriginHost, name: string) {
    this.host = host;
    this.name = name;
    this.#incarnation = name;
    const edge = {
      postEvents: async (body: string) => {
        try {
          return { kind: "ok" as const, value: await host.edge.events(this, host, body) };
        } catch (error) {
          return { kind: "unavailable" as const, detail: String(error) };
        }
      },
    };
    const log = { warn: () => undefined, info: () => undefined, error: () => undefined };
    this.#push = new EventPush(host.journal, edge, log, (key) => this.#unwanted(key));
  }

  leave(send: () => void): void {
    if (this.isAlive) send();
  }

  begin(): void {
    for (const record of this.host.journal.attempts()) {
      if (record.state !== "waiting" && record.state !== "running") continue;
      record.state = "lost";
      this.#append(record, { type: "lost", started: record.started, reason: "its origin was restarted" });
    }
    void this.#register().then(() => {
      this.#push.start();
      this.#beatLater();
    });
  }

  async #register(): Promise<void> {
    for (;;) {
      try {
        const request: Register = {
          protocol: ORIGIN_PROTOCOL_VERSION,
          ...(this.host.origin_id === null ? { join_token: this.host.url } : { origin_id: this.host.origin_id }),
          url: this.host.url,
          incarnation: this.#incarnation,
          region: "local",
          driver: "process",
          hardware: [{ sku: this.host.sku, name: "CPU", cpus: 4, memory_bytes: 1e9, gpus: 0 }],
          capacity: { instances: this.host.capacity, memory_bytes: 1e9 },
          instances: this.#statuses(),
        };
        const { origin_id } = await this.host.edge.register(this, this.host, request, this.host.origin_id);
        this.host.origin_id = origin_id;
        return;
      } catch {
        await this.#sleep(REGISTER_AGAIN_MS * this.host.network.random.between(0.5, 1));
      }
    }
  }

  #beatLater(): void {
    setTimeout(() => void this.#beat().finally(() => this.#beatLater()), HEARTBEAT_INTERVAL_MS);
  }

  async #beat(): Promise<void> {
    try {
      const heartbeat = { incarnation: this.#incarnation, instances: this.#statuses() };
      const { known, unowned } = await this.host.edge.heartbeat(this, this.host, heartbeat);
      if (!known) return await this.#register();
      for (const id of unowned) this.#drain(id, "no deployment owns it");
    } catch {
      // The next one comes in a moment.
    }
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, ms));
  }

  // ---- what the edge asks

  handle(method: string, path: string, text: string): { status: number; body: unknown } {
    const [kind, a = "", b = "", verb] = path
      .replace(/^\/v1\//, "")
      .split("/")
      .map(decodeURIComponent);
    const body = text === "" ? null : (JSON.parse(text) as unknown);
    if (kind === "attempts") {
      const key = { prediction_id: a, attempt: Number(b) };
      if (method === "PUT") return this.#startAttempt(body as AttemptStart);
      const record = this.host.journal.record(key);
      if (record === null) return refusal(404, "attempt.unknown");
      if (verb === "cancel") this.#cancel(key, body as AttemptCancel);
      return { status: 200, body: stateOf(record) };
    }
    if (kind === "instances" && a === "") return this.#boot(body as InstanceBoot);
    if (kind === "instances" && b === "drain") {
      const drained = this.#drain(a, (body as { reason: string }).reason);
      return drained === null ? refusal(404, "instance.unknown") : { status: 202, body: statusOf(drained) };
    }
    return refusal(404, "not_found");
  }

  // ---- instances

  #boot(boot: InstanceBoot): { status: number; body: unknown } {
    const known = this.#instances.get(boot.instance_id);
    if (known !== undefined) return { status: 202, body: statusOf(known) };
    const live = [...this.#instances.values()].filter(({ ended_at }) => ended_at === null);
    if (live.length >= this.host.capacity) return refusal(409, "origin.no_room");
    const instance: SimInstance = { boot, state: "boot", reason: null, ended_at: null, running: new Set() };
    this.#instances.set(boot.instance_id, instance);
    const { random } = this.host.network;
    const steps = async (): Promise<void> => {
      await this.#sleep(random.between(5, 800));
      if (instance.ended_at !== null) return;
      this.#become(instance, "setup");
      await this.#sleep(random.between(5, 1_500));
      if (instance.ended_at !== null) return;
      if (this.host.setupFails(boot)) return this.#endInstance(instance, "failed", "setup: ValueError: no");
      this.#become(instance, "ready");
    };
    void steps();
    return { status: 202, body: statusOf(instance) };
  }

  #become(instance: SimInstance, state: SimInstance["state"]): void {
    instance.state = state;
    this.host.network.timeline.trace(`${this.name} ${instance.boot.instance_id} is ${state}`);
    this.#push.pushStatus(statusOf(instance));
    if (state === "ready") this.#fill(instance);
  }

  #endInstance(instance: SimInstance, state: "stopped" | "failed", reason: string): void {
    if (instance.ended_at !== null) return;
    instance.reason = reason;
    instance.ended_at = this.host.network.timeline.now;
    this.#become(instance, state);
    for (const run of [...instance.running]) {
      const code = run.isGiven ? "model.crashed" : "instance.gone";
      this.#end(run, { status: "failed", code, error: `The instance ended: ${reason}` });
    }
  }

  #drain(instanceId: string, reason: string): SimInstance | null {
    const instance = this.#instances.get(instanceId);
    if (instance === undefined) return null;
    if (instance.ended_at !== null) return instance;
    if (instance.running.size === 0) this.#endInstance(instance, "stopped", reason);
    else if (instance.state !== "draining") this.#become(instance, "draining");
    return instance;
  }

  /** One of its instances dies, if there is any. `restarts`: its server is started again, and what it ran is lost. */
  crashInstance(pick: number, restarts: boolean): void {
    const live = [...this.#instances.values()].filter(({ state }) => state === "ready");
    const instance = live[pick % Math.max(1, live.length)];
    if (instance === undefined) return;
    if (!restarts) {
      this.#endInstance(instance, "stopped", "the model's process was killed");
      return;
    }
    this.#become(instance, "boot");
    for (const run of [...instance.running]) {
      if (run.isGiven) this.#end(run, { status: "failed", code: "model.crashed", error: "The model crashed." });
    }
    const again = async (): Promise<void> => {
      await this.#sleep(this.host.network.random.between(50, 1_500));
      if (instance.state === "boot") this.#become(instance, "ready");
    };
    void again();
  }

  #statuses(): InstanceStatus[] {
    const { now } = this.host.network.timeline;
    for (const [id, { ended_at }] of this.#instances) {
      if (ended_at !== null && now - ended_at > ENDED_LISTED_MS) this.#instances.delete(id);
    }
    return [...this.#instances.values()].map(statusOf);
  }

  // ---- attempts

  #startAttempt(start: AttemptStart): { status: number; body: unknown } {
    const known = this.host.journal.record(start);
    if (known !== null) return { status: 202, body: stateOf(known) };
    const instance = this.#instances.get(start.instance_id);
    if (instance === undefined || instance.ended_at !== null) return refusal(404, "instance.unknown");
    const record: AttemptRecord = {
      ...{ prediction_id: start.prediction_id, attempt: start.attempt, instance_id: start.instance_id },
      plan: (start.input as { plan: ModelPlan }).plan,
      ...{
        state: "waiting",
        started: false,
        accepted_at: this.host.network.timeline.now,
        next_i: 0,
        events: [],
        outputs: [],
      },
    };
    this.host.journal.add(record);
    this.host.events.accepted(
      this.host,
      record,
      [...instance.running].map(({ record }) => record),
    );
    const run: Run = { record, instance, isGiven: false, given_at: 0, isOver: false, isForced: false, isAsked: false };
    this.#runs.set(`${start.prediction_id} ${start.attempt}`, run);
    instance.running.add(run);
    if (start.deadline_ms !== undefined) {
      setTimeout(
        () => this.#cancel(start, { reason: "deadline", force_after_ms: 5_000 }),
        start.deadline_ms + DEADLINE_GUARD_MS,
      );
    }
    this.#fill(instance);
    return { status: 202, body: stateOf(record) };
  }

  /** Gives free slots to those who wait. */
  #fill(instance: SimInstance): void {
    if (instance.state !== "ready" && instance.state !== "draining") return;
    for (const run of instance.running) {
      const given = [...instance.running].filter(({ isGiven }) => isGiven).length;
      if (given >= instance.boot.slots) return;
      if (run.isGiven) continue;
      run.isGiven = true;
      void this.#execute(run);
    }
  }

  async #execute(run: Run): Promise<void> {
    const { record } = run;
    const { plan } = record;
    run.given_at = this.host.network.timeline.now;
    record.state = "running";
    record.started = true;
    this.#append(record, { type: "started" });
    for (let n = 0; n < plan.outputs; n++) {
      await this.#sleep(plan.step_ms);
      if (run.isOver || !this.isAlive) return;
      if (run.isAsked && !plan.ignores_cancel) return this.#end(run, { status: "canceled" });
      if (n % 3 === 1)
        this.#append(record, { type: "log", source: "stdout", data: `line ${n} of ${record.attempt}\n` });
      const value = outputOf(record, n);
      record.outputs.push(value);
      this.#append(record, { type: "output", mode: "append", value });
    }
    await this.#sleep(plan.step_ms);
    if (run.isOver) return;
    switch (plan.end) {
      case "succeeded":
        return this.#end(run, { status: "succeeded" });
      case "failed":
        return this.#end(run, { status: "failed", error: "The model failed." });
      case "crashes":
        return this.#end(run, { status: "failed", code: "model.crashed", error: "The model crashed." });
      case "upload fails":
        return this.#end(run, { status: "failed", code: "output.upload_failed", error: "A file could not be stored." });
      case "hangs":
        // Until it is stopped.
        if (run.isAsked && !plan.ignores_cancel) this.#end(run, { status: "canceled" });
    }
  }

  #cancel(key: AttemptKey, { force_after_ms }: AttemptCancel): void {
    const run = this.#runs.get(`${key.prediction_id} ${key.attempt}`);
    if (run === undefined || run.isOver || run.isAsked) return;
    run.isAsked = true;
    if (!run.isGiven) {
      this.#end(run, { status: "canceled" });
      return;
    }
    if (!run.record.plan.ignores_cancel) {
      setTimeout(() => this.#end(run, { status: "canceled" }), this.host.network.random.between(1, 300));
    }
    setTimeout(() => this.#end(run, { status: "canceled" }), force_after_ms);
  }

  #end(run: Run, end: { status: "succeeded" | "failed" | "canceled"; code?: string; error?: string }): void {
    if (run.isOver || !this.isAlive) return;
    const { record, instance } = run;
    this.#leave(run);
    record.state = "finished";
    // A time that no other attempt has: whose end was booked shows in the bill.
    const took = record.started ? (this.host.network.timeline.now - run.given_at) / 1_000 : 0;
    const predict_time_s = record.started ? Math.round(took * 1_000) / 1_000 + record.attempt / 1e6 : 0;
    this.host.events.finished(record, { status: end.status, outputs: record.outputs, predict_time_s });
    this.#append(record, { type: "finished", metrics: {}, predict_time_s, ...end });
    this.#fill(instance);
  }

  #leave(run: Run): void {
    run.isOver = true;
    run.instance.running.delete(run);
    this.#runs.delete(`${run.record.prediction_id} ${run.record.attempt}`);
    if (run.instance.state === "draining" && run.instance.running.size === 0) {
      this.#endInstance(run.instance, "stopped", "drained");
    }
  }

  /** The edge does not want it any more: it stops without a word. */
  #unwanted(key: AttemptKey): void {
    const run = this.#runs.get(`${key.prediction_id} ${key.attempt}`);
    const record = this.host.journal.record(key);
    if (record !== null) record.state = "finished";
    if (run === undefined) return;
    this.#leave(run);
    this.#fill(run.instance);
  }

  #append(record: AttemptRecord, event: Record<string, unknown>): void {
    this.host.journal.append(record, event);
    this.#push.wake();
  }
}

/** The n-th output of an attempt. */
function outputOf({ prediction_id, attempt, plan }: AttemptRecord, n: number): string {
  return `${prediction_id.slice(0, 6)}${plan.varies ? `/${attempt}` : ""}:${n}`;
}

function stateOf({ prediction_id, attempt, state, started, next_i }: AttemptRecord): AttemptState {
  return { prediction_id, attempt, state, started, last_event_i: next_i - 1 };
}

function statusOf({ boot, state, reason, running }: SimInstance): InstanceStatus {
  return {
    instance_id: boot.instance_id,
    deployment_key: boot.deployment_key,
    version_id: boot.version_id,
    state,
    slots: boot.slots,
    slots_busy: running.size,
    memory_bytes: boot.memory_bytes,
    ...(state === "ready" ? { boot_ms: 300, setup_ms: 500 } : {}),
    ...(reason === null ? {} : { reason }),
  };
}

function refusal(status: number, code: string): { status: number; body: unknown } {
  return { status, body: { code, detail: code } };
}
