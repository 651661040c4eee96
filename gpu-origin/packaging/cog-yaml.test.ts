import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkCogYaml } from "./cog-yaml.ts";
import { checkCogwayYaml, gpusOf } from "./cogway-yaml.ts";
import { faultText, YAML_BYTES_MAX } from "./yaml-faults.ts";

const OK = 'build:\n  python_version: "3.11"\nrun: "predict.py:Runner"\n';
const GPU = OK.replace("build:", "build:\n  gpu: true");

const faults = (text: string) => checkCogYaml(text).faults.map(faultText);
const warnings = (text: string) => checkCogYaml(text).warnings.map(faultText);

describe("cog.yaml", () => {
  it("is read with every member that Cog documents", () => {
    const text = `build:
  gpu: true
  python_version: "3.12"
  python_requirements: requirements/all.txt
  system_packages: [libgl1, "ffmpeg=7:5.1", libstdc++6, "libc6:amd64"]
  run:
    - echo one
    - command: echo two
      mounts: [{ type: secret, id: token, target: /etc/token }]
  cuda: "12.4"
  cudnn: "9"
  sdk_version: "0.23.1"
run: "src/predict.py:Runner"
train: "train.py:train"
image: registry.example.com/me/mine
environment: [GREETING=hello=world]
concurrency: { max: 4, default_target: 2 }
weights:
  - { name: base, target: /src/weights/base, source: https://example.com/a.bin }
  - { name: lora.one, target: /src/weights/lora, source: { uri: weights/lora, include: ["*.bin"], exclude: ["*.md"] } }
  - { name: more, target: /data, source: [file://./a, { uri: ./b }] }
`;
    const { faults: wrong, value } = checkCogYaml(text);
    expect(wrong).toEqual([]);
    expect(value).toMatchObject({
      build: {
        gpu: true,
        python_version: "3.12",
        cuda: "12.4",
        cudnn: "9",
        run: [
          { command: "echo one", mounts: [] },
          { command: "echo two", mounts: [{ id: "token" }] },
        ],
      },
      concurrency: { max: 4, default_target: 2 },
      weights: [
        { source: [{ uri: "https://example.com/a.bin", include: [], exclude: [] }] },
        { source: [{ uri: "weights/lora", include: ["*.bin"], exclude: ["*.md"] }] },
        { source: [{ uri: "file://./a" }, { uri: "./b" }] },
      ],
    });
  });

  it("takes versions that were not quoted as they were written", () => {
    const text = "build:\n  gpu: true\n  python_version: 3.10\n  cuda: 12.0\n  cudnn: 8\nrun: a.py:B\n";
    expect(checkCogYaml(text).value?.build).toMatchObject({ python_version: "3.10", cuda: "12.0", cudnn: "8" });
  });

  it("says all that is wrong at once, each with its line and column", () => {
    const text = `build:
  gpu: "yes"
  python_version: true
  system_packages: libgl
  run: [1, { comand: x }, { command: a, mounts: [{ type: bind, id: a, target: /a }] }]
  cuda: 10.2
  sdk_version: 0.15.0
  python_packges: [a]
run: [a]
environment:
  - PATH=1
  - A
  - HF_ENDPOINT=x
enviroment: []
gpu: true
hardware: gpu-h100
`;
    expect(faults(text)).toEqual([
      'cog.yaml:2:8 build.gpu must be true or false, not "yes".',
      "cog.yaml:3:19 build.python_version must be a text, not true.",
      'cog.yaml:4:20 build.system_packages must be a list, not "libgl".',
      "cog.yaml:5:9 build.run[0] must be a group of names and values, not 1.",
      "cog.yaml:5:12 build.run[1].command is missing.",
      "cog.yaml:5:14 build.run[1].comand is unknown: did you mean command?",
      'cog.yaml:5:58 build.run[2].mounts[0].type must be "secret", not "bind".',
      "cog.yaml:6:9 build.cuda must be at least 11, not 10.2.",
      "cog.yaml:7:16 build.sdk_version must be at least 0.16.0, not 0.15.0.",
      "cog.yaml:8:3 build.python_packges is unknown: did you mean python_packages?",
      "cog.yaml:9:6 run must be a text, not a list.",
      "cog.yaml:11:5 environment must not set PATH: it is set by the platform.",
      'cog.yaml:12:5 environment[1] must be NAME=value, not "A".',
      "cog.yaml:13:5 environment must not set HF_ENDPOINT: it is set by the platform.",
      "cog.yaml:14:1 enviroment is unknown: did you mean environment?",
      "cog.yaml:15:1 gpu is unknown: it belongs into build.",
      "cog.yaml:16:1 hardware is unknown: it belongs into cogway.yaml.",
    ]);
  });

  it.each([
    ["an empty file", "", "cog.yaml:1:1 is empty; it must say at least"],
    ["comments alone", "# soon\n", "cog.yaml:1:1 is empty"],
    ["a list", "- a\n", 'cog.yaml:1:1 must be lines of "name: value"'],
    ["a word", "hello", 'cog.yaml:1:1 must be lines of "name: value"'],
    ["a tab", "build:\n\tpython_version: '3.11'\n", "cog.yaml:2:1 is indented by a tab"],
    ["a key given twice", `${OK}run: x.py:Y\n`, "cog.yaml:4:1 says a thing twice"],
    ["two documents", `${OK}---\na: 1\n`, "cog.yaml:4:1 holds more than one document"],
    ["an open quote", 'run: "a.py:B\n', "cog.yaml:2:1 is not YAML: Missing closing quote."],
    ["an alias of nothing", `${OK}image: *x\n`, "is not YAML: Unresolved alias"],
    [
      "a bomb of aliases",
      `a: &a [1]\n${"bcdefg"
        .split("")
        .map((name, index) => `${name}: &${name} [${Array(9).fill(`*${"abcdef"[index]}`)}]\n`)
        .join("")}`,
      "its aliases make it too large",
    ],
    ["endless nesting", `a: ${"[".repeat(100_000)}`, "it is nested too deep"],
    ["a data file", `a: ${"x".repeat(YAML_BYTES_MAX)}`, "cog.yaml:1:1 is larger than 256 KiB"],
    ["no build", "run: a.py:B\n", 'build is missing: add build: { python_version: "3.11" }.'],
    [
      "no Python",
      "build: { gpu: true }\nrun: a.py:B\n",
      'cog.yaml:1:8 build.python_version is missing: add python_version: "3.11".',
    ],
    ["an old Python", OK.replace("3.11", "3.9"), "cog.yaml:2:19 build.python_version must be one of 3.10, "],
    ["nothing that predicts", 'build: { python_version: "3.11" }\n', "run is missing: say what predicts"],
    [
      "a reference without a class",
      OK.replace(":Runner", ""),
      'cog.yaml:3:6 run must be "file.py:Name", not "predict.py".',
    ],
    ["a file elsewhere", OK.replace("predict.py", "../predict.py"), "run must name a file of this folder"],
    ["run and predict", `${OK}predict: a.py:B\n`, "cog.yaml:4:1 predict is the older name of run: give one of them"],
    ["image and model", `${OK}image: x\nmodel: y\n`, "cog.yaml:5:1 model and image exclude each other"],
    [
      "packages twice",
      OK.replace("run:", "  python_packages: [a]\n  python_requirements: r.txt\nrun:"),
      "cog.yaml:3:3 build.python_packages and build.python_requirements exclude",
    ],
    [
      "slots on an old Python",
      `${OK.replace("3.11", "3.10")}concurrency: { max: 2 }\n`,
      "cog.yaml:4:21 concurrency.max above 1 needs Python 3.11",
    ],
    [
      "a target above the slots",
      `${OK}concurrency: { max: 2, default_target: 3 }\n`,
      "concurrency.default_target must be at most concurrency.max",
    ],
    [
      "a command in a package's name",
      OK.replace("run:", '  system_packages: ["x; rm -rf /"]\nrun:'),
      "cog.yaml:3:21 build.system_packages[0] must be the name of a Debian package",
    ],
    ["a model with a tag", `${OK}model: me/mine:1\n`, "model must not have a tag"],
    ["a member of every object", `${OK}__proto__: 1\n`, "cog.yaml:4:1 __proto__ is unknown"],
    ["a test section", `${OK}tests: []\n`, "tests is unknown: Cog has no such member"],
  ])("says what is wrong with %s", (_what, text, expected) => {
    const all = faults(text);
    expect(all.filter((fault) => fault.includes(expected))).toHaveLength(1);
    expect(all.every((fault) => !fault.includes("\n"))).toBe(true);
    expect(checkCogYaml(text).value).toBeNull();
  });

  it.each([
    ["predict", OK.replace("run:", "predict:"), "cog.yaml:3:1 predict is deprecated: name it run."],
    [
      "python_packages",
      OK.replace("run:", "  python_packages: [numpy]\nrun:"),
      "cog.yaml:3:3 build.python_packages is deprecated",
    ],
    [
      "pre_install",
      OK.replace("run:", '  pre_install: ["true"]\nrun:'),
      "cog.yaml:3:3 build.pre_install is deprecated",
    ],
    ["concurrency.max", `${OK}concurrency:\n  max: 2\n`, "cog.yaml:5:3 concurrency.max is deprecated"],
    [
      "cuda without a GPU",
      OK.replace("run:", '  cuda: "12.4"\nrun:'),
      "cog.yaml:3:3 build.cuda counts only with build.gpu: true.",
    ],
    ["a variable set twice", `${OK}environment: [A=1, A=2]\n`, "environment sets A twice"],
  ])("takes %s, with a warning", (_what, text, expected) => {
    expect(warnings(text)).toEqual([expect.stringContaining(expected)]);
    expect(checkCogYaml(text).value).not.toBeNull();
  });

  it.each([
    "PATH",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "PYTHONUNBUFFERED",
    "LIBRARY_PATH",
    "R8_X",
    "REPLICATE_X",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_X",
    "NV_X",
    "PGET_X",
    "HF_ENDPOINT",
    "HF_HUB_ENABLE_HF_TRANSFER",
    "KUBERNETES_X",
    "COG_X",
    "COGWAY_X",
    "LD_PRELOAD",
  ])("lets no model set %s", (name) => {
    expect(faults(`${OK}environment: [${name}=1]\n`)).toEqual([expect.stringContaining(`must not set ${name}`)]);
  });

  it("wants weights whose names differ, whose targets are apart, and that can be fetched", () => {
    const text = `${OK}weights:
  - { name: A, target: rel, source: x }
  - { name: a, target: /src/w, source: "hf://x/y" }
  - { name: a, target: /src/w/z, source: [{ uri: s3://x }, ../x] }
  - { name: b, target: /, source: { uri: "https://x/y", includ: [a] } }
`;
    expect(faults(text)).toEqual([
      expect.stringContaining("cog.yaml:5:13 weights[0].name must be lower-case"),
      expect.stringContaining("cog.yaml:5:24 weights[0].target must be an absolute path"),
      expect.stringContaining("cog.yaml:6:40 weights: hf://x/y cannot be fetched here. Download it beside cog.yaml"),
      expect.stringContaining("cog.yaml:7:13 weights: the name a is used twice"),
      expect.stringContaining("cog.yaml:7:24 weights: /src/w/z and /src/w overlap"),
      expect.stringContaining("cog.yaml:7:50 weights: s3:// is unknown"),
      expect.stringContaining("cog.yaml:7:60 weights: ../x must lie in this folder"),
      expect.stringContaining("cog.yaml:8:24 weights[3].target must be an absolute path"),
      expect.stringContaining("weights[3].source[0].includ is unknown: did you mean include?"),
    ]);
  });

  it("is the same with a byte order mark, CRLF, merge keys, and members that say nothing", () => {
    const plain = checkCogYaml(OK).value;
    expect(checkCogYaml(`\uFEFF${OK.replaceAll("\n", "\r\n")}`).value).toEqual(plain);
    expect(checkCogYaml(`${OK}environment:\nconcurrency:\n`).value).toEqual(plain);
    expect(checkCogYaml('build:\n  <<: { python_version: "3.11" }\nrun: "predict.py:Runner"\n').value).toEqual(plain);
  });

  it("never throws, whatever it holds", () => {
    const piece = fc.constantFrom(
      "build:",
      "\n",
      "  ",
      "\t",
      "run: ",
      "a.py:B",
      "- ",
      "[",
      "]",
      "{",
      "}",
      ",",
      ": ",
      "&a ",
      "*a",
      "<<: ",
      "!!binary ",
      "|",
      ">",
      "'",
      '"',
      "? ",
      "weights:",
      "environment:",
      "3.10",
      "null",
      "---\n",
      "\u0000",
      "🤗",
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(piece, fc.string({ maxLength: 6 })), { maxLength: 40 }), (parts) => {
        const result = checkCogYaml(parts.join(""));
        expect(result.value === null).toBe(result.faults.length > 0);
        for (const { line, column } of result.faults) expect(Math.min(line, column)).toBeGreaterThanOrEqual(1);
      }),
      { numRuns: 500 },
    );
  });
});

