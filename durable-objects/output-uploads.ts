/**
 * Output files that come in parts: one R2 multipart upload for each file of an attempt. R2 gives no list of unfinished uploads, so each has a record beside
 * the prediction's data, from its beginning until that data is removed; whoever holds no record has no upload. What a crash leaves between an upload and its
 * record, R2 removes by itself after 7 days.
 */
import { z } from "zod";
import { type FileRef, FileRefSchema, type OutputPart } from "../schema/origin-protocol.ts";

/** Of the file that is uploaded; `name` and `n` are inside. */
type OutputFile = FileRef["$cogway_file"];

const RecordSchema = z.object({ key: z.string(), upload_id: z.string(), file: FileRefSchema.shape.$cogway_file });
type UploadRecord = z.infer<typeof RecordSchema>;

const RECORD_KEY = /^predictions\/[^/]+\/uploads\//;

interface Attempt {
  prediction_id: string;
  attempt: number;
}

export interface UploadPlace extends Attempt {
  n: number;
}

export function outputKey(predictionId: string, { n, name }: Pick<OutputFile, "n" | "name">): string {
  return `outputs/${predictionId}/${n}/${name}`;
}

function recordsOf({ prediction_id, attempt }: Attempt): string {
  return `predictions/${prediction_id}/uploads/${attempt}/`;
}

function recordKey(place: UploadPlace): string {
  return `${recordsOf(place)}${place.n}`;
}

/** Once for a file, however often it is asked: of several that begin at the same time, the first record stays and the others end their uploads. */
export async function beginUpload(files: R2Bucket, place: UploadPlace, file: OutputFile): Promise<void> {
  if ((await files.head(recordKey(place))) !== null) return;
  const key = outputKey(place.prediction_id, file);
  const upload = await files.createMultipartUpload(key, {
    httpMetadata: { contentType: file.content_type },
    customMetadata: { sha256: file.sha256 },
  });
  const record: UploadRecord = { key, upload_id: upload.uploadId, file };
  const kept = await files.put(recordKey(place), JSON.stringify(record), { onlyIf: { etagDoesNotMatch: "*" } });
  if (kept === null) await upload.abort();
}

/** Stores a part, in place of an earlier one of its number. Null when there is no such upload. Rejects as `body` does. */
export async function putPart(
  files: R2Bucket,
  place: UploadPlace,
  part: number,
  body: ReadableStream,
): Promise<OutputPart | null> {
  const record = await readRecord(files, recordKey(place));
  if (record === null) return null;
  try {
    const { etag } = await files.resumeMultipartUpload(record.key, record.upload_id).uploadPart(part, body);
    return { part, etag };
  } catch (error) {
    if (!isUploadRefusal(error)) throw error;
    return null;
  }
}

/**
 * Makes the file of its parts, and of a file that was made already says so again. Null when there is no such upload, or its parts are not these (a late
 * repeat of a part may have come over a newer one): the upload is then gone, and the next one begins anew.
 */
export async function completeUpload(
  files: R2Bucket,
  place: UploadPlace,
  parts: OutputPart[],
): Promise<FileRef | null> {
  const record = await readRecord(files, recordKey(place));
  if (record === null) return null;
  const { key, upload_id, file } = record;
  let stored: R2Object | null;
  try {
    const named = parts.map(({ part, etag }) => ({ partNumber: part, etag }));
    stored = await files.resumeMultipartUpload(key, upload_id).complete(named);
    if (stored.size !== file.size_bytes) await files.delete(key);
  } catch (error) {
    if (!isUploadRefusal(error)) throw error;
    // So an upload is refused that was completed, when the answer was lost.
    stored = await files.head(key);
  }
  const isWhole = stored?.size === file.size_bytes && stored.customMetadata?.["sha256"] === file.sha256;
  if (isWhole) return { $cogway_file: file };
  await abortUploads(files, [recordKey(place)]);
  await files.delete(recordKey(place));
  return null;
}

/** Ends what an attempt that is over has begun. */
export async function abortAttempt(files: R2Bucket, attempt: Attempt): Promise<void> {
  const { objects } = await files.list({ prefix: recordsOf(attempt) });
  const keys = objects.map((object) => object.key);
  await abortUploads(files, keys);
  await files.delete(keys);
}

/** Ends the uploads whose records are among these keys, which the caller deletes behind it. Files that were completed stay. */
export async function abortUploads(files: R2Bucket, keys: string[]): Promise<void> {
  for (const key of keys.filter((each) => RECORD_KEY.test(each))) {
    const record = await readRecord(files, key);
    if (record === null) continue;
    try {
      await files.resumeMultipartUpload(record.key, record.upload_id).abort();
    } catch (error) {
      if (!isUploadRefusal(error)) throw error;
    }
  }
}

async function readRecord(files: R2Bucket, key: string): Promise<UploadRecord | null> {
  const stored = await files.get(key);
  return stored === null ? null : RecordSchema.parse(await stored.json());
}

/**
 * R2's word for an upload that is over, or parts that are not as they should be: 10011 too small, 10024 no such upload, 10025 no such part, 10048 unequal
 * sizes. It has no other place for its codes: https://developers.cloudflare.com/r2/api/error-codes/
 */
export function isUploadRefusal(error: unknown): boolean {
  return /\((?:10011|10024|10025|10048)\)/.test(String(error));
}
