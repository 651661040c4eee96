/**
 * Follows a prediction to its end: its stream for output and logs, resumed by the last event's id when the connection breaks, and its document for status
 * and for the reason it waits (which streams tell only in comments). The document has the last word.
 */
import { type Api, hasEnded, type Prediction } from "./api.ts";
import { isRefusal, RETRY_MS_MAX, RETRY_MS_MIN, readEvents, sleep } from "./event-stream.ts";
import { foldEvents, type LiveOutput, NOTHING_YET } from "./live-output.ts";

/** The document is read soon after the start, for the reason of a wait; then this often while the prediction waits, and while it runs. */
const FIRST_POLL_MS = 250;
const WAITING_POLL_MS = 1_000;
const RUNNING_POLL_MS = 3_000;

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
