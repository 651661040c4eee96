/** The file of results of a batch: one line of JSON for each input, in their order, in R2. Made from rows that may be made into it again. */
import type { PredictionDocument } from "../schema/prediction-document.ts";
import { publicStatus } from "../schema/prediction-lifecycle.ts";
import { renderOutput, type View } from "../schema/render-prediction.ts";
import type { BatchStore } from "./batch-store.ts";
import type { SpendRefusal } from "./ledger-contract.ts";

/** Parts of one object in R2 have one size, but for the last: at least 5 MiB. */
const PART_BYTES = 8_388_608;
/** A result up to this long stays in its row; a longer one is an R2 object of its own until the file is made. */
export const RESULT_ROW_BYTES_MAX = 65_536;

export function resultsKey(batchId: string): string {
  return `batches/${batchId}/results.jsonl`;
}

export function resultKey(batchId: string, index: number): string {
  return `batches/${batchId}/results/${index}`;
}

/** One line: the input's place, its name, and what became of it. */
export function resultLine(
  index: number,
  customId: string | null,
  document: PredictionDocument | null,
  view: View,
): string {
  const status = document === null ? "canceled" : publicStatus(document.state, document.started_at);
  return JSON.stringify({
    index,
    custom_id: customId,
    prediction_id: document?.id ?? null,
    status,
    output: document === null ? null : renderOutput(document.output, document.id, view),
    error: document?.error ?? null,
    metrics: document?.metrics ?? {},
    cost: document?.cost_micros ?? 0,
  });
}

/** The same of an input that a budget or balance did not allow to start. */
export function refusedLine(index: number, customId: string | null, { code, detail }: SpendRefusal): string {
  const line = JSON.parse(resultLine(index, customId, null, { publicUrl: "", signingSecret: "" }));
  return JSON.stringify({ ...line, status: "failed", error: detail, error_code: code });
}

/** Writes the file, in parts that are each held whole and never more. Running it again replaces it. */
export async function writeResults(bucket: R2Bucket, batchId: string, store: BatchStore, view: View): Promise<void> {
  const upload = await bucket.createMultipartUpload(resultsKey(batchId), {
    httpMetadata: { contentType: "application/x-ndjson" },
  });
  try {
    const parts: R2UploadedPart[] = [];
    const encoder = new TextEncoder();
    let part = new Uint8Array(PART_BYTES);
    let filled = 0;
    const put = async (bytes: Uint8Array): Promise<void> => {
      parts.push(await upload.uploadPart(parts.length + 1, bytes));
    };
    const add = async (text: string): Promise<void> => {
      for (let bytes = encoder.encode(text); bytes.byteLength > 0; ) {
        const taken = bytes.subarray(0, PART_BYTES - filled);
        part.set(taken, filled);
        filled += taken.byteLength;
        bytes = bytes.subarray(taken.byteLength);
        if (filled < PART_BYTES) continue;
        await put(part);
        part = new Uint8Array(PART_BYTES);
        filled = 0;
      }
    };
    for (let from = 0; ; ) {
      const rows = store.results(from);
      const last = rows.at(-1);
      if (last === undefined) break;
      for (const row of rows) {
        const stored = row.result_ref === null ? row.result : await textOf(bucket, row.result_ref);
        await add(`${stored ?? resultLine(row.i, row.custom_id, null, view)}\n`);
      }
      from = last.i + 1;
    }
    if (filled > 0 || parts.length === 0) await put(part.subarray(0, filled));
    await upload.complete(parts);
  } catch (error) {
    await upload.abort().catch(() => undefined);
    throw error;
  }
}

async function textOf(bucket: R2Bucket, key: string): Promise<string | null> {
  const object = await bucket.get(key);
  return object === null ? null : object.text();
}
