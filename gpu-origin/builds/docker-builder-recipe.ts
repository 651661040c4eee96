/** What the image of a source is made of. Reads the source's small files; asks nothing of the engine. */
import { COG_VERSION } from "../environments.ts";
import { refOf } from "../packaging/cog-yaml.ts";
import { conflictText, resolveCompatibility } from "../packaging/compatibility.ts";
import { readRequirements } from "../packaging/requirements-file.ts";
import type { EnvironmentSpec } from "../prepared-version.ts";
import type { SourceFolder } from "./builder.ts";
import type { ImageRecipe } from "./dockerfile.ts";
import { environmentOf, type SourceModel } from "./source-model.ts";

export interface RecipeOptions {
  /** image that stands for the one that was resolved, on hosts without its registry */
  baseOf: (resolved: string) => string;
  /** what an earlier build installed */
  lock: string | null;
  cacheScope: string | null;
  /** secrets that there are; a mount of another is left out */
  secretIds: string[];
  /** false where PyTorch's own index cannot be reached */
  usesTorchIndex: boolean;
}

export type RecipeResult =
  | {
      kind: "ready";
      recipe: ImageRecipe;
      environment: EnvironmentSpec;
      hasTorchIndex: boolean;
      /** paths of the source that the requirements name */
      localFiles: string[];
      warnings: string[];
    }
  | { kind: "failed"; code: string; detail: string };

export function recipeOf(source: SourceFolder, { cog }: SourceModel, options: RecipeOptions): RecipeResult {
  const { build } = cog;
  const text = readRequirements(source.folder, cog);
  if (text.faults.length > 0) {
    const detail = text.faults.map(({ file, line, message }) => `${file}:${line}: ${message}`).join("\n");
    return { kind: "failed", code: "build.requirements", detail };
  }
  const requirements = withoutRuntime(text.requirements);
  const resolved = resolveCompatibility({
    python: build.python_version,
    gpu: build.gpu,
    cuda: build.cuda,
    cudnn: build.cudnn,
    requirements,
  });
  if (resolved.kind === "conflict") {
    return { kind: "failed", code: "build.compatibility", detail: conflictText(resolved) };
  }
  const warnings = [...resolved.warnings];
  const run = build.run.map(({ command, mounts }) => ({
    command,
    mounts: mounts.filter(({ id }) => {
      const isThere = options.secretIds.includes(id);
      if (!isThere) warnings.push(`build.run: there is no secret ${id} for this model; the command runs without it.`);
      return isThere;
    }),
  }));
  if (build.sdk_version !== undefined && build.sdk_version !== COG_VERSION) {
    warnings.push(`build.sdk_version is ${build.sdk_version}; Cogway's runtime is cog ${COG_VERSION}.`);
  }
  const index = options.usesTorchIndex ? resolved.torch_index : null;
  const wanted = index === null ? requirements : `--extra-index-url ${index}\n${requirements}`;
  return {
    kind: "ready",
    recipe: {
      base: options.baseOf(resolved.base_image),
      python: build.python_version,
      system_packages: build.system_packages,
      pre_install: build.pre_install,
      requirements: options.lock === null ? wanted : [...indexLines(wanted), options.lock].join("\n"),
      constraints: [text.constraints.trimEnd(), ...resolved.constraints].filter((line) => line !== "").join("\n"),
      is_locked: options.lock !== null,
      runtime: [`cog==${COG_VERSION}`, `coglet==${COG_VERSION}`],
      run,
      env: environmentOf(cog),
      ref: refOf(cog),
      train_ref: cog.train ?? null,
      cache_scope: options.cacheScope,
    },
    environment: {
      python_version: build.python_version,
      requirements: wanted.trimEnd(),
      run: build.run.map(({ command }) => command),
      ...(build.pre_install.length === 0 ? {} : { pre_install: build.pre_install }),
    },
    hasTorchIndex: index !== null,
    localFiles: localFilesOf(requirements, source),
    warnings,
  };
}

/** The runtime is Cogway's to choose. */
function withoutRuntime(requirements: string): string {
  return requirements
    .split(/\r?\n/)
    .filter((line) => !/^\s*(cog|coglet)\s*(\[[^\]]*\])?\s*([=<>!~;@#]|$)/.test(line))
    .join("\n");
}

/** A lock names packages, not where they are. */
function indexLines(requirements: string): string[] {
  return requirements
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => /^(-i|-f|--(index-url|extra-index-url|find-links|pre|trusted-host))\b/.test(line));
}

/** Wheels and other archives, named as they are or in a URL of a file. */
function localFilesOf(requirements: string, source: SourceFolder): string[] {
  const paths = new Set(source.files.map((file) => file.path));
  const words = requirements.split(/[\s=,;@]+/).map((word) =>
    word
      .replace(/^file:(\/\/)?/, "")
      .replace(/^\.\//, "")
      .replace(/\[[^\]]*\]$/, ""),
  );
  return [...new Set(words.filter((word) => paths.has(word)))];
}
