import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { temporaryFolder, testModel } from "../testing/harness.ts";
import { type CheckHost, checkModel } from "./check-model.ts";
import { faultText } from "./yaml-faults.ts";

const EXAMPLES = join(import.meta.dirname, "../../examples/models");
const YAML = 'build:\n  python_version: "3.11"\nrun: "predict.py:Runner"\n';
const CODE = "class Runner:\n    def run(self) -> str: ...\n";

describe("a model's folder", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(() => {
    folder = temporaryFolder();
  });
  afterEach(() => folder.remove());

  const check = (files: Record<string, string>, host?: CheckHost) => {
    for (const [path, text] of Object.entries({ "cog.yaml": YAML, "predict.py": CODE, ...files })) {
      mkdirSync(dirname(join(folder.path, path)), { recursive: true });
      writeFileSync(join(folder.path, path), text);
    }
    const result = checkModel(folder.path, host);
    return { ...result, faults: result.faults.map(faultText), warnings: result.warnings.map(faultText) };
  };

  it("without a fault gives what a build needs", () => {
    expect(check({ "cogway.yaml": "# nothing yet\n" })).toMatchObject({
      faults: [],
      warnings: [],
      cogway: {},
      resolution: { base_image: "python:3.11-slim" },
    });
  });

  it("is told apart from a folder without a model", () => {
    expect(checkModel(folder.path).faults.map(faultText)).toEqual([
      "cog.yaml:1:1 is missing: a model's folder has a cog.yaml.",
    ]);
  });

  it("says at once what is missing in it and what does not fit together", () => {
    const cog = `build:
  gpu: true
  python_version: "3.12"
  python_requirements: requirements.txt
run: "predict.py:Runer"
train: "train.py:train"
weights:
  - { name: base, target: /src/base, source: weights/base }
`;
    const result = check({
      "cog.yaml": cog,
      "requirements.txt": "torch==2.1.0\n-r more.txt\n",
      "cogway.yaml": "stabel: true\n",
    });
    expect(result.faults).toEqual([
      "cogway.yaml:1:1 stabel is unknown: did you mean stable?",
      "cog.yaml:5:6 run names Runer, which is not in predict.py: did you mean predict.py:Runner?",
      "cog.yaml:6:8 train names train.py, which is missing.",
      "cog.yaml:8:46 weights: weights/base is missing in this folder.",
      "more.txt:1:1 is missing.",
      "cog.yaml:4:24 torch 2.1.0 has packages for Python 3.10 to 3.11, and build.python_version is 3.12. Nearest that works: torch==2.1.0, Python 3.11, CUDA 12.1, cuDNN 8.",
    ]);
    expect(result.resolution).toBeNull();
  });

  it.each([
    [
      "a requirements file",
      { "cog.yaml": YAML.replace("run:", "  python_requirements: r.txt\nrun:") },
      "cog.yaml:3:24 build.python_requirements names r.txt, which is missing.",
    ],
    [
      "a predictor",
      { "cog.yaml": YAML.replace("predict.py", "src/predict.py") },
      "cog.yaml:3:6 run names src/predict.py, which is missing.",
    ],
    [
      "a class",
      { "predict.py": "x = 1\n" },
      "cog.yaml:3:6 run names Runner, which is not in predict.py: it defines nothing.",
    ],
    [
      "an async run",
      { "cog.yaml": `${YAML}concurrency: { max: 4 }\n` },
      "cog.yaml:4:21 concurrency.max is 4, which needs an `async def run` in predict.py.",
    ],
  ])("says that %s is missing", (_what, files, expected) => {
    expect(check(files).faults).toEqual([expected]);
  });

  it.each([
    "from other import Runner\n",
    "from other import (\n    Runner,\n)\n",
    "from other import *\n",
    "import other\nRunner = other.make()\n",
    "if True:\n    class Runner: ...\n",
    "Runner: type = object\n",
    "async def Runner(): ...\n",
  ])("finds its runner in %j", (code) => {
    expect(check({ "predict.py": code }).faults).toEqual([]);
  });

  it("warns where the process driver has another Python; docker has the one that was asked for", () => {
    const warning = "cog.yaml:2:19 build.python_version is 3.11; this host has 3.12.4, which is used.";
    expect(check({}, { driver: "process", python: "3.12.4" }).warnings).toEqual([warning]);
    expect(check({}, { driver: "process", python: "3.11.7" }).warnings).toEqual([]);
    expect(check({}, { driver: "docker", python: "3.12.4" }).warnings).toEqual([]);
  });
});

it.each([
  ...readdirSync(EXAMPLES).map((name) => join(EXAMPLES, name)),
  ...["inputs", "trainer", "secrets", "concurrent"].map(testModel),
])("%s has no fault", (folder) => {
  expect(checkModel(folder)).toMatchObject({ faults: [], warnings: [] });
});
