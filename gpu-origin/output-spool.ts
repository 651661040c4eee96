/**
 * Files that models made, on disk until the edge has them: those that coglet uploads, and those that it gives as data URIs inside outputs. The folder is
 * emptied at each start, since attempts that ran before are lost.
 */
import { createHash, randomBytes } from "node:crypto";
import { createWriteStream, mkdirSync, rmSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { OUTPUT_PART_BYTES } from "../schema/origin-protocol.ts";
import { freeBytes, isDiskFull, megabytes } from "./builds/disk.ts";

/** What models may make of files. They can call the file server past coglet, so nothing is left to their good will. */
export interface OutputBounds {
  file_bytes: number;
  /** of one attempt, whether its output names them or not */
  attempt_files: number;
  attempt_bytes: number;
  /** left free on the disk for everything else that the origin keeps there */
  free_bytes: number;
}
const OUTPUT_BOUNDS: OutputBounds = {
  file_bytes: 5 * 1024 ** 3,
  attempt_files: 10_000,
  attempt_bytes: 50 * 1024 ** 3,
  free_bytes: 1024 ** 3,
};
/** The free space is asked for at the begin of each file, and after so many bytes. */
const FREE_CHECK_BYTES = 64 * 1024 ** 2;
/** File systems and URLs agree on this many bytes. */
const NAME_BYTES_MAX = 255;
const CONTENT_TYPE_MAX = 255;

/** What goes to the edge in one request. */
export interface FilePart {
  start: number;
  size_bytes: number;
  sha256: string;
}

export interface SpooledFile {
  path: string;
  name: string;
  content_type: string;
  size_bytes: number;
  sha256: string;
  /** at least one; all but the last have equal sizes */
  parts: FilePart[];
}

/** A file that is not taken; the message is for the prediction's error. */
export class OutputRefused extends Error {
  readonly code: "output.too_large" | "output.disk_full";

  constructor(code: OutputRefused["code"], message: string) {
    super(message);
    this.code = code;
  }
}

/** What one attempt has made so far. Bytes count as they come, so that many uploads at once do not pass together. */
export class OutputBudget {
  readonly #bounds: OutputBounds;
  #files = 0;
  #bytes = 0;

  constructor(bounds: OutputBounds) {
    this.#bounds = bounds;
  }

  /** Throws {@link OutputRefused} where there is no room for another file, of that size if it is known. */
  beginFile(name: string, size: number | null): void {
    this.#files += 1;
    if (this.#files > this.#bounds.attempt_files) {
      throw new OutputRefused("output.too_large", `A prediction may make ${this.#bounds.attempt_files} files.`);
    }
    this.check(name, size ?? 0, size ?? 0);
  }

  take(name: string, chunk: number, fileBytes: number): void {
    this.#bytes += chunk;
    this.check(name, fileBytes, 0);
  }

  check(name: string, fileBytes: number, more: number): void {
    const { file_bytes, attempt_bytes } = this.#bounds;
    if (fileBytes > file_bytes) {
      throw new OutputRefused("output.too_large", `The output file ${name} is larger than ${megabytes(file_bytes)}.`);
    }
    if (this.#bytes + more > attempt_bytes) {
      throw new OutputRefused(
        "output.too_large",
        `The files of this prediction are larger than ${megabytes(attempt_bytes)} together.`,
      );
    }
  }
}

export class OutputSpool {
  readonly #root: string;
  readonly #partBytes: number;
  readonly #bounds: OutputBounds;

  constructor(root: string, partBytes = OUTPUT_PART_BYTES, bounds = OUTPUT_BOUNDS) {
    rmSync(root, { recursive: true, force: true });
    mkdirSync(root, { recursive: true, mode: 0o700 });
    this.#root = root;
    this.#partBytes = partBytes;
    this.#bounds = bounds;
  }

  /** For a new attempt. */
  newBudget(): OutputBudget {
    return new OutputBudget(this.#bounds);
  }

  /**
   * Reads a stream to its end; `size` is what was announced. Not synced to disk: a host that dies ends the attempt anyway. Throws when it breaks off, and
   * {@link OutputRefused} when it does not fit.
   */
  async writeStream(
    stream: Readable,
    name: string,
    contentType: string,
    budget = this.newBudget(),
    size: number | null = null,
  ): Promise<SpooledFile> {
    const path = this.#newPath();
    const shownName = safeFileName(name);
    const digests = new FileDigests(this.#partBytes);
    const checkFree = (): Promise<void> => this.#checkFree(shownName);
    budget.beginFile(shownName, size);
    await checkFree();
    try {
      await pipeline(
        stream,
        async function* (chunks: AsyncIterable<Buffer>) {
          let checkAt = FREE_CHECK_BYTES;
          for await (const chunk of chunks) {
            digests.update(chunk);
            budget.take(shownName, chunk.length, digests.size);
            if (digests.size > checkAt) {
              await checkFree();
              checkAt += FREE_CHECK_BYTES;
            }
            yield chunk;
          }
        },
        // `wx`: never follows a link or overwrites a file that someone put there.
        createWriteStream(path, { flags: "wx", mode: 0o600 }),
      );
    } catch (error) {
      await rm(path, { force: true });
      throw isDiskFull(error) ? diskFull(shownName) : error;
    }
    return describe(path, name, contentType, digests);
  }

  async #checkFree(name: string): Promise<void> {
    if ((await freeBytes(this.#root)) < this.#bounds.free_bytes) throw diskFull(name);
  }

  async writeBytes(bytes: Buffer, name: string, contentType: string): Promise<SpooledFile> {
    const path = this.#newPath();
    await writeFile(path, bytes, { flag: "wx", mode: 0o600 });
    const digests = new FileDigests(this.#partBytes);
    digests.update(bytes);
    return describe(path, name, contentType, digests);
  }

  async remove(file: SpooledFile): Promise<void> {
    await rm(file.path, { force: true });
  }

  #newPath(): string {
    return join(this.#root, randomBytes(16).toString("hex"));
  }
}

function diskFull(name: string): OutputRefused {
  return new OutputRefused("output.disk_full", `The output file ${name} could not be kept: the origin's disk is full.`);
}

/** The digest of a file and those of its parts, out of the same bytes: when the edge has held the parts to theirs, the file's is true of what it stored. */
class FileDigests {
  readonly #partBytes: number;
  readonly #whole = createHash("sha256");
  readonly #parts: FilePart[] = [];
  #part = createHash("sha256");
  #partStart = 0;
  size = 0;

  constructor(partBytes: number) {
    this.#partBytes = partBytes;
  }

  update(chunk: Buffer): void {
    this.#whole.update(chunk);
    for (let rest = chunk; rest.length > 0; ) {
      if (this.size - this.#partStart === this.#partBytes) this.#endPart();
      const piece = rest.subarray(0, this.#partStart + this.#partBytes - this.size);
      this.#part.update(piece);
      this.size += piece.length;
      rest = rest.subarray(piece.length);
    }
  }

  #endPart(): void {
    const size_bytes = this.size - this.#partStart;
    this.#parts.push({ start: this.#partStart, size_bytes, sha256: this.#part.digest("hex") });
    this.#part = createHash("sha256");
    this.#partStart = this.size;
  }

  end(): Pick<SpooledFile, "size_bytes" | "sha256" | "parts"> {
    this.#endPart();
    return { size_bytes: this.size, sha256: this.#whole.digest("hex"), parts: this.#parts };
  }
}

function describe(path: string, name: string, contentType: string, digests: FileDigests): SpooledFile {
  return { path, name: safeFileName(name), content_type: safeContentType(contentType), ...digests.end() };
}

/** A name that is one plain path segment of at most 255 bytes, whatever a model calls its file. The extension is kept where there is room. */
export function safeFileName(name: string): string {
  const last = name.replaceAll("\\", "/").split("/").at(-1) ?? "";
  let clean = last
    .toWellFormed()
    // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is to be removed
    .replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "")
    .replace(/["?#%:*<>|]/g, "_")
    .replace(/^[.\s]+|[.\s]+$/g, "");
  if (clean === "") clean = "output";
  const dot = clean.lastIndexOf(".");
  const extension = dot > 0 && clean.length - dot <= 16 ? clean.slice(dot) : "";
  let stem = extension === "" ? clean : clean.slice(0, dot);
  while (Buffer.byteLength(stem + extension) > NAME_BYTES_MAX) stem = [...stem].slice(0, -1).join("");
  return stem + extension;
}

function safeContentType(type: string): string {
  return /^[\w!#$&^.+-]+\/[\w!#$&^.+-]+(;[ -~]*)?$/.test(type) && type.length <= CONTENT_TYPE_MAX
    ? type
    : "application/octet-stream";
}

const EXTENSIONS: Record<string, string> = {
  "image/png": "png",
  "image/jpeg": "jpg",
  "image/webp": "webp",
  "image/gif": "gif",
  "image/svg+xml": "svg",
  "audio/wav": "wav",
  "audio/x-wav": "wav",
  "audio/mpeg": "mp3",
  "audio/ogg": "ogg",
  "audio/flac": "flac",
  "video/mp4": "mp4",
  "video/webm": "webm",
  "text/plain": "txt",
  "text/html": "html",
  "text/csv": "csv",
  "application/json": "json",
  "application/pdf": "pdf",
  "application/zip": "zip",
};

/** `png` for `image/png`; `bin` for types that we do not know. */
export function extensionOf(contentType: string): string {
  return EXTENSIONS[contentType.split(";")[0]?.trim().toLowerCase() ?? ""] ?? "bin";
}

const DATA_URI = /^data:(?<type>[^;,]{0,255})(?<parameters>(?:;[^;,]{0,255})*?)(?<base64>;base64)?,/i;

/** The bytes of a data URI; null for any other text. */
export function decodeDataUri(text: string): { content_type: string; bytes: Buffer } | null {
  const match = DATA_URI.exec(text);
  if (match === null) return null;
  const data = text.slice(match[0].length);
  const content_type = match.groups?.type || "text/plain";
  if (match.groups?.base64 !== undefined) return { content_type, bytes: Buffer.from(data, "base64") };
  try {
    return { content_type, bytes: Buffer.from(decodeURIComponent(data)) };
  } catch {
    return null;
  }
}
