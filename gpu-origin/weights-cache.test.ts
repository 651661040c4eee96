import { existsSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { WeightsSource } from "../schema/origin-protocol.ts";
import { bodyDigest } from "../schema/request-signature.ts";
import type { EdgeAnswer } from "./edge-client.ts";
import { temporaryFolder } from "./testing/harness.ts";
import { type HeldWeights, WeightsCache } from "./weights-cache.ts";

const SIZE = 100;

describe("the cache of weights", () => {
  let folder: { path: string; remove: () => void };
  let fetches: string[];
  beforeEach(() => {
    folder = temporaryFolder();
    fetches = [];
  });
  afterEach(() => folder.remove());

  const contentOf = (letter: string): string => letter.repeat(SIZE);
  function source(letter: string): WeightsSource {
    const sha256 = bodyDigest(contentOf(letter));
    return { path: `/origin/v1/weights/${sha256}/${letter}.zip`, sha256, size_bytes: SIZE };
  }
  const edge = {
    async fetchFile(url: string, path: string): Promise<EdgeAnswer<null>> {
      const letter = url.split("/").at(-1)?.[0] ?? "";
      fetches.push(letter);
      writeFileSync(path, contentOf(letter), { flag: "wx" });
      return { kind: "ok", value: null };
    },
  };
  const aCache = (): WeightsCache => new WeightsCache(folder.path, edge, 2 * SIZE);
  async function hold(cache: WeightsCache, letter: string): Promise<HeldWeights & { kind: "held" }> {
    const held = await cache.hold(source(letter));
    if (held.kind !== "held") throw new Error(held.detail);
    return held;
  }

  it("fetches once, however many ask, also after a restart", async () => {
    const cache = aCache();
    const [one, two] = await Promise.all([hold(cache, "a"), hold(cache, "a")]);
    expect(one.path).toBe(two.path);
    await hold(aCache(), "a");
    expect(fetches).toEqual(["a"]);
  });

  it("removes what nobody holds and was used longest ago, once there is too much", async () => {
    const cache = aCache();
    const a = await hold(cache, "a");
    const b = await hold(cache, "b");
    b.release();
    const c = await hold(cache, "c");
    expect([a, b, c].map(({ path }) => existsSync(path))).toEqual([true, false, true]);
    const d = await hold(cache, "d");
    // Two are in use beside it: it is there all the same.
    expect([a, c, d].map(({ path }) => existsSync(path))).toEqual([true, true, true]);
    a.release();
    a.release();
    await expect.poll(() => existsSync(a.path)).toBe(false);
    expect(existsSync(d.path)).toBe(true);
  });
});
