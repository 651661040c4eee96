/**
 * Writes the body of one request behind what an upload of the registry has already: a part goes to R2 as soon as it is full (durable-objects/blob-parts.ts),
 * and what is behind the last full one is given back. Never more than a part is held of a body.
 */
import { createHash } from "node:crypto";
import { addParts, countParts, PART_BYTES, PARTS_MAX, partKey, type Run } from "../../durable-objects/blob-parts.ts";
import type { OpenUpload } from "../../durable-objects/registry-contract.ts";

export const BLOB_BYTES_MAX = PART_BYTES * PARTS_MAX;

export interface WrittenBody {
  /** of the whole upload */
  size_bytes: number;
  runs: Run[];
  /** what is behind the last part */
  rest: Uint8Array;
  /** hex of the whole upload; null where it did not come in one request */
  sha256: string | null;
}

/** A body that broke off, with what of it is in R2. */
export class BrokenBody extends Error {
  readonly written: Pick<WrittenBody, "size_bytes" | "runs">;

  constructor(written: BrokenBody["written"], cause: unknown) {
    super("the body broke off", { cause });
    this.written = written;
  }
}

export class BodyTooLarge extends Error {}

/** `length`: of the body, where the request says it. */
export async function writeBody(
  bucket: R2Bucket,
  upload: OpenUpload,
  body: ReadableStream<Uint8Array> | null,
  length: number | null,
): Promise<WrittenBody> {
  const hash = upload.size_bytes === 0 ? createHash("sha256") : null;
  const before = countParts(upload.runs);
  let parts = 0;
  const runs = (): Run[] => addParts(upload.runs, upload.lease, parts);
  let held = upload.tail?.size_bytes ?? 0;
  const capacity = Math.min(PART_BYTES, held + (length ?? PART_BYTES));
  let buffer = await readTail(bucket, upload, capacity);
  let size_bytes = upload.size_bytes;
  const reader = body?.getReader({ mode: "byob" });
  while (reader !== undefined && held < capacity) {
    const room = new Uint8Array(buffer, held, capacity - held);
    const asked = room.length;
    const { value, done } = await reader.readAtLeast(asked, room).catch((cause) => {
      throw new BrokenBody({ size_bytes: (before + parts) * PART_BYTES, runs: runs() }, cause);
    });
    if (value === undefined) throw new Error("a read without its buffer");
    buffer = value.buffer;
    hash?.update(value);
    held += value.length;
    size_bytes += value.length;
    if (size_bytes > BLOB_BYTES_MAX) throw new BodyTooLarge();
    if (held === PART_BYTES) {
      await bucket.put(partKey(upload.key, upload.lease, before + parts), new Uint8Array(buffer));
      parts += 1;
      held = 0;
    }
    if (done || value.length < asked) break;
  }
  return {
    size_bytes,
    runs: runs(),
    rest: new Uint8Array(buffer, 0, held),
    sha256: hash?.digest("hex") ?? (size_bytes === upload.size_bytes ? upload.sha256 : null),
  };
}

/** A buffer that begins with what came behind the last part. */
async function readTail(bucket: R2Bucket, { tail }: OpenUpload, capacity: number): Promise<ArrayBuffer> {
  const buffer = new ArrayBuffer(capacity);
  if (tail === null) return buffer;
  const stored = await bucket.get(tail.key);
  if (stored === null) throw new Error("the tail of an upload is gone");
  new Uint8Array(buffer).set(new Uint8Array(await stored.arrayBuffer()));
  return buffer;
}
