import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ModelAnnounce } from "../schema/origin-protocol.ts";
import { BlobCache } from "./builds/blob-cache.ts";
import { VersionMaker } from "./builds/make-version.ts";
import { ProcessBuilder } from "./builds/process-builder.ts";
import { Environments } from "./environments.ts";
import { createLog } from "./log.ts";
import { Models } from "./models.ts";
import { listFiles } from "./packaging/source.ts";
import { VersionStore } from "./prepared-version.ts";
import { TEST_CACHE, temporaryFolder } from "./testing/harness.ts";

const YAML = 'build: { python_version: "3.11" }\nrun: "predict.py:Runner"\n';
const NO_EDGE = { fetchRange: async () => ({ kind: "unavailable" as const, detail: "no edge" }) };
const PREDICTOR =
  "from cog import BaseRunner\n\nclass Runner(BaseRunner):\n    def run(self, text: str) -> str:\n        return text\n";

describe("preparing models", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  let announced: [string, ModelAnnounce][];
  let models: Models;
  let versions: VersionStore;
  beforeEach(() => {
    folder = temporaryFolder();
    announced = [];
    versions = new VersionStore(join(folder.path, "versions"));
    const policy = { allowCidrs: [] };
    const builder = new ProcessBuilder({
      versions,
      environments: new Environments(TEST_CACHE, process.env),
      trainersFolder: join(folder.path, "trainers"),
      trustsAll: false,
      env: process.env,
    });
    models = new Models({
      edge: {
        announceModel: async (name, announce) => {
          announced.push([name, announce]);
          return { kind: "ok", value: {} };
        },
      },
      versions,
      maker: new VersionMaker(builder, {
        versions,
        blobs: new BlobCache(join(folder.path, "blobs"), NO_EDGE, 1024 ** 3),
        policy,
      }),
      hasGpu: () => false,
      log: createLog("silent"),
    });
  });
  afterEach(() => folder.remove());

  const aModel = (name: string, files: Record<string, string> = {}): string => {
    const dir = join(folder.path, "models", name);
    const all = { "cog.yaml": YAML, "predict.py": PREDICTOR, ...files };
    for (const [path, text] of Object.entries(all)) {
      mkdirSync(dirname(join(dir, path)), { recursive: true });
      writeFileSync(join(dir, path), text);
    }
    return dir;
  };
  const prepare = (...folders: string[]) => models.prepareAll(folders, new AbortController().signal);

  it("announces all as preparing first, then each as ready, the smallest environment first and trainers of unknown size last", async () => {
    const big = aModel("big", { "cogway.yaml": "environment_mb: 900\n" });
    const trainer = aModel("trainer", {
      "cog.yaml": `${YAML}train: "train.py:train"\n`,
      "train.py": "def train(text: str) -> str:\n    return text\n",
    });
    const small = aModel("small", {
      "cogway.yaml": "environment_mb: 2\ntitle: Small\ncollections: [ocr]\nofficial: { unit: page, price_micros: 5 }\n",
      "example.json": '{"text": "hi"}',
    });
    const results = await prepare(big, trainer, small);
    expect(results.map((result) => [result.name, result.kind])).toEqual([
      ["small", "ready"],
      ["big", "ready"],
      ["trainer", "ready"],
    ]);
    expect(announced.slice(0, 3).every(([, announce]) => announce.state === "preparing")).toBe(true);
    expect(announced[3]).toMatchObject([
      "small",
      {
        title: "Small",
        collections: ["ocr"],
        official: { unit: "page", price_micros: 5 },
        example_input: { text: "hi" },
        version: { slots: 1, hardware: "cpu" },
      },
    ]);
  });

  it("names a version by its content alone: equal folders are equal, one changed byte is another", async () => {
    const [a, b] = await prepare(aModel("a"), aModel("b"));
    if (a?.kind !== "ready" || b?.kind !== "ready") throw new Error("not prepared");
    expect(a.version.id).toBe(b.version.id);
    const [changed] = await prepare(aModel("a", { "predict.py": `${PREDICTOR}\n` }));
    expect(changed).toMatchObject({ kind: "ready" });
    expect(versions.ids()).toHaveLength(2);
    expect(versions.get(a.version.id)?.schema).toEqual(a.version.schema);
  });

  it("leaves out caches, ignored files and links that lead nowhere", () => {
    const dir = aModel("a", {
      ".dockerignore": "# notes\n*.tmp\ndata/\n!data/keep.txt\n",
      "__pycache__/x.pyc": "",
      ".cog/openapi_schema.json": "",
      "x.tmp": "",
      "data/drop.txt": "",
      "data/keep.txt": "",
      "sub/y.py": "",
    });
    symlinkSync("/nowhere/at/all", join(dir, "broken"));
    expect(listFiles(dir)).toEqual([".dockerignore", "cog.yaml", "data/keep.txt", "predict.py", "sub/y.py"]);
  });

  it("keeps a model that needs a GPU listed without a version, and that is no fault", async () => {
    const [result] = await prepare(aModel("gpu", { "cog.yaml": YAML.replace("{", "{ gpu: true,") }));
    expect(result).toMatchObject({ kind: "failed", isFault: false });
    expect(announced.at(-1)).toMatchObject([
      "gpu",
      { state: "failed", reason: "It needs a GPU, and this host has none." },
    ]);
  });

  it.each([
    ["not YAML", "build: [\n", /cog\.yaml:\d+:\d+ /],
    ["no reference", 'build: { python_version: "3.11" }\n', /run is missing/],
    ["a wrong reference", 'build: { python_version: "3.11" }\nrun: predict\n', /cog\.yaml:2:6 run must be/],
    ["a refused variable", `${YAML}environment: ["LD_PRELOAD=x"]\n`, /must not set LD_PRELOAD/],
    ["missing requirements", YAML.replace("{", "{ python_requirements: r.txt,"), /r\.txt, which is missing/],
    ["a missing predictor", YAML.replace("Runner", "Nobody"), /Nobody.*did you mean predict\.py:Runner\?/],
    ["a missing trainer", `${YAML}train: "train.py:train"\n`, /train\.py, which is missing/],
  ])("says in one line what is wrong with %s", async (_what, text, reason) => {
    const [result] = await prepare(aModel("broken", { "cog.yaml": text }));
    expect(result).toMatchObject({ kind: "failed", isFault: true, reason: expect.stringMatching(reason) });
    expect(announced.at(-1)?.[1].reason).not.toContain(folder.path);
  });
}, 120_000);
