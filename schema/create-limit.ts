/**
 * How many predictions an account may create: a token bucket that holds one minute's worth, kept as one number, the time at which it would be
 * full again (the generic cell rate algorithm). One number is one column, so the limit survives whatever the row survives. Pure.
 */

/** The bucket's depth: a burst may use a whole minute's allowance at once. */
const BURST_MS = 60_000;
/** Binary fractions of the emission interval must not refuse the last of a burst. */
const ROUNDING_MS = 0.001;

type CreateLimitResult =
  | { kind: "admitted"; fullAt: number; remaining: number; reset_s: number }
  | { kind: "limited"; retry_after_ms: number };

/**
 * One create at `now` (epoch milliseconds). `fullAt` is what the last admission answered, 0 at first.
 * In any window of t milliseconds at most `perMinute * (1 + t / 60000)` are admitted; after `retry_after_ms` one is.
 * A clock that went back costs at most a minute.
 */
export function takeCreate(fullAt: number, perMinute: number, now: number): CreateLimitResult {
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
