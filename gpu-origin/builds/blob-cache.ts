/**
 * Large files on this host's disk, named by their content: weights of models and of fine-tunes, fetched from the edge once however many versions and
 * instances use them. Ranges of a file are fetched at the same time, each goes on where it was cut, and nothing is given out before its digest was taken.
 *
 *   <root>/<sha256>/<name>       the bytes, read-only; further names of it are hard links
 *   <root>/<random>.part         a file that is being fetched; removed at the next start
 *
 * There is a bound of bytes. What somebody holds, and what a version has linked into its folder, stays beyond it, since removing that frees nothing; the
 * rest goes when room is needed, what was used longest ago first.
 */
import { createHash, randomBytes } from "node:crypto";
import {
  createReadStream,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
} from "node:fs";
import { chmod, copyFile, type FileHandle, link, mkdir, open, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as wait } from "node:timers/promises";
import type { WeightsSource } from "../../schema/origin-protocol.ts";
import type { EdgeClient } from "../edge-client.ts";
import { SOURCE_FILE_MODE } from "../packaging/pack.ts";
import { isDiskFull } from "./disk.ts";
import { Limiter } from "./limiter.ts";
import { SharedWork } from "./shared-work.ts";

/** One request; a cut costs at most what is left of it. */
const RANGE_BYTES = 16 * 1024 ** 2;
/** Requests at a time, of one file and of all: more do not fill a link better, and each has a buffer here and at the edge. */
const RANGES_OF_FILE = 4;
const RANGES_OF_ALL = 8;
/** An edge that gives not one byte is asked again for this long. */
const SILENCE_MAX_MS = 60_000;
const RETRY_FIRST_MS = 200;
const RETRY_MAX_MS = 5_000;
/** Read-only, also for those who may write to the folder. */
const BLOB_MODE = SOURCE_FILE_MODE & 0o555;

/** A file as the edge has it: one stored file, or several that follow each other. */
export interface Blob {
  sha256: string;
  size_bytes: number;
  parts: { /** on the edge */ url: string /** in the file */; offset: number; size_bytes: number }[];
}

export type HeldBlob =
  /** the file stays until `release` */
  | { kind: "held"; path: string; name: string; release: () => void }
  | { kind: "failed"; code: "fetch" | "digest" | "disk_full" | "canceled"; detail: string };
type Failure = Extract<HeldBlob, { kind: "failed" }>;

interface HoldOptions {
  /** how the file is called; its digest unless given */
  name?: string | undefined;
  signal?: AbortSignal | undefined;
  /** bytes that have come since the last call */
  onBytes?: ((bytes: number) => void) | undefined;
}

interface Entry {
  /** its first name */
  path: string;
  size_bytes: number;
  used_at: number;
  holders: number;
}

export class BlobCache {
  readonly #root: string;
  readonly #edge: Pick<EdgeClient, "fetchRange">;
  readonly #bytesMax: number;
  readonly #entries = new Map<string, Entry>();
  /** null: it is there */
  readonly #fetching = new SharedWork<Failure | null, number>();
  readonly #ranges = new Limiter(RANGES_OF_ALL);
  /** frees what links blobs, oldest first; false when there is nothing more of it */
  #freeLinks: () => boolean = () => false;

  constructor(root: string, edge: Pick<EdgeClient, "fetchRange">, bytesMax: number) {
    this.#root = root;
    this.#edge = edge;
    this.#bytesMax = bytesMax;
    mkdirSync(root, { recursive: true, mode: 0o700 });
    for (const name of readdirSync(root)) {
      if (name.endsWith(".part")) rmSync(join(root, name), { recursive: true, force: true });
      if (!/^[0-9a-f]{64}$/.test(name)) continue;
      const [first] = readdirSync(join(root, name));
      if (first === undefined) continue;
      const path = join(root, name, first);
      const { size, mtimeMs } = statSync(path);
      this.#entries.set(name, { path, size_bytes: size, used_at: mtimeMs, holders: 0 });
    }
  }

  /** Who has linked blobs says how the longest unused of them are let go. */
  onNeedOfRoom(freeLinks: () => boolean): void {
    this.#freeLinks = freeLinks;
  }

