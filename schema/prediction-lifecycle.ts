/**
 * THE state machine of a prediction: the only code that changes its state. Pure: `(life, event, now) -> next life and effects`, or a refusal.
 * The effects are values; the PredictionObject records them in the transaction of the event and carries them out afterwards.
 */
import { type Meter, type PredictionState, TerminalPredictionStates } from "./prediction-document.ts";

/** Why a prediction is stopped. `max_cost` and `budget`: it cost what it may. */
export type StopReason = "user" | "deadline" | "max_cost" | "budget";

/** What the decisions depend on. Times are epoch milliseconds. */
export interface PredictionLife {
  state: PredictionState;
  /** the current try, from 1; events of an older one are refused by the caller (fenced) */
  attempt: number;
  /** the model of the current attempt may have seen the input */
  attempt_started: boolean;
  /** attempts that were lost after their model had started */
  lost_runs: number;
  /** safe to run again after the model started (cogway.yaml) */
  idempotent: boolean;
  created_at: number;
  started_at: number | null;
  completed_at: number | null;
  cancel_reason: StopReason | null;
  error: string | null;
  error_code: string | null;
  predict_time_s: number;
}

export type LifecycleEvent =
  /** a slot is held for the current attempt */
  | { type: "leased" }
  /** the model got the input */
  | { type: "started" }
  | {
      type: "finished";
      status: "succeeded" | "failed" | "canceled";
      error?: string | undefined;
      code?: string | undefined;
      predict_time_s: number;
    }
  /**
   * Nobody runs the current attempt any more. `started`: its model may have seen the input. `by_origin`: a living origin says so, which tells of its instances
   * too: one that outlived an earlier process of it serves on.
   */
  | { type: "lost"; started: boolean; reason: string; by_origin?: true }
  /** the slot was not there: the attempt never reached a model */
  | { type: "bounced"; reason: string }
  /** it will never run */
  | { type: "refused"; code: string; detail: string }
  | { type: "cancel" }
  | { type: "deadline" }
  /** it has cost what its caller allows, or what a budget or balance has left */
  | { type: "limit"; reason: "max_cost" | "budget" }
  /** a cancel that the origin does not answer */
  | { type: "forced" };

export type LifecycleEventType = LifecycleEvent["type"];

/** What must happen because of an event. */
export type Effect =
  /** ask for a slot for the (new) current attempt */
  | { kind: "enqueue" }
  /** the slot or queue place of `attempt` is free. `instance_gone`: nobody should lease on its instance again */
  | { kind: "release"; attempt: number; instance_gone: boolean }
  /** the origin shall stop `attempt` */
  | { kind: "stop"; attempt: number; reason: StopReason }
  /** terminal: tell the account */
  | { kind: "settle" };

/** Every state that an event can lead to. The diagram in ARCHITECTURE.md and the property tests are made from it; {@link transition} keeps to it. */
export const TRANSITIONS: Record<
  PredictionState,
  Partial<Record<LifecycleEventType, readonly [PredictionState, ...PredictionState[]]>>
> = {
  // A lease is not stored before the attempt speaks, so its loss finds the prediction still queued.
  queued: {
    leased: ["starting"],
    bounced: ["queued", "failed"],
    lost: ["queued", "failed"],
    refused: ["failed"],
    cancel: ["canceled"],
    deadline: ["aborted", "canceled"],
  },
  starting: {
    started: ["processing"],
    finished: ["succeeded", "failed", "canceled", "queued"],
    lost: ["queued", "failed"],
    bounced: ["queued", "failed"],
    refused: ["failed"],
    cancel: ["canceling"],
    deadline: ["canceling"],
    limit: ["canceling"],
  },
  processing: {
    finished: ["succeeded", "failed", "canceled", "queued"],
    lost: ["queued", "failed"],
    cancel: ["canceling"],
    deadline: ["canceling"],
    limit: ["canceling"],
  },
  canceling: {
    started: ["canceling"],
    finished: ["succeeded", "failed", "canceled", "aborted"],
    lost: ["canceled", "aborted", "failed"],
    bounced: ["canceled", "aborted", "failed"],
    forced: ["canceled", "aborted", "failed"],
  },
  succeeded: {},
  failed: {},
  canceled: {},
  aborted: {},
};

/** Slots that may turn out to be gone, and attempts lost before their model started. Each is nobody's fault, but a loop must end. */
export const ATTEMPTS_MAX = 20;
/** Attempts of an idempotent version that may be lost after their model started; more, and it is likely the prediction that kills its host. */
export const LOST_RUNS_MAX = 5;

/** Of a model's own words, or an origin's; a stack trace is in the logs. */
const ERROR_CHARACTERS_MAX = 16_384;

