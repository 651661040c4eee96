/**
 * What a batch is: many inputs of one version, run behind everything else, each once. Pure: how a line is
 * read. The state is in the BatchObject.
 */

/** Inputs of one batch. */
export const BATCH_INPUTS_MAX = 50_000;
/** Bytes of its JSONL. */
export const BATCH_BYTES_MAX = 67_108_864;
/** Bytes of one line; longer inputs are given as files. Equals the bound of any stored value. */
export const BATCH_LINE_BYTES_MAX = 262_144;
/** A batch ends by then: what still waits is canceled. Files among its inputs are kept, and their addresses work, for so long. */
export const BATCH_MAX_MS = 7 * 86_400_000;
/** Inputs that run or wait in the queue at once, at most and unless it is said. */
export const BATCH_CONCURRENCY_MAX = 100;
export const BATCH_CONCURRENCY_DEFAULT = 10;

/** `loading` while its inputs are read, which nobody but its creator sees. */
export type BatchState = "loading" | "processing" | "canceling" | "succeeded" | "canceled";

/** How many of its inputs are in which state. They add up to `total`. */
export interface BatchCounts {
  total: number;
  pending: number;
  running: number;
  succeeded: number;
  failed: number;
  canceled: number;
}

/** A batch as its object tells it. Times are epoch milliseconds. */
export interface BatchDocument {
  id: string;
  account_id: string;
  /** owner/name */
  model: string;
  version: string;
  state: BatchState;
  max_concurrency: number;
  counts: BatchCounts;
  created_at: number;
  started_at: number | null;
  completed_at: number | null;
  /** when inputs and results go; null while it runs, or for ever */
  expires_at: number | null;
  data_removed: boolean;
}

export interface BatchLine {
  /** what the caller calls it, given back with its result */
  custom_id: string | null;
  input: unknown;
}

const CUSTOM_ID_CHARACTERS_MAX = 255;

/**
 * One line of the JSONL: the input object itself, or `{"input": {…}, "custom_id": "…"}`. An input that has a member `input` of its own, an object, is
 * written in the second form. A string says what is wrong.
 */
export function parseBatchLine(text: string): BatchLine | string {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return "is not JSON";
  }
  if (!isObject(value)) return "is not a JSON object";
  const { input, custom_id, ...rest } = value;
  if (!isObject(input) || Object.keys(rest).length > 0) return { custom_id: null, input: value };
  if (custom_id === undefined) return { custom_id: null, input };
  if (typeof custom_id !== "string" || custom_id.length > CUSTOM_ID_CHARACTERS_MAX) {
    return `custom_id must be a string of at most ${CUSTOM_ID_CHARACTERS_MAX} characters`;
  }
  return { custom_id, input };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
