/**
 * Sends spans to the collector (OTLP_TRACES_URL), behind everything else: they wait in this isolate's memory for company, go in one call, and are dropped where
 * the collector does not take them. Nothing waits for it, and without an address nothing is kept at all.
 */
import { otlpBody, otlpHeaders, type Span, SpanBuffer } from "../schema/tracing.ts";

/** Spans of a second go together. */
const FLUSH_MS = 1_000;
const EXPORT_TIMEOUT_MS = 5_000;
/** After a failed export what comes is dropped for so long: a collector that is away costs nothing. */
const PAUSE_MS = 10_000;
const LOOPBACK = /^http:\/\/(127\.0\.0\.1|\[::1\]|localhost)[:/]/;

const buffer = new SpanBuffer();
let flushAt = 0;
let pausedUntil = 0;

/** Whether spans go anywhere: who would have to work for one asks first. */
export function isTracing(env: Env): boolean {
  return env.OTLP_TRACES_URL !== "";
}

/** `later` keeps the export alive behind what the span is of. */
export function recordSpan(env: Env, later: (work: Promise<unknown>) => void, span: Span): void {
  if (!isTracing(env)) return;
  buffer.add(span);
  const now = Date.now();
  // A request that was cut off took its flush with it: a later span begins another.
  if (flushAt > 0 && now < flushAt + FLUSH_MS) return;
  flushAt = now + FLUSH_MS;
  later(new Promise((resolve) => setTimeout(resolve, FLUSH_MS)).then(() => flush(env)));
}

export function spanCounts(): ReturnType<SpanBuffer["counts"]> {
  return buffer.counts();
}

async function flush(env: Env): Promise<void> {
  flushAt = 0;
  while (buffer.size > 0) {
    const spans = buffer.take();
    const isTaken = Date.now() >= pausedUntil && (await send(env, spans));
    buffer.settle(spans.length, isTaken);
    if (!isTaken && Date.now() >= pausedUntil) pausedUntil = Date.now() + PAUSE_MS;
  }
}

async function send(env: Env, spans: Span[]): Promise<boolean> {
  const url = env.OTLP_TRACES_URL;
  const init: RequestInit = {
    method: "POST",
    headers: otlpHeaders(env.OTLP_HEADERS),
    body: otlpBody({ "service.name": "cogway-edge" }, spans),
    signal: AbortSignal.timeout(EXPORT_TIMEOUT_MS),
  };
  try {
    const isLocal = env.LOCAL_ORIGIN !== undefined && LOOPBACK.test(url);
    const answer = await (isLocal ? env.LOCAL_ORIGIN?.fetch(url, init) : fetch(url, init));
    await answer?.body?.cancel();
    return answer?.ok === true;
  } catch {
    return false;
  }
}
