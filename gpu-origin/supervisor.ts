/**
 * All instances of this origin: boots and drains them as the edge says, runs attempts on them, and takes over what a dead predecessor left that is fit to
 * go on. It decides nothing about how many of what there should be.
 */
import { loadavg } from "node:os";
import type {
  AttemptCancel,
  AttemptStart,
  AttemptState,
  InstanceBoot,
  InstanceStatus,
} from "../schema/origin-protocol.ts";
import type { CompileCaches } from "./compile-cache.ts";
import type { Driver } from "./drivers/driver.ts";
import type { EventPush } from "./event-push.ts";
import type { InputFetch } from "./input-fetch.ts";
import { Instance } from "./instance.ts";
import { InstanceFiles } from "./instance-files.ts";
import { type InstanceLaunch, type LaunchParts, launchInstance } from "./instance-launch.ts";
import type { AttemptKey, Journal, SavedInstance } from "./journal.ts";
import type { Log } from "./log.ts";
import { tracingEnv } from "./model-tracing.ts";
import type { OutputFiles } from "./output-files.ts";
import type { OutputSpool } from "./output-spool.ts";
import { PredictionRunner } from "./prediction-runner.ts";
import type { PreparedVersion, VersionStore } from "./prepared-version.ts";
import type { Telemetry } from "./telemetry.ts";

/** Ended instances are listed for as long, so that the edge hears of the end even if a batch is lost. */
const ENDED_LISTED_MS = 30_000;
/** What an adopted instance is started with lies on this host already; what does not come by then is not adopted. */
const ADOPT_LAUNCH_MS = 5_000;
/** Of a reason, which is one line. */
const REASON_CHARACTERS_MAX = 500;

export interface SupervisorParts extends LaunchParts {
  driver: Driver;
  caches: Pick<CompileCaches, "open" | "reap">;
  journal: Journal;
  push: EventPush;
  versions: VersionStore;
  inputs: InputFetch;
  outputs: OutputFiles;
  spool: OutputSpool;
  telemetry: Telemetry;
  log: Log;
  capacity: { instances: number; memory_bytes: number };
  /** models of others than the operator run too */
  runsUntrusted: boolean;
}

export type Booted = { kind: "accepted"; status: InstanceStatus } | { kind: "refused"; code: string; detail: string };
export type Started =
  | { kind: "accepted"; state: AttemptState }
  | { kind: "refused"; code: "instance.unknown" | "origin.draining"; detail: string };

interface Running {
  instance: Instance;
  files: InstanceFiles;
  version: PreparedVersion;
  isTrainer: boolean;
}

/** Accepted, and not started yet: what it needs is being fetched or made. */
interface Pending {
  boot: InstanceBoot;
  abort: AbortController;
  /** what is being done */
  reason: string | null;
}

export class Supervisor {
  readonly #parts: SupervisorParts;
  readonly #instances = new Map<string, Running>();
  readonly #pending = new Map<string, Pending>();
  readonly #runners = new Map<string, PredictionRunner>();
  /** since the start of this process */
  readonly #endedAttempts = { succeeded: 0, failed: 0, canceled: 0 };
  #isDraining = false;
  #onQuiet: (() => void)[] = [];

  constructor(parts: SupervisorParts) {
    this.#parts = parts;
  }

  // ---- start and end of the origin

