/**
 * All instances of this origin: boots and drains them as the edge says, runs attempts on them, and ends what a dead predecessor left. It decides nothing
 * about how many of what there should be.
 */
import { rmdirSync, rmSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import type {
  AttemptCancel,
  AttemptStart,
  AttemptState,
  InstanceBoot,
  InstanceStatus,
} from "../schema/origin-protocol.ts";
import type { BlobCache } from "./builds/blob-cache.ts";
import type { Driver } from "./drivers/driver.ts";
import type { Environments } from "./environments.ts";
import type { EventPush } from "./event-push.ts";
import type { InputFetch } from "./input-fetch.ts";
import { Instance } from "./instance.ts";
import { InstanceFiles } from "./instance-files.ts";
import type { AttemptKey, Journal } from "./journal.ts";
import type { Log } from "./log.ts";
import type { OutputFiles } from "./output-files.ts";
import type { OutputSpool } from "./output-spool.ts";
import { PredictionRunner } from "./prediction-runner.ts";
import { type PreparedVersion, trainerOf, type VersionStore } from "./prepared-version.ts";

/** Ended instances are listed for as long, so that the edge hears of the end even if a batch is lost. */
const ENDED_LISTED_MS = 30_000;
/** Where every coglet of a host makes folders for its predictions, and never removes them. */
const COGLET_FOLDER = "/tmp/coglet/predictions";
/** Threads that one model's numeric libraries start; unbounded, each instance starts one per core in each library. */
const THREAD_VARIABLES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"];

export interface SupervisorParts {
  driver: Driver;
  journal: Journal;
  push: EventPush;
  versions: VersionStore;
  environments: Environments;
  inputs: InputFetch;
  outputs: OutputFiles;
  spool: OutputSpool;
  weights: BlobCache;
  /** working folders of trainers, by instance; emptied at the start */
  trainersFolder: string;
  log: Log;
  capacity: { instances: number; memory_bytes: number };
  cpus: number;
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

export class Supervisor {
  readonly #parts: SupervisorParts;
  readonly #instances = new Map<string, Running>();
  /** booting: environment not looked at yet */
  readonly #pending = new Map<string, InstanceBoot>();
  readonly #runners = new Map<string, PredictionRunner>();
  #isDraining = false;
  #onQuiet: (() => void)[] = [];

  constructor(parts: SupervisorParts) {
    this.#parts = parts;
  }

  // ---- start and end of the origin

  /** Ends what an earlier process left running, and tells the edge which attempts were lost with it. Before the first call of the edge. */
  async recover(): Promise<{ reaped: number; lost: number }> {
    const { driver, journal, log, trainersFolder } = this.#parts;
    let reaped = 0;
    for (const record of journal.instances()) {
      const adopted = await driver.adopt(record);
      if (adopted.kind === "adopted") {
        await driver.stop(record.instance_id, 0);
        reaped += 1;
      }
      journal.deleteInstance(record.instance_id);
    }
    rmSync(trainersFolder, { recursive: true, force: true });
    const lost = journal.liveAttempts();
    for (const row of lost) {
      const i = row.last_event_i + 1;
      const reason = "The origin was restarted.";
      journal.appendEvent(row, i, JSON.stringify({ i, t_ms: 0, type: "lost", started: row.started, reason }), false);
      journal.setAttemptState(row, "lost", row.started);
      this.#sweep(`${row.prediction_id}a${row.attempt}`);
    }
    journal.sweepAttempts(Date.now());
    journal.flush();
    if (reaped + lost.length > 0) log.warn({ reaped, lost: lost.length }, "an earlier process had not ended in order");
    return { reaped, lost: lost.length };
  }

  /** Takes nothing new; what runs gets `graceMs`, then ends as failed with `origin.shutdown`; then all instances stop. */
  async shutDown(graceMs: number): Promise<void> {
    this.#isDraining = true;
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
    const known = this.#instances.get(boot.instance_id)?.instance.status() ?? this.#pendingStatus(boot.instance_id);
    if (known !== null) return { kind: "accepted", status: known };
    if (this.#isDraining) return refuse("origin.draining", "This origin is shutting down.");
    const version = this.#parts.versions.get(boot.version_id);
    if (version === null) return refuse("version.unknown", "This origin has not prepared this version.");
    if (boot.mode === "train" && version.train_ref === null) {
      return refuse("version.no_trainer", "This version has no train function.");
    }
    const live = this.#live();
    const memory = live.reduce((sum, each) => sum + each.booked, 0);
    const { capacity } = this.#parts;
    if (live.length >= capacity.instances || memory + boot.memory_bytes > capacity.memory_bytes) {
      return refuse("origin.no_room", "This origin has no room for another instance.");
    }
    this.#pending.set(boot.instance_id, boot);
    void this.#start(boot, version).catch((error: unknown) => {
      this.#parts.log.error({ instance_id: boot.instance_id, err: error }, "an instance could not be started");
      this.#failPending(boot, `boot: ${error instanceof Error ? error.message : String(error)}`);
    });
    return { kind: "accepted", status: pendingStatus(boot, "boot") };
  }

  #live(): { booked: number }[] {
    const started = [...this.#instances.values()].filter(({ instance }) => !instance.isEnded);
    return [
      ...started.map(({ instance }) => ({ booked: instance.bookedBytes })),
      ...[...this.#pending.values()].map((boot) => ({ booked: boot.memory_bytes })),
    ];
  }

  async #start(boot: InstanceBoot, prepared: PreparedVersion): Promise<void> {
    const { environments, versions, spool, driver, journal, push, log } = this.#parts;
    const isTrainer = boot.mode === "train";
    const version = isTrainer ? trainerOf(prepared) : prepared;
    const environment = await environments.ensure(version.environment, versions.sourceFolder(version.id));
    if (environment.kind === "failed") return this.#failPending(boot, `boot: ${environment.detail}`);
    const weights = boot.weights === undefined ? null : await this.#parts.weights.hold(boot.weights);
    if (weights?.kind === "failed") return this.#failPending(boot, `boot: ${weights.detail}`);
    if (!this.#pending.has(boot.instance_id)) return weights?.release();
    const trainerFolder = isTrainer ? join(this.#parts.trainersFolder, boot.instance_id) : null;
    if (trainerFolder !== null) versions.makeTrainerFolder(version, trainerFolder);
    const cwd = trainerFolder ?? versions.sourceFolder(version.id);
    const files = new InstanceFiles(spool);
    await files.listen();
    const slots = Math.max(1, version.slots);
    const instance = new Instance(
      {
        ...boot,
        slots,
        cwd,
        binDir: environment.binDir,
        env: { ...this.#modelEnv(version), ...(weights === null ? {} : { COG_WEIGHTS: weights.path }) },
        args: [
          ...(isTrainer ? ["--x-mode", "train"] : []),
          // A list of files goes as data URIs: coglet uploads a list's files at once and returns them in the order in which they were done.
          ...(version.output_is_file_list ? [] : ["--upload-url", files.uploadUrl]),
        ],
      },
      {
        driver,
        log,
        onStatus: (status) => {
          push.pushStatus(status);
          if (status.state !== "stopped" && status.state !== "failed") return;
          weights?.release();
          if (trainerFolder !== null) rmSync(trainerFolder, { recursive: true, force: true });
          this.#ended(boot.instance_id, files);
        },
        saveRecord: (record) => journal.saveInstance(record),
        deleteRecord: (instanceId) => journal.deleteInstance(instanceId),
      },
    );
    this.#instances.set(boot.instance_id, { instance, files, version, isTrainer });
    this.#pending.delete(boot.instance_id);
    instance.start();
  }

  #modelEnv(version: PreparedVersion): Record<string, string> {
    const threads = String(Math.max(1, Math.min(4, this.#parts.cpus)));
    return {
      ...Object.fromEntries(THREAD_VARIABLES.map((name) => [name, threads])),
      // Weights come with the version; a model that looks for them elsewhere fails at once instead of waiting for a network.
      HF_HUB_OFFLINE: "1",
      TRANSFORMERS_OFFLINE: "1",
      PYTHONUNBUFFERED: "1",
      // What setup prints, warnings, and each log line of predictions. The latter are thrown away, but writing them holds coglet back to the speed of
      // its own stream: without it a burst of more than 1,024 lines overruns a buffer inside (measured: 10 of 12 bursts of 20,000 lines lost, with it none).
      RUST_LOG: "warn,coglet::setup=info,coglet::user=info,coglet::prediction=info",
      // With the default of 1,024 a burst of tokens loses its end.
      COG_STREAM_HISTORY_CAPACITY: "65536",
      ...version.env,
      ...(version.ref === null ? {} : { COG_PREDICT_TYPE_STUB: version.ref }),
      ...(version.train_ref === null ? {} : { COG_TRAIN_TYPE_STUB: version.train_ref }),
    };
  }

  #ended(instanceId: string, files: InstanceFiles): void {
    void files.stop();
    setTimeout(() => this.#instances.delete(instanceId), ENDED_LISTED_MS).unref();
  }

  #pendingStatus(instanceId: string): InstanceStatus | null {
    const boot = this.#pending.get(instanceId);
    return boot === undefined ? null : pendingStatus(boot, "boot");
  }

  #failPending(boot: InstanceBoot, reason: string): void {
    if (!this.#pending.delete(boot.instance_id)) return;
    this.#parts.push.pushStatus({ ...pendingStatus(boot, "failed"), reason });
  }

  /** Null when there is no such instance. Answers at once; the end is told as a state. */
  drain(instanceId: string, reason: string, graceMs: number): InstanceStatus | null {
    const boot = this.#pending.get(instanceId);
    if (boot !== undefined) {
      this.#pending.delete(instanceId);
      const status = { ...pendingStatus(boot, "stopped"), reason };
      this.#parts.push.pushStatus(status);
      return status;
    }
    const running = this.#instances.get(instanceId);
    if (running === undefined) return null;
    void running.instance.drain(reason, graceMs);
    return running.instance.status();
  }

  statuses(): InstanceStatus[] {
    return [
      ...[...this.#pending.values()].map((boot) => pendingStatus(boot, "boot")),
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
      wakePush: (isLazy) => (isLazy ? this.#parts.push.wakeSoon() : this.#parts.push.wake()),
      onEnd: (key) => {
        this.#runners.delete(nameOf(key));
        if (this.#runners.size === 0) for (const resolve of this.#onQuiet.splice(0)) resolve();
      },
      sweep: (cogId) => this.#sweep(cogId),
    });
    this.#runners.set(nameOf(start), runner);
    // The journal is committed on the way, or below where it only waits.
    void runner.run(start);
    journal.flush();
    return { kind: "accepted", state: runner.state() };
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

  #sweep(cogId: string): void {
    // Only names that we made: the folder is shared by all users of the host.
    if (!/^[a-z0-9]+$/.test(cogId)) return;
    // Behind what the end of the prediction set in motion.
    setImmediate(() => removeFolder(join(COGLET_FOLDER, cogId)));
  }
}

/**
 * coglet leaves `inputs` and `outputs`, empty nearly always: three calls, at a quarter of the cost of a recursive removal. Synchronous: passing each to
 * another thread costs more than the call.
 */
function removeFolder(folder: string): void {
  try {
    rmdirSync(join(folder, "inputs"));
    rmdirSync(join(folder, "outputs"));
    rmdirSync(folder);
  } catch {
    // Not there, or not empty.
    rmSync(folder, { recursive: true, force: true });
  }
}

function nameOf(key: AttemptKey): string {
  return `${key.prediction_id} ${key.attempt}`;
}

function refuse(code: string, detail: string): Booted {
  return { kind: "refused", code, detail };
}

function pendingStatus(boot: InstanceBoot, state: InstanceStatus["state"]): InstanceStatus {
  const { instance_id, deployment_key, version_id, slots, memory_bytes } = boot;
  return { instance_id, deployment_key, version_id, state, slots, slots_busy: 0, memory_bytes };
}
