/** Deliveries of webhooks, in words. */
import type { WebhookEvent } from "./api.ts";
import { duration } from "./format.ts";

type Attempt = WebhookEvent["attempts"][number];

const ERRORS: Record<Exclude<Attempt["error"], null>, string> = {
  timeout: "no answer in time",
  network: "no connection to a public address",
  redirect: "a redirect, which is not followed",
  status: "refused",
  gone: "gone for good",
};

/** `204`; or what went wrong: `503, refused`. */
export function explainAttempt({ status, error }: Attempt): string {
  const fault = error === null ? null : ERRORS[error];
  return [status, fault].filter((part) => part !== null).join(", ");
}

/** The state of an event in a few words; `now` in epoch milliseconds. */
export function explainEventState({ state, tried, next_attempt_at }: WebhookEvent, now: number): string {
  if (state === "delivered") return "Delivered";
  if (state === "failed") return "Not delivered";
  if (next_attempt_at === null) return tried === 0 ? "To be sent" : "Being sent";
  const left = Date.parse(next_attempt_at) - now;
  return left <= 0 ? "Next attempt now" : `Next attempt in ${duration(Math.ceil(left / 1_000) * 1_000)}`;
}
