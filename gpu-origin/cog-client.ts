/**
 * coglet's HTTP, as it really behaves (measured with coglet 0.23.1). Predictions always go by server-sent events, which need the flag
 * `x-cog-streaming` in the schema file that coglet reads; we set it for every model, since only this way logs, output and a failed prediction's logs come
 * complete, live and in order (the plain answer of a failed prediction has no logs; webhooks come out of order and grow quadratically).
 */
import http from "node:http";
import { createParser } from "eventsource-parser";
import { z } from "zod";

const HEALTH_TIMEOUT_MS = 6_000;
const CANCEL_TIMEOUT_MS = 5_000;
/**
 * Characters of one event. A file inside a structured output comes as a data URI within one, and costs several times its size in memory here (measured: 256
 * MiB of file take 1.8 GB for a while; from 384 MiB on the text is longer than V8 can hold).
 */
const EVENT_CHARACTERS_MAX = 268_435_456;
/** Bytes of an answer that is no stream. */
const REFUSAL_BYTES_MAX = 262_144;

export type CogEvent =
  | { type: "start" }
  | { type: "output"; chunk: unknown }
  | { type: "log"; source: "stdout" | "stderr"; data: string }
  | { type: "metric"; name: string; value: unknown; mode: "replace" | "increment" | "append" }
  | { type: "completed"; result: CogResult }
  /** coglet dropped events because its buffer was full; it ends the stream without `completed` */
  | { type: "lagged" };

const ResultSchema = z.object({
  status: z.enum(["succeeded", "failed", "canceled"]),
  error: z.string().optional(),
  output: z.unknown().optional(),
  metrics: z.record(z.string(), z.unknown()).default({}),
});
export type CogResult = z.infer<typeof ResultSchema>;

export type CogCall =
  /** the stream ended; whether `completed` was among its events is the caller's to know */
  | { kind: "ended" }
  /** 409: its slot is not free yet, or its worker is dead */
  | { kind: "busy" }
  /** 4xx: coglet's own validation refused it */
  | { kind: "refused"; detail: string }
  /** 503: setup has not finished or has failed */
  | { kind: "unavailable"; detail: string }
  /** an event was larger than we can hold */
  | { kind: "oversized"; detail: string }
  /** the connection broke or was never made: the process is gone, or we left */
  | { kind: "broken"; detail: string };

const HealthSchema = z.object({
  status: z.string(),
  setup: z.object({ status: z.string().optional(), logs: z.string().optional() }).nullish(),
  user_healthcheck_error: z.string().nullish(),
});
export type CogHealth = z.infer<typeof HealthSchema>;

const LogSchema = z.object({ source: z.enum(["stdout", "stderr"]).catch("stdout"), data: z.string() });
const MetricSchema = z.object({
  name: z.string(),
  value: z.unknown(),
  mode: z.enum(["replace", "increment", "append"]).catch("replace"),
});
const OutputSchema = z.object({ chunk: z.unknown() });

export class CogClient {
  readonly #address: { host: string; port: number };
  /**
   * A new connection for each prediction costs 0.1 ms. On a kept one the first event comes 40 ms late: coglet writes small pieces without TCP_NODELAY,
   * and Linux delays acknowledgements on connections that are no longer new (measured: 43.7 against 0.4 ms).
   */
  readonly #agent = new http.Agent({ keepAlive: false });

  constructor(address: { host: string; port: number }) {
    this.#address = address;
  }

  /**
   * Runs one prediction. `onEvent` is called for each event as it arrives, and is read as fast as it comes: coglet drops what a slow reader leaves.
   * Aborting leaves the stream, which cancels the prediction in coglet. `id` must be made of [a-z0-9]: coglet uses it as a folder name.
   */
  predict(
    id: string,
    input: Record<string, unknown>,
    onEvent: (event: CogEvent) => void,
    signal: AbortSignal,
    /** W3C trace context that the model's own spans are below */
    traceparent?: string,
  ): Promise<CogCall> {
    const body = JSON.stringify({ input });
    return new Promise((resolve) => {
      const broken = (error: Error): void => resolve({ kind: "broken", detail: error.message });
      const request = this.#request("PUT", `/predictions/${id}`, {
        accept: "text/event-stream",
        "content-type": "application/json",
        "content-length": String(Buffer.byteLength(body)),
        ...(traceparent === undefined ? {} : { traceparent }),
      });
      const abort = (): void => void request.destroy(new Error("left"));
      signal.addEventListener("abort", abort, { once: true });
      request.on("error", broken);
      request.on("close", () => signal.removeEventListener("abort", abort));
      request.on("response", (response) => {
        response.on("error", broken);
        response.on("aborted", () => broken(new Error("coglet closed the connection")));
        if (response.statusCode === 200 && response.headers["content-type"]?.startsWith("text/event-stream")) {
          readEvents(response, onEvent, resolve);
        } else {
          readRefusal(response, resolve);
        }
      });
      request.end(body);
      if (signal.aborted) abort();
    });
  }

  /** Asks coglet to cancel. It answers at once; the end comes on the prediction's stream. False when it does not run. */
  async cancel(id: string): Promise<boolean> {
    const answer = await this.#get("POST", `/predictions/${id}/cancel`, CANCEL_TIMEOUT_MS);
    return answer?.status === 200;
  }

  /** Null when nothing answers. */
  async health(timeoutMs = HEALTH_TIMEOUT_MS): Promise<CogHealth | null> {
    const answer = await this.#get("GET", "/health-check", Math.max(1, timeoutMs));
    if (answer === null) return null;
    try {
      return HealthSchema.parse(JSON.parse(answer.text));
    } catch {
      return null;
    }
  }

  close(): void {
    this.#agent.destroy();
  }

  #request(method: string, path: string, headers: Record<string, string> = {}): http.ClientRequest {
    return http.request({ ...this.#address, method, path, headers, agent: this.#agent });
  }

  #get(method: string, path: string, timeoutMs: number): Promise<{ status: number; text: string } | null> {
    return new Promise((resolve) => {
      const request = this.#request(method, path);
      request.setTimeout(timeoutMs, () => request.destroy(new Error("timed out")));
      request.on("error", () => resolve(null));
      request.on("response", (response) => {
        response.setEncoding("utf8");
        let text = "";
        response.on("data", (chunk: string) => {
          text += chunk;
        });
        response.on("error", () => resolve(null));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, text }));
      });
      request.end();
    });
  }
}

