/**
 * A folder of compiled code as one gzipped tar, and back. What a model wrote there is untrusted: only regular files with plain relative paths pass, in
 * either direction, and all within the bounds below.
 */
import { createReadStream, createWriteStream } from "node:fs";
import { lstat, mkdir, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { Readable, Writable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip, createGzip } from "node:zlib";
import { extract, pack } from "tar-stream";
import { OUTPUT_PART_BYTES } from "../schema/origin-protocol.ts";

/** Of all files together, unpacked. */
export const COMPILE_CACHE_BYTES_MAX = 256 * 1024 ** 2;
/** Compilers write a few files for each function. */
export const COMPILE_CACHE_FILES_MAX = 8_000;
/** Of a path below the folder. */
const PATH_CHARACTERS_MAX = 512;
const DEPTH_MAX = 16;
/** An archive goes in one request. */
export const COMPILE_CACHE_ARCHIVE_BYTES_MAX = OUTPUT_PART_BYTES;
/** Compiled code shrinks to a third at the fastest level; the rest is not worth a core's time. */
const GZIP_LEVEL = 1;

export interface CacheFile {
  /** below the folder, with slashes */
  path: string;
  size_bytes: number;
}

/** The regular files below a folder, sorted by path. Links and whatever else lies there are passed over. Rejects where a bound is passed. */
export async function listCache(folder: string): Promise<CacheFile[]> {
  const files: CacheFile[] = [];
  let bytes = 0;
  const read = async (below: string, depth: number): Promise<void> => {
    if (depth > DEPTH_MAX) throw new Error(`its folders are more than ${DEPTH_MAX} deep`);
    for (const entry of await readdir(join(folder, below), { withFileTypes: true })) {
      const path = below === "" ? entry.name : `${below}/${entry.name}`;
      if (entry.isDirectory()) await read(path, depth + 1);
      if (!entry.isFile() || !isPlainPath(path)) continue;
      const { size } = await lstat(join(folder, path));
      files.push({ path, size_bytes: size });
      bytes += size;
      if (bytes > COMPILE_CACHE_BYTES_MAX) throw new Error(`it has more than ${COMPILE_CACHE_BYTES_MAX} bytes`);
      if (files.length > COMPILE_CACHE_FILES_MAX) throw new Error(`it has more than ${COMPILE_CACHE_FILES_MAX} files`);
    }
  };
  await read("", 0);
  return files.toSorted((a, b) => (a.path < b.path ? -1 : 1));
}

/** Rejects where the archive would be too large, or a file changes meanwhile. */
export async function packCache(folder: string, files: readonly CacheFile[]): Promise<Buffer> {
  const tar = pack();
  const write = async (): Promise<void> => {
    for (const { path, size_bytes } of files) {
      const entry = tar.entry({ name: path, size: size_bytes, mode: 0o644 });
      await pipeline(createReadStream(join(folder, path)), entry);
    }
    tar.finalize();
  };
  const chunks: Buffer[] = [];
  let bytes = 0;
  const collect = new Writable({
    write(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      chunks.push(chunk);
      const isTooLarge = bytes > COMPILE_CACHE_ARCHIVE_BYTES_MAX;
      done(isTooLarge ? new Error(`packed it has more than ${COMPILE_CACHE_ARCHIVE_BYTES_MAX} bytes`) : null);
    },
  });
  const writing = write().catch((error: unknown) => {
    tar.destroy(error instanceof Error ? error : new Error(String(error)));
  });
  await pipeline(tar, createGzip({ level: GZIP_LEVEL }), collect);
  await writing;
  return Buffer.concat(chunks);
}

/** Rejects, with part of the files written, where the archive is none or passes a bound: the caller empties the folder then. */
export function unpackCache(archive: Buffer, folder: string): Promise<void> {
  return unpackTar(Readable.from([archive]).pipe(createGunzip()), folder);
}

/** The same of a tar as it comes, without gzip around it. */
export async function unpackTar(source: Readable, folder: string): Promise<void> {
  const tar = extract();
  let read = 0;
  const counted = async function* (chunks: AsyncIterable<Buffer>): AsyncIterable<Buffer> {
    for await (const chunk of chunks) {
      read += chunk.length;
      // What stands between the files counts too.
      if (read > 2 * COMPILE_CACHE_BYTES_MAX) throw new Error("it is too large");
      yield chunk;
    }
  };
  const reading = pipeline(source, counted, tar);
  // Told by the loop below, which ends with the same error.
  reading.catch(() => {});
  let bytes = 0;
  let files = 0;
  for await (const entry of tar) {
    const { name, type, size = 0 } = entry.header;
    bytes += size;
    files += 1;
    if (type !== "file" || !isPlainPath(name)) throw new Error(`its entry ${JSON.stringify(name)} is no plain file`);
    if (bytes > COMPILE_CACHE_BYTES_MAX || files > COMPILE_CACHE_FILES_MAX) throw new Error("it is too large");
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    // Never over another entry of the same name.
    await pipeline(entry, createWriteStream(path, { flags: "wx" }));
  }
  await reading;
}

/** Relative, without empty parts, `.` or `..`: it stays in the folder. */
function isPlainPath(path: string): boolean {
  const parts = path.split("/");
  return (
    path.length <= PATH_CHARACTERS_MAX &&
    parts.length <= DEPTH_MAX + 1 &&
    parts.every((part) => part !== "" && part !== "." && part !== ".." && !/[\\\0]/.test(part))
  );
}
