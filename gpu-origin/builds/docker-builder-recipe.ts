/** What an image of a source is made of, and what its build found out. Reads the source's small files; decides nothing about the engine. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { COG_VERSION } from "../environments.ts";
import type { readModel } from "../packaging/check-model.ts";
import { refOf } from "../packaging/cog-yaml.ts";
import { gpusOf } from "../packaging/cogway-yaml.ts";
import type { PreparedVersion } from "../prepared-version.ts";
import type { SourceFolder } from "./builder.ts";
import type { SchemaFacts } from "./docker-builder-schema.ts";
import type { ImageRecipe } from "./dockerfile.ts";

const MEMORY_DEFAULT_MB = 512;

export type SourceModel = ReturnType<typeof readModel>;

export interface RecipeOptions {
  base: string;
  /** what an earlier build installed */
  lock: string | null;
  cacheScope: string | null;
  /** that there are; a mount of another is left out */
  secretIds: string[];
}

export function recipeOf(
  source: SourceFolder,
  { cog }: SourceModel,
  options: RecipeOptions,
): { recipe: ImageRecipe; localFiles: string[]; warnings: string[] } {
  const requirements = requirementsOf(source, cog);
  const warnings: string[] = [];
  const run = cog.build.run.map(({ command, mounts }) => ({
    command,
    mounts: mounts.filter(({ id }) => {
      const isThere = options.secretIds.includes(id);
      if (!isThere) warnings.push(`build.run: there is no secret ${id} for this model; the command runs without it.`);
      return isThere;
    }),
  }));
  if (cog.build.sdk_version !== undefined && cog.build.sdk_version !== COG_VERSION) {
    warnings.push(`build.sdk_version is ${cog.build.sdk_version}; Cogway's runtime is cog ${COG_VERSION}.`);
  }
  return {
    recipe: {
      base: options.base,
      python: cog.build.python_version,
      system_packages: cog.build.system_packages,
      pre_install: cog.build.pre_install,
      requirements: options.lock === null ? requirements : [...indexLines(requirements), options.lock].join("\n"),
      is_locked: options.lock !== null,
      runtime: [`cog==${COG_VERSION}`, `coglet==${COG_VERSION}`],
      run,
      env: environmentOf(cog),
      ref: refOf(cog),
      train_ref: cog.train ?? null,
      cache_scope: options.cacheScope,
    },
    localFiles: localFilesOf(requirements, source),
    warnings,
  };
}

export function preparedOf(
  source: SourceFolder,
  { cog, cogway }: SourceModel,
  facts: SchemaFacts,
  lock: string,
): PreparedVersion {
  return {
    id: source.id,
    name: source.name,
    environment: {
      python_version: cog.build.python_version,
      requirements: requirementsOf(source, cog),
      run: cog.build.run.map(({ command }) => command),
      lock,
    },
    ref: refOf(cog),
    train_ref: cog.train ?? null,
    slots: cog.concurrency.max ?? facts.concurrency ?? 1,
    memory_bytes: (cogway.memory_mb ?? MEMORY_DEFAULT_MB) * 1024 ** 2,
    train_memory_bytes: cogway.train_memory_mb === undefined ? null : cogway.train_memory_mb * 1024 ** 2,
    idempotent: cogway.idempotent ?? false,
    token_metric: cogway.token_metric ?? null,
    output_is_file_list: facts.output_is_file_list,
    env: environmentOf(cog),
    hardware: cogway.hardware ?? (cog.build.gpu ? "gpu" : "cpu"),
    gpus: gpusOf(cog, cogway),
    egress: cogway.egress ?? false,
    weights: [],
    package: null,
    schema: facts.schema,
  };
}

function environmentOf(cog: SourceModel["cog"]): Record<string, string> {
  return Object.fromEntries(
    cog.environment.map((entry) => {
      const at = entry.indexOf("=");
      return [entry.slice(0, at), entry.slice(at + 1)];
    }),
  );
}

/** What pip reads, but for the runtime, which is Cogway's to choose. */
function requirementsOf(source: SourceFolder, cog: SourceModel["cog"]): string {
  const file = cog.build.python_requirements;
  const text =
    file === undefined ? (cog.build.python_packages ?? []).join("\n") : readFileSync(join(source.folder, file), "utf8");
  return text
    .split(/\r?\n/)
    .map((line) => line.replace(/(^|\s)#.*/, "").trim())
    .filter((line) => line !== "" && !/^(cog|coglet)\s*([=<>!~[;@]|$)/.test(line))
    .join("\n");
}

/** A lock names packages, not where they are. */
function indexLines(requirements: string): string[] {
  return requirements
    .split("\n")
    .filter((line) => /^(-i|-f|--(index-url|extra-index-url|find-links|pre|trusted-host))\b/.test(line));
}

/** Files of the source that the requirements name, such as wheels and further lists. */
function localFilesOf(requirements: string, source: SourceFolder): string[] {
  const paths = new Set(source.files.map((file) => file.path));
  const named = new Set<string>();
  const look = (text: string): void => {
    for (const word of text.split(/[\s=,;@]+/)) {
      const path = word
        .replace(/^file:(\/\/)?/, "")
        .replace(/^\.\//, "")
        .replace(/\[[^\]]*\]$/, "");
      if (!paths.has(path) || named.has(path)) continue;
      named.add(path);
      if (path.endsWith(".txt")) look(readFileSync(join(source.folder, path), "utf8"));
    }
  };
  look(requirements);
  return [...named];
}
