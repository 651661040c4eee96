/**
 * The log of a prediction: what happened, in order, and the fold that makes the document's output, logs and metrics of it. Pure. The log is the truth;
 * nothing else keeps a prediction's output.
 */
import type { AttemptEvent } from "./origin-protocol.ts";
import type { Meter } from "./prediction-document.ts";
import { asFileRef } from "./render-prediction.ts";

/** One entry. Its `seq` is its place: the row holds the first, and they rise by one. */
export type StoredEvent =
  | { type: "started"; attempt: number }
  | { type: "output"; mode: "append" | "set"; value: unknown; silent?: boolean }
  | { type: "log"; data: string }
  | { type: "metric"; name: string; value: unknown; mode: "replace" | "increment" | "append" }
  | { type: "requeued"; attempt: number; reason: string }
  /** the last one */
  | { type: "ended"; state: Meter["outcome"]; error: string | null; metrics: Record<string, unknown> };

/** Logs kept of a prediction; older lines go first. */
export const LOG_BYTES_MAX = 1_048_576;
/** Metrics, as JSON, that are kept beside a log or when it goes; a model may call many things a metric. */
const KEPT_METRICS_BYTES_MAX = 65_536;
const LOG_CUT_MARK = "[earlier lines were dropped]\n";

export interface Folded {
  output: unknown;
  logs: string;
  metrics: Record<string, unknown>;
}

/** The entries that one event of an attempt becomes. A whole list of files streams file by file, and folds to the same list. */
export function storedEvents(event: AttemptEvent): StoredEvent[] {
  switch (event.type) {
    case "output": {
      const { mode, value, silent } = event;
      if (
        mode === "set" &&
        Array.isArray(value) &&
        value.length > 0 &&
        value.every((item) => asFileRef(item) !== null)
      ) {
        return value.map((item) => ({ type: "output", mode: "append", value: item }));
      }
      return [{ type: "output", mode, value: value ?? null, ...(silent ? { silent } : {}) }];
    }
    case "log":
      return [{ type: "log", data: event.data }];
    case "metric": {
      const { name, value, mode } = event;
      return [{ type: "metric", name, value, mode }];
    }
    default:
      return [];
  }
}

/** Folds a log, oldest first. `isIterator`: an output that has not begun yet is still null, one that ended empty is an empty list. */
export class LogFold {
  #output: unknown = null;
  #logs: string[] = [];
  #logLength = 0;
  #isCut = false;
  #metrics: Record<string, unknown> = {};
  readonly #ownLists = new WeakSet<unknown[]>();

  add(event: StoredEvent): void {
    switch (event.type) {
      case "output":
        if (event.mode === "set") this.#output = event.value;
        else this.#output = this.#appended(this.#output, event.value);
        break;
      case "log":
        this.#logs.push(event.data);
        this.#logLength += event.data.length;
        this.#isCut ||= this.#logLength > LOG_BYTES_MAX;
        while (this.#logLength - (this.#logs[0]?.length ?? 0) >= LOG_BYTES_MAX) {
          this.#logLength -= this.#logs.shift()?.length ?? 0;
        }
        break;
      case "metric":
        this.#addMetric(event);
        break;
      case "requeued":
        // Another run measures anew: what the lost one counted is not counted twice.
        this.#metrics = {};
        break;
      case "ended":
        Object.assign(this.#metrics, event.metrics);
        break;
    }
  }

  #addMetric({ name, value, mode }: Extract<StoredEvent, { type: "metric" }>): void {
    const old = Object.hasOwn(this.#metrics, name) ? this.#metrics[name] : undefined;
    let next = value;
    if (mode === "increment" && typeof value === "number") next = (typeof old === "number" ? old : 0) + value;
    if (mode === "append") next = this.#appended(old, value);
    Object.defineProperty(this.#metrics, name, { value: next, enumerable: true, configurable: true, writable: true });
  }

  /** A list is copied when it came in an event, and grows in place afterwards: a log may append to one 200,000 times. */
  #appended(list: unknown, value: unknown): unknown[] {
    const own = Array.isArray(list) ? (this.#ownLists.has(list) ? list : [...list]) : [];
    this.#ownLists.add(own);
    own.push(value);
    return own;
  }

  result(): Folded {
    return {
      output: this.#output,
      logs: (this.#isCut ? LOG_CUT_MARK : "") + this.#logs.join("").slice(-LOG_BYTES_MAX),
      metrics: this.#metrics,
    };
  }
}

/** The first of `metrics` that fit together into what is kept. */
export function boundedMetrics(metrics: Record<string, unknown>): Record<string, unknown> {
  let bytes = 0;
  return Object.fromEntries(
    Object.entries(metrics).filter(([name, value]) => {
      const size = JSON.stringify([name, value]).length;
      if (bytes + size > KEPT_METRICS_BYTES_MAX) return false;
      bytes += size;
      return true;
    }),
  );
}
