/**
 * How many requests an account may make: a token bucket that holds one minute's worth, kept as one number, the time at which it would be full again
 * (the generic cell rate algorithm). One number is one column, so a limit survives whatever its row survives. Creates are counted by the account's
 * object; everything else is counted by each isolate in memory. Pure.
 */

/** The bucket's depth: a burst may use a whole minute's allowance at once. Clients that retry six times without a pause depend on it. */
const BURST_MS = 60_000;
/** Binary fractions of the emission interval must not refuse the last of a burst. */
const ROUNDING_MS = 0.001;

export type RateLimitResult =
  | { kind: "admitted"; fullAt: number; remaining: number; reset_s: number }
  | { kind: "limited"; retry_after_ms: number };

/**
 * One request at `now` (epoch milliseconds). `fullAt` is what the last admission answered, 0 at first.
 * In any window of t milliseconds at most `perMinute * (1 + t / 60000)` are admitted; after `retry_after_ms` one is.
 * A clock that went back costs at most a minute.
 */
export function takeOne(fullAt: number, perMinute: number, now: number): RateLimitResult {
  if (perMinute <= 0) return { kind: "limited", retry_after_ms: BURST_MS };
  const interval = BURST_MS / perMinute;
  const backlogEnd = Math.min(Math.max(fullAt, now), now + BURST_MS);
  const nextFullAt = backlogEnd + interval;
  const excess = nextFullAt - now - BURST_MS;
  if (excess > ROUNDING_MS) return { kind: "limited", retry_after_ms: Math.ceil(excess) };
  return {
    kind: "admitted",
    fullAt: nextFullAt,
    remaining: Math.max(0, Math.floor((now + BURST_MS - nextFullAt + ROUNDING_MS) / interval)),
    reset_s: Math.ceil((nextFullAt - now) / 1_000),
  };
}

/** Names of the two limits in `RateLimit` fields: creates of predictions, trainings and batches, and everything else. */
export type RateLimitPolicy = "creates" | "default";

/**
 * What an answer says of the limit it was counted by: `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11: structured fields)
 * and the two fields of Replicate's. `reset_s`: seconds until all of the minute's allowance is back, or on a refusal until one request is admitted.
 */
export function rateLimitFields(
  policy: RateLimitPolicy,
  limit: { per_minute: number; remaining: number; reset_s: number },
): [string, string][] {
  return [
    ["ratelimit-policy", `"${policy}";q=${limit.per_minute};w=${BURST_MS / 1_000}`],
    ["ratelimit", `"${policy}";r=${limit.remaining};t=${limit.reset_s}`],
    ["ratelimit-remaining", String(limit.remaining)],
    ["ratelimit-reset", String(limit.reset_s)],
  ];
}