/** A prediction lasts 24 h at most, and some seconds to end: an origin that says more is wrong. */
const PREDICT_TIME_MAX_S = 90_000;

/** Codes of `finished` that mean: the origin gave the attempt up, not the model. */
const GIVEN_UP_CODES = ["instance.gone", "origin.shutdown"];
/** Failures that are neither the caller's nor the model's. */
const PLATFORM_CODES = [
  ...GIVEN_UP_CODES,
  "origin.lost",
  "origin.fault",
  "origin.unavailable",
  "output.upload_failed",
  "deployment.queue_full",
];

export type Transition = { ok: true; next: PredictionLife; effects: Effect[] } | { ok: false; reason: string };

export function newLife(created_at: number, idempotent: boolean): PredictionLife {
  return {
    state: "queued",
    attempt: 1,
    attempt_started: false,
    lost_runs: 0,
    idempotent,
    created_at,
    started_at: null,
    completed_at: null,
    cancel_reason: null,
    error: null,
    error_code: null,
    predict_time_s: 0,
  };
}

export function isTerminal(state: PredictionState): boolean {
  return TerminalPredictionStates.some((terminal) => terminal === state);
}

/** Decides what `event` does to a prediction at `now`. A refusal changes nothing: the event came too late or twice. */
export function transition(life: PredictionLife, event: LifecycleEvent, now: number): Transition {
  if (TRANSITIONS[life.state][event.type] === undefined) {
    return { ok: false, reason: `${event.type} does nothing to a prediction that is ${life.state}` };
  }
  const { attempt } = life;
  switch (event.type) {
    case "leased":
      return change(life, { state: "starting" });
    case "started":
      return change(life, {
        state: life.state === "canceling" ? "canceling" : "processing",
        attempt_started: true,
        started_at: life.started_at ?? Math.max(now, life.created_at),
      });
    case "finished": {
      const isGivenUp = event.status === "failed" && GIVEN_UP_CODES.includes(event.code ?? "");
      if (isGivenUp && life.state !== "canceling") {
        const why = { error: event.error || "The origin went away.", code: event.code ?? "" };
        return giveUp(life, life.attempt_started, why, now, true);
      }
      const started_at = life.started_at ?? (event.status === "succeeded" ? Math.max(now, life.created_at) : null);
      // A cancel that came too late loses against the end; one that made the model fail or stop wins.
      if (event.status === "canceled" || isGivenUp) {
        return endStopped({ ...life, started_at }, now, event.predict_time_s);
      }
      const failure = event.status === "failed" ? { error: event.error, error_code: event.code } : {};
      return end(
        { ...life, started_at },
        event.status,
        { ...failure, predict_time_s: event.predict_time_s },
        now,
        event.code === "model.crashed",
      );
    }
    case "lost":
      if (life.state === "canceling") return endStopped(life, now, 0, event.by_origin !== true);
      return giveUp(
        life,
        event.started || life.attempt_started,
        { error: `The prediction was lost: ${event.reason}`, code: "origin.lost" },
        now,
        event.by_origin !== true,
      );
    case "bounced":
      if (life.state === "canceling") return endStopped(life, now, 0, true);
      return giveUp(life, false, { error: event.reason, code: "origin.unavailable" }, now, true);
    case "refused":
      return end(life, "failed", { error: event.detail, error_code: event.code }, now);
    case "cancel":
    case "deadline":
    case "limit": {
      const cancel_reason = event.type === "limit" ? event.reason : event.type === "cancel" ? "user" : "deadline";
      if (life.state === "queued") return endStopped({ ...life, cancel_reason }, now, 0);
      const stop: Effect = { kind: "stop", attempt, reason: cancel_reason };
      return change(life, { state: "canceling", cancel_reason }, [stop]);
    }
    case "forced":
      return endStopped(life, now, 0);
  }
}

function change(life: PredictionLife, to: Partial<PredictionLife>, effects: Effect[] = []): Transition {
  return { ok: true, next: { ...life, ...to }, effects };
}

/**
 * The end of one that was stopped. Aborted is: its deadline passed before it ever started. Whoever runs into a limit of cost did not ask for the end, so that
 * is a failure that says why.
 */
function endStopped(life: PredictionLife, now: number, predict_time_s: number, instance_gone = false): Transition {
  const { cancel_reason } = life;
  if (cancel_reason === "max_cost" || cancel_reason === "budget") {
    return end(life, "failed", { ...COST_LIMITS[cancel_reason], predict_time_s }, now, instance_gone);
  }
  const state = cancel_reason === "deadline" && life.started_at === null ? "aborted" : "canceled";
  return end(life, state, { predict_time_s }, now, instance_gone);
}

