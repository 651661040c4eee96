/** The table of cog.md's matrices as cases: `python kind options : requirements` (`; ` between lines) and `image index constraints`, where `-` is none. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type CompatibilityRequest, conflictText, resolveCompatibility } from "./compatibility.ts";
import cudaImages from "./data/cuda-images.json" with { type: "json" };
import tensorflowReleases from "./data/tensorflow.json" with { type: "json" };
import torchReleases from "./data/torch.json" with { type: "json" };

const FITS: [string, string][] = [
  ["3.11 cpu", "python:3.11-slim - -"],
  ["3.10 cpu", "python:3.10-slim - -"],
  ["3.11.4 cpu", "python:3.11.4-slim - -"],
  ["3.13 cpu : numpy==2.3.5", "python:3.13-slim - -"],
  ["3.11 cpu : torch==2.4.1", "python:3.11-slim cpu torch==2.4.1"],
  [
    "3.11 cpu : torch==2.4.1; torchvision==0.19.1; torchaudio==2.4.1",
    "python:3.11-slim cpu torch==2.4.1,torchvision==0.19.1,torchaudio==2.4.1",
  ],
  ["3.12 cpu : torch", "python:3.12-slim cpu torch==2.11.0"],
  ["3.10 cpu : torch<2", "python:3.10-slim cpu torch==1.13.1"],
  ["3.14 cpu : torch>=2", "python:3.14-slim cpu torch==2.11.0"],
  ["3.11 cpu : torch==99.0", "python:3.11-slim cpu - 1 warned"],
  ["3.11 cpu : torch==2.4.1+cu121", "python:3.11-slim cu121 torch==2.4.1 1 warned"],
  ["3.11 cpu : tensorflow==2.17.0", "python:3.11-slim - tensorflow==2.17.*"],
  ["3.11 cpu : tensorflow-cpu==2.15.1", "python:3.11-slim - tensorflow-cpu==2.15.*"],
  ["3.11 cpu : tensorflow==2.99.0", "python:3.11-slim - -"],
  ["3.11 gpu", "11.8.0-cudnn8-devel-ubuntu22.04 - -"],
  ["3.11 gpu cuda=12.4", "12.4.1-cudnn-devel-ubuntu22.04 - -"],
  ["3.11 gpu cuda=12.4.1", "12.4.1-cudnn-devel-ubuntu22.04 - -"],
  ["3.11 gpu cuda=12", "12.9.1-cudnn-devel-ubuntu24.04 - -"],
  ["3.11 gpu cuda=11.6", "11.6.2-cudnn8-devel-ubuntu20.04 - -"],
  ["3.11 gpu cuda=11.6.1", "11.6.1-cudnn8-devel-ubuntu20.04 - -"],
  ["3.11 gpu cuda=12.3", "12.3.2-cudnn9-devel-ubuntu22.04 - -"],
  ["3.11 gpu cuda=12.6 cudnn=9", "12.6.3-cudnn-devel-ubuntu24.04 - -"],
  ["3.11 gpu cuda=13.2", "13.2.1-cudnn-devel-ubuntu24.04 - -"],
  ["3.11 gpu cudnn=8", "11.8.0-cudnn8-devel-ubuntu22.04 - -"],
  ["3.10 gpu : torch==1.11.0", "11.3.1-cudnn8-devel-ubuntu20.04 cu113 torch==1.11.0"],
  [
    "3.10 gpu : torch==1.12.1; torchvision==0.13.1",
    "11.6.2-cudnn8-devel-ubuntu20.04 cu116 torch==1.12.1,torchvision==0.13.1",
  ],
  ["3.10 gpu : torch==1.13.1", "11.7.1-cudnn8-devel-ubuntu22.04 cu117 torch==1.13.1"],
  ["3.11 gpu : torch==2.0.1", "11.8.0-cudnn8-devel-ubuntu22.04 cu118 torch==2.0.1"],
  ["3.11 gpu : torch==2.1.2", "12.1.1-cudnn8-devel-ubuntu22.04 cu121 torch==2.1.2"],
  ["3.12 gpu : torch==2.2.2", "12.1.1-cudnn8-devel-ubuntu22.04 cu121 torch==2.2.2"],
  ["3.12 gpu : torch==2.3.1", "12.1.1-cudnn8-devel-ubuntu22.04 cu121 torch==2.3.1"],
  [
    "3.12 gpu : torch==2.4.1; torchvision==0.19.1",
    "12.4.1-cudnn-devel-ubuntu22.04 cu124 torch==2.4.1,torchvision==0.19.1",
  ],
  ["3.12 gpu : torch==2.5.1", "12.4.1-cudnn-devel-ubuntu22.04 cu124 torch==2.5.1"],
  ["3.13 gpu : torch==2.6.0", "12.6.3-cudnn-devel-ubuntu24.04 cu126 torch==2.6.0"],
  ["3.13 gpu : torch==2.7.1", "12.8.1-cudnn-devel-ubuntu24.04 cu128 torch==2.7.1"],
  ["3.13 gpu : torch==2.8.0", "12.9.1-cudnn-devel-ubuntu24.04 cu129 torch==2.8.0"],
  ["3.14 gpu : torch==2.9.1", "13.0.3-cudnn-devel-ubuntu24.04 cu130 torch==2.9.1"],
  ["3.14 gpu : torch==2.10.0", "13.0.3-cudnn-devel-ubuntu24.04 cu130 torch==2.10.0"],
  [
    "3.14 gpu : torch==2.11.0; torchvision; torchaudio",
    "13.0.3-cudnn-devel-ubuntu24.04 cu130 torch==2.11.0,torchvision==0.26.0,torchaudio==2.11.0",
  ],
  ["3.11 gpu : torch", "13.0.3-cudnn-devel-ubuntu24.04 cu130 torch==2.11.0"],
  ["3.11 gpu : torch>=2.0,<2.2", "12.1.1-cudnn8-devel-ubuntu22.04 cu121 torch==2.1.2"],
  ["3.11 gpu : torch~=2.3.0", "12.1.1-cudnn8-devel-ubuntu22.04 cu121 torch==2.3.1"],
  ["3.11 gpu : torchvision==0.17.1", "12.1.1-cudnn8-devel-ubuntu22.04 cu121 torch==2.2.1,torchvision==0.17.1"],
  ["3.11 gpu : torchaudio==2.0.2", "11.8.0-cudnn8-devel-ubuntu22.04 cu118 torch==2.0.1,torchaudio==2.0.2"],
  ["3.11 gpu : torch==2.1.0+cu118", "11.8.0-cudnn8-devel-ubuntu22.04 cu118 torch==2.1.0"],
  ["3.11 gpu cuda=11.8 : torch==2.4.1", "11.8.0-cudnn8-devel-ubuntu22.04 cu118 torch==2.4.1"],
  ["3.11 gpu cuda=12.2 : torch==2.4.1", "12.2.2-cudnn8-devel-ubuntu22.04 cu121 torch==2.4.1 1 warned"],
  ["3.11 gpu cuda=12.9 : torch==2.7.1", "12.9.1-cudnn-devel-ubuntu24.04 cu128 torch==2.7.1 1 warned"],
  ["3.11 gpu cuda=12.1 : torch==2.1.0+cu118", "12.1.1-cudnn8-devel-ubuntu22.04 cu118 torch==2.1.0"],
  ["3.11 gpu cuda=12.8 : torch==2.12.0", "12.8.1-cudnn-devel-ubuntu24.04 cu128 - 1 warned"],
  ["3.10 gpu : tensorflow==2.8.0", "11.2.2-cudnn8-devel-ubuntu20.04 - tensorflow==2.8.*"],
  ["3.10 gpu : tensorflow==2.11.0", "11.2.2-cudnn8-devel-ubuntu20.04 - tensorflow==2.11.*"],
  ["3.11 gpu : tensorflow==2.12.0", "11.8.0-cudnn8-devel-ubuntu22.04 - tensorflow==2.12.*"],
  ["3.11 gpu : tensorflow==2.13.1", "11.8.0-cudnn8-devel-ubuntu22.04 - tensorflow==2.13.*"],
  ["3.11 gpu : tensorflow==2.14.0", "11.8.0-cudnn8-devel-ubuntu22.04 - tensorflow==2.14.*"],
  ["3.11 gpu : tensorflow==2.15.1", "12.2.2-cudnn8-devel-ubuntu22.04 - tensorflow==2.15.*"],
  ["3.12 gpu : tensorflow==2.18.0", "12.5.1-cudnn-devel-ubuntu22.04 - tensorflow==2.18.*"],
  ["3.12 gpu : tensorflow==2.19.1", "12.5.1-cudnn-devel-ubuntu22.04 - tensorflow==2.19.*"],
  ["3.13 gpu : tensorflow==2.20.0", "12.5.1-cudnn-devel-ubuntu22.04 - tensorflow==2.20.*"],
  ["3.13 gpu : tensorflow==2.21.0", "12.5.1-cudnn-devel-ubuntu22.04 - tensorflow==2.21.*"],
  ["3.12 gpu : tensorflow", "12.5.1-cudnn-devel-ubuntu22.04 - tensorflow==2.21.*"],
  ["3.11 gpu : tensorflow>=2.15,<2.18", "12.2.2-cudnn8-devel-ubuntu22.04 - tensorflow==2.15.*"],
  ["3.11 gpu cuda=12.1 : tensorflow==2.15.0", "12.1.1-cudnn8-devel-ubuntu22.04 - tensorflow==2.15.* 1 warned"],
  ["3.11 gpu cuda=12.5 : tensorflow==2.99.0", "12.5.1-cudnn-devel-ubuntu22.04 - - 1 warned"],
  [
    "3.11 gpu : tensorflow==2.14.0; torch==2.1.0",
    "11.8.0-cudnn8-devel-ubuntu22.04 cu118 torch==2.1.0,tensorflow==2.14.*",
  ],
  [
    "3.11 gpu : tensorflow==2.18.0; torch==2.5.1",
    "12.5.1-cudnn-devel-ubuntu22.04 cu124 torch==2.5.1,tensorflow==2.18.*",
  ],
  [
    "3.11 gpu : tensorflow-cpu==2.17.0; torch==2.4.1",
    "12.4.1-cudnn-devel-ubuntu22.04 cu124 torch==2.4.1,tensorflow-cpu==2.17.*",
  ],
];

/** What does not fit, words of the reason, and the nearest set. */
const CONFLICTS: [string, string, string][] = [
  [
    "3.12 cpu : torch==2.1.0",
    "torch 2.1.0 has packages for Python 3.10 to 3.11, and build.python_version is 3.12",
    "torch==2.1.0, Python 3.11",
  ],
  [
    "3.13 cpu : torch==2.5.1",
    "torch 2.5.1 has packages for Python 3.10 to 3.12, and build.python_version is 3.13",
    "torch==2.6.0, Python 3.13",
  ],
  [
    "3.12 cpu : tensorflow==2.15.0",
    "tensorflow 2.15 has packages for Python 3.9 to 3.11, and build.python_version is 3.12",
    "tensorflow==2.16.*, Python 3.12",
  ],
  [
    "3.10 cpu : tensorflow==2.4.0",
    "tensorflow 2.4 has packages for Python 3.6 to 3.8, and build.python_version is 3.10",
    "tensorflow==2.8.*, Python 3.10",
  ],
  ["3.11 gpu cuda=12.7", "No base image has CUDA 12.7", "Python 3.11, CUDA 12.6, cuDNN 9"],
  [
    "3.11 gpu cuda=12.4 cudnn=8",
    "No base image has both CUDA 12.4 and cuDNN 8; CUDA 12.4 comes with cuDNN 9",
    "Python 3.11, CUDA 12.4, cuDNN 9",
  ],
  [
    "3.11 gpu cudnn=9",
    "No base image has both CUDA 11.8 and cuDNN 9; CUDA 11.8 comes with cuDNN 8",
    "Python 3.11, CUDA 11.8, cuDNN 8",
  ],
  [
    "3.11 gpu cuda=11.7 : torch==2.1.0+cu118",
    "torch 2.1.0 has wheels for CUDA 11.8, 12.1, none of which runs on CUDA 11.7",
    "torch==2.1.0, Python 3.11, CUDA 11.8, cuDNN 8",
  ],
  [
    "3.11 gpu : torch==2.12.0",
    "torch==2.12.0 is in no table, so its CUDA is unknown: set build.cuda, or take a known release",
    "torch==2.11.0, Python 3.11, CUDA 13.0, cuDNN 9",
  ],
  [
    "3.11 gpu : torch==2.1.0+cu126",
    "torch 2.1.0 has no wheels for CUDA 12.6; it has them for 11.8, 12.1",
    "torch==2.1.0, Python 3.11, CUDA 12.1, cuDNN 8",
  ],
  [
    "3.11 gpu : torch==2.4.1; torchvision==0.18.0",
    "torch==2.4.1 and torchvision==0.18.0 do not belong together",
    "torch==2.4.1, torchvision==0.19.1, Python 3.11, CUDA 12.4, cuDNN 9",
  ],
  [
    "3.12 gpu : torch==1.13.1",
    "torch 1.13.1 has packages for Python 3.10 only, and build.python_version is 3.12",
    "torch==1.13.1, Python 3.10, CUDA 11.7, cuDNN 8",
  ],
  [
    "3.13 gpu : torch==2.4.1",
    "torch 2.4.1 has packages for Python 3.10 to 3.12, and build.python_version is 3.13",
    "torch==2.4.1, Python 3.12, CUDA 12.4, cuDNN 9",
  ],
  [
    "3.11 gpu cuda=11.2 : torch==2.4.1",
    "torch 2.4.1 has wheels for CUDA 11.8, 12.1, 12.4, none of which runs on CUDA 11.2",
    "torch==2.4.1, Python 3.11, CUDA 11.8, cuDNN 8",
  ],
  [
    "3.11 gpu : tensorflow==2.16.1",
    "TensorFlow 2.16: no base image has both CUDA 12.3 and cuDNN 8; CUDA 12.3 comes with cuDNN 9",
    "tensorflow==2.15.*, Python 3.11, CUDA 12.2, cuDNN 8",
  ],
  [
    "3.12 gpu : tensorflow==2.17.0",
    "TensorFlow 2.17: no base image has both CUDA 12.3 and cuDNN 8; CUDA 12.3 comes with cuDNN 9",
    "tensorflow==2.18.*, Python 3.12, CUDA 12.5, cuDNN 9",
  ],
  [
    "3.14 gpu : tensorflow==2.21.0",
    "tensorflow 2.21 has packages for Python 3.10 to 3.13, and build.python_version is 3.14",
    "tensorflow==2.21.*, Python 3.13, CUDA 12.5, cuDNN 9",
  ],
  [
    "3.12 gpu : tensorflow>=2.15,<2.18",
    "TensorFlow 2.17: no base image has both CUDA 12.3 and cuDNN 8; CUDA 12.3 comes with cuDNN 9",
    "tensorflow==2.18.*, Python 3.12, CUDA 12.5, cuDNN 9",
  ],
  [
    "3.11 gpu cudnn=9 : tensorflow==2.15.0",
    "TensorFlow 2.15 was built for cuDNN 8.9, and build.cudnn is 9",
    "tensorflow==2.15.*, Python 3.11, CUDA 12.2, cuDNN 8",
  ],
  [
    "3.11 gpu cuda=12.4 : tensorflow==2.15.0",
    "TensorFlow 2.15: no base image has both CUDA 12.4 and cuDNN 8; CUDA 12.4 comes with cuDNN 9",
    "tensorflow==2.15.*, Python 3.11, CUDA 12.2, cuDNN 8",
  ],
  [
    "3.11 gpu : tensorflow==2.99.0",
    "tensorflow==2.99.0 is in no table, so its CUDA is unknown: set build.cuda, or take a known release",
    "tensorflow==2.21.*, Python 3.11, CUDA 12.5, cuDNN 9",
  ],
  [
    "3.10 gpu : tensorflow==2.11.0; torch==2.4.1",
    "torch 2.4.1 has wheels for CUDA 11.8, 12.1, 12.4, none of which runs on CUDA 11.2, which TensorFlow 2.11 needs",
    "torch==2.4.1, tensorflow==2.12.*, Python 3.10, CUDA 11.8, cuDNN 8",
  ],
  [
    "3.9 gpu : torch==2.1.0",
    "Python 3.9 is not supported: it must be one of 3.10, 3.11, 3.12, 3.13, 3.14",
    "torch==2.1.0, Python 3.10, CUDA 12.1, cuDNN 8",
  ],
];