  /** Weights of a fine-tune, under their own name. */
  hold({ path, sha256, size_bytes }: WeightsSource, signal?: AbortSignal): Promise<HeldBlob> {
    return this.holdBlob(
      { sha256, size_bytes, parts: [{ url: path, offset: 0, size_bytes }] },
      { name: basename(path), signal },
    );
  }

  /** The file. Fetched once, however many ask at the same time; given up when none of them waits any more. */
  async holdBlob(blob: Blob, options: HoldOptions = {}): Promise<HeldBlob> {
    const { signal, onBytes: onProgress } = options;
    for (;;) {
      const known = this.#entries.get(blob.sha256);
      if (known !== undefined) return this.#holdEntry(blob.sha256, known, options.name);
      const failure = await this.#fetching.run(blob.sha256, { signal, onProgress }, (given, tell) =>
        this.#fetch(blob, tell, given),
      );
      if (failure === undefined) return { kind: "failed", code: "canceled", detail: "given up" };
      if (failure !== null) return failure;
    }
  }

  /** For metrics. */
  counts(): { bytes: number; files: number } {
    return { bytes: this.#total(), files: this.#entries.size };
  }

  /** A name for a file that is to be taken in. */
  temporaryFile(): string {
    return join(this.#root, `${randomBytes(8).toString("hex")}.part`);
  }

  /** Takes in a file of {@link temporaryFile}, which is gone afterwards. Null where its digest is not `wanted`. */
  async put(
    path: string,
    wanted: string | null = null,
  ): Promise<(Extract<HeldBlob, { kind: "held" }> & { sha256: string; size_bytes: number }) | null> {
    try {
      const sha256 = await digestOf(path);
      if (wanted !== null && wanted !== sha256) return null;
      await this.#makeRoom((await stat(path)).size);
      const entry = this.#entries.get(sha256) ?? (await this.#keep(sha256, path));
      return { ...this.#holdEntry(sha256, entry), sha256, size_bytes: entry.size_bytes };
    } finally {
      await rm(path, { force: true });
    }
  }

  /** Whether it is here, so that nothing would be fetched. */
  has(sha256: string): boolean {
    return this.#entries.has(sha256);
  }

  #holdEntry(sha256: string, entry: Entry, name?: string): Extract<HeldBlob, { kind: "held" }> {
    const path = name === undefined ? entry.path : join(this.#root, sha256, name);
    if (!existsSync(path)) linkSync(entry.path, path);
    const now = Date.now();
    entry.used_at = now;
    entry.holders += 1;
    // Read again at the next start.
    utimesSync(entry.path, now / 1000, now / 1000);
    let isReleased = false;
    const release = (): void => {
      if (isReleased) return;
      isReleased = true;
      entry.holders -= 1;
      void this.#makeRoom(0);
    };
    return { kind: "held", path, name: basename(path), release };
  }

  async #fetch(blob: Blob, onBytes: (bytes: number) => void, signal: AbortSignal): Promise<Failure | null> {
    await this.#makeRoom(blob.size_bytes);
    const temporary = this.temporaryFile();
    try {
      const file = await open(temporary, "wx", 0o600);
      try {
        const failure = await this.#fetchRanges(blob, file, onBytes, signal);
        if (failure !== null) return failure;
      } finally {
        await file.close();
      }
      if ((await digestOf(temporary)) !== blob.sha256) {
        return { kind: "failed", code: "digest", detail: "what was fetched has another digest than it should have" };
      }
      await this.#keep(blob.sha256, temporary);
      return null;
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      if (isDiskFull(error))
        return { kind: "failed", code: "disk_full", detail: `no room on the disk of ${this.#root}` };
      return { kind: "failed", code: "fetch", detail };
    } finally {
      await rm(temporary, { force: true });
    }
  }

  /** Null when every byte is in the file. */
  async #fetchRanges(
    blob: Blob,
    file: FileHandle,
    onBytes: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<Failure | null> {
    const ranges = blob.parts.flatMap(({ url, offset, size_bytes }) =>
      Array.from({ length: Math.ceil(size_bytes / RANGE_BYTES) }, (_, n) => {
        const start = n * RANGE_BYTES;
        return { url, start, end: Math.min(start + RANGE_BYTES, size_bytes), at: offset + start };
      }),
    );
    // One that cannot be had ends the others.
    const stop = new AbortController();
    const either = AbortSignal.any([signal, stop.signal]);
    let failure: Failure | null = null;
    const next = async (): Promise<void> => {
      for (let range = ranges.shift(); range !== undefined && failure === null; range = ranges.shift()) {
        const wanted = range;
        const failed = await this.#ranges.run(() => this.#fetchRange(wanted, file, onBytes, either));
        if (failed === null) continue;
        failure ??= failed;
        stop.abort();
      }
    };
    const ends = await Promise.allSettled(Array.from({ length: RANGES_OF_FILE }, next));
    const thrown = ends.find((end) => end.status === "rejected");
    if (thrown !== undefined) throw thrown.reason;
    return failure;
  }

  /** Goes on behind the last byte that came, after every cut. */
  async #fetchRange(
    range: { url: string; start: number; end: number; at: number },
    file: FileHandle,
    onBytes: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<Failure | null> {
    let done = 0;
    let fault: unknown = null;
    const write = async (chunk: Buffer): Promise<void> => {
      try {
        await file.write(chunk, 0, chunk.length, range.at + done);
      } catch (error) {
        fault = error;
        throw error;
      }
      done += chunk.length;
      onBytes(chunk.length);
    };
    let giveUpAt = Date.now() + SILENCE_MAX_MS;
    for (let pause = RETRY_FIRST_MS; ; pause = Math.min(pause * 2, RETRY_MAX_MS)) {
      const before = done;
      const answer = await this.#edge.fetchRange(
        range.url,
        { start: range.start + done, end: range.end },
        write,
        signal,
      );
      // Not the edge's: the disk of this host.
      if (fault !== null) throw fault;
      if (answer.kind === "ok" && range.start + done === range.end) return null;
      if (signal.aborted) return { kind: "failed", code: "canceled", detail: "given up" };
      const detail = answer.kind === "ok" ? "the edge sent less than it has" : answer.detail;
      if (done > before) {
        giveUpAt = Date.now() + SILENCE_MAX_MS;
        pause = RETRY_FIRST_MS;
      }
      if (answer.kind === "refused" || Date.now() > giveUpAt) return { kind: "failed", code: "fetch", detail };
      await wait(pause * (0.5 + Math.random()), null, { signal }).catch(() => null);
    }
  }

  async #keep(sha256: string, temporary: string): Promise<Entry> {
    const path = join(this.#root, sha256, sha256);
    await mkdir(join(this.#root, sha256), { recursive: true, mode: 0o700 });
    await chmod(temporary, BLOB_MODE);
    await rename(temporary, path);
    const entry = { path, size_bytes: (await stat(path)).size, used_at: Date.now(), holders: 0 };
    this.#entries.set(sha256, entry);
    return entry;
  }

  async #makeRoom(bytes: number): Promise<void> {
    while (this.#total() + bytes > this.#bytesMax) {
      const oldest = [...this.#entries]
        .filter(([sha256, entry]) => entry.holders === 0 && !this.#isLinked(sha256, entry))
        .toSorted(([, a], [, b]) => a.used_at - b.used_at)[0];
      if (oldest === undefined) {
        if (!this.#freeLinks()) return;
        continue;
      }
      this.#entries.delete(oldest[0]);
      await rm(join(this.#root, oldest[0]), { recursive: true, force: true });
    }
  }

  #total(): number {
    return [...this.#entries.values()].reduce((sum, entry) => sum + entry.size_bytes, 0);
  }

  /** Whether anybody has a name for it besides those here. */
  #isLinked(sha256: string, { path }: Entry): boolean {
    return statSync(path).nlink > readdirSync(join(this.#root, sha256)).length;
  }
}

/** Gives a held file a further name; a copy where the disk is another. */
export async function linkBlob(from: string, to: string): Promise<void> {
  await link(from, to).catch(async (error: unknown) => {
    if (!(error instanceof Error && "code" in error && (error.code === "EXDEV" || error.code === "EMLINK")))
      throw error;
    await copyFile(from, to);
  });
}

/** Weights that the last release fetched lie in a folder of another name, in the same order. */
export function takeOverWeights(old: string, root: string): void {
  if (existsSync(old) && !existsSync(root)) renameSync(old, root);
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path, { highWaterMark: 1024 ** 2 }), hash);
  return hash.digest("hex");
}
