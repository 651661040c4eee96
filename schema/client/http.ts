/**
 * Requests of the client: retried where that is safe and can help, bounded in time, and refused with a {@link CogwayError}.
 *
 * | what came                                | tried again                                                             |
 * | ---------------------------------------- | ----------------------------------------------------------------------- |
 * | 429, 503, 409 of a create in flight      | always: nothing was done. After `Retry-After`                            |
 * | no answer, a broken one, another 5xx     | where a repeat changes nothing: all but POST and PATCH without a key     |
 * | `x-should-retry: false`                  | never                                                                   |
 */
import { CogwayError, errorOf } from "./error.ts";

export interface ClientOptions {
  /** such as `https://cogway.example`; a trailing `/v1` is dropped */
  baseUrl: string;
  token: string;
  /** instead of the runtime's */
  fetch?: (url: string, init: RequestInit) => Promise<Response>;
  /** repeats of one request, at most (default 5) */
  retriesMax?: number;
  /** milliseconds for one try; a create that waits gets these on top of its wait (default 30,000) */
  timeoutMs?: number;
}

export interface CallOptions {
  signal?: AbortSignal;
}

export interface RequestOptions extends CallOptions {
  body?: unknown;
  query?: Record<string, string | number | undefined>;
  headers?: Record<string, string>;
  /** milliseconds that the server may take beyond the usual */
  extraMs?: number;
}

const RETRIES_MAX = 5;
const TIMEOUT_MS = 30_000;
/** All pauses of one request together: who is told to wait longer is told so by the error. */
const PAUSES_MS_MAX = 60_000;
/** Where nobody says how long to wait: doubled each time. */
const PAUSE_MS = 250;

export class Http {
  readonly #base: string;
  readonly #token: string;
  readonly #fetch: (url: string, init: RequestInit) => Promise<Response>;
  readonly #retriesMax: number;
  readonly #timeoutMs: number;

  constructor(options: ClientOptions) {
    this.#base = options.baseUrl.replace(/\/+$/, "").replace(/\/v1$/, "");
    this.#token = options.token;
    this.#fetch = options.fetch ?? ((url, init) => fetch(url, init));
    this.#retriesMax = options.retriesMax ?? RETRIES_MAX;
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
  }

  /** The body of a JSON answer; undefined where there is none. */
  json<T>(method: string, path: string, options: RequestOptions = {}): Promise<T> {
    return this.#request(method, path, options, async (answer) => {
      const text = await answer.text();
      if (text === "") return undefined as T;
      try {
        return JSON.parse(text) as T;
      } catch (cause) {
        throw new CogwayError("client.unexpected", "The answer is no JSON.", { status: answer.status, cause });
      }
    });
  }

  /** An answer whose body the caller reads as it comes: only its beginning is bounded in time. */
  open(path: string, options: RequestOptions = {}): Promise<Response> {
    return this.#request("GET", path, options, async (answer) => answer);
  }

  /** An address that grants access by itself, such as a stream's: it gets no token, and no second try. */
  openAddress(url: string, headers: Record<string, string>, signal?: AbortSignal): Promise<Response> {
    return this.#fetch(url, { headers, ...(signal === undefined ? {} : { signal }) });
  }

  /** Everything in a list, page by page. A page's link is followed at our own base: proxies may have given the server another. */
  async *pages<T>(path: string, options: RequestOptions = {}): AsyncGenerator<T> {
    let next: string | null = path;
    let { query, ...rest } = options;
    while (next !== null) {
      const page: { next: string | null; results: T[] } = await this.json("GET", next, {
        ...rest,
        ...(query === undefined ? {} : { query }),
      });
      yield* page.results;
      next = page.next === null ? null : page.next.replace(/^https?:\/\/[^/]+/, "");
      query = undefined;
    }
  }

  async #request<T>(
    method: string,
    path: string,
    options: RequestOptions,
    read: (answer: Response) => Promise<T>,
  ): Promise<T> {
    let paused = 0;
    for (let tries = 1; ; tries++) {
      options.signal?.throwIfAborted();
      try {
        return await this.#try(method, path, options, read);
      } catch (error) {
        if (!(error instanceof CogwayError) || tries > this.#retriesMax) throw error;
        const pause = pauseBefore(error, isRepeatable(method, options), tries);
        if (pause === null || paused + pause > PAUSES_MS_MAX) throw error;
        paused += pause;
        await sleep(pause, options.signal);
      }
    }
  }

  async #try<T>(
    method: string,
    path: string,
    { body, query, headers, signal, extraMs = 0 }: RequestOptions,
    read: (answer: Response) => Promise<T>,
  ): Promise<T> {
    const controller = new AbortController();
    const limitMs = this.#timeoutMs + extraMs;
    const timer = setTimeout(() => {
      controller.abort(new CogwayError("client.timeout", `There was no answer within ${limitMs} ms.`));
    }, limitMs);
    try {
      const answer = await this.#fetch(this.#base + path + queryOf(query), {
        method,
        redirect: "manual",
        signal: signal === undefined ? controller.signal : AbortSignal.any([signal, controller.signal]),
        headers: {
          authorization: `Bearer ${this.#token}`,
          ...(body === undefined ? {} : { "content-type": "application/json" }),
          ...headers,
        },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      if (answer.ok) return await read(answer);
      throw await errorOf(answer);
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof CogwayError) throw error;
      if (controller.signal.reason instanceof CogwayError) throw controller.signal.reason;
      throw new CogwayError("client.unreachable", "The server could not be reached, or broke off.", { cause: error });
    } finally {
      clearTimeout(timer);
    }
  }
}

/** Milliseconds to wait before another try; null where none can help, or could do something twice. */
function pauseBefore(error: CogwayError, repeatable: boolean, tries: number): number | null {
  const { status, code, should_retry, retry_after } = error;
  if (should_retry === false) return null;
  const isRefusal = status === 429 || status === 503 || code === "idempotency.in_flight";
  if (!isRefusal && !(repeatable && (status === 0 || status >= 500))) return null;
  const pause = PAUSE_MS * 2 ** (tries - 1) * (0.5 + Math.random());
  return retry_after === null ? pause : Math.max(retry_after * 1_000, pause);
}

/** Whether a repeat does nothing a second time. */
function isRepeatable(method: string, { headers }: RequestOptions): boolean {
  return (method !== "POST" && method !== "PATCH") || headers?.["idempotency-key"] !== undefined;
}

function queryOf(query: Record<string, string | number | undefined> = {}): string {
  const given = Object.entries(query).flatMap(([name, value]): [string, string][] =>
    value === undefined ? [] : [[name, String(value)]],
  );
  return given.length === 0 ? "" : `?${new URLSearchParams(given)}`;
}

/** Waits, or throws the signal's reason as soon as it is aborted. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    if (signal?.aborted === true) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