function request(text: string): CompatibilityRequest {
  const [asked = "", requirements = ""] = text.split(" : ");
  const [python = "", kind, ...rest] = asked.split(" ");
  const option = (name: string) => rest.find((part) => part.startsWith(`${name}=`))?.slice(name.length + 1);
  return {
    python,
    gpu: kind === "gpu",
    cuda: option("cuda"),
    cudnn: option("cudnn"),
    requirements: requirements.replaceAll("; ", "\n"),
  };
}

function shown(text: string): string {
  const result = resolveCompatibility(request(text));
  if (result.kind === "conflict") return conflictText(result);
  const { base_image, torch_index, constraints, warnings } = result;
  return [
    base_image.replace("nvidia/cuda:", ""),
    torch_index?.split("/").at(-1) ?? "-",
    constraints.join(",") || "-",
    ...(warnings.length === 0 ? [] : [`${warnings.length} warned`]),
  ].join(" ");
}

describe("what goes together", () => {
  it("is a table of at least 60 combinations", () => {
    expect(FITS.length + CONFLICTS.length).toBeGreaterThanOrEqual(60);
  });

  it.each(FITS)("%s is %s", (asked, expected) => {
    expect(shown(asked)).toBe(expected);
  });

  it.each(CONFLICTS)("%s does not fit: %s; nearest is %s", (asked, reason, nearest) => {
    const result = resolveCompatibility(request(asked));
    expect(result).toEqual({ kind: "conflict", reason: expect.stringContaining(reason), nearest });
  });

  it.each(CONFLICTS)("the nearest set to %s works as it is written", (asked, _reason, nearest) => {
    const parts = nearest.split(", ");
    const number = (name: string) => parts.find((part) => part.startsWith(name))?.slice(name.length + 1);
    const again = resolveCompatibility({
      python: number("Python") ?? "",
      gpu: request(asked).gpu,
      cuda: number("CUDA"),
      cudnn: number("cuDNN"),
      requirements: parts.filter((part) => part.includes("==")).join("\n"),
    });
    expect(again.kind).toBe("resolved");
  });

  it("asks PyTorch's index for nothing that comes from elsewhere", () => {
    const own = "--extra-index-url https://download.pytorch.org/whl/cu121\ntorch==2.1.0\n";
    expect(resolveCompatibility({ python: "3.11", gpu: true, requirements: own })).toMatchObject({
      torch_index: null,
      cuda: "12.1.1",
      constraints: ["torch==2.1.0"],
    });
    const wheel = "torch @ https://example.com/torch-2.1.0%2Bcu118-cp311-cp311-linux_x86_64.whl";
    expect(resolveCompatibility({ python: "3.11", gpu: true, requirements: wheel })).toMatchObject({
      torch_index: null,
      cuda: "11.8.0",
      constraints: [],
    });
  });

  it("looks only at lines that are for this Python on Linux", () => {
    const requirements = "torch==9.9 ; sys_platform == 'darwin'\ntorch==2.4.1 ; python_version >= '3.11'\n";
    expect(resolveCompatibility({ python: "3.11", gpu: true, requirements })).toMatchObject({ cuda: "12.4.1" });
    expect(resolveCompatibility({ python: "3.10", gpu: true, requirements })).toMatchObject({ cuda: "11.8.0" });
  });
});