function readEvents(
  response: http.IncomingMessage,
  onEvent: (event: CogEvent) => void,
  resolve: (call: CogCall) => void,
): void {
  let pending = 0;
  const parser = createParser({
    onEvent: ({ event, data }) => {
      pending = 0;
      const parsed = parseEvent(event ?? "message", data);
      if (parsed !== null) onEvent(parsed);
    },
  });
  response.setEncoding("utf8");
  response.on("data", (chunk: string) => {
    pending += chunk.length;
    if (pending > EVENT_CHARACTERS_MAX) {
      const detail = "A file inside the output is larger than 190 MB; return the file itself (a Path): it is uploaded.";
      resolve({ kind: "oversized", detail });
      response.destroy();
      return;
    }
    try {
      parser.feed(chunk);
    } catch (error) {
      // An event that is not of this contract ends this one prediction, not the origin.
      response.destroy();
      resolve({ kind: "broken", detail: error instanceof Error ? error.message : String(error) });
    }
  });
  response.on("end", () => resolve({ kind: "ended" }));
}

/** One event of coglet's stream; null for kinds that we do not know. */
function parseEvent(name: string, data: string): CogEvent | null {
  if (name === "start") return { type: "start" };
  if (name === "error") return { type: "lagged" };
  const value: unknown = JSON.parse(data);
  switch (name) {
    case "output":
      return { type: "output", chunk: OutputSchema.parse(value).chunk };
    case "log":
      return { type: "log", ...LogSchema.parse(value) };
    case "metric":
      return { type: "metric", ...MetricSchema.parse(value) };
    case "completed":
      return { type: "completed", result: ResultSchema.parse(value) };
    default:
      return null;
  }
}

function readRefusal(response: http.IncomingMessage, resolve: (call: CogCall) => void): void {
  response.setEncoding("utf8");
  let text = "";
  response.on("data", (chunk: string) => {
    if (text.length < REFUSAL_BYTES_MAX) text += chunk;
  });
  response.on("end", () => {
    if (response.statusCode === 409) return resolve({ kind: "busy" });
    const detail = refusalText(text);
    resolve(response.statusCode === 503 ? { kind: "unavailable", detail } : { kind: "refused", detail });
  });
}

const ValidationSchema = z.object({
  detail: z.array(z.object({ loc: z.array(z.union([z.string(), z.number()])), msg: z.string() })),
});

/** coglet refuses as text, as `{error}` or as `{detail: [{loc, msg}]}`. */
function refusalText(text: string): string {
  try {
    const body: unknown = JSON.parse(text);
    const validation = ValidationSchema.safeParse(body);
    if (validation.success) {
      return validation.data.detail.map(({ loc, msg }) => `${loc.slice(1).join(".")}: ${msg}`).join("; ");
    }
    const error = z.object({ error: z.string() }).safeParse(body);
    if (error.success) return error.data.error;
  } catch {
    // Plain text.
  }
  return text.slice(0, 2_000);
}

/** coglet wraps the model's words up to twice: `Prediction failed: Prediction failed: ValueError: boom` is the exception `ValueError: boom`. */
export function stripErrorPrefix(error: string): string {
  return error.replace(/^(?:(?:Prediction|Training) failed: |(?:Async )?[Gg]enerator iteration error: )*/, "");
}

/** The worker died while, or (`before`) before, it had the prediction; coglet never starts it again. */
export function crashKind(error: string | undefined): "during" | "before" | null {
  if (error === undefined) return null;
  if (error === "Worker crashed" || error.startsWith("Worker crashed")) return "during";
  return /^(Prediction failed: )*Failed to send request:/.test(error) ? "before" : null;
}
