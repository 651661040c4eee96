import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { Readable } from "node:stream";
import { gzipSync } from "node:zlib";
import { pack } from "tar-stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { InstanceBoot } from "../schema/origin-protocol.ts";
import { CompileCaches, cpuFeatures } from "./compile-cache.ts";
import { COMPILE_CACHE_FILES_MAX, listCache, packCache, unpackCache } from "./compile-cache-archive.ts";
import type { EdgeAnswer } from "./edge-client.ts";
import { createLog } from "./log.ts";
import type { PreparedVersion } from "./prepared-version.ts";
import { temporaryFolder } from "./testing/harness.ts";

let folder: ReturnType<typeof temporaryFolder>;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

function write(path: string, text: string): void {
  const target = join(folder.path, path);
  mkdirSync(dirname(target), { recursive: true });
  writeFileSync(target, text);
}

const read = (path: string): string => readFileSync(join(folder.path, path), "utf8");

/** A gzipped tar of entries as a hostile model would make it. */
async function archive(
  entries: { name: string; type?: "file" | "symlink" | "link"; size?: number }[],
): Promise<Buffer> {
  const tar = pack();
  for (const { name, type = "file", size = 1 } of entries) {
    if (type === "file") tar.entry({ name }, Buffer.alloc(size, 97));
    else tar.entry({ name, type, linkname: "/etc/passwd" });
  }
  tar.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of tar) chunks.push(chunk as Buffer);
  return gzipSync(Buffer.concat(chunks));
}

describe("the archive of a compile cache", () => {
  it("guarantees that files come back as they were, and that links stay behind", async () => {
    write("a/triton/kernel.so", "machine code");
    write("a/jax/entry", "xla");
    symlinkSync("/etc/passwd", join(folder.path, "a/jax/link"));
    const files = await listCache(join(folder.path, "a"));
    expect(files.map(({ path }) => path)).toEqual(["jax/entry", "triton/kernel.so"]);
    await unpackCache(await packCache(join(folder.path, "a"), files), join(folder.path, "b"));
    expect([read("b/triton/kernel.so"), read("b/jax/entry")]).toEqual(["machine code", "xla"]);
  });

  it.each([
    ["a path above the folder", [{ name: "../x" }]],
    ["an absolute path", [{ name: "/tmp/x" }]],
    ["a path through a link", [{ name: "a", type: "symlink" as const }, { name: "a/x" }]],
    ["a hard link", [{ name: "a", type: "link" as const }]],
    ["one path twice", [{ name: "a" }, { name: "a" }]],
    ["a path that is too deep", [{ name: `${"d/".repeat(20)}x` }]],
  ])("is refused with %s", async (_what, entries) => {
    const target = join(folder.path, "into");
    mkdirSync(target);
    await expect(unpackCache(await archive(entries), target)).rejects.toThrow();
    expect(readdirSync(folder.path)).toEqual(["into"]);
  });

  it("is refused with more files than the bound, with more bytes than the bound, and when it is cut", async () => {
    const many = Array.from({ length: COMPILE_CACHE_FILES_MAX + 1 }, (_, n) => ({ name: `f${n}`, size: 0 }));
    await expect(unpackCache(await archive(many), join(folder.path, "many"))).rejects.toThrow("too large");
    // A quarter of a gigabyte of one byte is a quarter of a megabyte as gzip.
    const bomb = await archive(Array.from({ length: 17 }, (_, n) => ({ name: `f${n}`, size: 16 * 1024 ** 2 })));
    expect(bomb.length).toBeLessThan(2 * 1024 ** 2);
    await expect(unpackCache(bomb, join(folder.path, "bomb"))).rejects.toThrow("too large");
    const whole = await archive([{ name: "a", size: 100_000 }]);
    await expect(unpackCache(whole.subarray(0, whole.length - 20), join(folder.path, "cut"))).rejects.toThrow();
  }, 120_000);
});

/** The edge's part: what was put, by path. */
class FakeEdge {
  readonly kept = new Map<string, Buffer>();
  isAway = false;

  async fetchCompileCache(path: string): Promise<EdgeAnswer<Buffer>> {
    if (this.isAway) return { kind: "unavailable", detail: "away" };
    const value = this.kept.get(path);
    return value === undefined ? { kind: "refused", status: 404, detail: "none" } : { kind: "ok", value };
  }

  async putCompileCache(path: string, archive: Buffer): Promise<EdgeAnswer<unknown>> {
    this.kept.set(path, archive);
    return { kind: "ok", value: {} };
  }
}

const BOOT: InstanceBoot = {
  protocol: 1,
  instance_id: "i1",
  deployment_key: "version:v",
  version_id: "v",
  slots: 1,
  memory_bytes: 1,
  setup_timeout_ms: 1,
};

const version = (requirements: string): Pick<PreparedVersion, "environment"> => ({
  environment: { python_version: "3.11", requirements, run: [] },
});
const START = { launch: { kind: "process" as const, cwd: "/", binDir: "/" }, devices: [], restores: true };

