import { expect, it } from "vitest";
import type { WebhookEvent } from "./api.ts";
import { explainAttempt, explainEventState } from "./explain-webhook.ts";

const NOW = Date.parse("2026-01-02T03:04:05.000Z");
const event: WebhookEvent = {
  id: "msg_1",
  event: "completed",
  state: "pending",
  created_at: "2026-01-02T03:04:00.000Z",
  tried: 0,
  attempts: [],
  next_attempt_at: null,
};
const attempt = { at: event.created_at, duration_ms: 12, is_replay: false };

it.each([
  [{ status: 204, error: null }, "204"],
  [{ status: 503, error: "status" }, "503, refused"],
  [{ status: null, error: "timeout" }, "no answer in time"],
  [{ status: 302, error: "redirect" }, "302, a redirect, which is not followed"],
] as const)("%j is told as %j", (outcome, text) => {
  expect(explainAttempt({ ...attempt, ...outcome })).toBe(text);
});

it.each([
  [{}, "To be sent"],
  [{ tried: 1, next_attempt_at: "2026-01-02T03:09:05.000Z" }, "Next attempt in 5 min"],
  [{ tried: 1, next_attempt_at: "2026-01-02T03:04:04.000Z" }, "Next attempt now"],
  [{ state: "delivered" }, "Delivered"],
  [{ state: "failed" }, "Not delivered"],
] as const)("an event with %j is told as %j", (change, text) => {
  expect(explainEventState({ ...event, ...change }, NOW)).toBe(text);
});
