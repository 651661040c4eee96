/** A small typed client of the public API: what an HTTP caller sees, with nothing interpreted. */
import { waitFor } from "./wait.ts";

export const TERMINAL = ["succeeded", "failed", "canceled", "aborted"];
/** Longer than any of these tests should take to reach the end of a prediction; a cold boot on a busy machine included. */
const END_TIMEOUT_MS = 60_000;

/** A prediction as the wire has it. */
export interface Prediction {
  id: string;
  model: string;
  version: string;
  status: string;
  input: Record<string, unknown>;
  output: unknown;
  error: string | null;
  logs: string;
  metrics: Record<string, unknown>;
  data_removed: boolean;
  source: string;
  created_at: string;
  started_at: string | null;
  completed_at: string | null;
  deadline?: string;
  error_code?: string;
  waiting_for?: { reason: string; queue_position: number | null; elapsed_ms: number };
  urls: { get: string; cancel: string; web: string; stream?: string };
}

/** RFC 9457, with Replicate's members. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: string;
  invalid_fields?: { type: string; field: string; description: string }[];
  retry_after?: number;
}

export interface Model {
  owner: string;
  name: string;
  latest_version: { id: string; openapi_schema: Record<string, unknown> } | null;
  default_example: Prediction | null;
  run_count: number;
  state?: string;
}

export interface Page<T> {
  previous: string | null;
  next: string | null;
  results: T[];
}

export interface Answer<T> {
  status: number;
  headers: Headers;
  text: string;
  /** the parsed body; wrong on an unexpected status, so check that first */
  body: T;
}

export interface CreateOptions {
  /** seconds of `Prefer: wait=n`, `true` for a bare `wait` */
  wait?: number | true;
  headers?: Record<string, string>;
}

export class Api {
  readonly url: string;
  readonly token: string;

  constructor(url: string, token: string) {
    this.url = url;
    this.token = token;
  }

  /** One request; `path` may be a whole URL. Rejects only when the network fails. */
  async request<T = unknown>(
    method: string,
    path: string,
    options: { body?: unknown; headers?: Record<string, string>; rawBody?: string } = {},
  ): Promise<Answer<T>> {
    const body = options.rawBody ?? (options.body === undefined ? undefined : JSON.stringify(options.body));
    const response = await fetch(new URL(path, this.url), {
      method,
      headers: {
        authorization: `Bearer ${this.token}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
        ...options.headers,
      },
      ...(body === undefined ? {} : { body }),
    });
    const text = await response.text();
    return { status: response.status, headers: response.headers, text, body: parseJson(text) as T };
  }

  /** `POST /v1/models/cogway/{model}/predictions` with whatever answer it gets. */
  tryCreate<T = Prediction>(
    model: string,
    input: Record<string, unknown>,
    options: CreateOptions = {},
  ): Promise<Answer<T>> {
    return this.request<T>("POST", `/v1/models/cogway/${model}/predictions`, {
      body: { input },
      headers: {
        ...(options.wait === undefined ? {} : { prefer: options.wait === true ? "wait" : `wait=${options.wait}` }),
        ...options.headers,
      },
    });
  }

  /** A created prediction; throws on any other answer. */
  async create(model: string, input: Record<string, unknown>, options: CreateOptions = {}): Promise<Prediction> {
    const answer = await this.tryCreate(model, input, options);
    if (answer.status !== 201 && answer.status !== 202) throw new Error(`${answer.status}: ${answer.text}`);
    return answer.body;
  }

  /** Creates and waits for the end, by `Prefer: wait` and, if that is not enough, by polling. */
  async run(model: string, input: Record<string, unknown>): Promise<Prediction> {
    return this.untilEnd(await this.create(model, input, { wait: 60 }));
  }

  async get(prediction: { id: string }): Promise<Prediction> {
    const answer = await this.request<Prediction>("GET", `/v1/predictions/${prediction.id}`);
    if (answer.status !== 200) throw new Error(`${answer.status}: ${answer.text}`);
    return answer.body;
  }

  /** Every row of a list, page by page. Throws on any answer but 200. */
  async all<T>(path: string): Promise<T[]> {
    const rows: T[] = [];
    for (let at: string | null = path; at !== null; ) {
      // Pages name the public address, which a test may have put a proxy behind: the way there stays this one's.
      const { pathname, search } = new URL(at, this.url);
      const { status, text, body }: Answer<Page<T>> = await this.request<Page<T>>("GET", pathname + search);
      if (status !== 200) throw new Error(`${status}: ${text}`);
      rows.push(...body.results);
      at = body.next;
    }
    return rows;
  }

  cancel(prediction: { id: string }): Promise<Answer<Prediction>> {
    return this.request("POST", `/v1/predictions/${prediction.id}/cancel`);
  }

  /** Polls until the prediction is as wanted. A refused connection counts as "not yet": the edge may be starting. */
  until(
    prediction: { id: string },
    what: string,
    isWanted: (prediction: Prediction) => boolean,
    timeoutMs = END_TIMEOUT_MS,
  ): Promise<Prediction> {
    return waitFor(`prediction ${prediction.id} ${what}`, timeoutMs, async () => {
      const now = await this.get(prediction);
      return isWanted(now) ? now : null;
    });
  }

  untilEnd(prediction: { id: string }, timeoutMs = END_TIMEOUT_MS): Promise<Prediction> {
    return this.until(prediction, "ends", ({ status }) => TERMINAL.includes(status), timeoutMs);
  }

  untilRunning(prediction: { id: string }): Promise<Prediction> {
    return this.until(prediction, "runs", ({ status }) => status === "processing");
  }

  /** A new account with its own token; this one's must have the scope `admin`. */
  async newAccount(username: string, limits: Record<string, number> = {}): Promise<Api> {
    const answer = await this.request<{ token: string }>("POST", "/admin/v1/accounts", {
      body: { type: "user", username, name: username, limits },
    });
    if (answer.status !== 201) throw new Error(`${answer.status}: ${answer.text}`);
    return new Api(this.url, answer.body.token);
  }
}

/** The address of a prediction's stream; throws where the model does not stream. */
export function streamUrl(prediction: Prediction): string {
  if (prediction.urls.stream === undefined) throw new Error(`${prediction.model} has no urls.stream`);
  return prediction.urls.stream;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
