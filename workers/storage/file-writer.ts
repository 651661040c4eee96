/**
 * Writes one file of unknown length to R2 while it comes: a small one at once, a larger one by R2's multipart upload, so that never more than a part is
 * held. SHA-256 and MD5 are taken in the same pass.
 */
import { createHash } from "node:crypto";
import { FILE_BYTES_MAX, fileKey } from "../../schema/files.ts";
import { AppError } from "../../schema/problems.ts";
import { takeUploadPlace } from "./upload-places.ts";

/** R2's smallest part, and so the most that is held of a file; all parts but the last are equal. */
const PART_BYTES = 5_242_880;
/** What is above this takes one of the isolate's places; those that wait for one hold no more. */
const LARGE_BYTES = 262_144;

export interface WrittenFile {
  size_bytes: number;
  /** lower-case hex */
  sha256: string;
  md5: string;
}

export class FileWriter {
  readonly #bucket: R2Bucket;
  readonly #key: string;
  readonly #begin: (uploadId: string | null) => Promise<void>;
  readonly #sha256 = createHash("sha256");
  readonly #md5 = createHash("md5");
  readonly #parts: R2UploadedPart[] = [];
  #upload: R2MultipartUpload | null = null;
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #size = 0;
  #leave: (() => void) | null = null;

  /** `begin` is called once, before the first byte goes to R2, with R2's multipart upload if there is one; it may refuse by throwing. */
  constructor(bucket: R2Bucket, id: string, begin: (uploadId: string | null) => Promise<void>) {
    this.#bucket = bucket;
    this.#key = fileKey(id);
    this.#begin = begin;
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#size += bytes.length;
    if (this.#size > FILE_BYTES_MAX) throw fileTooLarge();
    if (this.#size > LARGE_BYTES) this.#leave ??= await takeUploadPlace();
    this.#sha256.update(bytes);
    this.#md5.update(bytes);
    let rest = bytes;
    while (this.#heldBytes + rest.length > PART_BYTES) {
      const room = PART_BYTES - this.#heldBytes;
      this.#hold(rest.subarray(0, room));
      rest = rest.subarray(room);
      await this.#putPart();
    }
    this.#hold(rest);
  }

  #hold(bytes: Uint8Array): void {
    this.#held.push(bytes);
    this.#heldBytes += bytes.length;
  }

  async #putPart(): Promise<void> {
    if (this.#upload === null) {
      this.#upload = await this.#bucket.createMultipartUpload(this.#key);
      await this.#begin(this.#upload.uploadId);
    }
    this.#parts.push(await this.#upload.uploadPart(this.#parts.length + 1, this.#take()));
  }

  /** What is held, in one piece, which then is held no more. */
  #take(): Uint8Array {
    const bytes = Buffer.concat(this.#held, this.#heldBytes);
    this.#held = [];
    this.#heldBytes = 0;
    return bytes;
  }

  async finish(): Promise<WrittenFile> {
    if (this.#upload === null) {
      await this.#begin(null);
      await this.#bucket.put(this.#key, this.#take());
    } else {
      if (this.#heldBytes > 0) await this.#putPart();
      await this.#upload.complete(this.#parts);
    }
    return { size_bytes: this.#size, sha256: this.#sha256.digest("hex"), md5: this.#md5.digest("hex") };
  }

  /** To be called at the end, whatever it is. */
  release(): void {
    this.#leave?.();
    this.#held = [];
  }
}

export function fileTooLarge(): AppError {
  const mebibytes = FILE_BYTES_MAX / 1_048_576;
  return new AppError(
    "file.too_large",
    `A file of one request has at most ${mebibytes} MiB. Upload larger ones in parts: POST /v1/files/uploads.`,
  );
}
