/**
 * Follows a prediction to its end: its stream for output and logs, resumed by the last event's id when the connection breaks, and its document for status
 * and for the reason it waits (which streams tell only in comments). The document has the last word.
 */
import { EventSourceParserStream } from "eventsource-parser/stream";
import { type Api, ApiError, hasEnded, type Prediction } from "./api.ts";
import { foldEvents, type LiveOutput, NOTHING_YET, type StreamEvent } from "./live-output.ts";

/** The document is read this often while the prediction waits, and while it runs. */
const WAITING_POLL_MS = 1_000;
const RUNNING_POLL_MS = 3_000;
/** A broken stream is opened again after this, doubled each time. */
const RETRY_MS_MIN = 300;
const RETRY_MS_MAX = 5_000;

export interface Followed {
  prediction: Prediction;
  live: LiveOutput;
}

export async function followPrediction(
  api: Api,
  first: Prediction,
  onChange: (followed: Followed) => void,
  signal: AbortSignal,
): Promise<void> {
  let followed: Followed = { prediction: first, live: NOTHING_YET };
  const ended = new AbortController();
  const stop = AbortSignal.any([signal, ended.signal]);
  const tell = (change: Partial<Followed>) => {
    if (signal.aborted) return;
    followed = { ...followed, ...change };
    onChange(followed);
  };
  const readDocument = async () => {
    const prediction = await api.prediction(first.id, stop);
    tell({ prediction });
    if (hasEnded(prediction)) ended.abort();
  };
  const pollDocument = async () => {
    while (!stop.aborted) {
      await sleep(followed.prediction.status === "starting" ? WAITING_POLL_MS : RUNNING_POLL_MS, stop);
      if (!stop.aborted) await readDocument().catch(passing);
    }
  };
  const readStream = async (url: string) => {
    let retryMs = RETRY_MS_MIN;
    while (!stop.aborted && !followed.live.isDone) {
      try {
        const response = await api.openStream(url, followed.live.lastEventId, stop);
        if (response.status === 404 || response.status === 410) return;
        if (response.ok && response.body !== null) {
          retryMs = RETRY_MS_MIN;
          await readEvents(response.body, (events) => {
            const hasStarted = followed.prediction.status === "starting";
            tell({
              live: foldEvents(followed.live, events),
              // Events come before the next read of the document.
              ...(hasStarted ? { prediction: { ...followed.prediction, status: "processing" } } : {}),
            });
          });
        } else await response.body?.cancel();
      } catch (error) {
        passing(error);
      }
      if (!followed.live.isDone) await sleep(retryMs, stop);
      retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
    }
    // `done` is sent when the end is stored, so one read shows it.
    if (!stop.aborted) await readDocument().catch(passing);
  };
  const stream = first.urls["stream"];
  await Promise.all([pollDocument(), stream === undefined ? undefined : readStream(stream)]);
}

/** Errors that another try may cure: the network, an abort, the server's. A refusal (gone, not signed in) ends the following. */
function passing(error: unknown): void {
  if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
}

/** Hands events over once per drawn frame, so that thousands of tokens a second cost no more than the screen shows. */
async function readEvents(body: ReadableStream<Uint8Array>, onEvents: (events: StreamEvent[]) => void): Promise<void> {
  let waiting: StreamEvent[] = [];
  const flush = () => {
    const events = waiting;
    waiting = [];
    if (events.length > 0) onEvents(events);
  };
  const events = body
    .pipeThrough(new TextDecoderStream() as TransformStream<Uint8Array, string>)
    .pipeThrough(new EventSourceParserStream());
  const reader = events.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      if (waiting.length === 0) nextFrame(flush);
      waiting.push({ id: value.id ?? "", event: value.event ?? "message", data: value.data });
      if (value.event === "done") return;
    }
  } finally {
    flush();
    await reader.cancel().catch(() => undefined);
  }
}

/** Frames stop in a hidden tab; the timer keeps events flowing there. */
function nextFrame(work: () => void): void {
  if (document.visibilityState === "visible") requestAnimationFrame(work);
  else setTimeout(work, 250);
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done, { once: true });
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
  });
}
