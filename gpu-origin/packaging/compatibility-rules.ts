/**
 * The rules of what goes together, over the facts of data/*.json, each with its source. They are Cog's (its pkg/config), with one addition: a version that a
 * specifier leaves open is chosen, the newest that fits. Pure.
 */
import { explain, rcompare } from "@renovatebot/pep440";
import { PYTHON_VERSIONS } from "./cog-yaml.ts";
import cudaImages from "./data/cuda-images.json" with { type: "json" };
import tensorflowReleases from "./data/tensorflow.json" with { type: "json" };
import torchReleases from "./data/torch.json" with { type: "json" };
import { allows, type Requirement, type Requirements } from "./requirements.ts";

/** Where nothing asks for another: what most drivers run. */
const CUDA_DEFAULT = "11.8";

type CudaImage = (typeof cudaImages.rows)[number];
type TorchRelease = (typeof torchReleases.rows)[number];
type TensorflowRelease = (typeof tensorflowReleases.rows)[number];

/** What the requirements and cog.yaml say, read once; the search for a nearest set changes its members. */
export interface Wish {
  /** minor, such as 3.11 */
  python: string;
  gpu: boolean;
  cuda: string | null;
  cudnn: string | null;
  /** CUDA of the wheels that a suffix (`+cu118`) or an index of PyTorch names */
  wheelCuda: string | null;
  torch: TorchRelease | "unknown" | null;
  tensorflow: TensorflowRelease | "unknown" | null;
}

export interface Fit {
  image: CudaImage | null;
  /** of the torch wheels; null for those of cpu, or without torch */
  wheelCuda: string | null;
  warnings: string[];
}

export interface Asked {
  torch: Requirement[];
  torchvision: Requirement[];
  torchaudio: Requirement[];
  tensorflow: Requirement[];
  /** the name that TensorFlow goes by in the requirements */
  tensorflowName: string;
}

export function askedPackages({ packages }: Requirements): Asked {
  // What an address or a path gives without saying which version it is, is taken as it is.
  const named = (...names: string[]) =>
    packages.filter(({ name, source, specifier }) => names.includes(name) && (source === null || specifier !== ""));
  const tensorflow = named("tensorflow", "tensorflow-gpu", "tensorflow-cpu");
  return {
    torch: named("torch"),
    torchvision: named("torchvision"),
    torchaudio: named("torchaudio"),
    tensorflow,
    tensorflowName: tensorflow[0]?.name ?? "tensorflow",
  };
}

function newestFirst<T>(rows: T[], versionOf: (row: T) => string): T[] {
  return rows.toSorted((a, b) => rcompare(versionOf(a), versionOf(b)));
}

export const TORCH = newestFirst(torchReleases.rows, (row) => row.torch);
/** Newest first. */
export const CUDA_VERSIONS = [
  ...new Set(newestFirst(cudaImages.rows, (row) => row.cuda).map((row) => minorOf(row.cuda))),
];
export const TENSORFLOW = newestFirst(tensorflowReleases.rows, (row) => row.tensorflow);

/** Newest first; `unknown` where the table has none, null where none is asked for. */
export function torchCandidates(asked: Asked): Wish["torch"][] {
  if (asked.torch.length + asked.torchvision.length + asked.torchaudio.length === 0) return [null];
  const rows = TORCH.filter(
    (row) =>
      isAllowed(asked.torch, row.torch) &&
      isAllowed(asked.torchvision, row.torchvision) &&
      isAllowed(asked.torchaudio, row.torchaudio),
  );
  return rows.length === 0 ? ["unknown"] : rows;
}

export function tensorflowCandidates(asked: Asked): Wish["tensorflow"][] {
  if (asked.tensorflow.length === 0) return [null];
  // A row stands for its patch releases: an exact one is allowed when its minor is the row's.
  const rows = TENSORFLOW.filter((row) =>
    asked.tensorflow.every(({ specifier }) => {
      const exact = exactVersion(specifier);
      return exact === null ? allows(specifier, `${row.tensorflow}.1`) : minorOf(exact) === row.tensorflow;
    }),
  );
  return rows.length === 0 ? ["unknown"] : rows;
}

/** Suffixes (`==2.1.0+cu118`) are no part of a release's version here. */
function isAllowed(requirements: Requirement[], version: string): boolean {
  return requirements.every(({ specifier }) => allows(specifier.replace(/\+[\w.]+/g, ""), version));
}

