/**
 * One attempt of one prediction, from acceptance to its last event: inputs made ready, a slot, coglet, and what coglet says as numbered events. It decides
 * nothing about retries; it ends exactly once, with `finished`. Its events are written by event-writer.ts, what the model returns by attempt-output.ts.
 */
import { performance } from "node:perf_hooks";
import type { AttemptCancel, AttemptStart, AttemptState } from "../schema/origin-protocol.ts";
import { maskSecrets } from "../schema/secret-inputs.ts";
import { AttemptOutput } from "./attempt-output.ts";
import { AttemptTrace } from "./attempt-trace.ts";
import { type CogEvent, type CogResult, crashKind, stripErrorPrefix } from "./cog-client.ts";
import { EventWriter } from "./event-writer.ts";
import type { InputFetch } from "./input-fetch.ts";
import type { Instance } from "./instance.ts";
import type { InstanceFiles } from "./instance-files.ts";
import type { Slot } from "./instance-slots.ts";
import type { AttemptKey, Journal } from "./journal.ts";
import type { Log } from "./log.ts";
import { LogBudget } from "./log-budget.ts";
import type { OutputFiles } from "./output-files.ts";
import { type PreparedVersion, secretsOf } from "./prepared-version.ts";
import type { Telemetry } from "./telemetry.ts";

/** coglet answers before its slot is free, so a 409 only means: a few milliseconds later. */
const BUSY_RETRY_MS = 2;
/** After this long it does not: its worker is dead. */
const BUSY_MAX_MS = 5_000;
/** The edge cancels at the deadline; this much later the origin does so itself. */
const DEADLINE_GUARD_MS = 3_000;
const DEADLINE_FORCE_MS = 5_000;
/** Of a model's own words at its end: the edge keeps as many. */
const ERROR_CHARACTERS_MAX = 16_384;
/** A worker that was dead before it got the prediction is no fault of it. */
const RUNS_MAX = 3;

export interface RunnerHost {
  journal: Journal;
  inputs: InputFetch;
  outputs: OutputFiles;
  log: Log;
  telemetry: Pick<Telemetry, "isOn" | "record">;
  /** for counting */
  ended: (status: Ending["status"]) => void;
  wakePush: (isLazy: boolean) => void;
  /** the attempt ended: its slot is free and its last event is in the journal */
  onEnd: (key: AttemptKey) => void;
  sweep: (cogId: string) => void;
}

export interface Ending {
  status: "succeeded" | "failed" | "canceled";
  error?: string;
  code?: string;
  metrics?: Record<string, unknown>;
  predict_time_s?: number;
}

export class PredictionRunner {
  readonly key: AttemptKey;
  readonly #cogId: string;
  readonly #instance: Instance;
  readonly #files: InstanceFiles;
  readonly #version: PreparedVersion;
  readonly #host: RunnerHost;
  readonly #acceptedAt = performance.now();
  readonly #abort = new AbortController();
  readonly #logs = new LogBudget();
  readonly #events: EventWriter;
  readonly #output: AttemptOutput;
  #state: AttemptState["state"] = "waiting";
  #started = false;
  #hasStartedEvent = false;
  #result: CogResult | null = null;
  #hasLagged = false;
  /** texts of the input that the model's own lines must not show */
  #secrets: string[] = [];
  #slot: Slot | null = null;
  #modelStartedAt: number | null = null;
  #cancelReason: AttemptCancel["reason"] | null = null;
  #forced = false;
  #timers: NodeJS.Timeout[] = [];
  readonly #trace: AttemptTrace | null;

