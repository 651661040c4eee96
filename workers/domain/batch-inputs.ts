/** The inputs of a batch, read as a stream: lines within bounds, each validated as a create's input is. Every fault is named, up to a bound. */
import type { BatchInput } from "../../durable-objects/batch-contract.ts";
import {
  BATCH_BYTES_MAX,
  BATCH_INPUTS_MAX,
  BATCH_LINE_BYTES_MAX,
  type BatchLine,
  parseBatchLine,
} from "../../schema/batches.ts";
import { AppError, type InvalidField } from "../../schema/problems.ts";
import type { VersionRow } from "../storage/models.ts";
import { validateInput } from "./validate-input.ts";

/** Faults that one answer names. */
const FAULTS_MAX = 50;
/** What one call to the BatchObject carries. */
const CHUNK_INPUTS_MAX = 500;
const CHUNK_CHARACTERS_MAX = 1_048_576;

/** Chunks of validated inputs, in order. Throws `batch.invalid` with the faults at the end, or as soon as there are too many. */
export async function* batchInputs(
  lines: AsyncIterable<BatchLine | string>,
  version: VersionRow,
): AsyncGenerator<BatchInput[]> {
  const faults: InvalidField[] = [];
  let chunk: BatchInput[] = [];
  let characters = 0;
  let index = 0;
  for await (const line of lines) {
    if (index >= BATCH_INPUTS_MAX) throw invalidBatch(`A batch has at most ${BATCH_INPUTS_MAX} inputs.`, []);
    const checked = checkLine(line, index, version);
    index += 1;
    if (Array.isArray(checked)) {
      faults.push(...checked);
      if (faults.length >= FAULTS_MAX) break;
      continue;
    }
    chunk.push(checked.input);
    characters += checked.characters;
    if (chunk.length < CHUNK_INPUTS_MAX && characters < CHUNK_CHARACTERS_MAX) continue;
    if (faults.length === 0) yield chunk;
    chunk = [];
    characters = 0;
  }
  if (faults.length > 0) {
    const shown = faults.slice(0, FAULTS_MAX);
    throw invalidBatch(shown.map((fault) => `- ${fault.field}: ${fault.description}\n`).join(""), shown);
  }
  if (index === 0) throw invalidBatch("The batch has no inputs: each line is a JSON object.", []);
  if (chunk.length > 0) yield chunk;
}

function invalidBatch(detail: string, invalid_fields: InvalidField[]): AppError {
  return new AppError("batch.invalid", detail, { invalid_fields });
}

function checkLine(
  line: BatchLine | string,
  index: number,
  version: VersionRow,
): { input: BatchInput; characters: number } | InvalidField[] {
  const place = `line ${index + 1}`;
  if (typeof line === "string") return [{ type: "invalid_type", field: place, description: line }];
  const checked = validateInput(version.id, version.openapi_schema, line.input);
  if (!checked.ok) return checked.faults.map((fault) => ({ ...fault, field: `${place}: ${fault.field}` }));
  const { input, shown_input, log_lines } = checked;
  const characters = JSON.stringify(input).length;
  return { input: { index, custom_id: line.custom_id, input, shown_input, log_lines }, characters };
}

/** Parsed lines of JSONL; empty ones are skipped. Only one line is held at a time, and never more than its bound. */
export async function* readLines(body: ReadableStream<Uint8Array>): AsyncGenerator<BatchLine | string> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });
  const reader = body.getReader();
  let bytes = 0;
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      bytes += value?.byteLength ?? 0;
      if (bytes > BATCH_BYTES_MAX) throw invalidBatch(`A batch's inputs have at most ${BATCH_BYTES_MAX} bytes.`, []);
      rest += decode(decoder, value, done);
      const lines = rest.split("\n");
      rest = done ? "" : (lines.pop() ?? "");
      for (const line of lines) if (line.trim() !== "") yield parseLine(line);
      if (rest.length > BATCH_LINE_BYTES_MAX) yield parseLine(rest);
      if (done || rest.length > BATCH_LINE_BYTES_MAX) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

function parseLine(line: string): BatchLine | string {
  return line.length > BATCH_LINE_BYTES_MAX
    ? `is longer than ${BATCH_LINE_BYTES_MAX} bytes: pass large values as URLs of files`
    : parseBatchLine(line);
}

function decode(decoder: TextDecoder, value: Uint8Array | undefined, done: boolean): string {
  try {
    return decoder.decode(value, { stream: !done });
  } catch {
    throw invalidBatch("The inputs are not UTF-8 text.", []);
  }
}
