import { existsSync, linkSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { WeightsSource } from "../../schema/origin-protocol.ts";
import { bodyDigest } from "../../schema/request-signature.ts";
import type { EdgeAnswer } from "../edge-client.ts";
import { temporaryFolder } from "../testing/harness.ts";
import { type Blob, BlobCache, type HeldBlob, takeOverWeights } from "./blob-cache.ts";

const SIZE = 100;
const MIB = 1024 ** 2;

describe("the cache of blobs", () => {
  let folder: { path: string; remove: () => void };
  let stored: Map<string, Buffer>;
  let asked: string[];
  let running = 0;
  let mostRunning = 0;
  /** bytes after which a request breaks off, by how many there were before */
  let cutAfter: (request: number) => number;
  beforeEach(() => {
    folder = temporaryFolder();
    stored = new Map();
    asked = [];
    mostRunning = 0;
    cutAfter = () => Number.POSITIVE_INFINITY;
  });
  afterEach(() => folder.remove());

  const edge = {
    async fetchRange(
      url: string,
      { start, end }: { start: number; end: number },
      write: (chunk: Buffer) => Promise<void>,
    ): Promise<EdgeAnswer<null>> {
      const cut = cutAfter(asked.length);
      asked.push(`${url} ${start}-${end}`);
      const bytes = stored.get(url);
      if (bytes === undefined) return { kind: "refused", status: 404, detail: "no such blob" };
      running += 1;
      mostRunning = Math.max(mostRunning, running);
      const part = bytes.subarray(start, Math.min(end, start + cut));
      for (let at = 0; at < part.length; at += MIB) await write(part.subarray(at, at + MIB));
      running -= 1;
      return start + part.length === end ? { kind: "ok", value: null } : { kind: "unavailable", detail: "cut" };
    },
  };
  const aCache = (bytesMax = 2 * SIZE): BlobCache => new BlobCache(join(folder.path, "blobs"), edge, bytesMax);
  function weights(letter: string): WeightsSource {
    const bytes = Buffer.from(letter.repeat(SIZE));
    const sha256 = bodyDigest(bytes);
    const path = `/origin/v1/weights/${sha256}/${letter}.zip`;
    stored.set(path, bytes);
    return { path, sha256, size_bytes: SIZE };
  }
  function aBlob(sizes: number[]): Blob {
    let offset = 0;
    const pieces = sizes.map((size, n) => {
      const bytes = Buffer.alloc(size, `${n}:${size};`);
      const url = `/blob/${n}`;
      stored.set(url, bytes);
      const part = { url, offset, size_bytes: size };
      offset += size;
      return { bytes, part };
    });
    const whole = Buffer.concat(pieces.map(({ bytes }) => bytes));
    return { sha256: bodyDigest(whole), size_bytes: whole.length, parts: pieces.map(({ part }) => part) };
  }
  async function held(holding: Promise<HeldBlob>): Promise<HeldBlob & { kind: "held" }> {
    const result = await holding;
    if (result.kind !== "held") throw new Error(result.detail);
    return result;
  }

  it("fetches once, however many ask, also after a restart", async () => {
    const cache = aCache();
    const a = weights("a");
    const [one, two] = await Promise.all([held(cache.hold(a)), held(cache.hold(a))]);
    expect(one.path).toBe(two.path);
    expect(one.name).toBe("a.zip");
    await held(aCache().hold(a));
    expect(asked).toHaveLength(1);
  });

  it("removes what nobody holds and was used longest ago, once there is too much", async () => {
    const cache = aCache();
    const a = await held(cache.hold(weights("a")));
    const b = await held(cache.hold(weights("b")));
    b.release();
    const c = await held(cache.hold(weights("c")));
    expect([a, b, c].map(({ path }) => existsSync(path))).toEqual([true, false, true]);
    const d = await held(cache.hold(weights("d")));
    // Two are in use beside it: it is there all the same.
    expect([a, c, d].map(({ path }) => existsSync(path))).toEqual([true, true, true]);
    a.release();
    a.release();
    await expect.poll(() => existsSync(a.path)).toBe(false);
    expect(existsSync(d.path)).toBe(true);
  });

  it("counts what a version has linked, and asks for it to be let go when nothing else is left to remove", async () => {
    const cache = aCache();
    const a = await held(cache.hold(weights("a")));
    const link = join(folder.path, "linked");
    linkSync(a.path, link);
    a.release();
    const b = await held(cache.hold(weights("b")));
    let asks = 0;
    cache.onNeedOfRoom(() => {
      asks += 1;
      if (!existsSync(link)) return false;
      rmSync(link);
      return true;
    });
    await held(cache.hold(weights("c")));
    expect(asks).toBe(1);
    expect([existsSync(a.path), existsSync(b.path)]).toEqual([false, true]);
  });

  it("puts a file together of its parts, in ranges at the same time, and goes on where a transfer was cut", async () => {
    const blob = aBlob([20 * MIB, 33 * MIB, 1]);
    cutAfter = (request) => (request % 3 === 1 ? MIB : Number.POSITIVE_INFINITY);
    let bytes = 0;
    const file = await held(aCache(1024 * MIB).holdBlob(blob, { onBytes: (more) => (bytes += more) }));
    expect(bodyDigest(readFileSync(file.path))).toBe(blob.sha256);
    // No byte came twice, though requests were cut.
    expect(bytes).toBe(blob.size_bytes);
    expect(asked.length).toBeGreaterThan(6);
    expect(mostRunning).toBeGreaterThan(1);
    expect(mostRunning).toBeLessThanOrEqual(4);
    expect(statSync(file.path).mode & 0o222).toBe(0);
  });

  it("gives nothing out whose digest is another, and says what could not be had", async () => {
    const blob = { ...aBlob([SIZE]), sha256: "0".repeat(64) };
    const cache = aCache();
    expect(await cache.holdBlob(blob)).toMatchObject({ kind: "failed", code: "digest" });
    expect(await cache.holdBlob({ ...blob, parts: [{ url: "/nowhere", offset: 0, size_bytes: SIZE }] })).toMatchObject({
      kind: "failed",
      code: "fetch",
      detail: "no such blob",
    });
  });

  it("gives up when nobody waits any more, and leaves nothing", async () => {
    const stop = new AbortController();
    cutAfter = () => {
      stop.abort();
      return 1;
    };
    const cache = aCache();
    expect(await cache.holdBlob(aBlob([SIZE]), { signal: stop.signal })).toMatchObject({ code: "canceled" });
    cutAfter = () => Number.POSITIVE_INFINITY;
    await held(cache.holdBlob(aBlob([SIZE])));
  });

  it("takes over weights that the last release fetched", async () => {
    const a = weights("a");
    mkdirSync(join(folder.path, "weights", a.sha256), { recursive: true });
    writeFileSync(join(folder.path, "weights", a.sha256, "a.zip"), "a".repeat(SIZE));
    takeOverWeights(join(folder.path, "weights"), join(folder.path, "blobs"));
    await held(aCache().hold(a));
    expect(asked).toEqual([]);
  });

  it("takes in a file that came from elsewhere, by its content", async () => {
    const cache = aCache();
    const file = cache.temporaryFile();
    writeFileSync(file, "a".repeat(SIZE));
    expect(await cache.put(file)).toMatchObject({ sha256: weights("a").sha256, size_bytes: SIZE });
    expect(existsSync(file)).toBe(false);
    writeFileSync(file, "b".repeat(SIZE));
    expect(await cache.put(file, weights("a").sha256)).toBeNull();
    expect(existsSync(file)).toBe(false);
    await held(cache.hold(weights("a")));
    expect(asked).toEqual([]);
  });
});
