/** When a request of the registry is made again, and after how long. */
import { setTimeout as sleep } from "node:timers/promises";

/** Tries of one blob. Cog gives a layer five, from 2 s on, doubled, with a tenth of jitter; ours begin sooner and spread further, so that many pushers part. */
export const TRIES_MAX = 6;
const PAUSE_MS = 1_000;
const PAUSE_MS_MAX = 30_000;
/** Whoever is told to wait longer is told so. */
const RETRY_AFTER_MS_MAX = 120_000;

export interface Failure {
  /** HTTP status; null where the connection broke or none came about */
  status: number | null;
  retryAfterMs: number | null;
}

/** Milliseconds until try `tries + 1`; null where another cannot help. `random`: from 0 to 1. */
export function pauseBefore(failure: Failure, tries: number, random: number): number | null {
  const { status, retryAfterMs } = failure;
  if (tries >= TRIES_MAX) return null;
  if (status !== null && status !== 408 && status !== 429 && status < 500) return null;
  if (retryAfterMs !== null && retryAfterMs > RETRY_AFTER_MS_MAX) return null;
  // Between a half and the whole: nobody waits for nothing, and pushers that were cut together come back apart.
  const pause = Math.min(PAUSE_MS * 2 ** (tries - 1), PAUSE_MS_MAX) * (0.5 + random / 2);
  return Math.max(pause, retryAfterMs ?? 0);
}

/** Retry-After in seconds or as a date (RFC 9110, section 10.2.3). */
export function retryAfterMs(header: string | null, now: number): number | null {
  if (header === null || header === "") return null;
  if (/^\d+$/.test(header)) return Number(header) * 1_000;
  const at = Date.parse(header);
  return Number.isNaN(at) ? null : Math.max(0, at - now);
}

/** Runs `attempt` until it succeeds or another try cannot help. `failureOf` is null for what is no failure of the network. */
export async function retried<T>(
  attempt: () => Promise<T>,
  failureOf: (error: unknown) => Failure | null,
  options: { signal: AbortSignal; onRetry?: (pauseMs: number, error: unknown) => void },
): Promise<T> {
  for (let tries = 1; ; tries++) {
    options.signal.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      options.signal.throwIfAborted();
      const failure = failureOf(error);
      const pause = failure === null ? null : pauseBefore(failure, tries, Math.random());
      if (pause === null) throw error;
      options.onRetry?.(pause, error);
      await sleep(pause, undefined, { signal: options.signal });
    }
  }
}
