/**
 * Brings a pushed source from the registry onto this host's disk, as the folder of the version that it makes. What was pushed is not trusted: the manifest is
 * checked before anything is fetched, every byte against its digest, every path before it is written; and the version's id is computed from what came. A
 * source that is refused leaves nothing. Large files are links into the cache of blobs, so a second version with the same weights fetches and stores nothing.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { chmod, mkdir, open, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as wait } from "node:timers/promises";
import { extract } from "tar-stream";
import { type PackageRef, SOURCE_LARGE_FILE_BYTES } from "../../schema/packages.ts";
import { EdgeClient } from "../edge-client.ts";
import { SOURCE_FILE_MODE, SOURCE_FILES_MAX } from "../packaging/pack.ts";
import { digestOf, type SourceFile } from "../packaging/source.ts";
import {
  checkPath,
  checkTogether,
  readSourceManifest,
  SourceFault,
  type SourceLayers,
} from "../packaging/source-manifest.ts";
import type { VersionStore } from "../prepared-version.ts";
import { type BlobCache, type HeldBlob, linkBlob } from "./blob-cache.ts";
import type { SourceFolder } from "./builder.ts";
import { DISK_FULL, isDiskFull, megabytes } from "./disk.ts";
import { Limiter } from "./limiter.ts";

/** Files and tars that are fetched at the same time; ranges of each are bounded by the cache. */
const BLOBS_AT_ONCE = 4;
const ASK_TRIES_MS = 60_000;
const ASK_RETRY_FIRST_MS = 200;
const ASK_RETRY_MAX_MS = 5_000;
const PROGRESS_MS = 1_000;

export type FetchedSource =
  | { kind: "fetched"; source: SourceFolder; release: () => void }
  | { kind: "failed"; code: "build.source" | "build.fetch" | "build.disk_full"; detail: string }
  | { kind: "canceled" };

export interface SourceFetchRequest {
  package: PackageRef;
  /** where it is known which version it makes: another one is refused */
  version_id?: string;
  disk_limit_bytes: number;
  signal: AbortSignal;
  onProgress: (detail: string) => void;
}

interface SourceFetchParts {
  edge: Pick<EdgeClient, "fetchManifest">;
  blobs: BlobCache;
  versions: VersionStore;
}

/** Ends the work with this result. */
class Stop extends Error {
  readonly result: FetchedSource;
  constructor(result: FetchedSource) {
    super(result.kind);
    this.result = result;
  }
}

export class SourceFetch {
  readonly #parts: SourceFetchParts;

  constructor(parts: SourceFetchParts) {
    this.#parts = parts;
  }

  /** Never throws. The folder stays while it is not released. */
  async fetch(request: SourceFetchRequest): Promise<FetchedSource> {
    const { versions } = this.#parts;
    const temporary = versions.temporaryFolder();
    try {
      const layers = await this.#layers(request);
      await mkdir(temporary, { recursive: true, mode: 0o700 });
      const files = await this.#fill(temporary, layers, request);
      const id = digestOf(files);
      if (request.version_id !== undefined && request.version_id !== id) {
        throw new SourceFault(`The source makes version ${id.slice(0, 12)}, not ${request.version_id.slice(0, 12)}.`);
      }
      const release = versions.hold(id);
      const name = request.package.repository.split("/").at(-1) ?? id;
      const source = { id, name, folder: temporary, files };
      await versions.takeSource(source).catch((error: unknown) => {
        release();
        throw error;
      });
      return { kind: "fetched", source: { ...source, folder: versions.sourceFolder(id) }, release };
    } catch (error) {
      if (request.signal.aborted) return { kind: "canceled" };
      if (error instanceof Stop) return error.result;
      if (error instanceof SourceFault) return { kind: "failed", code: "build.source", detail: error.message };
      const detail = error instanceof Error ? error.message : String(error);
      if (isDiskFull(error)) return { kind: "failed", code: "build.disk_full", detail: DISK_FULL };
      return { kind: "failed", code: "build.fetch", detail: `The source could not be fetched: ${detail}` };
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  }

  async #layers({
    package: { repository, manifest },
    disk_limit_bytes,
    signal,
  }: SourceFetchRequest): Promise<SourceLayers> {
    const giveUpAt = Date.now() + ASK_TRIES_MS;
    for (let pause = ASK_RETRY_FIRST_MS; ; pause = Math.min(pause * 2, ASK_RETRY_MAX_MS)) {
      signal.throwIfAborted();
      const answer = await this.#parts.edge.fetchManifest(repository, manifest);
      if (answer.kind === "ok") {
        const digest = `sha256:${createHash("sha256").update(answer.value).digest("hex")}`;
        if (digest !== manifest) throw new SourceFault("The source's manifest has another digest than it should have.");
        return readSourceManifest(answer.value, disk_limit_bytes);
      }
      if (answer.kind === "refused" || Date.now() > giveUpAt) {
        const detail = `The source could not be fetched: ${answer.detail}`;
        throw new Stop({ kind: "failed", code: "build.fetch", detail });
      }
      await wait(pause * (0.5 + Math.random()), null, { signal });
    }
  }

  /** Writes all files below `folder`; answers what they are. */
  async #fill(
    folder: string,
    { tars, large, size_bytes }: SourceLayers,
    request: SourceFetchRequest,
  ): Promise<SourceFile[]> {
    const { repository } = request.package;
    const limiter = new Limiter(BLOBS_AT_ONCE);
    const stop = new AbortController();
    const signal = AbortSignal.any([request.signal, stop.signal]);
    const onBytes = progress(size_bytes, request.onProgress);
    const hold = async <T>(blob: Parameters<BlobCache["holdBlob"]>[0], use: (path: string) => Promise<T>): Promise<T> =>
      limiter.run(async () => {
        const held = await this.#parts.blobs.holdBlob(blob, { signal, onBytes });
        if (held.kind === "failed") throw new Stop(failureOf(held));
        try {
          return await use(held.path);
        } finally {
          held.release();
        }
      });
    // Every path is known to be good before the first large file is fetched.
    const small: SourceFile[] = [];
    const budget = { files: SOURCE_FILES_MAX - large.length, bytes: request.disk_limit_bytes };
    for (const { digest, size_bytes } of tars) {
      const url = EdgeClient.blobUrl(repository, digest);
      const blob = { sha256: digest.slice("sha256:".length), size_bytes, parts: [{ url, offset: 0, size_bytes }] };
      small.push(...(await hold(blob, (path) => extractTar(path, folder, budget))));
    }
    checkTogether([...small, ...large].map(({ path }) => path));
    const links = large.map(({ path, sha256, size_bytes, chunks }) => {
      const parts = chunks.map(({ digest, offset, size_bytes }) => ({
        url: EdgeClient.blobUrl(repository, digest),
        offset,
        size_bytes,
      }));
      return hold({ sha256, size_bytes, parts }, async (from) => {
        await mkdir(dirname(join(folder, path)), { recursive: true });
        await linkBlob(from, join(folder, path));
      });
    });
    // The first that fails ends the others; all have ended before the folder is removed.
    const ends = await Promise.allSettled(
      links.map((link) =>
        link.catch((error: unknown) => {
          stop.abort();
          throw error;
        }),
      ),
    );
    const failures = ends.flatMap((end) => (end.status === "rejected" ? [end.reason as unknown] : []));
    const telling =
      failures.find((error) => !(error instanceof Stop && error.result.kind === "canceled")) ?? failures[0];
    if (telling !== undefined) throw telling;
    return [...small, ...large.map(({ path, sha256, size_bytes }) => ({ path, sha256, size_bytes }))];
  }
}

