/** Waiting for an end, bounded in time: with a stream where there is one, else by asking at growing intervals. */
import { CogwayError } from "./error.ts";
import { type CallOptions, sleep } from "./http.ts";

export interface WaitOptions extends CallOptions {
  /** milliseconds until the wait is given up with `client.timeout`; what is waited for goes on (default 10 minutes) */
  timeoutMs?: number;
}

const WAIT_MS = 600_000;
const POLL_MS_MIN = 250;
const POLL_MS_MAX = 5_000;
const POLL_GROWTH = 1.5;

/**
 * Asks `get` until what it gives has ended. `untilEnd` may return when an end is near: it saves asking in between. Whatever it throws, asking goes on,
 * so a wait does not fail because a stream did.
 */
export async function waitForEnd<T>(
  get: (options: CallOptions) => Promise<T>,
  hasEnded: (value: T) => boolean,
  options: WaitOptions,
  untilEnd?: (value: T, options: CallOptions) => Promise<void>,
): Promise<T> {
  const timeoutMs = options.timeoutMs ?? WAIT_MS;
  const giveUp = new AbortController();
  const timer = setTimeout(() => {
    giveUp.abort(new CogwayError("client.timeout", `It had not ended after ${timeoutMs} ms. It goes on: wait again.`));
  }, timeoutMs);
  const signal = options.signal === undefined ? giveUp.signal : AbortSignal.any([options.signal, giveUp.signal]);
  try {
    let value = await get({ signal });
    if (!hasEnded(value) && untilEnd !== undefined) {
      await untilEnd(value, { signal }).catch(() => signal.throwIfAborted());
      value = await get({ signal });
    }
    for (let pause = POLL_MS_MIN; !hasEnded(value); pause = Math.min(pause * POLL_GROWTH, POLL_MS_MAX)) {
      await sleep(pause, signal);
      value = await get({ signal });
    }
    return value;
  } finally {
    clearTimeout(timer);
  }
}
