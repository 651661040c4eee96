import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { bodyDigest } from "../../schema/request-signature.ts";
import type { Download } from "../guarded-download.ts";
import { checkCogYaml } from "../packaging/cog-yaml.ts";
import { digestOf, listFiles, readFiles } from "../packaging/source.ts";
import { VersionStore, type VersionWeights } from "../prepared-version.ts";
import { temporaryFolder } from "../testing/harness.ts";
import { BlobCache } from "./blob-cache.ts";
import type { SourceFolder } from "./builder.ts";
import { placeWeights, planWeights, type WeightsParts } from "./weights.ts";

const NO_EDGE = { fetchRange: async () => ({ kind: "unavailable" as const, detail: "no edge" }) };

describe("weights of cog.yaml", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  let downloads: string[];
  let served: string;
  let parts: WeightsParts;
  let source: SourceFolder;
  beforeEach(async () => {
    folder = temporaryFolder();
    downloads = [];
    served = "from far away";
    const versions = new VersionStore(join(folder.path, "versions"));
    parts = {
      versions,
      blobs: new BlobCache(join(folder.path, "blobs"), NO_EDGE, 1024 ** 3),
      policy: { allowCidrs: [] },
      download: async (url, path): Promise<Download> => {
        downloads.push(url);
        if (served === "") return { kind: "failed", reason: "its host answered 404" };
        writeFileSync(path, served, { flag: "wx" });
        return { kind: "done", url: new URL(url), content_type: "x/y", size_bytes: served.length };
      },
    };
    const path = join(folder.path, "model");
    for (const name of ["data/a.bin", "data/sub/b.bin", "data/notes.txt", "one.bin"]) {
      mkdirSync(dirname(join(path, name)), { recursive: true });
      writeFileSync(join(path, name), name);
    }
    const files = await readFiles(path, listFiles(path));
    source = { id: digestOf(files), name: "model", folder: path, files };
    await versions.takeSource(source);
    source = { ...source, folder: versions.sourceFolder(source.id) };
  });
  afterEach(() => folder.remove());

  const options = () => ({ signal: AbortSignal.timeout(10_000), onLine: () => {}, bytes_max: 1_000 });
  function plan(weights: string): Promise<VersionWeights[]> {
    const checked = checkCogYaml(`build: { python_version: "3.11" }\nrun: "predict.py:Runner"\nweights: ${weights}\n`);
    if (checked.value === null) throw new Error(JSON.stringify(checked.faults));
    return planWeights(checked.value, source, parts, options());
  }
  const pathsOf = (weights: VersionWeights[]): string[] =>
    weights.flatMap(({ files }) => files.map(({ path }) => path)).sort();
  const placed = (name: string, path: string): string => join(parts.versions.weightsFolder(source.id, name), path);

  it("name files and folders of the source, by include and exclude", async () => {
    expect(pathsOf(await plan("[{ name: w, target: /src/w, source: data }]"))).toEqual([
      "a.bin",
      "notes.txt",
      "sub/b.bin",
    ]);
    expect(pathsOf(await plan("[{ name: w, target: /src/w, source: file://./one.bin }]"))).toEqual(["one.bin"]);
    const some = "[{ name: w, target: /src/w, source: { uri: data/, include: ['**/*.bin'], exclude: [sub] } }]";
    expect(pathsOf(await plan(some))).toEqual(["a.bin"]);
    await expect(plan("[{ name: w, target: /src/w, source: nowhere }]")).rejects.toThrow(
      /names no file of the source.*\.dockerignore/,
    );
    await expect(plan("[{ name: w, target: /src/w, source: [one.bin, one.bin] }]")).rejects.toThrow(
      /two files one\.bin/,
    );
  });

  it("lie where launches find them, as links", async () => {
    const weights = await plan("[{ name: w, target: /src/w, source: data }]");
    await placeWeights({ id: source.id, weights }, parts, options());
    expect(readFileSync(placed("w", "sub/b.bin"), "utf8")).toBe("data/sub/b.bin");
    expect(statSync(placed("w", "a.bin")).ino).toBe(statSync(join(source.folder, "data/a.bin")).ino);
    // Again, as at every launch.
    await placeWeights({ id: source.id, weights }, parts, options());
  });

  it("are fetched from https at the build, known by their digest from then on, and fetched once", async () => {
    const weights = await plan("[{ name: w, target: /src/w, source: 'https://example.com/x/model%20v1.bin?a=b' }]");
    expect(weights[0]?.files).toEqual([
      {
        path: "model_v1.bin",
        sha256: bodyDigest(served),
        size_bytes: served.length,
        from: "https://example.com/x/model%20v1.bin?a=b",
      },
    ]);
    await placeWeights({ id: source.id, weights }, parts, options());
    expect(readFileSync(placed("w", "model_v1.bin"), "utf8")).toBe(served);
    expect(downloads).toHaveLength(1);
  });

  it("of https are fetched again where a version was built elsewhere, and nothing but the same is taken", async () => {
    const file = {
      path: "m.bin",
      sha256: bodyDigest(served),
      size_bytes: served.length,
      from: "https://example.com/m.bin",
    };
    const version = { id: source.id, weights: [{ name: "w", target: "/src/w", files: [file] }] };
    served = "changed";
    await expect(placeWeights(version, parts, options())).rejects.toThrow(/is not what the version was built with/);
    expect(existsSync(parts.versions.weightsFolder(source.id, "w"))).toBe(false);
    served = "from far away";
    await placeWeights(version, parts, options());
    expect(readFileSync(placed("w", "m.bin"), "utf8")).toBe(served);
  });

  it("that cannot be fetched are tried again, then say why", async () => {
    served = "";
    await expect(plan("[{ name: w, target: /src/w, source: 'https://example.com/m' }]")).rejects.toThrow(
      /answered 404/,
    );
    expect(downloads).toHaveLength(3);
  });
});
