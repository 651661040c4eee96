/**
 * Which base image, CUDA, cuDNN and wheels a model gets: nobody resolves that by hand. What goes together is said by compatibility-rules.ts and data/*.json;
 * what does not is answered with the reason and the nearest set that does. Pure.
 */
import { explain, rcompare } from "@renovatebot/pep440";
import { PYTHON_VERSIONS } from "./cog-yaml.ts";
import {
  type Asked,
  askedPackages,
  CUDA_VERSIONS,
  type Fit,
  fitOf,
  minorOf,
  TENSORFLOW,
  TORCH,
  tagOf,
  tensorflowCandidates,
  torchCandidates,
  type Wish,
  wheelCudaOf,
} from "./compatibility-rules.ts";
import { parseRequirements, type Requirement, type Requirements } from "./requirements.ts";

const TORCH_INDEX = "https://download.pytorch.org/whl/";
/** What a change weighs besides its size: one large change is better than two small ones. A step between Pythons counts as two between releases. */
const CHANGE = 2;
const PYTHON_STEP = 2;

export interface CompatibilityRequest {
  /** such as 3.11 or 3.11.4 */
  python: string;
  gpu: boolean;
  /** build.cuda and build.cudnn, where they are given */
  cuda?: string | undefined;
  cudnn?: string | undefined;
  /** text of the requirements file */
  requirements: string;
}

export interface Resolution {
  kind: "resolved";
  /** `python:3.11-slim`, or `nvidia/cuda:…` on a GPU, which has no Python of its own */
  base_image: string;
  /** of the image, such as 12.4.1; null without a GPU */
  cuda: string | null;
  cudnn: string | null;
  /** PyTorch's wheels, to be asked besides PyPI; null where nothing comes from there, or the requirements name an index of it */
  torch_index: string | null;
  /** lines of a constraints file that holds an installer to what was chosen, such as `torch==2.4.1` */
  constraints: string[];
  /** advice, one sentence each */
  warnings: string[];
}

export interface Conflict {
  kind: "conflict";
  /** what does not fit, one sentence */
  reason: string;
  /** what to write instead, as close to what was asked as the tables have it; null where there is none */
  nearest: string | null;
}

/** One message for a person. */
export function conflictText({ reason, nearest }: Conflict): string {
  return nearest === null ? reason : `${reason} Nearest that works: ${nearest}.`;
}

export function resolveCompatibility(request: CompatibilityRequest): Resolution | Conflict {
  const requirements = parseRequirements(request.requirements, request);
  const asked = askedPackages(requirements);
  const candidates = torchCandidates(asked);
  const releases = tensorflowCandidates(asked);
  const base: Omit<Wish, "torch" | "tensorflow"> = {
    python: request.python.split(".").slice(0, 2).join("."),
    gpu: request.gpu,
    cuda: request.cuda ?? null,
    cudnn: request.cudnn ?? null,
    wheelCuda: wheelCudaOf(asked, requirements),
  };
  let refusal: string | null = null;
  for (const tensorflow of releases) {
    for (const torch of candidates) {
      const wish = { ...base, torch, tensorflow };
      const fit = fitOf(wish, asked);
      if (typeof fit !== "string") return resolution(request, requirements, asked, wish, fit);
      // The newest one's reason: what an author means who says nothing.
      refusal ??= fit;
    }
  }
  const wish = { ...base, torch: candidates[0] ?? null, tensorflow: releases[0] ?? null };
  return { kind: "conflict", reason: refusal ?? "", nearest: nearestSet(wish, asked) };
}

function resolution(
  request: CompatibilityRequest,
  requirements: Requirements,
  asked: Asked,
  { torch, tensorflow }: Wish,
  { image, wheelCuda, warnings }: Fit,
): Resolution {
  const isIndexed = (list: Requirement[]): boolean => list.some(({ source }) => source === null);
  const torchPackages = [asked.torch, asked.torchvision, asked.torchaudio];
  const constraints: string[] = [];
  if (torch !== null && torch !== "unknown" && torchPackages.some(isIndexed)) {
    if (asked.torch.length === 0 || isIndexed(asked.torch)) constraints.push(`torch==${torch.torch}`);
    if (isIndexed(asked.torchvision)) constraints.push(`torchvision==${torch.torchvision}`);
    if (isIndexed(asked.torchaudio)) constraints.push(`torchaudio==${torch.torchaudio}`);
  }
  if (tensorflow !== null && tensorflow !== "unknown" && isIndexed(asked.tensorflow))
    constraints.push(`${asked.tensorflowName}==${tensorflow.tensorflow}.*`);
  const hasOwnIndex = requirements.indexUrls.some((url) => url.includes("pytorch.org"));
  const suffix = wheelCuda === null ? "cpu" : `cu${wheelCuda.replace(".", "")}`;
  return {
    kind: "resolved",
    base_image: image === null ? `python:${request.python}-slim` : `nvidia/cuda:${tagOf(image)}`,
    cuda: image?.cuda ?? null,
    cudnn: image?.cudnn ?? null,
    torch_index: hasOwnIndex || !torchPackages.some(isIndexed) ? null : `${TORCH_INDEX}${suffix}`,
    constraints,
    warnings,
  };
}

