/**
 * One attempt of one prediction, from acceptance to its last event: inputs made ready, a slot, coglet, and what coglet says as numbered events. It decides
 * nothing about retries; it ends exactly once, with `finished`.
 *
 * Events keep the model's order: one that names files waits until the edge has the files, and what comes after it waits behind it.
 */
import { performance } from "node:perf_hooks";
import {
  type AttemptCancel,
  type AttemptStart,
  type AttemptState,
  EVENT_VALUE_BYTES_MAX,
} from "../schema/origin-protocol.ts";
import { maskSecrets } from "../schema/secret-inputs.ts";
import { weightsOf } from "../schema/weights.ts";
import { AttemptTrace } from "./attempt-trace.ts";
import { type CogEvent, type CogResult, crashKind, stripErrorPrefix } from "./cog-client.ts";
import type { InputFetch } from "./input-fetch.ts";
import type { Instance } from "./instance.ts";
import type { InstanceFiles } from "./instance-files.ts";
import type { Slot } from "./instance-slots.ts";
import type { AttemptKey, Journal } from "./journal.ts";
import type { Log } from "./log.ts";
import { LogBudget } from "./log-budget.ts";
import { mustBeFile, type OutputFiles, type OutputScope } from "./output-files.ts";
import { isIteratorOutput, mayHoldFiles, type PreparedVersion, secretsOf } from "./prepared-version.ts";
import type { Telemetry } from "./telemetry.ts";

/** coglet answers before its slot is free, so a 409 only means: a few milliseconds later. */
const BUSY_RETRY_MS = 2;
/** After this long it does not: its worker is dead. */
const BUSY_MAX_MS = 5_000;
/** The edge cancels at the deadline; this much later the origin does so itself. */
const DEADLINE_GUARD_MS = 3_000;
const DEADLINE_FORCE_MS = 5_000;
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