function exactVersion(specifier: string): string | null {
  const version = /^={2,3}([^,*]+)$/.exec(specifier)?.[1];
  return version === undefined || explain(version) === null ? null : version;
}

export function minorOf(version: string): string {
  return version.split("+")[0]?.split(".").slice(0, 2).join(".") ?? version;
}

export function wheelCudaOf(asked: Asked, { indexUrls }: Requirements): string | null {
  const texts = [
    ...[...asked.torch, ...asked.torchvision, ...asked.torchaudio].map(({ specifier }) => specifier),
    ...indexUrls,
  ];
  for (const text of texts) {
    const digits = /(?:\+|\/whl\/(?:[a-z]+\/)?)cu(\d{2,3})\b/.exec(text)?.[1];
    if (digits !== undefined) return `${digits.slice(0, -1)}.${digits.slice(-1)}`;
  }
  return null;
}

/** Whether what is wished for goes together: how, or the first thing that does not, as one sentence. */
export function fitOf(wish: Wish, asked: Asked): Fit | string {
  const { python, torch, tensorflow } = wish;
  if (!PYTHON_VERSIONS.includes(python))
    return `Python ${python} is not supported: it must be one of ${PYTHON_VERSIONS.join(", ")}.`;
  for (const [name, row] of [
    ["torch", torch],
    [asked.tensorflowName, tensorflow],
  ] as const) {
    if (row === null || row === "unknown" || row.python.includes(python)) continue;
    const version = "torch" in row ? row.torch : row.tensorflow;
    return `${name} ${version} has packages for Python ${rangeText(row.python)}, and build.python_version is ${python}.`;
  }
  const warnings: string[] = [];
  if (!wish.gpu) return cpuFit(wish, asked, warnings);
  return gpuFit(wish, asked, warnings);
}

function cpuFit(wish: Wish, asked: Asked, warnings: string[]): Fit | string {
  if (wish.torch === "unknown") {
    const mixed = mixedTorch(asked);
    if (mixed !== null) return mixed;
    warnings.push(`${askedText(asked)} is in no table, so nothing is known of what belongs to it.`);
  }
  if (wish.wheelCuda !== null)
    warnings.push(`The requirements ask for torch with CUDA ${wish.wheelCuda}, and build.gpu is not set.`);
  return { image: null, wheelCuda: wish.wheelCuda, warnings };
}

function gpuFit(wish: Wish, asked: Asked, warnings: string[]): Fit | string {
  const { torch, tensorflow } = wish;
  const tf = asked.tensorflowName === "tensorflow-cpu" ? null : tensorflow;
  let cuda = wish.cuda;
  let cudnn = wish.cudnn?.split(".")[0] ?? null;
  if (tf === "unknown" && cuda === null)
    return `${specText(asked.tensorflow)} is in no table, so its CUDA is unknown: set build.cuda, or take a known release.`;
  if (tf === "unknown")
    warnings.push(`${specText(asked.tensorflow)} is in no table; build.cuda ${cuda} is taken at its word.`);
  else if (tf !== null) {
    const version = tf.tensorflow;
    if (cuda !== null && !isPartOf(cuda, tf.cuda) && !isPartOf(tf.cuda, cuda))
      warnings.push(`TensorFlow ${version} was built for CUDA ${tf.cuda}, and build.cuda is ${cuda}.`);
    const wanted = tf.cudnn.split(".")[0] ?? "";
    if (cudnn !== null && cudnn !== wanted)
      return `TensorFlow ${version} was built for cuDNN ${tf.cudnn}, and build.cudnn is ${wish.cudnn}.`;
    cuda ??= tf.cuda;
    cudnn = wanted;
  }
  if (torch === "unknown") {
    const mixed = mixedTorch(asked);
    if (mixed !== null) return mixed;
    cuda ??= wish.wheelCuda;
    if (cuda === null)
      return `${askedText(asked)} is in no table, so its CUDA is unknown: set build.cuda, or take a known release.`;
    warnings.push(`${askedText(asked)} is in no table; CUDA ${cuda} is taken at its word.`);
  } else if (torch !== null) {
    if (wish.wheelCuda !== null && !torch.cuda.includes(wish.wheelCuda))
      return `torch ${torch.torch} has no wheels for CUDA ${wish.wheelCuda}; it has them for ${torch.cuda.join(", ")}.`;
    if (cuda !== null && tf === null && !torch.cuda.some((known) => isPartOf(cuda ?? "", known)))
      warnings.push(`torch ${torch.torch} has no wheels for CUDA ${cuda} itself; those for an older one are used.`);
    cuda ??= wish.wheelCuda ?? newestOf(torch.cuda);
  }
  cuda ??= CUDA_DEFAULT;
  const image = imageFor(cuda, cudnn);
  if (typeof image === "string") {
    return tf !== null && tf !== "unknown" ? `TensorFlow ${tf.tensorflow}: ${image}` : image.replace(/^n/, "N");
  }
  const wheelCuda = torch === null ? null : wheelFor(torch, wish.wheelCuda, image.cuda);
  if (torch !== null && torch !== "unknown" && wheelCuda === null)
    return `torch ${torch.torch} has wheels for CUDA ${torch.cuda.join(", ")}, none of which runs on CUDA ${minorOf(image.cuda)}${
      tf !== null && tf !== "unknown" ? `, which TensorFlow ${tf.tensorflow} needs` : ""
    }.`;
  return { image, wheelCuda, warnings };
}

