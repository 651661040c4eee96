/**
 * What a batch of an attempt's events does to a prediction. Pure: `(progress, batch, now) -> progress, log entries, effects`.
 *
 * | event                                   | answer                                                        |
 * | --------------------------------------- | ------------------------------------------------------------- |
 * | seen before                             | nothing; acknowledged again                                   |
 * | of an older attempt, or after the end   | nothing; `fenced`, so the origin stops the model               |
 * | behind a gap                            | nothing; `retry`, so the origin sends from the gap on          |
 * | output that an earlier attempt gave too | nothing, while it is equal; the first difference ends it       |
 */
import { countMetric, countMetrics, countOutput, type MadeUnits, measuredAnew } from "./made-units.ts";
import type { AttemptAck, AttemptBatch, AttemptEvent } from "./origin-protocol.ts";
import {
  type Effect,
  isTerminal,
  type LifecycleEvent,
  type PredictionLife,
  transition,
} from "./prediction-lifecycle.ts";
import { boundedMetrics, type StoredEvent, storedEvents } from "./prediction-log.ts";

/** Everything of a prediction that changes while it lives; stored as one value. */
export interface Progress {
  life: PredictionLife;
  /** newest event of the current attempt, -1 before its first */
  last_i: number;
  next_seq: number;
  output_count: number;
  output_bytes: number;
  /** how many of the log's outputs the current attempt has given again; null when there is none left to repeat */
  repeated: number | null;
  /** when the model of the current attempt began, epoch milliseconds. Absent: it did not, or in an earlier release */
  running_since?: number | null;
  /** what it made until now, in units that have prices (schema/made-units.ts). Absent: nothing */
  made?: MadeUnits;
}

/** Output kept as JSON of one prediction; more belongs into files. Half of what an isolate can hold beside the answer made of it. */
export const OUTPUT_BYTES_MAX = 16_777_216;

/** Of an origin's words for why an attempt was lost. */
const REASON_CHARACTERS_MAX = 1_024;

export interface Applied {
  outcome: AttemptAck["outcome"];
  through_i: number;
  progress: Progress;
  stored: StoredEvent[];
  effects: Effect[];
}

/** A step of the lifecycle with its log entries. Null when the lifecycle refuses it. */
export function applyLifecycle(
  progress: Progress,
  event: LifecycleEvent,
  now: number,
  metrics: Record<string, unknown> = {},
): { progress: Progress; stored: StoredEvent[]; effects: Effect[] } | null {
  const result = transition(progress.life, event, now);
  if (!result.ok) return null;
  const { next, effects } = result;
  const stored: StoredEvent[] = [];
  let changed: Progress = { ...progress, life: next };
  if (event.type === "started") {
    stored.push({ type: "started", attempt: next.attempt });
    changed = { ...changed, running_since: now };
  }
  if (next.attempt !== progress.life.attempt) {
    const reason = "reason" in event ? event.reason.slice(0, REASON_CHARACTERS_MAX) : "given up";
    stored.push({ type: "requeued", attempt: next.attempt, reason });
    const made = measuredAnew(progress.made);
    changed = { ...changed, last_i: -1, repeated: progress.output_count > 0 ? 0 : null, running_since: null, ...made };
  }
  if (isTerminal(next.state)) stored.push(endedEvent(next, metrics));
  return { progress: { ...changed, next_seq: progress.next_seq + stored.length }, stored, effects };
}

function endedEvent(life: PredictionLife, metrics: Record<string, unknown>): StoredEvent {
  const total_time = ((life.completed_at ?? life.created_at) - life.created_at) / 1000;
  return {
    type: "ended",
    state: life.state as Extract<StoredEvent, { type: "ended" }>["state"],
    error: life.error,
    metrics: { ...metrics, ...(life.started_at === null ? {} : { predict_time: life.predict_time_s }), total_time },
  };
}

