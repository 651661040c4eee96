/** The refusal of an account that has used up its minute, in the words that Replicate's clients know. */
import { AppError } from "../../schema/problems.ts";
import { type RateLimitPolicy, rateLimitFields } from "../../schema/rate-limit.ts";

/** After `Retry-After`, which is `retryAfterMs` in whole seconds, one request is admitted. */
export function throttled(policy: RateLimitPolicy, perMinute: number, retryAfterMs: number): AppError {
  const retry_after = Math.ceil(retryAfterMs / 1_000);
  const what = policy === "creates" ? "creates" : "requests that create nothing";
  const detail = `Request was throttled. Your rate limit is ${perMinute} ${what} per minute; it resets in ~${retry_after}s.`;
  const fields = rateLimitFields(policy, { per_minute: perMinute, remaining: 0, reset_s: retry_after });
  return new AppError("rate.limited", detail, { retry_after, headers: Object.fromEntries(fields) });
}
