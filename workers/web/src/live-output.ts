/** What a stream has told so far. A pure fold over its events, so that replays and resumed streams come to the same state. */
export interface StreamEvent {
  /** Opaque; the same for every reader, so a repeat is known by it. */
  id: string;
  event: string;
  data: string;
}

export interface LiveOutput {
  items: string[];
  logs: string;
  isDone: boolean;
  lastEventId: string | null;
}

export const NOTHING_YET: LiveOutput = { items: [], logs: "", isDone: false, lastEventId: null };

/** The edge keeps as much of a prediction's logs; the page holds no more. */
const LOG_CHARACTERS_MAX = 1024 * 1024;

export function foldEvents(before: LiveOutput, events: StreamEvent[]): LiveOutput {
  if (events.length === 0) return before;
  const items = [...before.items];
  let { logs, isDone, lastEventId } = before;
  for (const { id, event, data } of events) {
    if (event === "output") items.push(data);
    else if (event === "logs") logs = addLog(logs, data);
    else if (event === "done") isDone = true;
    if (id !== "") lastEventId = id;
  }
  return { items, logs, isDone, lastEventId };
}

function addLog(logs: string, data: string): string {
  const joined = logs + data;
  return joined.length > LOG_CHARACTERS_MAX ? joined.slice(-LOG_CHARACTERS_MAX) : joined;
}
