/**
 * How a model's folder becomes an artifact of the registry (schema/packages.ts): small files in tars, large ones cut into chunks, and a manifest that names
 * them. Equal files give equal bytes wherever they are packed, so a blob that the platform has is known by its digest. Two passes over the files, nothing
 * held whole: the plan reads them for their digests, and each blob is read again when it is sent.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, stat } from "node:fs/promises";
import { join } from "node:path";
import { Readable } from "node:stream";
import { type Pack, pack } from "tar-stream";
import {
  type Descriptor,
  SOURCE_ARTIFACT_TYPE,
  SOURCE_CHUNK_BYTES_MAX,
  SOURCE_CHUNK_TYPE,
  SOURCE_FILES_TYPE,
  SOURCE_LARGE_FILE_BYTES,
  type SourceManifest,
} from "../../schema/packages.ts";
import { digestOf, listFiles, type SourceFile } from "./source.ts";

/** Contents of one tar of small files: what a change of one line sends again. */
const TAR_CONTENT_BYTES_MAX = 16 * 1024 ** 2;
/** Bounds of one source: an origin refuses more. */
export const SOURCE_FILES_MAX = 50_000;
export const SOURCE_LAYERS_MAX = 10_000;
/** All files get it: a script stays executable, and a mode, which the id does not cover, tells no version from another. */
export const SOURCE_FILE_MODE = 0o755;

const EMPTY_CONFIG = Buffer.from("{}");
const EMPTY_CONFIG_TYPE = "application/vnd.oci.empty.v1+json";
const MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json";

/** The files cannot be packed; the message says what to change. */
export class PackFault extends Error {}

export interface SourceBlob {
  descriptor: Descriptor;
  /** what it holds, for people: a file's path, or how many files */
  label: string;
  /** its bytes, from the start; fails when a file is not what it was when the plan was made */
  open(): Readable;
}

export interface SourcePlan {
  /** of the version that these files make */
  id: string;
  files: SourceFile[];
  /** each digest once, `config` included */
  blobs: SourceBlob[];
  manifest: SourceManifest;
  /** as it is pushed, and its digest (`sha256:…`) */
  manifest_bytes: Buffer;
  manifest_digest: string;
}

/** Reads every file of the folder once. `onFile` tells what is read, for progress. */
export async function planSource(
  folder: string,
  options: { signal?: AbortSignal; onFile?: (path: string) => void } = {},
): Promise<SourcePlan> {
  const paths = listFiles(folder);
  if (paths.length === 0) throw new PackFault(`${folder} holds no files.`);
  if (paths.length > SOURCE_FILES_MAX) {
    throw new PackFault(
      `${paths.length} files; a model has at most ${SOURCE_FILES_MAX}. Leave some out in .dockerignore.`,
    );
  }
  const files: SourceFile[] = [];
  const blobs: SourceBlob[] = [];
  let group: SourceFile[] = [];
  let groupBytes = 0;
  const closeGroup = async (): Promise<void> => {
    if (group.length > 0) blobs.push(await tarBlob(folder, group));
    group = [];
    groupBytes = 0;
  };
  for (const path of paths) {
    options.signal?.throwIfAborted();
    options.onFile?.(path);
    const size_bytes = (await stat(join(folder, path))).size;
    if (size_bytes >= SOURCE_LARGE_FILE_BYTES) {
      const { file, chunks } = await chunkBlobs(folder, path);
      files.push(file);
      blobs.push(...chunks);
      continue;
    }
    if (groupBytes + size_bytes > TAR_CONTENT_BYTES_MAX) await closeGroup();
    const file = await smallFile(folder, path, size_bytes);
    files.push(file);
    group.push(file);
    groupBytes += size_bytes;
  }
  await closeGroup();
  if (blobs.length > SOURCE_LAYERS_MAX) throw new PackFault("These files are too large for one model.");
  const config: Descriptor = {
    mediaType: EMPTY_CONFIG_TYPE,
    digest: `sha256:${createHash("sha256").update(EMPTY_CONFIG).digest("hex")}`,
    size: EMPTY_CONFIG.length,
  };
  const manifest: SourceManifest = {
    schemaVersion: 2,
    mediaType: MANIFEST_TYPE,
    artifactType: SOURCE_ARTIFACT_TYPE,
    config,
    layers: blobs.map(({ descriptor }) => descriptor),
  };
  const manifest_bytes = Buffer.from(JSON.stringify(manifest));
  const all = [{ descriptor: config, label: "config", open: () => Readable.from([EMPTY_CONFIG]) }, ...blobs];
  return {
    id: digestOf(files),
    files,
    blobs: [...new Map(all.map((blob) => [blob.descriptor.digest, verified(blob)])).values()],
    manifest,
    manifest_bytes,
    manifest_digest: `sha256:${createHash("sha256").update(manifest_bytes).digest("hex")}`,
  };
}