describe("the tables", () => {
  it("name their source, and hold what it holds", () => {
    for (const table of [cudaImages, tensorflowReleases, torchReleases]) {
      expect(table.source).toMatch(/\d{4}-\d{2}-\d{2}/);
    }
    expect(cudaImages.rows.reduce((sum, { ubuntu }) => sum + ubuntu.length, 0)).toBe(83);
    expect(tensorflowReleases.rows).toHaveLength(18);
  });

  it("have a base image for every CUDA that torch has wheels for", () => {
    for (const row of torchReleases.rows) {
      for (const cuda of row.cuda) {
        expect(
          resolveCompatibility({ python: row.python[0] ?? "", gpu: true, cuda, requirements: `torch==${row.torch}` }),
        ).toMatchObject({ kind: "resolved", torch_index: expect.stringContaining(`cu${cuda.replace(".", "")}`) });
      }
    }
  });
});

describe("whatever the requirements hold", () => {
  const piece = fc.constantFrom(
    "torch",
    "torchvision",
    "torchaudio",
    "tensorflow",
    "Tensor_Flow",
    "==",
    ">=",
    "~=",
    "===",
    "!=",
    "<",
    ",",
    "2.1.0",
    "2.*",
    "1!2",
    "2.1.0+cu118",
    "+cpu",
    "[extra, b]",
    "[",
    "]",
    ";",
    " ; python_version < '3.11'",
    " and ",
    " or ",
    "(",
    ")",
    "'",
    '"',
    "@",
    "https://x/torch-2.1.0%2Bcu121-cp311-none-any.whl",
    "%E0%A4%A",
    "./dist/a-1.0-py3-none-any.whl",
    "-r ",
    "--index-url",
    "--extra-index-url=",
    "https://download.pytorch.org/whl/cu999",
    " --hash=sha256:00",
    " # ",
    "\\\n",
    "\n",
    "\r\n",
    "\u0000",
    "\uFEFF",
    "🤗",
    "ｔｏｒｃｈ",
    "in ",
    "not in ",
    "extra == 'x'",
    "git+ssh://git@host/x.git#egg=torch",
  );
  const text = fc.array(fc.oneof({ weight: 4, arbitrary: piece }, fc.string({ unit: "binary", maxLength: 12 })), {
    maxLength: 40,
  });

  it("an answer comes, and soon", () => {
    fc.assert(
      fc.property(
        text,
        fc.constantFrom("3.10", "3.11", "3.14.1", "3.9", "", "x"),
        fc.boolean(),
        fc.option(fc.constantFrom("11.8", "12", "12.7", "", "x", "99.9.9"), { nil: undefined }),
        fc.option(fc.constantFrom("8", "9.1", "", "x"), { nil: undefined }),
        (parts, python, gpu, cuda, cudnn) => {
          const result = resolveCompatibility({ python, gpu, cuda, cudnn, requirements: parts.join("") });
          if (result.kind === "conflict") expect(conflictText(result)).toMatch(/\.$/);
          else expect(result.base_image).toMatch(gpu ? /^nvidia\/cuda:/ : /^python:/);
        },
      ),
      { numRuns: 500 },
    );
  });

  it("a line that opens thousands of brackets is no trap", () => {
    const requirements = `torch==2.1.0 ; ${"(".repeat(100_000)}\ntorch==2.1.0 ; ${"(".repeat(8_000)}\n`;
    expect(resolveCompatibility({ python: "3.11", gpu: true, requirements })).toMatchObject({ kind: "resolved" });
  });
});