/** Applies one attempt's part of a batch. `outputAt` gives the n-th output of the log, for comparing. */
export function applyAttemptEvents(
  before: Progress,
  batch: AttemptBatch,
  now: number,
  outputAt: (n: number) => unknown,
): Applied {
  const last = batch.events.at(-1);
  const through_i = last?.i ?? before.last_i;
  const fenced = { outcome: "fenced", through_i, progress: before, stored: [], effects: [] } as const;
  if (batch.attempt !== before.life.attempt) return { ...fenced, stored: [], effects: [] };
  if (isTerminal(before.life.state)) {
    const isRepeat = through_i <= before.last_i;
    return { ...fenced, outcome: isRepeat ? "stored" : "fenced", stored: [], effects: [] };
  }
  let progress = before;
  const stored: StoredEvent[] = [];
  const effects: Effect[] = [];
  const step = (event: LifecycleEvent, at: number, metrics?: Record<string, unknown>): void => {
    const result = applyLifecycle(progress, event, at, metrics);
    if (result === null) return;
    progress = result.progress;
    stored.push(...result.stored);
    effects.push(...result.effects);
  };
  // An attempt that speaks has its slot, whether or not we were told.
  if (progress.life.state === "queued") step({ type: "leased" }, now);
  for (const event of batch.events) {
    if (event.i <= progress.last_i) continue;
    if (event.i > progress.last_i + 1) {
      return { outcome: "retry", through_i: progress.last_i, progress, stored, effects };
    }
    progress = { ...progress, last_i: event.i };
    const at = Math.max(progress.life.created_at, Math.round(now - ((last?.t_ms ?? 0) - event.t_ms)));
    const stop = applyOne(event, at);
    if (stop) break;
  }
  // What follows the end of the attempt in its own batch is of no use, and acknowledged with it.
  return { outcome: "stored", through_i, progress, stored, effects };

  /** True when the attempt is over. */
  function applyOne(event: AttemptEvent, at: number): boolean {
    switch (event.type) {
      case "started":
        step({ type: "started" }, at);
        return false;
      case "finished": {
        const { status, error, code, predict_time_s, metrics } = event;
        if (status === "succeeded" && progress.repeated !== null) return differs(at);
        if (event.output !== undefined) {
          const isOver = applyContent(
            { i: event.i, t_ms: event.t_ms, type: "output", mode: "set", value: event.output },
            at,
          );
          if (isOver) return true;
        }
        progress = { ...progress, ...countMetrics(progress.made, metrics) };
        step({ type: "finished", status, error, code, predict_time_s }, at, boundedMetrics(metrics));
        return true;
      }
      case "lost":
        step({ type: "lost", started: event.started, reason: event.reason, by_origin: true }, at);
        return true;
      default:
        return applyContent(event, at);
    }
  }

  function applyContent(event: AttemptEvent, at: number): boolean {
    for (const entry of storedEvents(event)) {
      if (entry.type === "output") {
        const { repeated } = progress;
        if (repeated !== null) {
          if (JSON.stringify(entry.value) !== JSON.stringify(outputAt(repeated))) return differs(at);
          // All repeated: from here on it is an attempt like any other.
          const isCaughtUp = repeated + 1 === progress.output_count;
          progress = { ...progress, repeated: isCaughtUp ? null : repeated + 1 };
          continue;
        }
        const output_bytes = progress.output_bytes + JSON.stringify(entry.value ?? null).length;
        if (output_bytes > OUTPUT_BYTES_MAX) {
          const error = `The output is larger than ${OUTPUT_BYTES_MAX} bytes of JSON; return files instead.`;
          step({ type: "finished", status: "failed", code: "output.too_large", error, predict_time_s: 0 }, at);
          return true;
        }
        progress = { ...progress, output_bytes, output_count: progress.output_count + 1 };
        progress = { ...progress, ...countOutput(progress.made, entry.mode, entry.value) };
      } else if (entry.type === "metric") {
        progress = { ...progress, ...countMetric(progress.made, entry) };
      }
      stored.push(entry);
      progress = { ...progress, next_seq: progress.next_seq + 1 };
    }
    return false;
  }

  function differs(at: number): true {
    const error = "The prediction was lost, and running it again gave another output than its readers have.";
    step({ type: "finished", status: "failed", code: "origin.lost", error, predict_time_s: 0 }, at);
    return true;
  }
}

export function newProgress(life: PredictionLife): Progress {
  return { life, last_i: -1, next_seq: 0, output_count: 0, output_bytes: 0, repeated: null };
}