/** How predictions end that cost what they may. */
const COST_LIMITS = {
  max_cost: {
    error: "It was stopped, since it has cost what Cogway-Max-Cost allows. What it made until then is its output.",
    error_code: "billing.max_cost_reached",
  },
  budget: {
    error:
      "It was stopped, since a budget or the balance of its account has nothing left for it. What it made until then is its output.",
    error_code: "billing.budget_exceeded",
  },
};

/** The attempt ended without an end of the prediction: another one, unless the model may have started and is not safe to run twice. */
function giveUp(
  life: PredictionLife,
  started: boolean,
  why: { error: string; code: string },
  now: number,
  instance_gone: boolean,
): Transition {
  const lost_runs = life.lost_runs + (started ? 1 : 0);
  const mayRunAgain = life.attempt < ATTEMPTS_MAX && (!started || (life.idempotent && lost_runs < LOST_RUNS_MAX));
  if (!mayRunAgain) {
    return end({ ...life, lost_runs }, "failed", { error: why.error, error_code: why.code }, now, instance_gone);
  }
  return change(life, { state: "queued", attempt: life.attempt + 1, attempt_started: false, lost_runs }, [
    { kind: "release", attempt: life.attempt, instance_gone },
    { kind: "enqueue" },
  ]);
}

function end(
  life: PredictionLife,
  outcome: Meter["outcome"],
  facts: { error?: string | undefined; error_code?: string | undefined; predict_time_s?: number },
  now: number,
  instance_gone = false,
): Transition {
  const predict_time_s = life.started_at === null ? 0 : Math.min(facts.predict_time_s ?? 0, PREDICT_TIME_MAX_S);
  const error_code = facts.error_code ?? null;
  const next: PredictionLife = {
    ...life,
    state: outcome,
    error: outcome === "failed" ? (facts.error || "The prediction failed.").slice(0, ERROR_CHARACTERS_MAX) : null,
    error_code,
    predict_time_s,
    // Two clocks: the model's own measure may end a little after ours.
    completed_at: Math.max(now, (life.started_at ?? life.created_at) + Math.ceil(predict_time_s * 1000)),
  };
  // A crashed model's instance restarts its worker by itself: its slot stays.
  const isGone = instance_gone && error_code !== "model.crashed";
  return {
    ok: true,
    next,
    effects: [{ kind: "release", attempt: life.attempt, instance_gone: isGone }, { kind: "settle" }],
  };
}

const ERROR_REMOVED = "What went wrong was removed with its data.";

/** Without the words of an error, which may tell of the input: where nothing of a prediction may stay. Its code stays. */
export function withoutError<T extends { error: string | null }>(of: T): T {
  return of.error === null ? of : { ...of, error: ERROR_REMOVED };
}

/**
 * What a terminal prediction used, counted once; null before its end. Units of what it made count where it made it: not of one that failed by itself.
 */
export function meterOf(life: PredictionLife, hardware: string, units: Meter["units"] = {}): Meter | null {
  const { state, error_code, predict_time_s } = life;
  const outcome = TerminalPredictionStates.find((terminal) => terminal === state);
  if (outcome === undefined) return null;
  const platform_failure = outcome === "failed" && error_code !== null && PLATFORM_CODES.includes(error_code);
  const isStopped = Object.values(COST_LIMITS).some((limit) => limit.error_code === error_code);
  const isMade = (outcome !== "failed" || isStopped) && Object.keys(units).length > 0;
  return { hardware, predict_time_s, outcome, platform_failure, ...(isMade ? { units } : {}) };
}

export type PublicStatus = "starting" | "processing" | "succeeded" | "failed" | "canceled" | "aborted";

/** Replicate's words. A prediction that is tried again stays `processing`: its status never goes back. */
export function publicStatus(state: PredictionState, started_at: number | null): PublicStatus {
  switch (state) {
    case "queued":
    case "starting":
    case "canceling":
      return started_at === null ? "starting" : "processing";
    default:
      return state;
  }
}

/** The diagram of {@link TRANSITIONS} for ARCHITECTURE.md, in Mermaid. */
export function lifecycleDiagram(): string {
  const lines = Object.entries(TRANSITIONS).flatMap(([from, events]) => {
    const byTarget = new Map<string, string[]>();
    for (const [event, targets] of Object.entries(events)) {
      for (const to of targets) byTarget.set(to, [...(byTarget.get(to) ?? []), event]);
    }
    return [...byTarget].map(([to, names]) => `  ${from} --> ${to}: ${names.join(", ")}`);
  });
  const ends = TerminalPredictionStates.map((state) => `  ${state} --> [*]`);
  return ["```mermaid", "stateDiagram-v2", "  [*] --> queued", ...lines, ...ends, "```"].join("\n");
}
