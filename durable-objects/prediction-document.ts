/** Reads of a prediction out of its SQLite and R2: the document as a fold of its log, pages for streams, and what its removal takes away. */

import { finalLines, meterOfProgress } from "../schema/prediction-cost.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { isTerminal } from "../schema/prediction-lifecycle.ts";
import { LogFold, type StoredEvent } from "../schema/prediction-log.ts";
import { sumMicros } from "../schema/pricing.ts";
import type { View } from "../schema/render-prediction.ts";
import { encodeStored, type StreamPosition } from "../schema/stream-events.ts";
import { traceIdOf } from "../schema/tracing.ts";
import { abortUploads } from "./output-uploads.ts";
import type { PredictionRow, PredictionStore } from "./prediction-store.ts";
import type { Page } from "./stream-readers.ts";

/** The log is read in pages of this. */
const PAGE_BYTES = 262_144;
/** The account keeps no larger documents in its list. */
const SETTLED_BYTES_MAX = 16_384;
/** Keys that one R2 call deletes at most. */
const R2_DELETE_MAX = 1_000;

/** The newest document; null when there is no such prediction. */
export async function loadDocument(env: Env, store: PredictionStore, id: string): Promise<PredictionDocument | null> {
  const kept = store.endedDocument(id);
  if (kept !== null) return kept;
  const asked = store.get(id);
  if (asked === null) return null;
  const input = asked.stage.removed_at === null ? await shownInput(env, store, asked) : {};
  const fold = new LogFold();
  await eachEntry(env, store, id, (entry) => fold.add(entry));
  const row = store.get(id);
  if (row === null) return null;
  const document = documentOf(row, row.stage.removed_at === null ? input : {}, fold);
  if (isTerminal(row.stage.life.state)) store.keepEnded(document, row.stage.log_bytes);
  return document;
}

/** The document as it was before its end, with all that came until then: what events before `completed` say. Null also when its data is gone. */
export async function loadRunningDocument(
  env: Env,
  store: PredictionStore,
  id: string,
): Promise<PredictionDocument | null> {
  const asked = store.get(id);
  if (asked === null || asked.stage.removed_at !== null) return null;
  const input = await shownInput(env, store, asked);
  const fold = new LogFold();
  await eachEntry(env, store, id, (entry) => {
    if (entry.type !== "ended") fold.add(entry);
  });
  const row = store.get(id);
  if (row === null || row.stage.removed_at !== null) return null;
  const document = documentOf(row, input, fold);
  if (!isTerminal(document.state)) return document;
  const unended = {
    error: null,
    error_code: null,
    completed_at: null,
    expires_at: null,
    meter: null,
    cost_micros: null,
  };
  return { ...document, ...unended, state: "processing" };
}

function documentOf(row: PredictionRow, input: Record<string, unknown>, fold: LogFold): PredictionDocument {
  const { request, stage } = row;
  const { life } = stage;
  const folded = fold.result();
  const lines = finalLines(stage, request, request.spec.hardware);
  return {
    id: row.id,
    account_id: request.account_id,
    kind: request.kind,
    model: request.spec.model,
    version: request.shown_version,
    destination: request.destination,
    state: life.state,
    input,
    output: folded.output,
    error: life.error,
    error_code: life.error_code,
    logs: folded.logs,
    metrics: stage.last_metrics ?? folded.metrics,
    created_at: life.created_at,
    started_at: life.started_at,
    completed_at: life.completed_at,
    deadline_at: request.deadline_at,
    expires_at: stage.expires_at,
    data_removed: stage.removed_at !== null,
    source: request.source,
    deployment: request.deployment,
    webhook: request.webhook,
    webhook_events_filter: request.webhook_events_filter,
    stream_kind: request.stream_kind,
    meter: meterOfProgress(stage, request, request.spec.hardware),
    cost_micros: lines === null ? null : sumMicros(lines),
    trace_id: traceIdOf(request.traceparent),
  };
}

/** What the account keeps in its list; null when it is too large, without reading it all. */
export async function settledDocument(
  env: Env,
  store: PredictionStore,
  row: PredictionRow,
): Promise<PredictionDocument | null> {
  if (row.stage.log_bytes > SETTLED_BYTES_MAX || row.stage.output_bytes > SETTLED_BYTES_MAX) return null;
  if (row.request.input_ref !== null || row.request.shown_input_ref !== null) return null;
  return loadDocument(env, store, row.id);
}

