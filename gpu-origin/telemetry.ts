/**
 * Sends spans of this origin, and those of its models, to the collector (COGWAY_OTLP_TRACES_URL). Spans wait for company and are dropped where the collector
 * does not take them; nothing waits for it. Without an address nothing is kept.
 */
import { otlpBody, otlpHeaders, type Span, SpanBuffer } from "../schema/tracing.ts";
import type { Log } from "./log.ts";

const FLUSH_MS = 1_000;
const EXPORT_TIMEOUT_MS = 5_000;
/** After a failed export what comes is dropped for so long. */
const PAUSE_MS = 10_000;
/** Of one export of a model; its exporter sends up to 512 spans at a time. */
export const MODEL_EXPORT_BYTES_MAX = 1_048_576;
/** Exports of all models on their way to the collector; more are dropped. */
const MODEL_EXPORTS_MAX = 8;

export interface TelemetryConfig {
  /** null: no spans are wanted */
  url: string | null;
  /** as OTEL_EXPORTER_OTLP_HEADERS has them */
  headers: string;
}

export class Telemetry {
  readonly #config: TelemetryConfig;
  readonly #service: Record<string, string>;
  readonly #log: Log;
  readonly #buffer = new SpanBuffer();
  #timer: NodeJS.Timeout | null = null;
  #pausedUntil = 0;
  #modelExports = { waiting: 0, taken: 0, dropped: 0 };

  constructor(config: TelemetryConfig, incarnation: string, log: Log) {
    this.#config = config;
    this.#service = { "service.name": "cogway-origin", "service.instance.id": incarnation };
    this.#log = log;
  }

  get isOn(): boolean {
    return this.#config.url !== null;
  }

  record(span: Span): void {
    if (!this.isOn) return;
    this.#buffer.add(span);
    this.#timer ??= setTimeout(() => void this.flush(), FLUSH_MS).unref();
  }

  /** Sends all that waits; at the end of the origin, too. */
  async flush(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    while (this.#buffer.size > 0) {
      const spans = this.#buffer.take();
      const isTaken = await this.#send(otlpBody(this.#service, spans), { "content-type": "application/json" });
      this.#buffer.settle(spans.length, isTaken);
    }
  }

  /** An export of a model's own exporter, passed on as it is: a model in a container reaches its instance's file server and nothing else. */
  async relay(body: Buffer, contentType: string, contentEncoding: string | undefined): Promise<boolean> {
    const counts = this.#modelExports;
    if (counts.waiting >= MODEL_EXPORTS_MAX) {
      counts.dropped += 1;
      return false;
    }
    counts.waiting += 1;
    const encoding = contentEncoding === undefined ? {} : { "content-encoding": contentEncoding };
    const isTaken = await this.#send(body, { "content-type": contentType, ...encoding }, isOutage);
    counts.waiting -= 1;
    if (isTaken) counts.taken += 1;
    else counts.dropped += 1;
    return isTaken;
  }

  counts() {
    const { taken, dropped } = this.#modelExports;
    return { spans: this.#buffer.counts(), model_exports: { taken, dropped } };
  }

  /** Where `pausesOn` says so of the answer's status, nothing is sent for a while; always where none came. */
  async #send(
    body: string | Buffer,
    type: Record<string, string>,
    pausesOn: (status: number) => boolean = () => true,
  ): Promise<boolean> {
    const { url, headers } = this.#config;
    if (url === null || Date.now() < this.#pausedUntil) return false;
    try {
      const answer = await fetch(url, {
        method: "POST",
        headers: { ...otlpHeaders(headers), ...type },
        body: typeof body === "string" ? body : new Uint8Array(body),
        signal: AbortSignal.timeout(EXPORT_TIMEOUT_MS),
      });
      await answer.body?.cancel();
      if (answer.ok) {
        this.#pausedUntil = 0;
        return true;
      }
      if (pausesOn(answer.status)) this.#pause(`it answered ${answer.status}`);
    } catch (error) {
      this.#pause(error instanceof Error ? error.message : String(error));
    }
    return false;
  }

  /** One line for each outage. */
  #pause(why: string): void {
    if (this.#pausedUntil === 0)
      this.#log.warn({ why }, "the collector takes no spans: they are dropped until it does");
    this.#pausedUntil = Date.now() + PAUSE_MS;
  }
}

/** Any other refusal of what a model sent is about its bytes: it must not cost the spans of everything else. */
function isOutage(status: number): boolean {
  return status === 429 || status >= 500;
}