/** One set of all that the tables have, the least changes away; each change says what to write. */
function nearestSet(wish: Wish, asked: Asked): string | null {
  let best: { distance: number; text: string } | null = null;
  const torchAt = wish.torch === null ? null : placeOf(TORCH, (row) => row.torch, wish.torch, asked.torch);
  const tfAt =
    wish.tensorflow === null ? null : placeOf(TENSORFLOW, (row) => row.tensorflow, wish.tensorflow, asked.tensorflow);
  const cudas = [wish.cuda, null, ...CUDA_VERSIONS];
  // A CUDA that was not asked for is chosen by the packages.
  const cudaChoices = wish.cuda === null ? [null] : cudas;
  for (const python of PYTHON_VERSIONS) {
    for (const [torchIndex, torch] of torchAt === null ? [[0, null] as const] : TORCH.entries()) {
      for (const [tfIndex, tensorflow] of tfAt === null ? [[0, null] as const] : TENSORFLOW.entries()) {
        for (const cuda of cudaChoices) {
          for (const isOpen of [false, true]) {
            const changed: Wish = {
              ...wish,
              python,
              torch,
              tensorflow,
              cuda,
              cudnn: isOpen ? null : wish.cudnn,
              wheelCuda: isOpen ? null : wish.wheelCuda,
            };
            const distance =
              steps(apart(PYTHON_VERSIONS, python, wish.python), PYTHON_STEP) +
              steps(torchAt === null ? 0 : Math.abs(torchIndex - torchAt), 1) +
              steps(tfAt === null ? 0 : Math.abs(tfIndex - tfAt), 1) +
              steps(cuda === wish.cuda ? 0 : cuda === null ? 1 : cudaApart(cuda, wish.cuda), 1) +
              (isOpen ? CHANGE : 0);
            if (best !== null && distance >= best.distance) continue;
            const fit = fitOf(changed, noSpecifiers(asked));
            if (typeof fit !== "string") best = { distance, text: setText(wish, changed, fit, asked) };
          }
        }
      }
    }
  }
  return best?.text ?? null;
}

/** With the packages but not their versions, which the search sets. */
function noSpecifiers(asked: Asked): Asked {
  const open = (list: Requirement[]) => list.map((requirement) => ({ ...requirement, specifier: "" }));
  return {
    ...asked,
    torch: open(asked.torch),
    torchvision: open(asked.torchvision),
    torchaudio: open(asked.torchaudio),
    tensorflow: open(asked.tensorflow),
  };
}

/** Index of what was asked for among the rows, newest first; of an unknown one, where it would stand. */
function placeOf<T>(rows: T[], versionOf: (row: T) => string, row: T | "unknown", asked: Requirement[]): number {
  if (row !== "unknown") return rows.indexOf(row);
  const wanted = asked
    .map(({ specifier }) => /\d[\w.]*/.exec(specifier)?.[0])
    .find((version) => explain(version) !== null);
  if (wanted === undefined) return 0;
  const place = rows.findIndex((known) => rcompare(versionOf(known), wanted) >= 0);
  return place === -1 ? rows.length - 1 : place;
}

function setText(wish: Wish, changed: Wish, fit: Fit, asked: Asked): string {
  const { python, torch, tensorflow, cuda } = changed;
  const parts: string[] = [];
  if (torch !== null && torch !== "unknown") {
    parts.push(`torch==${torch.torch}`);
    if (asked.torchvision.length > 0) parts.push(`torchvision==${torch.torchvision}`);
    if (asked.torchaudio.length > 0) parts.push(`torchaudio==${torch.torchaudio}`);
  }
  if (tensorflow !== null && tensorflow !== "unknown")
    parts.push(`${asked.tensorflowName}==${tensorflow.tensorflow}.*`);
  parts.push(`Python ${python}`);
  if (fit.image !== null) {
    const isUnset = wish.cuda !== null && cuda === null;
    parts.push(`CUDA ${minorOf(fit.image.cuda)}${isUnset ? " (without build.cuda)" : ""}`, `cuDNN ${fit.image.cudnn}`);
  }
  return parts.join(", ");
}

function steps(count: number, weight: number): number {
  return count === 0 ? 0 : CHANGE + count * weight;
}

function apart(list: string[], a: string, b: string): number {
  const [from, to] = [list.indexOf(a), list.indexOf(b)];
  return from === -1 || to === -1 ? list.length : Math.abs(from - to);
}

function cudaApart(a: string, b: string | null): number {
  const number = (text: string | null): number => Number(minorOf(text ?? "0")) || 0;
  return Math.abs(number(a) - number(b));
}
