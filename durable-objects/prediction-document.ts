/** Reads of a prediction out of its SQLite and R2: the document as a fold of its log, pages for streams, and what its removal takes away. */

import type { PredictionDocument } from "../schema/prediction-document.ts";
import { isTerminal, meterOf } from "../schema/prediction-lifecycle.ts";
import { LogFold, type StoredEvent } from "../schema/prediction-log.ts";
import type { View } from "../schema/render-prediction.ts";
import { encodeStored, type StreamPosition } from "../schema/stream-events.ts";
import { abortUploads } from "./output-uploads.ts";
import type { LogRow, PredictionRow, PredictionStore } from "./prediction-store.ts";
import type { Page } from "./stream-readers.ts";

/** A page of replay (design section 9). */
const PAGE_BYTES = 262_144;
/** The account keeps no larger documents in its list. */
const SETTLED_BYTES_MAX = 16_384;
/** Keys that one R2 call deletes at most. */
const R2_DELETE_MAX = 1_000;

/** The newest document; null when there is no such prediction. */
export async function loadDocument(env: Env, store: PredictionStore, id: string): Promise<PredictionDocument | null> {
  const asked = store.get(id);
  if (asked === null) return null;
  const input = asked.stage.removed_at === null ? await shownInput(env, store, asked) : {};
  const fold = new LogFold();
  for (let from = 0; ; ) {
    const page = store.logPage(id, from, PAGE_BYTES);
    const last = page.at(-1);
    if (last === undefined) break;
    for (const part of page) {
      for (const entry of Array.isArray(part.events) ? part.events : await entriesOf(env, part)) fold.add(entry);
    }
    from = last.seq + last.entries;
  }
  // No await since the last, empty page: this row and that log fit each other.
  const row = store.get(id);
  return row === null ? null : documentOf(row, row.stage.removed_at === null ? input : {}, fold);
}

function documentOf(row: PredictionRow, input: Record<string, unknown>, fold: LogFold): PredictionDocument {
  const { request, stage } = row;
  const { life } = stage;
  const folded = fold.result();
  return {
    id: row.id,
    account_id: request.account_id,
    model: request.spec.model,
    version: request.spec.version_id,
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
    deployment: null,
    webhook: request.webhook,
    webhook_events_filter: request.webhook_events_filter,
    stream_kind: request.stream_kind,
    meter: meterOf(life, request.spec.hardware),
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

async function entriesOf(env: Env, row: LogRow): Promise<StoredEvent[]> {
  if (Array.isArray(row.events)) return row.events;
  const object = await env.FILES.get(row.events.ref);
  return object === null ? [] : object.json<StoredEvent[]>();
}

/** All outputs in the log, in order: what another attempt has to repeat. */
export async function outputsOf(env: Env, store: PredictionStore, id: string): Promise<unknown[]> {
  const outputs: unknown[] = [];
  for (const row of store.logPage(id, 0, Number.POSITIVE_INFINITY)) {
    for (const entry of await entriesOf(env, row)) if (entry.type === "output") outputs.push(entry.value);
  }
  return outputs;
}

/** A page of a stream. Synchronous where nothing lies in R2, so that a reader joins the live ones without an await in between. */
export function loadPage(
  env: Env,
  store: PredictionStore,
  view: View,
  id: string,
  position: StreamPosition,
): Page | Promise<Page> {
  const rows = store.logPage(id, position.seq, PAGE_BYTES);
  const last = rows.at(-1);
  const nextSeq = Math.max(position.seq, last === undefined ? 0 : last.seq + last.entries);
  const next = { seq: nextSeq, skipError: false };
  const encode = (row: LogRow, entries: StoredEvent[]): string =>
    entries
      .map((entry, i) => {
        const seq = row.seq + i;
        if (seq < position.seq) return "";
        return encodeStored(id, seq, entry, view, position.skipError && seq === position.seq);
      })
      .join("");
  let text = "";
  for (const row of rows) {
    if (!Array.isArray(row.events)) {
      // Never the last page: what is stored during the await is read by the next one.
      return Promise.all(rows.map(async (each) => encode(each, await entriesOf(env, each)))).then((texts) => ({
        text: texts.join(""),
        next,
        atEnd: false,
        isOver: false,
      }));
    }
    text += encode(row, row.events);
  }
  const current = store.get(id);
  const isGone = current === null || current.stage.removed_at !== null;
  const atEnd = isGone || nextSeq >= current.stage.next_seq;
  return { text, next, atEnd, isOver: atEnd && (isGone || isTerminal(current.stage.life.state)) };
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
