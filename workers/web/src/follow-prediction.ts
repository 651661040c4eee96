/**
 * Follows a prediction to its end: its stream for output and logs, resumed by the last event's id when the connection breaks, and its document for status
 * and for the reason it waits (which streams tell only in comments). The document has the last word.
 */
import { EventSourceParserStream } from "eventsource-parser/stream";
import { type Api, ApiError, hasEnded, type Prediction } from "./api.ts";
import { foldEvents, type LiveOutput, NOTHING_YET, type StreamEvent } from "./live-output.ts";

/** The document is read soon after the start, for the reason of a wait; then this often while the prediction waits, and while it runs. */
const FIRST_POLL_MS = 250;
const WAITING_POLL_MS = 1_000;
const RUNNING_POLL_MS = 3_000;
/** A broken stream is opened again after this, doubled each time. */
const RETRY_MS_MIN = 300;
const RETRY_MS_MAX = 5_000;

export interface Followed {
  prediction: Prediction;
  live: LiveOutput;
  /** false while the server does not answer: what is shown may be old */
  isReached: boolean;
}

export async function followPrediction(
  api: Api,
  first: Prediction,
  onChange: (followed: Followed) => void,
  signal: AbortSignal,
): Promise<void> {
  let followed: Followed = { prediction: first, live: NOTHING_YET, isReached: true };
  const ended = new AbortController();
  const stop = AbortSignal.any([signal, ended.signal]);
  const tell = (change: Partial<Followed>) => {
    if (signal.aborted) return;
    followed = { ...followed, ...change };
    onChange(followed);
  };
  const readDocument = async () => {
    try {
      const prediction = await api.prediction(first.id, stop);
      tell({ prediction, isReached: true });
      if (hasEnded(prediction)) ended.abort();
    } catch (error) {
      if (isRefusal(error)) throw error;
      if (!stop.aborted) tell({ isReached: false });
    }
  };
  const pollDocument = async () => {
    let waitMs = FIRST_POLL_MS;
    while (!stop.aborted) {
      await sleep(waitMs, stop);
      if (!stop.aborted) await readDocument();
      waitMs = followed.prediction.status === "starting" ? WAITING_POLL_MS : RUNNING_POLL_MS;
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
      } catch {
        // The network, or the server's restart: the document's reader tells of it.
      }
      if (!followed.live.isDone) await sleep(retryMs, stop);
      retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
    }
    // `done` is sent when the end is stored, so one read shows it.
    if (!stop.aborted) await readDocument();
  };
  const stream = first.urls["stream"];
  await Promise.all([pollDocument(), stream === undefined ? undefined : readStream(stream)]);
}

/** Gone, or not signed in: no other try can cure it, and the following ends. */
function isRefusal(error: unknown): boolean {
  return error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
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
