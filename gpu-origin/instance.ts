/**
 * One instance: a coglet server, its life (boot, setup, ready, draining, stopped or failed), its slots, first in first out, and its restarts. A server
 * whose worker died never recovers by itself, so it is ended and started anew within the instance, which is in state `boot` meanwhile.
 *
 * Actors: the process (exit), health polls, predictions (acquire, release, crash), the edge (drain). Every start has a generation; what belongs to an
 * older one is ignored.
 */
import type { InstanceBoot, InstanceStatus } from "../schema/origin-protocol.ts";
import type { ColdStart } from "./attempt-trace.ts";
import type { Launch } from "./builds/builder.ts";
import { CogClient, type CogHealth } from "./cog-client.ts";
import type { Driver, Exit, InstanceRecord, Watch } from "./drivers/driver.ts";
import { judgeHealth } from "./instance-health.ts";
import { type Acquired, InstanceSlots } from "./instance-slots.ts";
import { StartTimes } from "./instance-start-times.ts";
import type { Log } from "./log.ts";
import { SetupLog } from "./setup-log.ts";

/** While it starts there is no signal but the health check. */
const STARTING_POLL_MS = 50;
/** A ready one is asked seldom: the model's own health check runs each time. */
const READY_POLL_MS = 5_000;
/** Health checks in a row, each with its own time-out, that a ready server may leave unanswered. */
const SILENCES_MAX = 6;
/** An idle coglet ends in 0.3 s. */
const STOP_GRACE_MS = 2_000;
const LAST_WORDS_MS = 250;
/** Pauses before the next start after so many crashes in a row; the first restart is at once. A run of this length without a crash ends the row. */
const CRASH_PAUSES_MS = [0, 500, 1_000, 2_000, 5_000, 10_000, 30_000];
const CRASH_ROW_MS = 60_000;
/** Pauses between tries while the engine does not answer; the last one repeats. */
const AWAY_PAUSES_MS = [500, 1_000, 2_000, 5_000];
/** An engine that is away for longer is not being restarted: the place is given up, so that another host can have the work. */
const AWAY_MAX_MS = 120_000;
/** An instance that is adopted must be fit by then: what a dead origin left running in it is canceled by coglet when its reader is gone. */
const ADOPT_TIMEOUT_MS = 3_000;
/** Another program may have taken the port first. */
const PORT_RACES_MAX = 5;

export interface InstanceSpec extends InstanceBoot {
  launch: Launch;
  env: Record<string, string>;
  args: string[];
  /** cores that it may use */
  cpus: number;
  /** GPUs that it has, by UUID */
  devices: string[];
}

export interface InstanceHost {
  driver: Driver;
  log: Log;
  onStatus: (status: InstanceStatus) => void;
  /** once, behind its first setup and before its first prediction, which waits for it; never rejects */
  onFirstSetup?: () => Promise<void>;
  saveRecord: (record: InstanceRecord) => void;
  deleteRecord: (instanceId: string) => void;
}

export class Instance {
  readonly id: string;
  readonly version_id: string;
  readonly #spec: InstanceSpec;
  readonly #host: InstanceHost;
  readonly #logs = new SetupLog();
  readonly #times = new StartTimes();
  readonly #slots: InstanceSlots;
  #state: InstanceStatus["state"] = "boot";
  #reason: string | null = null;
  #generation = 0;
  #client: CogClient | null = null;
  #memoryBytes: number | null = null;
  #crashes = 0;
  #readySince = 0;
  #portRaces = 0;
  #awaySince: number | null = null;
  #awayTries = 0;
  /** health checks in a row that nothing answered */
  #silences = 0;
  #timers = new Set<NodeJS.Timeout>();
  #restarting: Promise<void> | null = null;
  #crashReason: string | null = null;
  #isFirstSetupDone = false;
  /** being paused or resumed: no slot is given meanwhile */
  #pausing: Promise<boolean> | null = null;
  #stopping: Promise<void> | null = null;

