/**
 * Weights of fine-tunes on this host's disk, named by their digest and never changed: whoever runs a fine-tune reads the same file. Bounded: those that
 * nobody holds go, the one that was used longest ago first.
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream, mkdirSync, readdirSync, statSync, utimesSync } from "node:fs";
import { chmod, mkdir, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { pipeline } from "node:stream/promises";
import type { WeightsSource } from "../schema/origin-protocol.ts";
import type { EdgeClient } from "./edge-client.ts";

/** Of a host's disk. What is in use may be more. */
const CACHE_BYTES_MAX = 20 * 1024 ** 3;
/** An edge that is away is asked again for this long. */
const FETCH_TRIES_MS = 60_000;
const RETRY_FIRST_MS = 200;
const RETRY_MAX_MS = 5_000;

export type HeldWeights =
  /** the file stays until `release` */
  { kind: "held"; path: string; name: string; release: () => void } | { kind: "failed"; detail: string };

interface Entry {
  path: string;
  size_bytes: number;
  used_at: number;
  holders: number;
}

export class WeightsCache {
  readonly #root: string;
  readonly #edge: Pick<EdgeClient, "fetchFile">;
  readonly #bytesMax: number;
  readonly #entries = new Map<string, Entry>();
  readonly #fetching = new Map<string, Promise<Entry | string>>();

  constructor(root: string, edge: Pick<EdgeClient, "fetchFile">, bytesMax = CACHE_BYTES_MAX) {
    this.#root = root;
    this.#edge = edge;
    this.#bytesMax = bytesMax;
    mkdirSync(root, { recursive: true, mode: 0o700 });
    for (const sha256 of readdirSync(root).filter((name) => /^[0-9a-f]{64}$/.test(name))) {
      const [name] = readdirSync(join(root, sha256));
      if (name === undefined) continue;
      const path = join(root, sha256, name);
      const { size, mtimeMs } = statSync(path);
      this.#entries.set(sha256, { path, size_bytes: size, used_at: mtimeMs, holders: 0 });
    }
  }

  /** The file of these weights. Fetched once, however many ask at the same time. */
  async hold(source: WeightsSource, signal?: AbortSignal): Promise<HeldWeights> {
    const { sha256 } = source;
    let entry: Entry | string | undefined = this.#entries.get(sha256);
    if (entry === undefined) {
      const fetching = this.#fetching.get(sha256) ?? this.#fetch(source).finally(() => this.#fetching.delete(sha256));
      this.#fetching.set(sha256, fetching);
      entry = await fetching;
    }
    if (typeof entry === "string") return { kind: "failed", detail: `The weights could not be fetched: ${entry}` };
    if (signal?.aborted === true) return { kind: "failed", detail: "given up" };
    const now = Date.now();
    entry.used_at = now;
    entry.holders += 1;
    // Read again at the next start.
    utimesSync(entry.path, now / 1000, now / 1000);
    return { kind: "held", path: entry.path, name: basename(entry.path), release: once(() => this.#release(entry)) };
  }

  #release(entry: Entry): void {
    entry.holders -= 1;
    void this.#makeRoom(0);
  }

  /** The entry, or why there is none. */
  async #fetch({ path: url, sha256, size_bytes }: WeightsSource): Promise<Entry | string> {
    await this.#makeRoom(size_bytes);
    const temporary = join(this.#root, `${randomBytes(8).toString("hex")}.part`);
    const giveUpAt = Date.now() + FETCH_TRIES_MS;
    try {
      for (let pause = RETRY_FIRST_MS; ; pause = Math.min(pause * 2, RETRY_MAX_MS)) {
        const answer = await this.#edge.fetchFile(url, temporary);
        if (answer.kind === "ok") break;
        if (answer.kind === "refused" || Date.now() > giveUpAt) return answer.detail;
        await rm(temporary, { force: true });
        await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
      }
      if ((await digestOf(temporary)) !== sha256) return "their digest is another";
      const path = join(this.#root, sha256, basename(url));
      await mkdir(join(this.#root, sha256), { recursive: true, mode: 0o700 });
      await chmod(temporary, 0o400);
      await rename(temporary, path);
      const entry = { path, size_bytes: (await stat(path)).size, used_at: Date.now(), holders: 0 };
      this.#entries.set(sha256, entry);
      return entry;
    } finally {
      await rm(temporary, { force: true });
    }
  }

  async #makeRoom(bytes: number): Promise<void> {
    let total = bytes + [...this.#entries.values()].reduce((sum, entry) => sum + entry.size_bytes, 0);
    const idle = [...this.#entries].filter(([, entry]) => entry.holders === 0);
    for (const [sha256, entry] of idle.toSorted(([, a], [, b]) => a.used_at - b.used_at)) {
      if (total <= this.#bytesMax) return;
      total -= entry.size_bytes;
      this.#entries.delete(sha256);
      await rm(join(this.#root, sha256), { recursive: true, force: true });
    }
  }
}

async function digestOf(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

function once(act: () => void): () => void {
  let isDone = false;
  return () => {
    if (!isDone) act();
    isDone = true;
  };
}