/** Torch wheels bring CUDA libraries of their own; they need a base at least as new. */
function wheelFor(torch: TorchRelease | "unknown", wanted: string | null, imageCuda: string): string | null {
  const known = torch === "unknown" ? [wanted ?? minorOf(imageCuda)] : wanted === null ? torch.cuda : [wanted];
  const usable = known.filter((cuda) => rcompare(cuda, minorOf(imageCuda)) >= 0);
  return usable.length === 0 ? null : newestOf(usable);
}

/** The newest patch on the newest Ubuntu, or why there is none. */
function imageFor(cuda: string, cudnn: string | null): CudaImage | string {
  const ofCuda = newestFirst(
    cudaImages.rows.filter((row) => isPartOf(cuda, row.cuda)),
    (row) => row.cuda,
  );
  if (ofCuda.length === 0) return `no base image has CUDA ${cuda}; there are ${CUDA_VERSIONS.join(", ")}.`;
  const wanted = cudnn ?? newestOf(ofCuda.map((row) => row.cudnn));
  const found = ofCuda.find((row) => row.cudnn === wanted);
  if (found !== undefined) return found;
  return `no base image has both CUDA ${cuda} and cuDNN ${wanted}; CUDA ${cuda} comes with cuDNN ${[...new Set(ofCuda.map((row) => row.cudnn))].join(", ")}.`;
}

/** `12.4` is part of `12.4.1`. */
function isPartOf(short: string, long: string): boolean {
  return long === short || long.startsWith(`${short}.`);
}

function newestOf(versions: string[]): string {
  return versions.toSorted(rcompare)[0] ?? "";
}

function rangeText(pythons: string[]): string {
  const first = pythons[0] ?? "";
  const last = pythons.at(-1) ?? "";
  return first === last ? `${first} only` : `${first} to ${last}`;
}

/** Versions of torch and its companions that exist, and do not belong together; null where one of them is unknown by itself. */
function mixedTorch(asked: Asked): string | null {
  const isKnown = (requirements: Requirement[], versionOf: (row: TorchRelease) => string): boolean =>
    TORCH.some((row) => isAllowed(requirements, versionOf(row)));
  const all =
    isKnown(asked.torch, (row) => row.torch) &&
    isKnown(asked.torchvision, (row) => row.torchvision) &&
    isKnown(asked.torchaudio, (row) => row.torchaudio);
  return all ? `${askedText(asked)} do not belong together.` : null;
}

function askedText(asked: Asked): string {
  return [asked.torch, asked.torchvision, asked.torchaudio]
    .filter((list) => list.length > 0)
    .map(specText)
    .join(" and ");
}

function specText(requirements: Requirement[]): string {
  const specifiers = requirements.map(({ specifier }) => specifier).filter((specifier) => specifier !== "");
  return `${requirements[0]?.name ?? ""}${specifiers.join(",")}`;
}

export function tagOf({ cuda, part, ubuntu }: CudaImage): string {
  return `${cuda}-${part}-devel-ubuntu${newestOf(ubuntu)}`;
}
