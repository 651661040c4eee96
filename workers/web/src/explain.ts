/** What went wrong, in words, and what the reader can do about it. */
import { ApiError, type Prediction } from "./api.ts";
import { dateTime, duration } from "./format.ts";

export interface Explanation {
  title: string;
  detail: string;
}

export function explainError(error: unknown): Explanation {
  if (!(error instanceof ApiError)) {
    return {
      title: "Something went wrong on this page",
      detail: error instanceof Error ? error.message : String(error),
    };
  }
  const { status, problem } = error;
  if (status === 0) {
    return {
      title: "The server cannot be reached",
      detail: "Check that Cogway is still running and that you are online, then try again.",
    };
  }
  if (problem === null) {
    return {
      title: `The server answered ${status}`,
      detail: "That is not an answer of the API. Try again in a moment.",
    };
  }
  const wait = problem.retry_after === undefined ? "in a moment" : `in ${duration(problem.retry_after * 1_000)}`;
  switch (problem.code) {
    case "rate.limited":
      return { title: "Too many requests", detail: `This account has reached its limit. Try again ${wait}.` };
    case "model.preparing":
      return {
        title: "This model is still being prepared",
        detail: `Its environment is being made. That happens once. Try again ${wait}.`,
      };
    case "deployment.queue_full":
      return { title: "The queue is full", detail: `Too many predictions wait for this model. Try again ${wait}.` };
    case "origin.unavailable":
      return {
        title: "No machine is available",
        detail: `No connected machine can run this model. Try again ${wait}.`,
      };
    case "request.too_large":
      return {
        title: "The input is too large",
        detail: `${problem.detail} Host large files somewhere and pass their URL.`,
      };
    case "billing.budget_exceeded":
    case "billing.balance_exhausted":
    case "billing.max_cost":
    case "invoice.not_found":
      return { title: problem.title, detail: problem.detail };
    case "input.invalid":
      return { title: "Some inputs need a change", detail: problem.detail };
    case "model.not_found":
    case "prediction.not_found":
      return { title: problem.title, detail: "It does not exist, was removed, or belongs to another account." };
    case "internal.error":
      return {
        title: "The server failed",
        detail: `Try again. If it stays, report it with the request id ${problem.instance ?? "in its log"}.`,
      };
    default:
      return { title: problem.title, detail: problem.detail };
  }
}

/** Why an ended prediction has no result; null when it has one or still runs. */
export function explainEnd(prediction: Prediction): Explanation | null {
  switch (prediction.status) {
    case "failed": {
      const code = prediction["error_code"];
      if (code === "origin.lost") {
        return {
          title: "The machine that ran it went away",
          detail: "The prediction may have been half done, so it was not repeated. Run it again.",
        };
      }
      if (code === "model.crashed") {
        return {
          title: "The model's process crashed",
          detail: `${prediction.error ?? ""} Its last lines are in the logs below. It has been started anew.`.trim(),
        };
      }
      return { title: "The model failed", detail: prediction.error ?? "It gave no reason. See the logs below." };
    }
    case "canceled":
      // Its state says it all, unless there is a reason, such as a deadline.
      return prediction.error === null ? null : { title: "Canceled", detail: prediction.error };
    case "aborted":
      return { title: "Ended before it started", detail: "Its deadline passed while it waited." };
    default:
      return null;
  }
}

/** When the data of an ended prediction goes; null while it runs, and when there is none left. `now` in epoch milliseconds. */
export function explainRetention(prediction: Prediction, now: number): string | null {
  const { expires_at } = prediction;
  if (prediction.data_removed || expires_at === undefined) return null;
  if (expires_at === null) return "For ever";
  const left = Date.parse(expires_at) - now;
  const inWords = left <= 0 ? "any moment now" : `${duration(Math.ceil(left / 1_000) * 1_000)} left`;
  return `Until ${dateTime(expires_at)} (${inWords})`;
}

/** What a prediction waits for, in one line. */
export function explainWait(prediction: Prediction): string {
  const waiting = prediction.waiting_for;
  if (waiting === undefined) return "Waiting to start";
  const estimate =
    waiting.estimate_ms === null ? "" : `, usually about ${duration(Math.ceil(waiting.estimate_ms / 1_000) * 1_000)}`;
  const position = waiting.queue_position;
  const failed = [
    waiting.last_error === undefined ? "" : ` (the last try failed in ${waiting.last_error})`,
    waiting.detail === undefined ? "" : `: ${waiting.detail}`,
  ].join("");
  switch (waiting.reason) {
    case "slot":
      return position !== null && position > 1
        ? `Waiting: ${position - 1} ahead in the queue${estimate}`
        : `Next in the queue${estimate}`;
    case "capacity":
      return `Waiting for room on a machine${estimate}${failed}`;
    case "boot":
      return `Starting the model${estimate}${failed}`;
    case "setup":
      return `Loading the model's weights${estimate}${failed}`;
    case "rate":
      return `Held back by the account's limit${estimate}`;
  }
}
