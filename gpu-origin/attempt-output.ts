/** What the model of one attempt returns, as events: live or at its end, its files stored first. A trainer's goes with the end of its training instead. */
import { EVENT_VALUE_BYTES_MAX } from "../schema/origin-protocol.ts";
import { weightsOf } from "../schema/weights.ts";
import type { CogResult } from "./cog-client.ts";
import type { EventWriter } from "./event-writer.ts";
import { mustBeFile, type OutputFiles, type OutputScope } from "./output-files.ts";
import { isIteratorOutput, mayHoldFiles, type PreparedVersion } from "./prepared-version.ts";

export interface OutputHost {
  version: PreparedVersion;
  isTrainer: boolean;
  events: EventWriter;
  outputs: OutputFiles;
  scope: Omit<OutputScope, "nextFile">;
}

export class AttemptOutput {
  readonly #host: OutputHost;
  readonly #scope: OutputScope;
  readonly #isIterator: boolean;
  readonly #mayHoldFiles: boolean;
  readonly #mustBeFile: boolean;
  #nextFile = 0;
  #liveTokens: unknown[] = [];
  #trained: unknown;

  constructor(host: OutputHost) {
    const { schema } = host.version;
    this.#host = host;
    this.#scope = { ...host.scope, nextFile: () => this.#nextFile++ };
    this.#isIterator = isIteratorOutput(schema);
    this.#mayHoldFiles = mayHoldFiles(schema);
    this.#mustBeFile = !host.isTrainer && mustBeFile(schema);
  }

  /** What a trainer returned, its files stored and its weights kept. */
  get trained(): unknown {
    return this.#trained;
  }

  /** A value of the metric that carries the model's tokens live. */
  token(value: unknown): void {
    this.#liveTokens.push(value);
    this.#emit("append", value);
  }

  /** Without an iterator the whole output comes with the result; behind live tokens the elements are repeats of them. */
  chunk(value: unknown): void {
    if (this.#isIterator && this.#liveTokens.length === 0) this.#emit("append", value);
  }

  /** It named a file that is not there: coglet says null for it. */
  isMissing(result: CogResult): boolean {
    return result.status === "succeeded" && (result.output ?? null) === null && this.#mustBeFile;
  }

  /** The model ended. */
  final(result: CogResult): void {
    const { output } = result;
    if (output === undefined || output === null) return;
    if (this.#host.isTrainer) {
      if (result.status === "succeeded") this.#host.events.inOrder(() => this.#keepTrained(output));
      return;
    }
    if (this.#liveTokens.length > 0) {
      const isRepeat = Array.isArray(output) && JSON.stringify(output) === JSON.stringify(this.#liveTokens);
      if (!isRepeat && result.status === "succeeded") this.#emit("set", output, { isSilent: true });
      return;
    }
    if (!this.#isIterator) this.#emit("set", output);
  }

  /** A whole output comes with the end, so it waits for its `finished` and goes in the same batch. */
  #emit(mode: "append" | "set", value: unknown, { isSilent = false } = {}): void {
    const { events, outputs } = this.#host;
    const append = (shown: unknown): void => {
      events.append({ type: "output", mode, value: shown, ...(isSilent ? { silent: true } : {}) }, mode === "set");
    };
    events.inOrder(() => {
      if (!this.#mayHoldFiles) return append(value);
      const stored = outputs.store(value, this.#scope);
      return stored instanceof Promise ? stored.then(append) : append(stored);
    });
  }

  /** A trainer's output goes with the end of its training; by then the edge has the weights where they stay, however large they are. */
  async #keepTrained(output: unknown): Promise<void> {
    const { events, outputs } = this.#host;
    const stored = await outputs.store(output, this.#scope);
    if (JSON.stringify(stored).length > EVENT_VALUE_BYTES_MAX / 2) {
      const error = "What the trainer returned is too large beside its files; return the weights as a Path.";
      events.fail("output.too_large", error);
      return;
    }
    const weights = weightsOf(stored);
    if (weights !== null) await outputs.keepWeights(weights, this.#scope);
    this.#trained = stored;
  }
}
