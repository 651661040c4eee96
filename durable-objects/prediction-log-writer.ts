/** Writes of a prediction's log: entries into rows of a bounded size, large ones into R2, and the oldest log lines go where there are too many. */
import type { AttemptBatch, AttemptEvent } from "../schema/origin-protocol.ts";
import { type StoredEvent, storedEvents } from "../schema/prediction-log.ts";
import {
  eventKey,
  LOG_ENTRIES_MAX,
  LOG_ROW_BYTES_MAX,
  LOG_TOTAL_BYTES_MAX,
  type PredictionStore,
  type Stage,
} from "./prediction-store.ts";

/** Stores log entries in rows of a bounded size, and lets the oldest log lines go where there are too many. */
export function appendLog(
  store: PredictionStore,
  id: string,
  stored: StoredEvent[],
  seq: number,
  stage: Stage,
  spilled: Map<string, string>,
): Stage {
  let { log_entries, log_bytes, has_objects } = stage;
  let first = seq;
  let row: string[] = [];
  let bytes = 0;
  let isLogsOnly = true;
  const flush = (): void => {
    if (row.length === 0) return;
    const events = `[${row.join(",")}]`;
    store.appendLog(id, { seq: first, entries: row.length, bytes, isLogsOnly, events, ref: null });
    first += row.length;
    row = [];
    bytes = 0;
    isLogsOnly = true;
  };
  for (const entry of stored) {
    const text = JSON.stringify(entry);
    const isLog = entry.type === "log";
    const ref = text.length > LOG_ROW_BYTES_MAX ? spilled.get(text) : undefined;
    if (ref !== undefined || bytes + text.length > LOG_ROW_BYTES_MAX) flush();
    log_entries += 1;
    log_bytes += text.length;
    if (ref === undefined) {
      row.push(text);
      bytes += text.length;
      isLogsOnly &&= isLog;
      has_objects ||= text.includes('"$cogway_file"');
    } else {
      store.appendLog(id, { seq: first, entries: 1, bytes: text.length, isLogsOnly: isLog, events: null, ref });
      first += 1;
      has_objects = true;
    }
  }
  flush();
  if (log_entries > LOG_ENTRIES_MAX || log_bytes > LOG_TOTAL_BYTES_MAX) {
    const freed = store.dropOldLogs(id, log_entries - LOG_ENTRIES_MAX, log_bytes - LOG_TOTAL_BYTES_MAX);
    log_entries -= freed.entries;
    log_bytes -= freed.bytes;
  }
  return { ...stage, log_entries, log_bytes, has_objects };
}

/** Entries above the size of a row go to R2 before the commit that names them. Answers their JSON -> key. */
export async function spillLarge(env: Env, batch: AttemptBatch): Promise<Map<string, string>> {
  const spilled = new Map<string, string>();
  for (const event of batch.events) {
    for (const text of largeEntries(event)) {
      const key = eventKey(batch.prediction_id, batch.attempt, event.i);
      await env.FILES.put(key, `[${text}]`);
      spilled.set(text, key);
    }
  }
  return spilled;
}

/** The JSON of what an event becomes in the log, where that is too large for a row. */
function largeEntries(event: AttemptEvent): string[] {
  const content = event.type === "log" ? event.data : event.type === "output" ? event.value : null;
  // Most are a few words, and a character takes six of JSON at most.
  if (typeof content === "string" && content.length < LOG_ROW_BYTES_MAX / 8) return [];
  return storedEvents(event)
    .map((entry) => JSON.stringify(entry))
    .filter((text) => text.length > LOG_ROW_BYTES_MAX);
}
