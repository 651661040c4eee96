/** Work that several ask for and that is done once: all get its result and hear of its progress. It is given up when none of them waits any more. */
interface Running<T, P> {
  result: Promise<T>;
  waiting: number;
  listeners: Set<(progress: P) => void>;
  cancel: AbortController;
}

export interface WaitOptions<P> {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: P) => void) | undefined;
}

export class SharedWork<T, P = string> {
  readonly #running = new Map<string, Running<T, P>>();

  /** Undefined when `signal` ended the waiting. Failures of `work` are everybody's. */
  async run(
    key: string,
    { signal, onProgress }: WaitOptions<P>,
    work: (signal: AbortSignal, tell: (progress: P) => void) => Promise<T>,
  ): Promise<T | undefined> {
    if (signal?.aborted === true) return undefined;
    const running = this.#running.get(key) ?? this.#start(key, work);
    if (onProgress !== undefined) running.listeners.add(onProgress);
    running.waiting += 1;
    try {
      return await untilAborted(running.result, signal);
    } finally {
      running.waiting -= 1;
      if (onProgress !== undefined) running.listeners.delete(onProgress);
      if (running.waiting === 0) this.#giveUp(key, running);
    }
  }

  #start(key: string, work: (signal: AbortSignal, tell: (progress: P) => void) => Promise<T>): Running<T, P> {
    const cancel = new AbortController();
    const listeners = new Set<(progress: P) => void>();
    const tell = (progress: P): void => {
      for (const listener of listeners) listener(progress);
    };
    // Not before its first listener is there.
    const result = Promise.resolve().then(() => work(cancel.signal, tell));
    // Whoever waits hears of it; nobody may wait any more.
    result.catch(() => undefined);
    const running = { result, waiting: 0, listeners, cancel };
    this.#running.set(key, running);
    return running;
  }

  /** Whoever asks from now on begins anew. */
  #giveUp(key: string, running: Running<T, P>): void {
    running.cancel.abort();
    if (this.#running.get(key) === running) this.#running.delete(key);
  }
}

async function untilAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T | undefined> {
  if (signal === undefined) return work;
  const { promise, resolve } = Promise.withResolvers<undefined>();
  const onAbort = (): void => resolve(undefined);
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