describe("cogway.yaml", () => {
  const cog = checkCogYaml(OK).value;
  const gpu = checkCogYaml(GPU).value;

  it("says what a model needs of its host", () => {
    const text = "hardware: gpu-h100\ngpus: 2\negress: true\nstable: true\n";
    expect(checkCogwayYaml(text, gpu)).toMatchObject({
      faults: [],
      value: { hardware: "gpu-h100", gpus: 2, egress: true, stable: true },
    });
  });

  it.each([
    ["hardware: gpu-h100\n", cog, "cogway.yaml:1:11 hardware gpu-h100 has GPUs: say build.gpu: true"],
    ["hardware: cpu\n", gpu, "cogway.yaml:1:11 hardware cpu has no GPU"],
    ["gpus: 2\n", cog, "cogway.yaml:1:1 gpus needs build.gpu: true"],
    ["hardware: gpu-h100-8x\ngpus: 4\n", gpu, "cogway.yaml:2:7 gpus is 4, and hardware gpu-h100-8x is 8 of them"],
    ["hardware: H100\n", gpu, 'cogway.yaml:1:11 hardware must be "cpu", "gpu" or such as "gpu-h100"'],
    ["gpus: 0\n", gpu, "cogway.yaml:1:7 gpus must be at least 1, not 0."],
    ["gpus: 99\n", gpu, "cogway.yaml:1:7 gpus must be at most 16"],
    ["egres: true\n", cog, "cogway.yaml:1:1 egres is unknown: did you mean egress?"],
    ["stable: sometimes\n", cog, 'cogway.yaml:1:9 stable must be true or false, not "sometimes".'],
    [
      "official: { unit: image, prise_micros: 5 }\n",
      cog,
      "official.prise_micros is unknown: did you mean price_micros?",
    ],
  ])("%j is refused", (text, model, expected) => {
    expect(checkCogwayYaml(text, model).faults.map(faultText)).toEqual(
      expect.arrayContaining([expect.stringContaining(expected)]),
    );
  });

  it("gives a model of one GPU one, of an SKU of eight eight, and none to others", () => {
    if (cog === null || gpu === null) throw new Error("not read");
    expect(gpusOf(cog, {})).toBe(0);
    expect(gpusOf(gpu, {})).toBe(1);
    expect(gpusOf(gpu, { hardware: "gpu" })).toBe(1);
    expect(gpusOf(gpu, { hardware: "gpu-2x" })).toBe(2);
    expect(gpusOf(gpu, { hardware: "gpu-h100-8x" })).toBe(8);
    expect(gpusOf(gpu, { hardware: "gpu-h100", gpus: 4 })).toBe(4);
  });
});
