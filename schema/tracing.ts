/**
 * Traces: W3C trace context, and spans as OTLP/HTTP JSON (https://opentelemetry.io/docs/specs/otlp/). One message form, written by the edge and by origins alike:
 * OpenTelemetry's own exporters need Node, or generated code that workerd does not run. Pure.
 */
import { randomBytes } from "node:crypto";
import { sha256Hex } from "./ids.ts";

export interface TraceContext {
  /** 32 hex characters, not all 0 */
  trace_id: string;
  /** of the span that this is the context of: 16 hex characters, not all 0 */
  span_id: string;
  /** somebody wants its spans */
  sampled: boolean;
}

export interface Span {
  trace_id: string;
  span_id: string;
  parent_span_id: string | null;
  name: string;
  /** `server`: it began with a request from elsewhere */
  kind: "server" | "internal";
  /** epoch milliseconds */
  start_ms: number;
  end_ms: number;
  attributes: Record<string, string | number | boolean>;
  /** why it failed; null is well, or not known */
  error: string | null;
}

/** Null for what is no traceparent of a version that we read: then a trace of our own begins. https://www.w3.org/TR/trace-context/#traceparent-header */
export function parseTraceparent(text: string | null | undefined): TraceContext | null {
  const match = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/.exec(text?.trim() ?? "");
  if (match === null) return null;
  const [, version, trace_id = "", span_id = "", flags = "0", rest] = match;
  // Later versions may say more behind these four; this one may not.
  if (version === "ff" || (version === "00" && rest !== undefined)) return null;
  if (/^0+$/.test(trace_id) || /^0+$/.test(span_id)) return null;
  return { trace_id, span_id, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

export function traceparent({ trace_id, span_id, sampled }: TraceContext): string {
  return `00-${trace_id}-${span_id}-${sampled ? "01" : "00"}`;
}

/** The context of a new span below `parent`; of a new trace, which is sampled, where there is none. */
export function childOf(parent: TraceContext | null): TraceContext {
  const random = Buffer.from(randomBytes(24)).toString("hex");
  const span_id = random.slice(0, 16);
  if (parent !== null) return { ...parent, span_id };
  return { trace_id: random.slice(16), span_id, sampled: true };
}

/** The id of a span that is found again by what it is about, so that nobody has to store it. */
export function spanIdOf(name: string): string {
  return sha256Hex(name).slice(0, 16);
}

/** The span of a whole prediction: parent of all that is done for it. */
export function predictionContext(requestContext: TraceContext, predictionId: string): TraceContext {
  return { ...requestContext, span_id: spanIdOf(`prediction ${predictionId}`) };
}

/**
 * The context of a prediction that no request made, such as one of a batch's inputs: a trace of its own, whose first span is the prediction's. Found again by
 * its id, so that who makes it twice names the same. Sampled as the request was that asked for all of them.
 */
export function ownTrace(predictionId: string, cause: string | null | undefined): TraceContext {
  return {
    trace_id: sha256Hex(`trace of prediction ${predictionId}`).slice(0, 32),
    span_id: spanIdOf(`prediction ${predictionId}`),
    sampled: parseTraceparent(cause)?.sampled ?? true,
  };
}

export function traceIdOf(traceparentText: string | null | undefined): string | null {
  return parseTraceparent(traceparentText)?.trace_id ?? null;
}

const KINDS = { internal: 1, server: 2 } as const;
const STATUS_ERROR = 2;
/** Characters of a text that a span carries. */
const TEXT_CHARACTERS_MAX = 1_024;

/** The body of one export: JSON of an ExportTraceServiceRequest. `service` is what the spans are of, such as `cogway-edge`. */
export function otlpBody(service: Record<string, string>, spans: readonly Span[]): string {
  const scopeSpans = [{ scope: { name: "cogway" }, spans: spans.map(otlpSpan) }];
  return JSON.stringify({ resourceSpans: [{ resource: { attributes: attributes(service) }, scopeSpans }] });
}

function otlpSpan(span: Span) {
  return {
    traceId: span.trace_id,
    spanId: span.span_id,
    ...(span.parent_span_id === null ? {} : { parentSpanId: span.parent_span_id }),
    name: span.name,
    kind: KINDS[span.kind],
    startTimeUnixNano: nanos(span.start_ms),
    endTimeUnixNano: nanos(Math.max(span.start_ms, span.end_ms)),
    attributes: attributes(span.attributes),
    status: span.error === null ? {} : { code: STATUS_ERROR, message: span.error.slice(0, TEXT_CHARACTERS_MAX) },
  };
}

/** 64-bit numbers are texts in OTLP's JSON. Milliseconds may have a fraction; nanoseconds of today are beyond what a number holds exactly. */
function nanos(ms: number): string {
  const whole = Math.floor(ms);
  return String(BigInt(whole) * 1_000_000n + BigInt(Math.round((ms - whole) * 1e6)));
}

function attributes(of: Record<string, string | number | boolean>) {
  return Object.entries(of).map(([key, value]) => ({ key, value: attributeValue(value) }));
}

function attributeValue(value: string | number | boolean) {
  if (typeof value === "string") return { stringValue: value.slice(0, TEXT_CHARACTERS_MAX) };
  if (typeof value === "boolean") return { boolValue: value };
  return Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}

/** Spans that wait for the next export. Bounded: what does not fit is dropped and counted, never waited for. */
export class SpanBuffer {
  /** about 500 bytes each */
  static readonly SPANS_MAX = 4_096;
  /** of one export */
  static readonly BATCH_SPANS_MAX = 512;
  #spans: Span[] = [];
  #dropped = 0;
  #exported = 0;

  add(span: Span): void {
    if (this.#spans.length < SpanBuffer.SPANS_MAX) this.#spans.push(span);
    else this.#dropped += 1;
  }

  get size(): number {
    return this.#spans.length;
  }

  /** The next to export, oldest first. */
  take(): Span[] {
    return this.#spans.splice(0, SpanBuffer.BATCH_SPANS_MAX);
  }

  /** What became of an export. */
  settle(spans: number, isTaken: boolean): void {
    if (isTaken) this.#exported += spans;
    else this.#dropped += spans;
  }

  counts(): { exported: number; dropped: number; waiting: number } {
    return { exported: this.#exported, dropped: this.#dropped, waiting: this.#spans.length };
  }
}

/** Request headers of the collector, as OTEL_EXPORTER_OTLP_HEADERS has them: `name=value,name=value`, values percent-encoded. */
export function otlpHeaders(text: string): Record<string, string> {
  const pairs = text.split(",").flatMap((pair): [string, string][] => {
    const at = pair.indexOf("=");
    return at < 1 ? [] : [[pair.slice(0, at).trim().toLowerCase(), decoded(pair.slice(at + 1).trim())]];
  });
  return { ...Object.fromEntries(pairs), "content-type": "application/json" };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
