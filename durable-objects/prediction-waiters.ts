/** Calls that wait for the end of a prediction: a create with a wait, a cancel. In memory only; a caller whose object goes away asks again. */

/** A live prediction's own answer is waited for at most this long. */
const WAIT_MAX_MS = 60_000;

export class PredictionWaiters {
  readonly #waiters = new Map<string, Set<() => void>>();

  /** Resolves at the end of the prediction, or after `timeoutMs`. */
  untilEnd(id: string, timeoutMs: number): Promise<void> {
    return new Promise<void>((resolve) => {
      const waiters = this.#waiters.get(id) ?? new Set();
      const done = (): void => {
        clearTimeout(timer);
        waiters.delete(done);
        if (waiters.size === 0) this.#waiters.delete(id);
        resolve();
      };
      const timer = setTimeout(done, Math.min(timeoutMs, WAIT_MAX_MS));
      waiters.add(done);
      this.#waiters.set(id, waiters);
    });
  }

  /** It ended: all who wait for it go on. */
  ended(id: string): void {
    for (const done of [...(this.#waiters.get(id) ?? [])]) done();
  }
}
