/**
 * What a canary says of a version: one run of its example a day. Three runs in a row that fail make it unhealthy, one that succeeds makes it well again. What
 * is the platform's fault, or never began, says nothing. Pure.
 */
import type { PredictionDocument } from "./prediction-document.ts";

/** Failures in a row that make a version unhealthy. */
const FAILURES_TO_UNHEALTHY = 3;
/** The owner of an unhealthy model is told once nobody has used it for so long. */
export const UNUSED_MS = 90 * 86_400_000;
/** Results that are kept of a version. */
const RESULTS_MAX = 5;
const ERROR_CHARACTERS_MAX = 500;
/** What could not run now is tried again after this share of the interval, within bounds. */
const RETRY_SHARE = 1 / 24;
const RETRY_MIN_MS = 1_000;
const RETRY_MAX_MS = 3_600_000;

/**
 * `skipped`: nothing was learned (no idle room, the platform failed, the model is paused); `not_run`: there is nothing to run, as long as the version's
 * example stays as it is.
 */
export interface CanaryResult {
  outcome: "succeeded" | "failed" | "skipped" | "not_run";
  at: number;
  /** milliseconds from its creation to its end; null where nothing ran */
  duration_ms: number | null;
  /** of a failure, or why nothing ran */
  detail: string | null;
}

export interface CanaryState {
  /** newest first */
  results: CanaryResult[];
  failures_in_row: number;
  /** epoch milliseconds; null while it is well, or not known */
  unhealthy_since: number | null;
  last_success_at: number | null;
  /** its owner was told; null again once it is well */
  told_at: number | null;
}

export const NEW_CANARY: CanaryState = {
  results: [],
  failures_in_row: 0,
  unhealthy_since: null,
  last_success_at: null,
  told_at: null,
};

/** What an ended run says of its version. Null: it has not ended. */
export function resultOf(document: PredictionDocument): CanaryResult | null {
  const { state, completed_at, created_at, started_at, error, error_code, meter } = document;
  if (completed_at === null) return null;
  const ran = { at: completed_at, duration_ms: Math.max(0, completed_at - created_at) };
  switch (state) {
    case "succeeded":
      return { outcome: "succeeded", ...ran, detail: null };
    case "failed": {
      const outcome = meter?.platform_failure === true ? "skipped" : "failed";
      return { outcome, ...ran, detail: bounded(error ?? error_code ?? "It failed without an error.") };
    }
    default:
      return started_at === null
        ? { outcome: "skipped", ...ran, detail: "No instance had room for it in time." }
        : {
            outcome: "failed",
            ...ran,
            detail: `It did not end within ${Math.round(ran.duration_ms / 60_000)} minutes.`,
          };
  }
}

function bounded(text: string): string {
  return text.length <= ERROR_CHARACTERS_MAX ? text : `${text.slice(0, ERROR_CHARACTERS_MAX)}…`;
}

export function withResult(state: CanaryState, result: CanaryResult): CanaryState {
  // Of several results in a row that say nothing, the newest is enough: they must not push out what was learned.
  const [newest] = state.results;
  const isRepeat = result.duration_ms === null && newest?.duration_ms === null && newest.outcome === result.outcome;
  const results = [result, ...state.results.slice(isRepeat ? 1 : 0)].slice(0, RESULTS_MAX);
  switch (result.outcome) {
    case "succeeded":
      return { ...NEW_CANARY, results, last_success_at: result.at };
    case "failed": {
      const failures_in_row = state.failures_in_row + 1;
      const isUnhealthy = failures_in_row >= FAILURES_TO_UNHEALTHY;
      const unhealthy_since = state.unhealthy_since ?? (isUnhealthy ? result.at : null);
      return { ...state, results, failures_in_row, unhealthy_since };
    }
    default:
      return { ...state, results };
  }
}

/** When it runs again. A little before or behind the interval: runs that come together part, and no hour of the day looks busy. `random` is in [0, 1). */
export function nextCanary(result: CanaryResult, interval_ms: number, now: number, random: number): number {
  const wait =
    result.outcome === "skipped"
      ? Math.min(RETRY_MAX_MS, Math.max(RETRY_MIN_MS, interval_ms * RETRY_SHARE))
      : interval_ms;
  return Math.round(now + wait * (0.9 + 0.2 * random));
}

/** The first run of a version: within the interval after it was seen, since its example itself has just run; at once where it shall show that its model is well again. */
export function firstCanary(isUnhealthy: boolean, interval_ms: number, now: number, random: number): number {
  return isUnhealthy ? now : Math.round(now + interval_ms * (0.5 + 0.5 * random));
}

/** Whether its owner is to be told now. `used_at`: when anybody ran the model last, or it was first seen. */
export function isForsaken(state: CanaryState, used_at: number, now: number): boolean {
  return state.unhealthy_since !== null && state.told_at === null && now - used_at >= UNUSED_MS;
}

export function healthStatus(state: CanaryState): "healthy" | "unhealthy" | "unknown" {
  if (state.unhealthy_since !== null) return "unhealthy";
  return state.last_success_at === null ? "unknown" : "healthy";
}