async function shownInput(env: Env, store: PredictionStore, row: PredictionRow): Promise<Record<string, unknown>> {
  const { input_ref, shown_input_ref } = row.request;
  const { input, shown_input } = store.inputs(row.id);
  const inline = shown_input ?? (shown_input_ref === null ? input : null);
  if (inline !== null) return inline;
  const object = await env.FILES.get(shown_input_ref ?? input_ref ?? "");
  return object === null ? {} : object.json<Record<string, unknown>>();
}

async function entriesOf(env: Env, ref: string): Promise<StoredEvent[]> {
  const object = await env.FILES.get(ref);
  return object === null ? [] : object.json<StoredEvent[]>();
}

/** All outputs in the log, in order: what another attempt has to repeat. */
export async function outputsOf(env: Env, store: PredictionStore, id: string): Promise<unknown[]> {
  const outputs: unknown[] = [];
  await eachEntry(env, store, id, (entry) => {
    if (entry.type === "output") outputs.push(entry.value);
  });
  return outputs;
}

/** Goes through the log a page at a time. Commits are made by timers, so what is read just behind it fits what it told. */
async function eachEntry(
  env: Env,
  store: PredictionStore,
  id: string,
  tell: (entry: StoredEvent) => void,
): Promise<void> {
  for (let from = 0; ; ) {
    const page = store.logPage(id, from, PAGE_BYTES);
    const last = page.at(-1);
    if (last === undefined) return;
    for (const row of page) {
      for (const entry of Array.isArray(row.events) ? row.events : await entriesOf(env, row.events.ref)) tell(entry);
    }
    from = last.seq + last.entries;
    if (from >= (store.get(id)?.stage.next_seq ?? 0)) return;
  }
}

/**
 * A page of a stream: about `bytesMax` of text, one event at least. Synchronous where nothing lies in R2, so that a reader joins the live ones without
 * an await in between.
 */
export function loadPage(
  env: Env,
  store: PredictionStore,
  view: View,
  id: string,
  position: StreamPosition,
  bytesMax: number,
): Page | Promise<Page> {
  const encode = (seq: number, entry: StoredEvent): string =>
    encodeStored(id, seq, entry, view, position.skipError && seq === position.seq);
  let { seq } = position;
  let text = "";
  const pageSoFar = (): Page => ({ text, next: { seq, skipError: false }, atEnd: false, isOver: false });
  const rows = store.logPage(id, position.seq, bytesMax);
  for (const row of rows) {
    if (!Array.isArray(row.events)) {
      // A large event is a page of its own, and never the last one: what is stored during the await is read by the next.
      if (text !== "") return pageSoFar();
      seq = row.seq + row.entries;
      return entriesOf(env, row.events.ref).then((entries) => {
        text = entries.map((entry) => encode(row.seq, entry)).join("");
        return pageSoFar();
      });
    }
    seq = Math.max(seq, row.seq);
    for (const entry of row.events.slice(seq - row.seq)) {
      text += encode(seq, entry);
      seq += 1;
      if (text.length >= bytesMax) return pageSoFar();
    }
  }
  const current = store.get(id);
  if (current === null || current.stage.removed_at !== null) return { ...pageSoFar(), atEnd: true, isOver: true };
  // Where there are no rows, there is nothing more, though the newest lines of logs may have gone again at once.
  if (rows.length === 0) seq = Math.max(seq, current.stage.next_seq);
  const atEnd = seq >= current.stage.next_seq;
  return { ...pageSoFar(), atEnd, isOver: atEnd && isTerminal(current.stage.life.state) };
}

/** Deletes everything that R2 holds of a prediction, unfinished uploads too. */
export async function removeObjects(env: Env, id: string): Promise<void> {
  for (const prefix of [`predictions/${id}/`, `outputs/${id}/`]) {
    for (;;) {
      const { objects } = await env.FILES.list({ prefix, limit: R2_DELETE_MAX });
      if (objects.length === 0) break;
      const keys = objects.map((object) => object.key);
      await abortUploads(env.FILES, keys);
      await env.FILES.delete(keys);
    }
  }
}
