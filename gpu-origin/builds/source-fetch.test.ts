import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { PassThrough } from "node:stream";
import { pipeline } from "node:stream/promises";
import { pack } from "tar-stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  type Descriptor,
  SOURCE_ARTIFACT_TYPE,
  SOURCE_CHUNK_BYTES_MAX,
  SOURCE_CHUNK_TYPE,
  SOURCE_FILES_TYPE,
  SOURCE_LARGE_FILE_BYTES,
} from "../../schema/packages.ts";
import { bodyDigest } from "../../schema/request-signature.ts";
import { EdgeClient } from "../edge-client.ts";
import { planSource } from "../packaging/pack.ts";
import { digestOf, listFiles, readFiles } from "../packaging/source.ts";
import { VersionStore } from "../prepared-version.ts";
import { FakeEdge } from "../testing/fake-edge.ts";
import { temporaryFolder } from "../testing/harness.ts";
import { BlobCache } from "./blob-cache.ts";
import { type FetchedSource, SourceFetch } from "./source-fetch.ts";

const GIB = 1024 ** 3;

describe("fetching a source", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  let edge: FakeEdge;
  let client: EdgeClient;
  let versions: VersionStore;
  let sources: SourceFetch;
  beforeEach(async () => {
    folder = temporaryFolder();
    edge = new FakeEdge();
    await edge.listen();
    client = new EdgeClient(edge.url);
    client.setCredential({ origin_id: "o", key: edge.key });
    open();
  });
  afterEach(async () => {
    client.close();
    await edge.close();
    folder.remove();
  });

  /** As a start of the origin does. */
  function open(): void {
    versions = new VersionStore(join(folder.path, "versions"));
    const blobs = new BlobCache(join(folder.path, "blobs"), client, GIB);
    sources = new SourceFetch({ edge: client, blobs, versions });
  }
  function aFolder(files: Record<string, string | Buffer>): string {
    const path = join(folder.path, "model");
    for (const [name, content] of Object.entries(files)) {
      mkdirSync(dirname(join(path, name)), { recursive: true });
      writeFileSync(join(path, name), content);
    }
    return path;
  }
  const fetchOf = (
    manifest: string,
    more: { disk_limit_bytes?: number; version_id?: string } = {},
  ): Promise<FetchedSource> =>
    sources.fetch({
      package: { kind: "source", repository: "alice/model", manifest },
      disk_limit_bytes: GIB,
      signal: AbortSignal.timeout(30_000),
      onProgress: () => {},
      ...more,
    });
  async function fetched(manifest: string): Promise<FetchedSource & { kind: "fetched" }> {
    const result = await fetchOf(manifest);
    if (result.kind !== "fetched") throw new Error(JSON.stringify(result));
    return result;
  }

  const large = Buffer.alloc(3 * SOURCE_LARGE_FILE_BYTES, "weights");
  const files = { "cog.yaml": "x", "predict.py": "y", "sub/deep/é.txt": "z", "empty.txt": "", "weights/a.bin": large };

  it("gives the same files, the same id, and links large ones instead of keeping them twice", async () => {
    const model = aFolder(files);
    const { manifest, id } = await edge.registry.push(model);
    const { source } = await fetched(manifest);
    expect(source.id).toBe(id);
    expect(digestOf(await readFiles(source.folder, listFiles(source.folder)))).toBe(id);
    expect(readFileSync(join(source.folder, "sub/deep/é.txt"), "utf8")).toBe("z");
    const weights = statSync(join(source.folder, "weights/a.bin"));
    expect(weights.nlink).toBe(2);
    expect(weights.mode & 0o222).toBe(0);
    expect(statSync(join(source.folder, "predict.py")).mode & 0o111).toBe(0o111);
  });

  it("fetches nothing of a second version but what is new, and nothing at all of one that is there, also after a restart", async () => {
    const model = aFolder(files);
    await fetched((await edge.registry.push(model)).manifest).then(({ release }) => release());
    const before = edge.registry.reads.length;
    open();
    writeFileSync(join(model, "predict.py"), "changed");
    const second = await edge.registry.push(model);
    await fetched(second.manifest);
    expect(edge.registry.reads.length - before).toBe(1);
    await fetched(second.manifest);
    expect(edge.registry.reads.length - before).toBe(1);
  });

  it("goes on where a transfer was cut", async () => {
    const { manifest, id } = await edge.registry.push(aFolder(files));
    edge.registry.cutAfter = (read) => (read < 3 ? 1_000 : null);
    expect((await fetched(manifest)).source.id).toBe(id);
    expect(edge.registry.reads.filter((read) => /bytes=1000-/.test(read)).length).toBeGreaterThan(0);
  });

  // ---- what nobody packed

  interface Entry {
    name: string;
    content?: string;
    type?: "symlink" | "link" | "directory" | "character-device";
    linkname?: string;
  }
  async function aTar(entries: Entry[]): Promise<Descriptor> {
    const tar = pack();
    for (const { content = "", ...header } of entries) tar.entry(header, content);
    tar.finalize();
    const chunks: Buffer[] = [];
    for await (const chunk of tar as AsyncIterable<Buffer>) chunks.push(chunk);
    return tarBlob(Buffer.concat(chunks));
  }
  const tarBlob = (bytes: Buffer): Descriptor => ({
    mediaType: SOURCE_FILES_TYPE,
    digest: edge.registry.putBlob(bytes),
    size: bytes.length,
  });
  const chunkOf = (bytes: Buffer, path: string, more: Record<string, string> = {}): Descriptor => ({
    mediaType: SOURCE_CHUNK_TYPE,
    digest: edge.registry.putBlob(bytes),
    size: bytes.length,
    annotations: {
      "run.cogway.file.path": path,
      "run.cogway.file.sha256": bodyDigest(bytes),
      "run.cogway.file.size": String(bytes.length),
      "run.cogway.file.offset": "0",
      ...more,
    },
  });
  const manifestOf = (layers: Descriptor[]): string =>
    edge.registry.put({
      schemaVersion: 2,
      mediaType: "application/vnd.oci.image.manifest.v1+json",
      artifactType: SOURCE_ARTIFACT_TYPE,
      config: {
        mediaType: "application/vnd.oci.empty.v1+json",
        digest: edge.registry.putBlob(Buffer.from("{}")),
        size: 2,
      },
      layers,
    });
  async function expectRefused(layers: Descriptor[], reason: RegExp, code = "build.source"): Promise<void> {
    const result = await fetchOf(manifestOf(layers));
    expect(result).toMatchObject({ kind: "failed", code, detail: expect.stringMatching(reason) });
    expect(result.kind === "failed" && result.detail.split("\n")).toHaveLength(1);
    const root = join(folder.path, "versions");
    expect(existsSync(root) ? readdirSync(root) : []).toEqual([]);
    expect(
      readdirSync(folder.path).filter((name) => name !== "blobs" && name !== "versions" && name !== "model"),
    ).toEqual([]);
  }
  const outside = "../outside.txt";
  const bytes = Buffer.from("12345");

  it.each<[string, Entry[], RegExp]>([
    ["a path that leads out", [{ name: outside }], /leads out/],
    ["a path that leads out later", [{ name: `a/../../${outside}` }], /leads out/],
    ["an absolute path", [{ name: "/etc/cron.d/x" }], /leads out/],
    ["a symbolic link", [{ name: "a", type: "symlink", linkname: "/etc" }], /no plain file/],
    [
      "a file below a symbolic link",
      [{ name: "a", type: "symlink", linkname: "/tmp" }, { name: "a/b" }],
      /no plain file/,
    ],
    ["a hard link", [{ name: "a", type: "link", linkname: "/etc/passwd" }], /no plain file/],
    ["a device", [{ name: "a", type: "character-device" }], /no plain file/],
    ["a file twice", [{ name: "a" }, { name: "a" }], /twice/],
    ["a file that is a folder", [{ name: "a" }, { name: "a/b" }], /as a file and as a folder/],
    ["a folder that is a file", [{ name: "a/b" }, { name: "a" }], /as a file and as a folder/],
    ["an unplain path", [{ name: "a/./b" }], /plain form/],
    ["control characters", [{ name: "a\u001b[2J" }], /control characters/],
    ["a schema of its own", [{ name: ".cog/openapi_schema.json" }], /\.cog, which no source has/],
  ])("refuses a tar with %s, and writes nothing", async (_what, entries, reason) => {
    await expectRefused([await aTar(entries)], reason);
  });

  it("refuses what is no tar, and a manifest that is none of a source", async () => {
    await expectRefused([tarBlob(Buffer.alloc(2_048, "no tar"))], /no tar/);
    const { manifest } = await edge.registry.push(aFolder(files));
    expect(manifest).not.toBe("");
    expect(await fetchOf(edge.registry.put({ schemaVersion: 2, layers: [] }))).toMatchObject({
      kind: "failed",
      detail: expect.stringMatching(/not one of a source/),
    });
  });

  it("refuses chunks that lead out, contradict, overlap, leave a gap or are too many, before one is fetched", async () => {
    await expectRefused([chunkOf(bytes, outside)], /leads out/);
    await expectRefused([chunkOf(bytes, ".git/config")], /\.git, which no source has/);
    const size = { "run.cogway.file.size": "10" };
    await expectRefused([chunkOf(bytes, "a", size), chunkOf(bytes, "a", size)], /overlap/);
    await expectRefused([chunkOf(bytes, "a", { ...size, "run.cogway.file.offset": "7" })], /gap/);
    await expectRefused([chunkOf(bytes, "a", size)], /have 5 bytes/);
    await expectRefused([chunkOf(bytes, "a"), chunkOf(Buffer.from("other"), "a")], /contradict/);
    await expectRefused([{ ...chunkOf(bytes, "a"), mediaType: "x/y" }], /unknown type/);
    await expectRefused([{ ...chunkOf(bytes, "a"), annotations: {} }], /does not say/);
    await expectRefused([{ ...(await aTar([{ name: "a" }])), size: SOURCE_CHUNK_BYTES_MAX + 1 }], /A layer of files/);
    await expectRefused([{ ...chunkOf(bytes, "a"), size: 2 * GIB }], /a build may use/);
    expect(edge.registry.reads).toEqual([]);
  });

  it("refuses content that is not what was said: another digest of a chunk, of a file, of the version", async () => {
    const chunk = chunkOf(bytes, "a");
    edge.registry.blobs.set(chunk.digest, Buffer.from("54321"));
    await expectRefused([chunk], /another digest/);
    await expectRefused(
      [chunkOf(Buffer.from("abcde"), "a", { "run.cogway.file.sha256": "0".repeat(64) })],
      /another digest/,
    );
    const { manifest } = await edge.registry.push(aFolder(files));
    expect(await fetchOf(manifest, { version_id: "f".repeat(64) })).toMatchObject({
      detail: expect.stringMatching(/makes version/),
    });
    edge.registry.manifests.set(manifest, Buffer.from("{}"));
    expect(await fetchOf(manifest)).toMatchObject({ detail: expect.stringMatching(/manifest has another digest/) });
    expect(await fetchOf(`sha256:${"0".repeat(64)}`)).toMatchObject({ kind: "failed", code: "build.fetch" });
  });

  it("removes versions that were used longest ago, but none in use, when their large files need more room than there is", async () => {
    const blobs = new BlobCache(join(folder.path, "blobs"), client, 5 * SOURCE_LARGE_FILE_BYTES);
    blobs.onNeedOfRoom(() => versions.removeOldest());
    sources = new SourceFetch({ edge: client, blobs, versions });
    const ids: string[] = [];
    for (const [letter, isHeld] of [
      ["a", true],
      ["b", false],
      ["c", false],
    ] as const) {
      const { manifest, id } = await edge.registry.push(
        aFolder({ "weights.bin": Buffer.alloc(2 * SOURCE_LARGE_FILE_BYTES, letter) }),
      );
      const { release } = await fetched(manifest);
      versions.save(aVersion(id));
      ids.push(id);
      if (!isHeld) release();
    }
    expect(ids.map((id) => existsSync(versions.folder(id)))).toEqual([true, false, true]);
    const held = readdirSync(join(folder.path, "blobs")).map(
      (name) => statSync(join(folder.path, "blobs", name, name)).size,
    );
    expect(held.reduce((sum, size) => sum + size, 0)).toBeLessThanOrEqual(5 * SOURCE_LARGE_FILE_BYTES);
  });

  const aVersion = (id: string) => ({
    id,
    name: "model",
    environment: { python_version: null, requirements: "", run: [] },
    ref: "predict.py:Runner",
    train_ref: null,
    slots: 1,
    memory_bytes: 1,
    train_memory_bytes: null,
    idempotent: false,
    token_metric: null,
    output_is_file_list: false,
    env: {},
    hardware: "cpu",
    gpus: 0,
    egress: false,
    weights: [],
    package: { kind: "source" as const, repository: "alice/model", manifest: `sha256:${"0".repeat(64)}` },
    schema: {},
  });

  it("packs equal folders into equal bytes, whatever their times and modes, and follows links to files", async () => {
    const model = aFolder({ "a.txt": "x", "b/c.txt": "y" });
    const one = await planSource(model);
    symlinkSync("a.txt", join(model, "link.txt"));
    linkSync(join(model, "a.txt"), join(folder.path, "other"));
    const two = await planSource(model);
    expect(two.files.map(({ path }) => path)).toEqual(["a.txt", "b/c.txt", "link.txt"]);
    expect((await planSource(model)).manifest_digest).toBe(two.manifest_digest);
    expect(two.manifest_digest).not.toBe(one.manifest_digest);
    writeFileSync(join(model, "a.txt"), "changed and longer");
    const blob = two.blobs.find(({ label }) => label === "3 files");
    if (blob === undefined) throw new Error("there is no tar");
    await expect(pipeline(blob.open(), new PassThrough().resume())).rejects.toThrow(
      "3 files changed while it was pushed",
    );
  });
});