  /**
   * Where it `adopts`, keeps the ready instances of an earlier process; ends whatever else that left running, and tells the edge which attempts were lost
   * with it. Before the first call of the edge.
   */
  async recover(adopts: boolean): Promise<{ adopted: number; reaped: number; lost: number }> {
    const { driver, journal, log } = this.#parts;
    const saved = journal.instances();
    const kept = await Promise.all(saved.map((each) => this.#adopt(adopts ? each : { ...each, resume: null })));
    const adopted = kept.filter((isKept) => isKept).length;
    const reaped = saved.length - adopted + (await driver.reap(new Set(this.#instances.keys())));
    await this.#parts.caches.reap(new Set(this.#instances.keys()));
    const lost = journal.liveAttempts();
    for (const row of lost) {
      const i = row.last_event_i + 1;
      const reason = "The origin was restarted.";
      journal.appendEvent(row, i, JSON.stringify({ i, t_ms: 0, type: "lost", started: row.started, reason }), false);
      journal.setAttemptState(row, "lost", row.started);
      this.#sweep(row.instance_id, `${row.prediction_id}a${row.attempt}`);
    }
    journal.sweepAttempts(Date.now());
    journal.flush();
    if (saved.length + lost.length > 0) {
      log.warn({ adopted, reaped, lost: lost.length }, "an earlier process had not ended in order");
    }
    return { adopted, reaped, lost: lost.length };
  }

  /** False when it is not fit to go on; then it was ended. A trainer never is: its one training was lost. */
  async #adopt({ record, resume }: SavedInstance): Promise<boolean> {
    const { driver, journal, spool } = this.#parts;
    const { instance_id } = record;
    const end = async (): Promise<boolean> => {
      await driver.adopt(record, { onLine: () => {}, onExit: () => {} });
      await driver.stop(instance_id, 0);
      await driver.release(instance_id);
      journal.deleteInstance(instance_id);
      return false;
    };
    if (resume === null || resume.boot.mode === "train") return end();
    const { boot } = resume;
    const result = await launchInstance(boot, this.#parts, {
      onProgress: () => {},
      signal: AbortSignal.timeout(ADOPT_LAUNCH_MS),
      devices: record.gpus,
    });
    if (result.kind === "failed") return end();
    const files = new InstanceFiles(spool, { secret: resume.files.secret, traces: this.#traces() });
    const isListening = await files.listen(resume.files.host, resume.files.port).then(
      () => true,
      () => false,
    );
    const instance = isListening ? this.#createInstance(boot, result.launched, files, resume.files) : null;
    if (instance !== null && (await instance.adopt(record))) {
      this.#instances.set(instance_id, { instance, files, version: result.launched.version, isTrainer: false });
      return true;
    }
    result.launched.release();
    if (isListening) await files.stop();
    return end();
  }

  /** Takes nothing new; what runs gets `graceMs`, then ends as failed with `origin.shutdown`; then all instances stop. */
  async shutDown(graceMs: number): Promise<void> {
    this.#isDraining = true;
    for (const id of this.#pending.keys()) this.drain(id, "the origin shut down", 0);
    await this.#quiet(graceMs);
    for (const runner of this.#runners.values()) runner.cancel({ reason: "shutdown", force_after_ms: 0 });
    await this.#quiet(2_000);
    await Promise.all(
      [...this.#instances.values()].map(({ instance }) => instance.stop("the origin shut down", 1_000)),
    );
    await this.#quiet(1_000);
  }

  #quiet(timeoutMs: number): Promise<void> {
    if (this.#runners.size === 0) return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#onQuiet.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  // ---- instances

  /** Idempotent by id. Answers before anything runs; states tell how it goes. */
  boot(boot: InstanceBoot): Booted {
    const waiting = this.#pending.get(boot.instance_id);
    const known =
      this.#instances.get(boot.instance_id)?.instance.status() ?? (waiting && pendingStatus(waiting, "boot"));
    if (known !== undefined) return { kind: "accepted", status: known };
    if (this.#isDraining) return refuse("origin.draining", "This origin is shutting down.");
    const version = this.#parts.versions.get(boot.version_id);
    if (version === null && boot.package === undefined) {
      return refuse("version.unknown", "This origin has not prepared this version.");
    }
    if (version?.train_ref === null && boot.mode === "train") {
      return refuse("version.no_trainer", "This version has no train function.");
    }
    const { driver, capacity, runsUntrusted } = this.#parts;
    if (boot.is_trusted === false && !runsUntrusted) {
      const detail = `The ${driver.name} driver keeps nothing apart, so this origin runs the operator's models only. Start it with COGWAY_DRIVER=docker.`;
      return refuse("version.not_trusted", detail);
    }
    if (boot.package?.kind === "image" && driver.name === "process") {
      const detail = "The process driver runs no images. Start the origin with COGWAY_DRIVER=docker.";
      return refuse("version.no_images", detail);
    }
    const live = this.#live();
    const memory = live.reduce((sum, each) => sum + each.booked, 0);
    if (live.length >= capacity.instances || memory + boot.memory_bytes > capacity.memory_bytes) {
      return refuse("origin.no_room", "This origin has no room for another instance.");
    }
    const pending: Pending = { boot, abort: new AbortController(), reason: null };
    this.#pending.set(boot.instance_id, pending);
    void this.#start(pending).catch((error: unknown) => {
      this.#parts.log.error({ instance_id: boot.instance_id, err: error }, "an instance could not be started");
      this.#failPending(pending, `boot: ${error instanceof Error ? error.message : String(error)}`);
    });
    return { kind: "accepted", status: pendingStatus(pending, "boot") };
  }

  #live(): { booked: number }[] {
    const started = [...this.#instances.values()].filter(({ instance }) => !instance.isEnded);
    return [
      ...started.map(({ instance }) => ({ booked: instance.bookedBytes })),
      ...[...this.#pending.values()].map(({ boot }) => ({ booked: boot.memory_bytes })),
    ];
  }

  async #start(pending: Pending): Promise<void> {
    const { boot, abort } = pending;
    const { driver, spool, push } = this.#parts;
    const result = await launchInstance(boot, this.#parts, {
      signal: abort.signal,
      onProgress: (reason) => {
        pending.reason = reason.slice(0, REASON_CHARACTERS_MAX);
        if (this.#pending.has(boot.instance_id)) push.pushStatus(pendingStatus(pending, "boot"));
      },
    });
    if (result.kind === "failed") return this.#failPending(pending, `boot: ${result.detail}`);
    const { launched } = result;
    const fail = (detail: string): void => {
      launched.release();
      this.#failPending(pending, `boot: ${detail}`);
    };
    const address = await driver.filesAddress({ instance_id: boot.instance_id, egress: boot.egress ?? false });
    if (address.kind === "failed") return fail(address.detail);
    const files = new InstanceFiles(spool, { traces: this.#traces() });
    try {
      const listening = await files.listen(address.host, address.port);
      if (abort.signal.aborted) throw new Error("given up");
      const instance = this.#createInstance(boot, launched, files, listening);
      const { version } = launched;
      this.#pending.delete(boot.instance_id);
      this.#instances.set(boot.instance_id, { instance, files, version, isTrainer: boot.mode === "train" });
      instance.start();
    } catch (error) {
      await files.stop();
      await driver.release(boot.instance_id);
      fail(error instanceof Error ? error.message : String(error));
    }
  }

  #createInstance(
    boot: InstanceBoot,
    launched: InstanceLaunch,
    files: InstanceFiles,
    listening: { host: string; port: number; secret: string },
  ): Instance {
    const { driver, journal, push, log, cpus } = this.#parts;
    const { version, launch, devices, env } = launched;
    // A list of files goes as data URIs: coglet uploads a list's files at once and returns them in the order in which they were done.
    const upload = version.output_is_file_list ? [] : ["--upload-url", files.uploadUrl];
    return new Instance(
      {
        ...boot,
        slots: Math.max(1, version.slots),
        launch,
        devices,
        cpus,
        env: { ...env, ...tracingEnv(version, files.tracesUrl) },
        args: [...launched.args, ...upload],
      },
      {
        driver,
        log,
        onStatus: (status) => {
          push.pushStatus(status);
          if (status.state !== "stopped" && status.state !== "failed") return;
          launched.release();
          this.#ended(boot.instance_id, files);
        },
        onFirstSetup: launched.keepCache,
        saveRecord: (record) => journal.saveInstance({ record, resume: { boot, files: listening } }),
        deleteRecord: (instanceId) => journal.deleteInstance(instanceId),
      },
    );
  }

  /** Where spans of models go; null where nobody wants them. */
  #traces(): Telemetry | null {
    return this.#parts.telemetry.isOn ? this.#parts.telemetry : null;
  }

  #ended(instanceId: string, files: InstanceFiles): void {
    void files.stop();
    setTimeout(() => this.#instances.delete(instanceId), ENDED_LISTED_MS).unref();
  }

  #failPending(pending: Pending, reason: string): void {
    if (!this.#pending.delete(pending.boot.instance_id)) return;
    this.#parts.push.pushStatus({ ...pendingStatus(pending, "failed"), reason });
  }

  /** Null when there is no such instance. Answers at once; the end is told as a state. */
  drain(instanceId: string, reason: string, graceMs: number): InstanceStatus | null {
    const pending = this.#pending.get(instanceId);
    if (pending !== undefined) {
      this.#pending.delete(instanceId);
      pending.abort.abort();
      const status = { ...pendingStatus(pending, "stopped"), reason };
      this.#parts.push.pushStatus(status);
      return status;
    }
    const running = this.#instances.get(instanceId);
    if (running === undefined) return null;
    void running.instance.drain(reason, graceMs);
    return running.instance.status();
  }

  /** Null when there is no such instance, `busy` when it is not idle or cannot be paused. Resolves when it stands still. */
  async pause(instanceId: string): Promise<InstanceStatus | "busy" | null> {
    const instance = this.#instances.get(instanceId)?.instance;
    if (instance === undefined || instance.isEnded) return null;
    return (await instance.pause()) ? instance.status() : "busy";
  }

  /** Null when there is no such instance, or it cannot go on. Resolves when it runs. */
  async resume(instanceId: string): Promise<InstanceStatus | null> {
    const instance = this.#instances.get(instanceId)?.instance;
    return instance !== undefined && (await instance.resume()) ? instance.status() : null;
  }

  statuses(): InstanceStatus[] {
    return [
      ...[...this.#pending.values()].map((pending) => pendingStatus(pending, "boot")),
      ...[...this.#instances.values()].map(({ instance }) => instance.status()),
    ];
  }

  async load(): Promise<{ memory_used_bytes: number; load_average: number }> {
    const used = await Promise.all(
      [...this.#instances.values()].map(({ instance }) => (instance.isEnded ? 0 : instance.sampleMemory())),
    );
    return { memory_used_bytes: used.reduce((sum, bytes) => sum + bytes, 0), load_average: loadavg()[0] ?? 0 };
  }

  // ---- attempts

  /** Starts an attempt once, however often it is sent. When it returns, the attempt is in the journal. */
  startAttempt(start: AttemptStart): Started {
    const known = this.attemptState(start);
    if (known !== null) return { kind: "accepted", state: known };
    if (this.#isDraining) return { kind: "refused", code: "origin.draining", detail: "This origin is shutting down." };
    const target = this.#instances.get(start.instance_id);
    if (target === undefined || target.instance.isEnded || target.version.id !== start.version_id) {
      return { kind: "refused", code: "instance.unknown", detail: "This origin has no such instance." };
    }
    const { journal } = this.#parts;
    const { prediction_id, attempt, instance_id, version_id } = start;
    journal.insertAttempt({
      prediction_id,
      attempt,
      instance_id,
      version_id,
      state: "waiting",
      started: false,
      last_event_i: -1,
      accepted_at: Date.now(),
    });
    const runner = new PredictionRunner(start, target, {
      journal,
      inputs: this.#parts.inputs,
      outputs: this.#parts.outputs,
      log: this.#parts.log,
      telemetry: this.#parts.telemetry,
      ended: (status) => {
        this.#endedAttempts[status] += 1;
      },
      wakePush: (isLazy) => (isLazy ? this.#parts.push.wakeSoon() : this.#parts.push.wake()),
      onEnd: (key) => {
        this.#runners.delete(nameOf(key));
        if (this.#runners.size === 0) for (const resolve of this.#onQuiet.splice(0)) resolve();
      },
      sweep: (cogId) => this.#sweep(instance_id, cogId),
    });
    this.#runners.set(nameOf(start), runner);
    // The journal is committed on the way, or below where it only waits.
    void runner.run(start);
    journal.flush();
    return { kind: "accepted", state: runner.state() };
  }

  /** For metrics: how attempts ended here since the start, and how many run now. */
  attempts(): { ended: Record<"succeeded" | "failed" | "canceled", number>; running: number } {
    return { ended: { ...this.#endedAttempts }, running: this.#runners.size };
  }

  attemptState(key: AttemptKey): AttemptState | null {
    const runner = this.#runners.get(nameOf(key));
    if (runner !== undefined) return runner.state();
    const row = this.#parts.journal.attempt(key);
    if (row === null) return null;
    const { prediction_id, attempt, state, started, last_event_i } = row;
    return { prediction_id, attempt, state, started, last_event_i };
  }

  /** Null when this origin does not know the attempt. An ended one is answered as it is. */
  cancelAttempt(key: AttemptKey, cancel: AttemptCancel): AttemptState | null {
    this.#runners.get(nameOf(key))?.cancel(cancel);
    return this.attemptState(key);
  }

  #sweep(instanceId: string, cogId: string): void {
    // Only names that we made: they become paths.
    if (!/^[a-z0-9]+$/.test(cogId)) return;
    // Behind what the end of the prediction set in motion.
    setImmediate(() => this.#parts.driver.sweep(instanceId, cogId));
  }
}

function nameOf(key: AttemptKey): string {
  return `${key.prediction_id} ${key.attempt}`;
}

function refuse(code: string, detail: string): Booted {
  return { kind: "refused", code, detail };
}

function pendingStatus({ boot, reason }: Pending, state: InstanceStatus["state"]): InstanceStatus {
  const { instance_id, deployment_key, version_id, slots, memory_bytes } = boot;
  const status = { instance_id, deployment_key, version_id, state, slots, slots_busy: 0, memory_bytes };
  return reason === null ? status : { ...status, reason };
}