describe("compile caches", () => {
  const edge = () => new FakeEdge();
  const caches = (of: FakeEdge, features = "avx2") =>
    new CompileCaches({
      folder: join(folder.path, "caches"),
      edge: of,
      cpuFeatures: features,
      readFolder: undefined,
      deviceName: () => "NVIDIA H100",
      log: createLog("silent"),
    });

  /** A cold start whose setup compiles: the files that it found, and what is at the edge behind it. */
  async function coldStart(of: FakeEdge, boot: Partial<InstanceBoot> = {}, compiled = "code", features?: string) {
    const opened = await caches(of, features).open({ ...BOOT, ...boot }, version("jax==0.7.1"), START);
    const jax = opened.env["JAX_COMPILATION_CACHE_DIR"] ?? "";
    const found = await listCache(dirname(jax));
    mkdirSync(jax, { recursive: true });
    writeFileSync(join(jax, "entry"), compiled);
    const before = of.kept.size;
    await opened.keep();
    // What a prediction writes then is in nobody's cache.
    writeFileSync(join(jax, "poison"), "of an input");
    return { found: found.map(({ path }) => path), opened, before };
  }

  it("guarantee that the next cold start has what was compiled, and nothing that came behind setup", async () => {
    const of = edge();
    expect((await coldStart(of)).found).toEqual([]);
    await expect.poll(() => of.kept.size).toBe(1);
    const { found } = await coldStart(of, { instance_id: "i2" });
    expect(found).toEqual(["jax/entry"]);
  });

  it.each([
    ["deployment", { deployment_key: "version:v:another" }, undefined],
    ["version", { version_id: "w" }, undefined],
    ["function", { mode: "train" as const }, undefined],
    ["hardware", { hardware: "gpu-h100" }, undefined],
    ["CPU", {}, "avx512"],
  ])("guarantee that another %s begins with nothing", async (_what, boot, features) => {
    const of = edge();
    await coldStart(of);
    await expect.poll(() => of.kept.size).toBe(1);
    expect((await coldStart(of, { ...boot, instance_id: "i2" }, "other", features)).found).toEqual([]);
  });

  it("guarantee that a start goes on where the edge is away or what it has is damaged", async () => {
    const of = edge();
    await coldStart(of);
    await expect.poll(() => of.kept.size).toBe(1);
    of.isAway = true;
    expect((await coldStart(of, { instance_id: "i2" })).found).toEqual([]);
    of.isAway = false;
    for (const path of of.kept.keys()) of.kept.set(path, Buffer.from("damaged"));
    expect((await coldStart(of, { instance_id: "i3" })).found).toEqual([]);
  });

  it("are not sent again where setup compiled nothing new, and are removed with their instance", async () => {
    const of = edge();
    await coldStart(of);
    await expect.poll(() => of.kept.size).toBe(1);
    of.kept.set([...of.kept.keys()][0] ?? "", await archive([{ name: "jax/entry", size: 4 }]));
    const [path = ""] = of.kept.keys();
    const same = of.kept.get(path);
    const { opened } = await coldStart(of, { instance_id: "i2" }, "aaaa");
    expect(of.kept.get(path)).toBe(same);
    opened.remove();
    await expect.poll(() => readdirSync(join(folder.path, "caches"))).not.toContain("i2");
    await caches(of).reap(new Set());
    expect(readdirSync(join(folder.path, "caches"))).toEqual([]);
  });

  it("cost a version without a compiler nothing; of an image it is not known", async () => {
    const of = edge();
    of.isAway = true;
    const none = await caches(of).open(BOOT, version("numpy==2.3.5\nmy-torch==1"), START);
    expect(none).toMatchObject({ env: {}, launch: START.launch });
    const image = { kind: "image" as const, repository: "a/b", manifest: `sha256:${"a".repeat(64)}` };
    const opened = await caches(of).open({ ...BOOT, package: image }, version(""), START);
    expect(opened.env["TORCHINDUCTOR_CACHE_DIR"]).toContain("inductor");
  });

  it("fill a container's scratch space from a mount, and are read out of it", async () => {
    const of = edge();
    const launch = { kind: "image" as const, image: "i", mounts: [], prefix: ["sh", "-ec", "x"] };
    const inside = async (id: string) => {
      const kept = new CompileCaches({
        folder: join(folder.path, "caches"),
        edge: of,
        cpuFeatures: "",
        readFolder: async (_id, path) => {
          const tar = pack();
          tar.entry({ name: `jax/of ${path.slice(1).replaceAll("/", " ")}` }, "code");
          tar.finalize();
          return Readable.from(tar);
        },
        deviceName: () => "",
        log: createLog("silent"),
      });
      return kept.open({ ...BOOT, instance_id: id }, version("torch==2.9.0"), { ...START, launch });
    };
    const first = await inside("i1");
    expect(first).toMatchObject({ launch, env: { TRITON_CACHE_DIR: "/tmp/compile-cache/triton" } });
    await first.keep();
    await expect.poll(() => of.kept.size).toBe(1);
    const second = await inside("i2");
    const source = join(folder.path, "caches", "i2");
    expect(second.launch).toMatchObject({ mounts: [{ source, target: "/compile-cache" }] });
    expect(second.launch).toMatchObject({
      prefix: ["sh", "-c", expect.stringContaining("cp -r"), "sh", "sh", "-ec", "x"],
    });
    expect(readdirSync(join(source, "jax"))).toEqual(["of tmp compile-cache"]);
  });

  it("know a CPU by its features, in whatever order the kernel lists them", () => {
    expect(cpuFeatures("flags\t\t: sse avx2\n")).toBe(cpuFeatures("flags\t\t: avx2 sse\n"));
    expect(cpuFeatures("flags\t\t: sse avx2\n")).not.toBe(cpuFeatures("flags\t\t: sse\n"));
  });
});