/** Its bytes are those of the plan, or reading them fails at the end. */
function verified({ descriptor, label, open }: SourceBlob): SourceBlob {
  const read = async function* (): AsyncGenerator<Buffer> {
    const hash = createHash("sha256");
    for await (const chunk of open() as AsyncIterable<Buffer>) {
      hash.update(chunk);
      yield chunk;
    }
    if (`sha256:${hash.digest("hex")}` !== descriptor.digest)
      throw new PackFault(`${label} changed while it was pushed.`);
  };
  return { descriptor, label, open: () => Readable.from(read()) };
}

async function smallFile(folder: string, path: string, size_bytes: number): Promise<SourceFile> {
  const hash = createHash("sha256");
  for await (const chunk of fileRange(folder, path, 0, size_bytes)) hash.update(chunk);
  return { path, size_bytes, sha256: hash.digest("hex") };
}

/** A file and its chunks, in one pass over it. */
async function chunkBlobs(folder: string, path: string): Promise<{ file: SourceFile; chunks: SourceBlob[] }> {
  const whole = createHash("sha256");
  const parts: { offset: number; size: number; digest: string }[] = [];
  let part = createHash("sha256");
  let offset = 0;
  let filled = 0;
  const closePart = (): void => {
    parts.push({ offset, size: filled, digest: `sha256:${part.digest("hex")}` });
    offset += filled;
    filled = 0;
    part = createHash("sha256");
  };
  for await (const read of createReadStream(join(folder, path), { highWaterMark: 1024 ** 2 })) {
    whole.update(read);
    for (let rest: Buffer = read; rest.length > 0; ) {
      const piece = rest.subarray(0, SOURCE_CHUNK_BYTES_MAX - filled);
      part.update(piece);
      filled += piece.length;
      rest = rest.subarray(piece.length);
      if (filled === SOURCE_CHUNK_BYTES_MAX) closePart();
    }
  }
  if (filled > 0) closePart();
  const file = { path, size_bytes: offset, sha256: whole.digest("hex") };
  const chunks = parts.map(
    ({ offset, size, digest }): SourceBlob => ({
      descriptor: {
        mediaType: SOURCE_CHUNK_TYPE,
        digest,
        size,
        annotations: {
          "run.cogway.file.path": path,
          "run.cogway.file.sha256": file.sha256,
          "run.cogway.file.size": String(file.size_bytes),
          "run.cogway.file.offset": String(offset),
        },
      },
      label:
        parts.length === 1 ? path : `${path} (${Math.floor(offset / SOURCE_CHUNK_BYTES_MAX) + 1} of ${parts.length})`,
      open: () => Readable.from(fileRange(folder, path, offset, size)),
    }),
  );
  return { file, chunks };
}

async function tarBlob(folder: string, files: SourceFile[]): Promise<SourceBlob> {
  const open = (): Readable => tarOf(folder, files);
  const hash = createHash("sha256");
  let size = 0;
  for await (const chunk of open()) {
    hash.update(chunk);
    size += chunk.length;
  }
  const label = files.length === 1 ? (files[0]?.path ?? "") : `${files.length} files`;
  return { descriptor: { mediaType: SOURCE_FILES_TYPE, digest: `sha256:${hash.digest("hex")}`, size }, label, open };
}

function tarOf(folder: string, files: SourceFile[]): Readable {
  const tar = pack();
  void fill(tar, folder, files).catch((error: unknown) =>
    tar.destroy(error instanceof Error ? error : new Error(String(error))),
  );
  return Readable.from(tar);
}

/** One file at a time: each is below {@link SOURCE_LARGE_FILE_BYTES}. */
async function fill(tar: Pack, folder: string, files: SourceFile[]): Promise<void> {
  for (const { path, size_bytes } of files) {
    const chunks: Buffer[] = [];
    for await (const chunk of fileRange(folder, path, 0, size_bytes)) chunks.push(chunk);
    const header = { name: path, mode: SOURCE_FILE_MODE, uid: 0, gid: 0, mtime: new Date(0), type: "file" as const };
    await new Promise<void>((resolve, reject) => {
      tar.entry({ ...header, size: size_bytes }, Buffer.concat(chunks), (error) => {
        if (error === null || error === undefined) resolve();
        else reject(error);
      });
    });
  }
  tar.finalize();
}

/** Exactly these bytes of a file, one piece at a time. */
async function* fileRange(folder: string, path: string, offset: number, size: number): AsyncGenerator<Buffer> {
  const file = await open(join(folder, path));
  try {
    const buffer = Buffer.allocUnsafe(Math.min(size, 1024 ** 2));
    for (let at = 0; at < size; ) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, size - at), offset + at);
      if (bytesRead === 0) throw new PackFault(`${path} changed while it was read.`);
      yield Buffer.from(buffer.subarray(0, bytesRead));
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}
