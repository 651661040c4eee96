/** Reading event streams: whole frames of events at a time, and what to do when a connection breaks. */
import { EventSourceParserStream } from "eventsource-parser/stream";
import { ApiError } from "./api.ts";
import type { StreamEvent } from "./live-output.ts";

/** A broken stream is opened again after this, doubled each time. */
export const RETRY_MS_MIN = 300;
export const RETRY_MS_MAX = 5_000;

/** Gone, or not signed in: no other try can cure it, and the following ends. */
export function isRefusal(error: unknown): boolean {
  return error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
}

/** Hands events over once per drawn frame, so that thousands of tokens a second cost no more than the screen shows. */
export async function readEvents(
  body: ReadableStream<Uint8Array>,
  onEvents: (events: StreamEvent[]) => void,
): Promise<void> {
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

export function sleep(ms: number, signal: AbortSignal): Promise<void> {
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