  constructor(spec: InstanceSpec, host: InstanceHost) {
    this.id = spec.instance_id;
    this.version_id = spec.version_id;
    this.#spec = spec;
    this.#host = host;
    this.#slots = new InstanceSlots(spec.slots, () => {
      if (this.#pausing !== null) return null;
      const isServing = this.#state === "ready" || (this.#state === "draining" && this.#restarting === null);
      return this.#client === null || !isServing ? null : { client: this.#client, generation: this.#generation };
    });
  }

  get state(): InstanceStatus["state"] {
    return this.#state;
  }

  get isEnded(): boolean {
    return this.#state === "stopped" || this.#state === "failed";
  }

  get slots(): number {
    return this.#spec.slots;
  }

  get bookedBytes(): number {
    return this.#spec.memory_bytes;
  }

  /** Logs are sent where they say something new: at the end of setup and at an end. */
  status(withLogs = false): InstanceStatus {
    return {
      instance_id: this.id,
      deployment_key: this.#spec.deployment_key,
      version_id: this.version_id,
      state: this.#state,
      slots: this.#spec.slots,
      slots_busy: this.#slots.busy,
      memory_bytes: this.#memoryBytes ?? this.#spec.memory_bytes,
      ...this.#times.status(),
      ...(this.#reason === null ? {} : { reason: this.#reason }),
      ...(withLogs ? { logs: this.#logs.text() } : {}),
    };
  }

  /** How it came to be ready; told once, to the first attempt after that, which is who waited for it. */
  takeColdStart(): ColdStart | null {
    return this.#times.takeColdStart();
  }

  #setState(state: InstanceStatus["state"], reason: string | null): void {
    if (this.isEnded) return;
    const isChange = this.#state !== state || this.#reason !== reason;
    this.#state = state;
    this.#reason = reason;
    if (!isChange) return;
    this.#host.log.info({ instance_id: this.id, version_id: this.version_id, state, reason }, "instance state");
    this.#host.onStatus(this.status(state === "ready" || this.isEnded));
  }

  // ---- start

  /** Starts the server and returns; states tell how it goes. */
  start(): void {
    this.#host.onStatus(this.status());
    void this.#startServer();
  }

  async #startServer(): Promise<void> {
    if (this.isEnded || this.#stopping !== null) return;
    const generation = ++this.#generation;
    this.#times.begin();
    const { launch, env, args, cpus, devices, instance_id, version_id, deployment_key, memory_bytes } = this.#spec;
    const result = await this.#host.driver.start({
      instance_id,
      version_id,
      deployment_key,
      launch,
      args,
      env: {
        ...env,
        COG_MAX_CONCURRENCY: String(this.#spec.slots),
        COG_SETUP_TIMEOUT: String(Math.ceil(this.#spec.setup_timeout_ms / 1000)),
      },
      memory_bytes,
      cpus,
      gpus: devices,
      egress: this.#spec.egress ?? false,
      is_trusted: this.#spec.is_trusted ?? true,
      watch: this.#watch(generation),
    });
    if (result.kind === "failed" && result.reason === "away") return this.#away(result.detail);
    if (result.kind === "failed") return this.#fail(`boot: ${result.detail}`);
    if (this.#awaySince !== null) this.#setState("boot", null);
    this.#awaySince = null;
    this.#host.saveRecord(result.record);
    if (this.#stopping !== null || this.isEnded) return;
    // Whatever ended it meanwhile, another start follows.
    if (generation !== this.#generation) return;
    this.#client = new CogClient(result.record.address);
    this.#poll(generation, 0);
  }

  #watch(generation: number): Watch {
    return {
      onLine: (line) => this.#logs.add(line),
      onExit: (exit) => {
        if (generation === this.#generation) this.#exited(exit);
      },
    };
  }

  /** The engine does not answer: tried again, for a while. */
  #away(detail: string): void {
    const now = performance.now();
    if (this.#awaySince === null) {
      this.#awaySince = now;
      this.#awayTries = 0;
    }
    if (now - this.#awaySince > AWAY_MAX_MS) {
      this.#fail(`boot: ${detail}`);
      return;
    }
    const pause = AWAY_PAUSES_MS[Math.min(this.#awayTries++, AWAY_PAUSES_MS.length - 1)] ?? 0;
    this.#setState("boot", `waiting for the container engine: ${detail}`);
    this.#after(pause, () => this.#startServer());
  }

  /** Goes on with a server that an earlier origin process started. False, and nothing was changed, unless it answers as a ready one does. */
  async adopt(record: InstanceRecord): Promise<boolean> {
    const generation = ++this.#generation;
    if ((await this.#host.driver.adopt(record, this.#watch(generation))).kind === "gone") return false;
    const client = new CogClient(record.address);
    const until = performance.now() + ADOPT_TIMEOUT_MS;
    while (performance.now() < until && generation === this.#generation) {
      const health = await client.health(until - performance.now());
      if (health?.status === "READY") {
        this.#client = client;
        this.#times.adopted();
        // Inputs may have reached it: what it keeps from now on is not of its setup alone.
        this.#isFirstSetupDone = true;
        this.#readySince = performance.now();
        this.#setState("ready", null);
        this.#poll(generation, READY_POLL_MS);
        return true;
      }
      if (health === null || health.status !== "BUSY") break;
      await new Promise((resolve) => setTimeout(resolve, STARTING_POLL_MS));
    }
    this.#generation += 1;
    client.close();
    return false;
  }

  #poll(generation: number, delayMs: number): void {
    this.#after(delayMs, async () => {
      // Standing still it answers nothing, and needs no look.
      if (this.#state === "paused" || this.#pausing !== null) return this.#poll(generation, READY_POLL_MS);
      const health = await this.#client?.health();
      const isUp = health?.status === "READY" && (this.#state === "boot" || this.#state === "setup");
      if (isUp && !this.#isFirstSetupDone && generation === this.#generation) {
        this.#isFirstSetupDone = true;
        await this.#host.onFirstSetup?.();
      }
      if (generation !== this.#generation || this.isEnded || this.#stopping !== null) return;
      const next = this.#judge(health ?? null);
      if (next === "ended") return;
      this.#poll(generation, next === "ready" ? READY_POLL_MS : STARTING_POLL_MS);
    });
  }

  /** One look at the server: moves the state on, and says how to go on polling. */
  #judge(health: CogHealth | null): "starting" | "ready" | "ended" {
    // It was paused while it was asked.
    if (this.#state === "paused" || this.#pausing !== null) return "ready";
    if (health !== null) {
      this.#silences = 0;
      this.#times.answered();
      if (health.status === "STARTING" && this.#state === "boot") this.#setState("setup", this.#reason);
    }
    const verdict = judgeHealth(health, {
      isServing: this.#state === "ready" || this.#state === "draining",
      elapsed_ms: this.#times.elapsedMs,
      setup_elapsed_ms: this.#times.setupElapsedMs,
      setup_timeout_ms: this.#spec.setup_timeout_ms,
      isWorkerAlive: () => this.#host.driver.isWorkerAlive(this.id),
      logs: () => this.#logs.text(),
    });
    switch (verdict.kind) {
      case "starting":
        return "starting";
      case "silent":
        return this.#silent();
      case "ready":
        this.#becomeReady(verdict.reason);
        return "ready";
      case "failed":
        this.#fail(verdict.reason);
        return "ended";
      case "crashed":
        this.crashed(verdict.reason);
        return "ended";
    }
  }

  /** A ready server that does not answer its health check: it may be starved for a while; one that hangs would hold its place for ever. */
  #silent(): "ready" | "ended" {
    this.#silences += 1;
    if (this.#silences < SILENCES_MAX) return "ready";
    this.#silences = 0;
    this.crashed("its server does not answer");
    return "ended";
  }

  #becomeReady(reason: string | null): void {
    if (this.#state === "boot" || this.#state === "setup") {
      this.#times.ready();
      this.#readySince = performance.now();
    }
    if (this.#state === "draining") return;
    this.#setState("ready", reason);
    this.#slots.serve();
  }

  // ---- slots

  /** A slot, in the order of asking. Resolves at once when one is free. Aborting gives the place up. */
  acquire(signal: AbortSignal): Acquired | Promise<Acquired> {
    if (this.isEnded || this.#stopping !== null) return { kind: "gone", reason: this.#reason ?? "the instance ended" };
    // The edge leased it before it knew of the pause.
    if (this.#state === "paused") void this.resume();
    return this.#slots.acquire(signal);
  }

  // ---- pauses

  /** Holds it in memory without running, while it has nothing to do. False where it has, or the driver cannot: then it runs on. */
  async pause(): Promise<boolean> {
    if (this.#pausing !== null) await this.#pausing;
    if (this.#state === "paused") return true;
    if (this.#state !== "ready" || this.#stopping !== null || !this.#slots.isQuiet) return false;
    const isStill = await this.#changePause("paused", () => this.#host.driver.pause(this.id));
    // Somebody came meanwhile.
    if (isStill && !this.#slots.isQuiet) void this.resume();
    else if (!isStill) this.#slots.serve();
    return isStill && this.#slots.isQuiet;
  }

  /** Lets it run on. False where it cannot: then it ends. */
  async resume(): Promise<boolean> {
    if (this.#pausing !== null) await this.#pausing;
    if (this.#state === "ready") return true;
    if (this.#state !== "paused" || this.#stopping !== null) return false;
    const runs = await this.#changePause("ready", () => this.#host.driver.resume(this.id));
    if (runs) this.#slots.serve();
    // Nothing, where it ended meanwhile.
    else void this.stop("it could not be resumed");
    return runs;
  }

  /** False where the driver cannot, or the instance is no longer what it was. Who waits for the change sees its state when it is over. */
  async #changePause(to: "paused" | "ready", change: () => Promise<boolean>): Promise<boolean> {
    const from = this.#state;
    const changing = async (): Promise<boolean> => {
      try {
        if (!(await change()) || this.#state !== from || this.#stopping !== null) return false;
        this.#silences = 0;
        this.#setState(to, null);
        return true;
      } finally {
        this.#pausing = null;
      }
    };
    this.#pausing = changing();
    return this.#pausing;
  }

  // ---- crashes

  /** The worker or the server is dead, seen by a prediction of `generation` or by a health poll. Restarts once however often it is said. */
  crashed(why: string, generation = this.#generation): void {
    if (generation !== this.#generation || this.isEnded || this.#stopping !== null) return;
    if (performance.now() - this.#readySince > CRASH_ROW_MS) this.#crashes = 0;
    const pause = CRASH_PAUSES_MS[Math.min(this.#crashes, CRASH_PAUSES_MS.length - 1)] ?? 0;
    this.#crashes += 1;
    const row = this.#crashes > 1 ? ` (${this.#crashes} times in a row, next start in ${pause} ms)` : "";
    this.restart(`restarting: ${why}${row}`, pause);
  }

  /** What is said of an end for want of memory. */
  get #outOfMemory(): string {
    return `out of memory (limit ${Math.round(this.#spec.memory_bytes / 1024 ** 2)} MB)`;
  }

  /** Why the last crash came about, where that is known: once what crashed is ended. */
  async crashReason(): Promise<string | null> {
    await this.#restarting;
    return this.#crashReason;
  }

  #exited(exit: Exit): void {
    if (this.#stopping !== null || this.isEnded) return;
    if (this.#state === "paused") {
      // Nobody counts on it.
      void this.stop("it ended while it was paused");
      return;
    }
    const how = exit.isOutOfMemory ? this.#outOfMemory : `exited (${exit.code ?? exit.signal ?? "unknown"})`;
    // One that was ready before can start: what ended it this time is a crash.
    const wasStarting = this.#state === "boot" && !this.#times.hasAnswered && this.#readySince === 0;
    if (wasStarting && this.#logs.text().includes("ddress already in use") && this.#portRaces < PORT_RACES_MAX) {
      this.#portRaces += 1;
      this.restart("restarting: its port was taken", 0);
    } else if (wasStarting) {
      this.#fail(`boot: ${exit.isOutOfMemory ? how : `the server ${how}: ${this.#logs.lastLine()}`}`);
    } else {
      this.crashed(exit.isOutOfMemory ? how : `its server ${how}`);
    }
  }

  /** Ends the server, all its processes included, and starts a new one in the same instance. */
  restart(reason: string, pauseMs = 0): void {
    if (this.isEnded || this.#stopping !== null) return;
    this.#generation += 1;
    this.#client?.close();
    this.#client = null;
    if (this.#state === "draining") {
      // Nobody is to come after those that run.
      void this.stop(reason, 0);
      return;
    }
    this.#setState("boot", reason);
    this.#crashReason = null;
    this.#restarting = this.#host.driver.stop(this.id, 0).then(() => {
      this.#restarting = null;
      const isOutOfMemory = this.#host.driver.ranOutOfMemory(this.id);
      if (isOutOfMemory) this.#crashReason = this.#outOfMemory;
      if (this.#stopping !== null) return;
      // The kernel's word may come behind coglet's, which knows only that its worker is gone.
      if (isOutOfMemory && !reason.includes(this.#outOfMemory)) {
        this.#setState("boot", `${reason}: ${this.#outOfMemory}`);
      }
      this.#after(pauseMs, () => this.#startServer());
    });
  }

  // ---- end

  /** Takes no new predictions, lets those that hold or await a slot end within `graceMs`, then stops. */
  drain(reason: string, graceMs: number): Promise<void> {
    if (this.isEnded || this.#stopping !== null) return this.#stopping ?? Promise.resolve();
    if (this.#state !== "ready") return this.stop(reason, STOP_GRACE_MS);
    this.#setState("draining", reason);
    return new Promise((resolve) => {
      const end = (): void => resolve(this.stop(reason, STOP_GRACE_MS));
      this.#after(graceMs, end);
      this.#slots.whenIdle(end);
    });
  }

  /** Ends it now. */
  stop(reason: string, graceMs = STOP_GRACE_MS): Promise<void> {
    this.#stopping ??= this.#end("stopped", reason, graceMs);
    return this.#stopping;
  }

  #fail(reason: string): void {
    if (this.#stopping === null && !this.isEnded) this.#stopping = this.#end("failed", reason, STOP_GRACE_MS);
  }

  async #end(state: "stopped" | "failed", reason: string, graceMs: number): Promise<void> {
    this.#generation += 1;
    for (const timer of this.#timers) clearTimeout(timer);
    // What a failed setup printed passes through two processes and may come after the health check that told of it.
    if (state === "failed") await new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS));
    // Standing still it would not hear that it is to end.
    if (this.#state === "paused" && graceMs > 0) await this.#host.driver.resume(this.id);
    await this.#host.driver.stop(this.id, graceMs);
    const isOutOfMemory = state === "failed" && this.#host.driver.ranOutOfMemory(this.id);
    await this.#host.driver.release(this.id);
    this.#host.deleteRecord(this.id);
    this.#client?.close();
    this.#client = null;
    this.#setState(
      state,
      isOutOfMemory && !reason.includes("out of memory") ? `${reason}: ${this.#outOfMemory}` : reason,
    );
    this.#slots.end(reason);
  }

  /** Asks the driver how much memory it uses; shown in the next status. */
  async sampleMemory(): Promise<number> {
    const bytes = await this.#host.driver.memoryBytes(this.id);
    // A figure that is none would keep all events of this origin from the edge: a batch is judged as a whole.
    if (bytes === null || !Number.isFinite(bytes)) return 0;
    this.#memoryBytes = bytes;
    return bytes;
  }

  #after(ms: number, act: () => void | Promise<void>): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      void act();
    }, ms);
    this.#timers.add(timer);
  }
}
