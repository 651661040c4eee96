/** A caller as production has them: a new connection for each request, the same request again when it broke or was put off, and a record of every answer. */
import { request } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import type { Prediction } from "../lib/api.ts";
import type { Call } from "./history.ts";

/** Longer than a sync wait. */
const REQUEST_TIMEOUT_MS = 70_000;
/** Restarts of the edge take some seconds each, and one may follow another. */
const PATIENCE_MS = 120_000;
const PAUSE_MS = 150;
const RETRY_AFTER_MAX_MS = 5_000;
/** Answers that mean: later. */
const PUT_OFF = [429, 502, 503];
/** So does this: the first request with the same key is still being answered. */
const IN_FLIGHT = "idempotency.in_flight";

export interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

export class Caller {
  readonly calls: Call[] = [];
  /** how often each status was answered; `broken`: how often the connection was, and how */
  readonly counts = new Map<string, number>();
  readonly #url: string;
  readonly #token: string;

  constructor(url: string, token: string) {
    this.#url = url;
    this.#token = token;
  }

  /** One request, once. Rejects when the connection broke. */
  once(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer> {
    const text = body === undefined ? "" : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const outgoing = request(
        new URL(path, this.#url),
        {
          method,
          agent: false,
          timeout: REQUEST_TIMEOUT_MS,
          headers: {
            authorization: `Bearer ${this.#token}`,
            ...(text === "" ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(text) }),
            ...headers,
          },
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("error", reject);
          response.on("aborted", () => reject(new Error("the answer was cut")));
          response.on("end", () =>
            resolve({
              status: response.statusCode ?? 0,
              headers: response.headers,
              text: Buffer.concat(chunks).toString(),
            }),
          );
        },
      );
      outgoing.on("timeout", () => outgoing.destroy(new Error(`no answer within ${REQUEST_TIMEOUT_MS} ms`)));
      outgoing.on("error", reject);
      outgoing.end(text);
    });
  }

  /** The same until it is answered. */
  async call(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<Answer> {
    const until = performance.now() + PATIENCE_MS;
    for (;;) {
      const answer = await this.once(method, path, body, headers).catch((error: unknown) => error);
      this.#count(isAnswer(answer) ? String(answer.status) : `broken: ${nameOf(answer)}`);
      if (isAnswer(answer) && !isPutOff(answer)) return answer;
      if (performance.now() > until) {
        const last = isAnswer(answer) ? `${answer.status} ${answer.text}` : String(answer);
        throw new Error(`${method} ${path}: no answer within ${PATIENCE_MS} ms: ${last}`);
      }
      const asked = isAnswer(answer) ? Number(answer.headers["retry-after"] ?? 0) * 1000 : 0;
      await pause(Math.min(Math.max(asked, PAUSE_MS * (0.5 + Math.random())), RETRY_AFTER_MAX_MS));
    }
  }

  /** The same, about a prediction: recorded. */
  async ask(
    kind: Call["kind"],
    key: number,
    method: string,
    path: string,
    body?: unknown,
    headers?: Record<string, string>,
  ): Promise<Prediction> {
    const start = performance.now();
    const answer = await this.call(method, path, body, headers);
    const isGood = answer.status === 200 || answer.status === 201 || answer.status === 202;
    const document = isGood ? (JSON.parse(answer.text) as Prediction) : null;
    this.calls.push({ kind, key, start, end: performance.now(), status: answer.status, document });
    if (document === null) throw new Error(`${method} ${path}: ${answer.status} ${answer.text.slice(0, 500)}`);
    return document;
  }

  #count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }
}

function isAnswer(answer: unknown): answer is Answer {
  return typeof answer === "object" && answer !== null && "status" in answer;
}

/** Such as ECONNRESET. */
function nameOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}

function isPutOff({ status, text }: Answer): boolean {
  return PUT_OFF.includes(status) || (status === 409 && text.includes(IN_FLIGHT));
}