  constructor(
    start: AttemptStart,
    target: { instance: Instance; files: InstanceFiles; version: PreparedVersion; isTrainer: boolean },
    host: RunnerHost,
  ) {
    this.key = { prediction_id: start.prediction_id, attempt: start.attempt };
    this.#cogId = `${start.prediction_id}a${start.attempt}`;
    this.#instance = target.instance;
    this.#files = target.files;
    this.#version = target.version;
    this.#host = host;
    this.#events = new EventWriter(this.key, host, this.#acceptedAt);
    this.#output = new AttemptOutput({
      version: target.version,
      isTrainer: target.isTrainer,
      events: this.#events,
      outputs: host.outputs,
      scope: { key: this.key, cogId: this.#cogId, files: target.files, signal: this.#abort.signal },
    });
    this.#trace = AttemptTrace.of(start);
    if (start.deadline_ms !== undefined) {
      const guard = start.deadline_ms + DEADLINE_GUARD_MS;
      this.#after(guard, () => this.cancel({ reason: "deadline", force_after_ms: DEADLINE_FORCE_MS }));
    }
  }

  get isEnded(): boolean {
    return this.#state === "finished";
  }

  state(): AttemptState {
    return { ...this.key, state: this.#state, started: this.#started, last_event_i: this.#events.last_i };
  }

  /** Runs it to its end; never throws. */
  async run(start: AttemptStart): Promise<void> {
    this.#files.open(this.#cogId);
    let ending: Ending;
    try {
      ending = await this.#execute(start);
    } catch (error) {
      this.#host.log.error({ ...this.key, err: error }, "a prediction ended by a fault of the origin");
      ending = { status: "failed", code: "origin.fault", error: "The origin could not run this prediction." };
    }
    this.#release();
    for (const timer of this.#timers) clearTimeout(timer);
    await this.#events.done();
    this.#end(ending);
  }

  async #execute(start: AttemptStart): Promise<Ending> {
    const given = this.#host.inputs.prepare(start, this.#version, this.#files, this.#cogId, this.#abort.signal);
    // No await where nothing is to fetch: the request reaches coglet in the same turn.
    const prepared = given instanceof Promise ? await given : given;
    if (this.#abort.signal.aborted) return this.#canceled();
    if (prepared.kind === "failed") return { status: "failed", code: "input.download_failed", error: prepared.error };
    this.#secrets = secretsOf(this.#version.schema, prepared.input);
    for (let runs = 1; ; runs++) {
      const acquired = this.#instance.acquire(this.#abort.signal);
      const got = acquired instanceof Promise ? await acquired : acquired;
      if (got.kind === "gone") {
        if (this.#abort.signal.aborted) return this.#canceled();
        return { status: "failed", code: "instance.gone", error: `The instance ended: ${got.reason}` };
      }
      this.#slot = got.slot;
      const ending = await this.#call(got.slot, prepared.input);
      this.#release();
      if (ending !== "again") return ending;
      if (runs === RUNS_MAX) return crashed("The model's process was gone before it got the prediction.");
    }
  }

  async #call(slot: Slot, input: Record<string, unknown>): Promise<Ending | "again"> {
    this.#becomeStarted();
    const busySince = performance.now();
    for (;;) {
      const call = await slot.client.predict(
        this.#cogId,
        input,
        (event) => this.#receive(event),
        this.#abort.signal,
        this.#trace?.header,
      );
      if (this.#forced) return this.#canceled();
      switch (call.kind) {
        case "ended":
          return this.#ended(slot);
        case "busy":
          if (this.#abort.signal.aborted) return this.#canceled();
          if (performance.now() - busySince > BUSY_MAX_MS) {
            this.#instance.crashed("it refuses predictions although its slots are free", slot.generation);
            return "again";
          }
          await new Promise((resolve) => setTimeout(resolve, BUSY_RETRY_MS));
          continue;
        case "refused":
          return { status: "failed", code: "input.refused", error: call.detail };
        case "oversized":
          return { status: "failed", code: "output.too_large", error: call.detail, predict_time_s: this.#elapsedS() };
        case "unavailable":
          this.#instance.crashed(call.detail, slot.generation);
          return "again";
        case "broken":
          if (this.#abort.signal.aborted) return this.#canceled();
          this.#instance.crashed("its server went away", slot.generation);
          if (this.#modelStartedAt === null) return "again";
          return this.#crashed();
      }
    }
  }

  /** coglet's stream ended: by `completed`, by lag, or because its process died. */
  async #ended(slot: Slot): Promise<Ending | "again"> {
    const result = this.#result;
    if (result === null) {
      if (this.#abort.signal.aborted) return this.#canceled();
      if (this.#hasLagged) {
        return {
          status: "failed",
          code: "output.lagged",
          error: "The model wrote faster than its output could be read.",
        };
      }
      this.#instance.crashed("its stream broke off", slot.generation);
      return this.#crashed();
    }
    const crash = result.status === "failed" ? crashKind(result.error) : null;
    if (crash !== null) {
      this.#instance.crashed("its worker process died", slot.generation);
      if (crash === "before" && !this.#abort.signal.aborted) {
        this.#result = null;
        return "again";
      }
      if (this.#cancelReason !== null) return this.#canceled();
      return this.#crashed();
    }
    const { predict_time, ...metrics } = result.metrics;
    if (this.#version.token_metric !== null) delete metrics[this.#version.token_metric];
    const refusal = result.status === "failed" ? this.#files.refusalOf(this.#cogId) : null;
    if (refusal !== null) {
      const predict_time_s = typeof predict_time === "number" ? predict_time : this.#elapsedS();
      return { status: "failed", code: refusal.code, error: refusal.message, predict_time_s };
    }
    if (this.#output.isMissing(result)) {
      const error = "The model returned a path at which there is no file.";
      return { status: "failed", code: "output.missing", error, predict_time_s: this.#elapsedS() };
    }
    this.#output.final(result);
    return {
      status: result.status,
      ...(result.status === "failed" ? { error: stripErrorPrefix(result.error ?? "The prediction failed.") } : {}),
      metrics: predict_time === undefined ? metrics : { ...metrics, predict_time },
      predict_time_s: typeof predict_time === "number" ? predict_time : this.#elapsedS(),
    };
  }

  /** After the instance was told. */
  async #crashed(): Promise<Ending> {
    const why = await this.#instance.crashReason();
    return crashed(why === null ? "The model's process crashed." : `The model's process crashed: ${why}.`);
  }

  #canceled(): Ending {
    if (this.#cancelReason === "shutdown") {
      return {
        status: "failed",
        code: "origin.shutdown",
        error: "The origin was shut down.",
        predict_time_s: this.#elapsedS(),
      };
    }
    return { status: "canceled", predict_time_s: this.#elapsedS() };
  }

  /** Of a model that ended without a word of coglet's own measure. */
  #elapsedS(): number {
    return this.#modelStartedAt === null ? 0 : (performance.now() - this.#modelStartedAt) / 1000;
  }

  #release(): void {
    this.#slot?.release();
    this.#slot = null;
  }

  // ---- coglet's events

  #receive(event: CogEvent): void {
    switch (event.type) {
      case "start":
        this.#modelStartedAt ??= performance.now();
        this.#trace?.predictStarted();
        if (this.#hasStartedEvent) break;
        this.#hasStartedEvent = true;
        this.#events.inOrder(() => void this.#events.append({ type: "started" }, true));
        break;
      case "log":
        for (const data of this.#logs.take(maskSecrets(event.data, this.#secrets))) {
          this.#events.inOrder(() => void this.#events.append({ type: "log", source: event.source, data }));
        }
        break;
      case "metric": {
        const { name, value, mode } = event;
        if (name === this.#version.token_metric) {
          this.#output.token(value);
        } else {
          this.#events.inOrder(() => void this.#events.append({ type: "metric", name, value, mode }));
        }
        break;
      }
      case "output":
        this.#output.chunk(event.chunk);
        break;
      case "completed":
        this.#result = event.result;
        break;
      case "lagged":
        this.#hasLagged = true;
        break;
    }
  }

  #becomeStarted(): void {
    this.#state = "running";
    if (this.#started) return;
    this.#started = true;
    // Committed before coglet sees anything: after a crash, "not started" must be true.
    this.#host.journal.setAttemptState(this.key, "running", true);
    this.#host.journal.flush();
  }

  #end(ending: Ending): void {
    for (const data of this.#logs.rest()) this.#events.append({ type: "log", source: "stderr", data });
    const { failure } = this.#events;
    const isStorable = failure === null || ending.status !== "succeeded";
    const shown: Ending = isStorable
      ? ending
      : this.#cancelReason !== null
        ? { ...ending, ...this.#canceled() }
        : { ...ending, status: "failed", ...failure };
    const told = this.#finish(shown);
    this.#state = "finished";
    this.#events.close();
    this.#tell(told);
    this.#host.journal.setAttemptState(this.key, "finished", this.#started);
    this.#host.outputs.discard(this.#files.close(this.#cogId));
    this.#host.inputs.discard(this.#cogId);
    this.#host.sweep(this.#cogId);
    this.#host.onEnd(this.key);
  }

  /** Writes the last event. Metrics that are too large for it go, so that the attempt ends all the same; what succeeded but for these has failed. */
  #finish(ending: Ending): Ending {
    const { status, error, code, metrics = {}, predict_time_s = 0 } = ending;
    const told = {
      type: "finished",
      status,
      ...(error === undefined ? {} : { error: maskSecrets(error, this.#secrets).slice(0, ERROR_CHARACTERS_MAX) }),
      ...(code === undefined ? {} : { code }),
      predict_time_s,
    };
    const output = status === "succeeded" && this.#output.trained !== undefined ? { output: this.#output.trained } : {};
    // Of a fenced attempt nothing is written, and that is no failure.
    if (this.#events.append({ ...told, ...output, metrics }) || this.#events.failure === null) return ending;
    const failed: Partial<Ending> = status === "succeeded" ? { status: "failed", ...this.#events.failure } : {};
    this.#events.append({ ...told, ...failed, metrics: {} });
    return { ...ending, ...failed };
  }

  /** One line of log, and the spans. Neither holds anything of the model's: its words may tell of the input. */
  #tell({ status, code }: Ending): void {
    const { prediction_id, attempt } = this.key;
    const ms = Math.round(performance.now() - this.#acceptedAt);
    const trace = this.#trace === null ? {} : { trace_id: this.#trace.traceId };
    this.#host.log.info({ ...trace, prediction_id, attempt, status, code, ms }, "attempt ended");
    this.#host.ended(status);
    if (this.#trace === null || !this.#host.telemetry.isOn) return;
    const cold = this.#hasStartedEvent ? this.#instance.takeColdStart() : null;
    for (const span of this.#trace.spans({ status, code }, cold)) this.#host.telemetry.record(span);
  }

  // ---- cancel

  /** Politely now, by force after `force_after_ms`. The end is told by the terminal event. */
  cancel(cancel: AttemptCancel): void {
    if (this.isEnded) return;
    if (cancel.reason === "fenced") this.#events.close();
    this.#cancelReason ??= cancel.reason;
    const slot = this.#slot;
    if (slot === null) {
      // Waiting for its input, for a slot or for the edge to take its files.
      this.#abort.abort();
      return;
    }
    void slot.client.cancel(this.#cogId).then((isRunning) => {
      // Not running there: it is between two tries, or has just ended.
      if (!isRunning && this.#result === null && this.#slot === slot && this.#modelStartedAt === null)
        this.#abort.abort();
    });
    this.#after(cancel.force_after_ms, () => this.#force(slot));
  }

  #force(slot: Slot): void {
    if (this.isEnded || this.#slot !== slot) {
      this.#abort.abort();
      return;
    }
    this.#forced = true;
    // One slot: its processes are killed and started anew. Several: the neighbours finish first, and the instance goes.
    if (this.#instance.slots === 1) this.#instance.restart("restarting: a canceled prediction did not stop");
    else void this.#instance.drain("a canceled prediction did not stop", FORCED_DRAIN_MS);
    this.#abort.abort();
  }

  #after(ms: number, act: () => void): void {
    this.#timers.push(setTimeout(act, ms));
  }
}

/** Neighbours of a prediction that does not stop get this long; a prediction lasts at most 24 h, but the memory is wanted before. */
const FORCED_DRAIN_MS = 3_600_000;

function crashed(error: string): Ending {
  return { status: "failed", code: "model.crashed", error };
}
