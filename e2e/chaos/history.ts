/**
 * What callers saw of each prediction, call by call, and whether one prediction that lives once can have looked so: created before it is read, its status
 * never going back, its end never changing. Calls that overlap say nothing about each other's order. Pure.
 */
import { type Prediction, TERMINAL } from "../lib/api.ts";

export interface Call {
  kind: "create" | "get" | "cancel";
  /** which prediction of the plan */
  key: number;
  /** milliseconds of one clock */
  start: number;
  end: number;
  status: number;
  /** of a good answer */
  document: Prediction | null;
}

export interface Anomaly {
  key: number;
  what: string;
}

const RANKS: Record<string, number> = { starting: 0, processing: 1 };

function rankOf({ status }: Prediction): number {
  return RANKS[status] ?? 2;
}

/** The anomalies of all predictions; none in a history that is right. */
export function checkHistory(calls: readonly Call[]): Anomaly[] {
  const byKey = Map.groupBy(calls, ({ key }) => key);
  return [...byKey].flatMap(([key, own]) => checkOne(own).map((what) => ({ key, what })));
}

function checkOne(calls: Call[]): string[] {
  const found = new Set<string>();
  const seen = calls.filter((call) => call.document !== null);
  const ids = new Set(seen.map(({ document }) => document?.id));
  if (ids.size > 1) found.add(`several predictions of one idempotency key: ${[...ids].join(", ")}`);
  const acknowledged = Math.min(...calls.filter(({ kind, document }) => kind === "create" && document).map(byEnd));
  for (const { kind, start, status } of calls) {
    if (kind !== "create" && status === 404 && start > acknowledged) found.add(`${kind} did not find it`);
  }
  for (const { document } of seen) if (document !== null) for (const what of checkDocument(document)) found.add(what);
  for (const what of checkOrder(seen)) found.add(what);
  const ends = new Set(seen.flatMap(({ document }) => (document && isEnd(document) ? [JSON.stringify(document)] : [])));
  if (ends.size > 1) found.add(`its end changed: ${[...ends].join(" then ").slice(0, 2_000)}`);
  return [...found];
}

function checkOrder(seen: Call[]): string[] {
  const found: string[] = [];
  // In the order of their starts, against the furthest that a call which ended before had seen.
  const ended = seen.toSorted((a, b) => a.end - b.end);
  let next = 0;
  let furthest: Prediction | null = null;
  for (const { kind, start, document } of seen.toSorted((a, b) => a.start - b.start)) {
    for (let before = ended[next]; before !== undefined && before.end < start; before = ended[++next]) {
      const { document: other } = before;
      if (other !== null && (furthest === null || rankOf(other) >= rankOf(furthest))) furthest = other;
    }
    if (document === null || furthest === null) continue;
    // The answer of a create whose wait ran out, or that is replayed, says `starting` whatever is.
    if (kind === "create" && !isEnd(document)) continue;
    if (rankOf(document) < rankOf(furthest)) found.push(`${document.status} after ${furthest.status}`);
    if (furthest.started_at !== null && document.started_at !== furthest.started_at) {
      found.push(`started_at ${document.started_at} after ${furthest.started_at}`);
    }
    if (outputLength(document) < outputLength(furthest)) found.push("its output became shorter");
  }
  return found;
}

function checkDocument(document: Prediction): string[] {
  const { status, created_at, started_at, completed_at, error, output } = document;
  const found: string[] = [];
  if (isEnd(document) !== (completed_at !== null)) found.push(`${status} with completed_at ${completed_at}`);
  const times = [created_at, started_at, completed_at].filter((time) => time !== null);
  if (times.toSorted().join() !== times.join()) found.push(`times out of order: ${times.join(", ")}`);
  if (status === "succeeded" && (error !== null || output === null))
    found.push("succeeded with an error, or no output");
  if (status === "failed" && !error) found.push("failed without an error");
  return found;
}

export function isEnd({ status }: Prediction): boolean {
  return TERMINAL.includes(status);
}

function outputLength({ output }: Prediction): number {
  return Array.isArray(output) ? output.length : 0;
}

function byEnd({ end }: Call): number {
  return end;
}
