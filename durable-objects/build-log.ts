/**
 * The log of a build as readers get it: server-sent events with places in the log as ids, from SQLite while it runs and from R2 afterwards.
 * `status` tells state, stage and what it waits for; `logs` a piece of the log; `done` the whole build.
 */
import { type BuildDocument, showBuild } from "../schema/build-document.ts";
import { encodeEvent } from "../schema/stream-events.ts";
import type { BuildRow, BuildStore, LogChunk } from "./build-store.ts";
import type { Page } from "./stream-readers.ts";

/** Where a reader is. */
export interface BuildPosition {
  /** place of the next byte of the log */
  place: number;
  /** it had `done` */
  isDone: boolean;
  /** the status that it was told last */
  status: string;
}

/** Where a reader goes on; an unknown id starts anew. */
export function buildPosition(lastEventId: string | null): BuildPosition {
  const match = /^(\d{1,12})(d?)$/.exec(lastEventId ?? "");
  return { place: Number(match?.[1] ?? 0), isDone: match?.[2] === "d", status: "" };
}

export function statusEvent(document: BuildDocument, place: number): string {
  return encodeEvent("status", String(place), statusOf(document));
}

function statusOf({ status, stage, waiting_for }: BuildDocument): string {
  return JSON.stringify({ status, stage, waiting_for });
}

export function logEvent({ text, end }: LogChunk): string {
  return encodeEvent("logs", String(end), text);
}

export function doneEvent(document: BuildDocument, place: number, publicUrl: string): string {
  return encodeEvent("done", `${place}d`, JSON.stringify(showBuild(document, publicUrl)));
}

/** R2 key of the log of a build that has ended. */
export function buildLogKey(buildId: string): string {
  return `builds/${buildId}/log`;
}

/** One page for a reader. Without an await while the build runs, so that what is stored next finds the reader live. */
export function buildPage(
  source: { store: BuildStore; files: R2Bucket; publicUrl: string; document: (row: BuildRow) => BuildDocument },
  position: BuildPosition,
  bytesMax: number,
): Page<BuildPosition> | Promise<Page<BuildPosition>> {
  const row = source.store.get();
  if (row === null) return { text: "", next: position, atEnd: true, isOver: true };
  const document = source.document(row);
  const page = (chunk: LogChunk): Page<BuildPosition> => {
    const status = statusOf(document);
    const atEnd = chunk.end >= row.log_end;
    const isEnd = atEnd && row.record.end !== null;
    const text = [
      position.isDone || position.status === status ? "" : statusEvent(document, position.place),
      position.isDone || chunk.text === "" ? "" : logEvent(chunk),
      position.isDone || !isEnd ? "" : doneEvent(document, row.log_end, source.publicUrl),
    ].join("");
    return { text, next: { place: chunk.end, isDone: isEnd, status }, atEnd, isOver: isEnd };
  };
  const place = Math.max(position.place, row.log_start);
  if (place >= row.log_end || position.isDone) return page({ text: "", end: row.log_end });
  if (!row.is_log_moved) return page(source.store.read(place, bytesMax));
  return readStored(source.files, row, place, bytesMax).then(page);
}

async function readStored(files: R2Bucket, row: BuildRow, place: number, bytesMax: number): Promise<LogChunk> {
  const length = Math.min(Math.floor(bytesMax), row.log_end - place);
  const stored = await files.get(buildLogKey(row.request.id), { range: { offset: place - row.log_start, length } });
  if (stored === null) return { text: "", end: row.log_end };
  const bytes = new Uint8Array(await stored.arrayBuffer());
  const isLast = place + bytes.byteLength >= row.log_end;
  // A character that the piece cuts through comes with the next one.
  const whole = isLast ? bytes : bytes.subarray(0, wholeCharacters(bytes));
  return {
    text: new TextDecoder("utf-8", { fatal: false, ignoreBOM: true }).decode(whole),
    end: place + whole.byteLength,
  };
}

/** How many of the bytes end with a whole character; all where that does not help. */
function wholeCharacters(bytes: Uint8Array): number {
  for (let length = bytes.byteLength; length > Math.max(0, bytes.byteLength - 4); length--) {
    const last = bytes[length - 1] ?? 0;
    if (last < 0x80) return length;
    if (last >= 0xc0) return length - 1 > 0 ? length - 1 : bytes.byteLength;
  }
  return bytes.byteLength;
}

/** The whole text so far. */
export async function buildLogText(files: R2Bucket, store: BuildStore): Promise<BodyInit> {
  const row = store.get();
  if (row === null) return "";
  if (!row.is_log_moved) return gone(row) + store.read(row.log_start, Number.MAX_SAFE_INTEGER).text;
  const stored = await files.get(buildLogKey(row.request.id));
  if (stored === null) return "";
  return row.log_start === 0 ? stored.body : gone(row) + (await stored.text());
}

function gone({ log_start }: BuildRow): string {
  return log_start === 0 ? "" : `[the first ${log_start} bytes of this log were not kept]\n`;
}