/** Writes the files of a tar, and nothing but plain files below `folder`, which nobody else writes to. */
async function extractTar(
  path: string,
  folder: string,
  budget: { files: number; bytes: number },
): Promise<SourceFile[]> {
  const files: SourceFile[] = [];
  const tar = extract();
  const reading = pipeline(createReadStream(path), tar);
  // What goes wrong shows where the entries are read.
  reading.catch(() => undefined);
  try {
    for await (const entry of tar) {
      const { name, type, size = 0 } = entry.header;
      const safe = checkPath(name);
      if (type !== "file")
        throw new SourceFault(`${JSON.stringify(safe)} is no plain file; links and devices are not taken.`);
      if (size >= SOURCE_LARGE_FILE_BYTES)
        throw new SourceFault(`${JSON.stringify(safe)} is too large to lie among small files.`);
      budget.files -= 1;
      budget.bytes -= size;
      if (budget.files < 0) throw new SourceFault(`The source has more than ${SOURCE_FILES_MAX} files.`);
      if (budget.bytes < 0) throw new SourceFault("The source has more bytes than a build may use.");
      const chunks: Buffer[] = [];
      for await (const chunk of entry) chunks.push(chunk as Buffer);
      const bytes = Buffer.concat(chunks);
      files.push({ path: safe, size_bytes: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") });
      await writeNew(join(folder, safe), bytes);
    }
    await reading;
  } catch (error) {
    tar.destroy();
    if (error instanceof Error && "code" in error) {
      const isTaken = ["EEXIST", "ENOTDIR", "EISDIR"].includes(String(error.code));
      if (isTaken) throw new SourceFault("The source has a path twice, or as a file and as a folder.");
    }
    if (error instanceof SourceFault || isDiskFull(error)) throw error;
    throw new SourceFault(`A layer of the source is no tar: ${error instanceof Error ? error.message : String(error)}`);
  }
  return files;
}

async function writeNew(path: string, bytes: Buffer): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, "wx", SOURCE_FILE_MODE);
  try {
    await file.writeFile(bytes);
  } finally {
    await file.close();
  }
  // Whatever the mask of this process is.
  await chmod(path, SOURCE_FILE_MODE);
}

function failureOf(held: Extract<HeldBlob, { kind: "failed" }>): FetchedSource {
  switch (held.code) {
    case "canceled":
      return { kind: "canceled" };
    case "disk_full":
      return { kind: "failed", code: "build.disk_full", detail: DISK_FULL };
    case "digest":
      return {
        kind: "failed",
        code: "build.source",
        detail: "A file of the source has another digest than its manifest says.",
      };
    case "fetch":
      return {
        kind: "failed",
        code: "build.fetch",
        detail: `A file of the source could not be fetched: ${held.detail}`,
      };
  }
}

/** Tells at most once in PROGRESS_MS how much has come. */
function progress(total: number, tell: (detail: string) => void): (bytes: number) => void {
  let done = 0;
  let toldAt = Date.now();
  let toldBytes = 0;
  return (bytes) => {
    done += bytes;
    const now = Date.now();
    if (now - toldAt < PROGRESS_MS) return;
    const rate = megabytes(((done - toldBytes) * 1_000) / (now - toldAt));
    tell(`fetched ${megabytes(done)} of ${megabytes(total)}, ${rate}/s`);
    toldAt = now;
    toldBytes = done;
  };
}