type Step = () => void | Promise<void>;

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
  readonly #isIterator: boolean;
  readonly #mayHoldFiles: boolean;
  readonly #isTrainer: boolean;
  readonly #mustBeFile: boolean;
  #state: AttemptState["state"] = "waiting";
  #started = false;
  #hasStartedEvent = false;
  #nextEvent = 0;
  #nextFile = 0;
  #liveTokens: unknown[] = [];
  #result: CogResult | null = null;
  /** what a trainer returned, its files stored and its weights kept */
  #trained: unknown;
  #hasLagged = false;
  /** texts of the input that the model's own lines must not show */
  #secrets: string[] = [];
  #slot: Slot | null = null;
  #modelStartedAt: number | null = null;
  #cancelReason: AttemptCancel["reason"] | null = null;
  #forced = false;
  #isMuted = false;
  #steps: Step[] = [];
  #isStepping = false;
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
    this.#isIterator = isIteratorOutput(target.version.schema);
    this.#mayHoldFiles = mayHoldFiles(target.version.schema);
    this.#isTrainer = target.isTrainer;
    this.#mustBeFile = !target.isTrainer && mustBeFile(target.version.schema);
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
    return { ...this.key, state: this.#state, started: this.#started, last_event_i: this.#nextEvent - 1 };
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
    await this.#stepsDone();
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
    if (result.status === "succeeded" && (result.output ?? null) === null && this.#mustBeFile) {
      const error = "The model returned a path at which there is no file.";
      return { status: "failed", code: "output.missing", error, predict_time_s: this.#elapsedS() };
    }
    this.#finalOutput(result);
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
        this.#inOrder(() => this.#append({ type: "started" }, true));
        break;
      case "log":
        for (const data of this.#logs.take(maskSecrets(event.data, this.#secrets))) {
          this.#inOrder(() => this.#append({ type: "log", source: event.source, data }));
        }
        break;
      case "metric": {
        const { name, value, mode } = event;
        if (name === this.#version.token_metric) {
          this.#liveTokens.push(value);
          this.#output("append", value);
        } else {
          this.#inOrder(() => this.#append({ type: "metric", name, value, mode }));
        }
        break;
      }
      case "output":
        // Without an iterator the whole output comes with `completed`; behind live tokens the elements are repeats of them.
        if (this.#isIterator && this.#liveTokens.length === 0) this.#output("append", event.chunk);
        break;
      case "completed":
        this.#result = event.result;
        break;
      case "lagged":
        this.#hasLagged = true;
        break;
    }
  }

  #finalOutput(result: CogResult): void {
    const { output } = result;
    if (output === undefined || output === null) return;
    if (this.#isTrainer) {
      if (result.status === "succeeded") this.#inOrder(() => this.#keepTrained(output));
      return;
    }
    if (this.#liveTokens.length > 0) {
      const isRepeat = Array.isArray(output) && JSON.stringify(output) === JSON.stringify(this.#liveTokens);
      if (!isRepeat && result.status === "succeeded") this.#output("set", output, { isSilent: true });
      return;
    }
    if (!this.#isIterator) this.#output("set", output);
  }

  /** A whole output comes with the end, so it waits for its `finished` and goes in the same batch. */
  #output(mode: "append" | "set", value: unknown, { isSilent = false } = {}): void {
    const append = (shown: unknown): void =>
      this.#append({ type: "output", mode, value: shown, ...(isSilent ? { silent: true } : {}) }, mode === "set");
    this.#inOrder(() => {
      if (!this.#mayHoldFiles) return append(value);
      const stored = this.#host.outputs.store(value, this.#outputScope());
      return stored instanceof Promise ? stored.then(append) : append(stored);
    });
  }

  #outputScope(): OutputScope {
    return {
      key: this.key,
      cogId: this.#cogId,
      files: this.#files,
      nextFile: () => this.#nextFile++,
      signal: this.#abort.signal,
    };
  }

  /** A trainer's output goes with the end of its training; by then the edge has the weights where they stay, however large they are. */
  async #keepTrained(output: unknown): Promise<void> {
    const scope = this.#outputScope();
    const stored = await this.#host.outputs.store(output, scope);
    if (JSON.stringify(stored).length > EVENT_VALUE_BYTES_MAX / 2) {
      this.#failureCode = "output.too_large";
      throw new Error("What the trainer returned is too large beside its files; return the weights as a Path.");
    }
    const weights = weightsOf(stored);
    if (weights !== null) await this.#host.outputs.keepWeights(weights, scope);
    this.#trained = stored;
  }

  // ---- events in order

  #inOrder(step: Step): void {
    this.#steps.push(step);
    if (!this.#isStepping) this.#work();
  }

  #work(): void {
    for (let step = this.#steps.shift(); step !== undefined; step = this.#steps.shift()) {
      const pending = this.#failure === null ? step() : undefined;
      if (!(pending instanceof Promise)) continue;
      this.#isStepping = true;
      const next = (): void => {
        this.#isStepping = false;
        this.#work();
      };
      pending.then(next, (error: unknown) => {
        this.#failure ??= error instanceof Error ? error.message : String(error);
        next();
      });
      return;
    }
    this.#onStepsDone?.();
  }

  /** why an output could not be stored; later outputs are of no use then */
  #failure: string | null = null;
  #onStepsDone: (() => void) | null = null;

  async #stepsDone(): Promise<void> {
    if (!this.#isStepping) return;
    await new Promise<void>((resolve) => {
      this.#onStepsDone = resolve;
    });
  }

  #append(event: Record<string, unknown> & { type: string }, isLazy = false): void {
    if (this.#isMuted || this.isEnded) return;
    const i = this.#nextEvent;
    const t_ms = Math.round((performance.now() - this.#acceptedAt) * 10) / 10;
    const body = JSON.stringify({ i, t_ms, ...event });
    if (body.length > EVENT_VALUE_BYTES_MAX) {
      this.#failure ??= `An output value is larger than ${EVENT_VALUE_BYTES_MAX} bytes; return a file instead.`;
      this.#failureCode = "output.too_large";
      return;
    }
    this.#nextEvent += 1;
    this.#host.journal.appendEvent(this.key, i, body, event.type === "log");
    this.#host.wakePush(isLazy);
  }

  #failureCode = "output.upload_failed";

  #becomeStarted(): void {
    this.#state = "running";
    if (this.#started) return;
    this.#started = true;
    // Committed before coglet sees anything: after a crash, "not started" must be true.
    this.#host.journal.setAttemptState(this.key, "running", true);
    this.#host.journal.flush();
  }

  #end(ending: Ending): void {
    for (const data of this.#logs.rest()) this.#append({ type: "log", source: "stderr", data });
    const isStorable = this.#failure === null || ending.status !== "succeeded";
    const shown: Ending = isStorable
      ? ending
      : this.#cancelReason !== null
        ? { ...ending, ...this.#canceled() }
        : { ...ending, status: "failed", code: this.#failureCode, error: this.#failure ?? "" };
    const { status, error, code } = shown;
    this.#append({
      type: "finished",
      status,
      ...(error === undefined ? {} : { error: maskSecrets(error, this.#secrets) }),
      ...(code === undefined ? {} : { code }),
      ...(status === "succeeded" && this.#trained !== undefined ? { output: this.#trained } : {}),
      metrics: shown.metrics ?? {},
      predict_time_s: shown.predict_time_s ?? 0,
    });
    this.#state = "finished";
    this.#tell(shown);
    this.#host.journal.setAttemptState(this.key, "finished", this.#started);
    this.#host.outputs.discard(this.#files.close(this.#cogId));
    this.#host.inputs.discard(this.#cogId);
    this.#host.sweep(this.#cogId);
    this.#host.onEnd(this.key);
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
    if (cancel.reason === "fenced") this.#isMuted = true;
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
