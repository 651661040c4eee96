/**
 * Writes the body of one request behind what an upload of the registry has already: parts of equal size go to R2 as they fill, and what is behind the last
 * full one is held, as R2 takes a smaller part only at the end. Never more than a part is held of a body.
 */
import { createHash } from "node:crypto";
import type { OpenUpload, UploadPart } from "../../durable-objects/registry-contract.ts";

/** R2 wants 5 MiB at least, equal parts, and 10,000 of them at most: blobs of 80 GiB. */
export const PART_BYTES = 8_388_608;
const PARTS_MAX = 10_000;
export const BLOB_BYTES_MAX = PART_BYTES * PARTS_MAX;

export interface WrittenBody {
  /** of the whole upload */
  size_bytes: number;
  multipart: string | null;
  /** new ones alone */
  parts: UploadPart[];
  /** what is behind the last part */
  rest: Uint8Array;
  /** hex of the whole upload; null where it did not come in one request */
  sha256: string | null;
}

/** A body that broke off, with what of it is in R2. */
export class BrokenBody extends Error {
  readonly written: Omit<WrittenBody, "rest" | "sha256">;

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
  const parts: UploadPart[] = [];
  let inR2 = upload.multipart === null ? null : bucket.resumeMultipartUpload(upload.key, upload.multipart);
  let held = upload.tail?.size_bytes ?? 0;
  const capacity = Math.min(PART_BYTES, held + (length ?? PART_BYTES));
  let buffer = await readTail(bucket, upload, capacity);
  let size_bytes = upload.size_bytes;
  const reader = body?.getReader({ mode: "byob" });
  while (reader !== undefined && held < capacity) {
    const room = new Uint8Array(buffer, held, capacity - held);
    const asked = room.length;
    const { value, done } = await reader.readAtLeast(asked, room).catch((cause) => {
      const atParts = (upload.parts.length + parts.length) * PART_BYTES;
      throw new BrokenBody({ size_bytes: atParts, multipart: inR2?.uploadId ?? null, parts }, cause);
    });
    if (value === undefined) throw new Error("a read without its buffer");
    buffer = value.buffer;
    hash?.update(value);
    held += value.length;
    size_bytes += value.length;
    if (size_bytes > BLOB_BYTES_MAX) throw new BodyTooLarge();
    if (held === PART_BYTES) {
      inR2 ??= await bucket.createMultipartUpload(upload.key);
      const part = upload.parts.length + parts.length + 1;
      const { etag } = await inR2.uploadPart(part, new Uint8Array(buffer));
      parts.push({ part, etag });
      held = 0;
    }
    if (done || value.length < asked) break;
  }
  return {
    size_bytes,
    multipart: inR2?.uploadId ?? null,
    parts,
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
