/**
 * Server-sent events of a prediction's stream: what each stored event looks like on the wire. Pure, so that every reader, live or late, gets the same
 * bytes. Rules of the format: WHATWG HTML, section "Server-sent events"; names and data: Replicate's HTTP API.
 */
import type { PredictionState } from "./prediction-document.ts";
import type { StoredEvent } from "./prediction-log.ts";
import { renderOutput, type View } from "./render-prediction.ts";

/** Clients drop a silent connection after 30 s. */
export const KEEP_ALIVE_INTERVAL_MS = 15_000;

/** One event. Every line of `data` gets a field of its own: CR, LF and CRLF all end a line in this format, and arrive as LF. */
export function encodeEvent(event: "output" | "logs" | "error" | "done" | "status", id: string, data: string): string {
  const lines = data.split(/\r\n|\r|\n/).map((line) => `data: ${line}\n`);
  return `event: ${event}\nid: ${id}\n${lines.join("")}\n`;
}

/** A comment, which clients ignore. */
export function encodeComment(text: string): string {
  return `: ${text.replaceAll(/[\r\n]+/g, " ")}\n\n`;
}

/** Ids are opaque, unique in a stream, and equal for all readers: the event's place in the log behind a mark of the prediction. */
function eventId(predictionId: string, seq: number, isError = false): string {
  return `${predictionId.slice(1, 9)}-${seq}${isError ? "e" : ""}`;
}

/** Where a reader goes on: the first event to send, and whether its `error` was sent already. An unknown id starts anew. */
export interface StreamPosition {
  seq: number;
  skipError: boolean;
}

export function positionAfter(predictionId: string, lastEventId: string | null, nextSeq: number): StreamPosition {
  const match = /^([a-z2-7]{8})-(\d{1,9})(e?)$/.exec(lastEventId ?? "");
  const seq = Number(match?.[2]);
  if (match === null || match[1] !== predictionId.slice(1, 9) || seq >= nextSeq) return { seq: 0, skipError: false };
  return match[3] === "e" ? { seq, skipError: true } : { seq: seq + 1, skipError: false };
}

/** Why the stream ended, in the data of `done`. */
function doneData(state: PredictionState): string {
  if (state === "succeeded") return "{}";
  return JSON.stringify({ reason: state === "failed" ? "error" : "canceled" });
}

/** The wire form of one stored event; empty for what streams do not show. */
export function encodeStored(
  predictionId: string,
  seq: number,
  event: StoredEvent,
  view: View,
  skipError = false,
): string {
  switch (event.type) {
    case "output": {
      if (event.silent === true) return "";
      const value = renderOutput(event.value, predictionId, view);
      return encodeEvent(
        "output",
        eventId(predictionId, seq),
        typeof value === "string" ? value : JSON.stringify(value),
      );
    }
    case "log":
      return encodeEvent("logs", eventId(predictionId, seq), event.data);
    case "ended": {
      const error =
        event.state === "failed" && !skipError
          ? encodeEvent("error", eventId(predictionId, seq, true), JSON.stringify({ detail: event.error }))
          : "";
      return error + encodeEvent("done", eventId(predictionId, seq), doneData(event.state));
    }
    default:
      return "";
  }
}
