/**
 * Makes model folders into versions that can be booted, and announces them: `preparing` for all at once, then one by one, the smallest environment first and
 * trainers of unknown size last, `ready` or `failed`. A version that was prepared before is ready at once.
 */
import { existsSync, readFileSync, rmSync, statSync } from "node:fs";
import { cp, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { z } from "zod";
import { NAME_PATTERN } from "../schema/ids.ts";
import type { ModelAnnounce } from "../schema/origin-protocol.ts";
import type { EdgeClient } from "./edge-client.ts";
import { COG_VERSION, type Environments } from "./environments.ts";
import { type Log, logProgress } from "./log.ts";
import { ModelFault, readModel } from "./packaging/check-model.ts";
import { type CogYaml, refOf } from "./packaging/cog-yaml.ts";
import type { CogwayYaml } from "./packaging/cogway-yaml.ts";
import { digestOf, listFiles, readFiles } from "./packaging/source.ts";
import { type EnvironmentSpec, type PreparedVersion, schemaForCoglet, type VersionStore } from "./prepared-version.ts";

const MAKE_SCHEMA = fileURLToPath(new URL("./python/make_schema.py", import.meta.url));
/** Importing a predictor may import a framework. */
const SCHEMA_TIMEOUT_S = 300;
const MEMORY_DEFAULT_MB = 512;
/** Unknown sizes are prepared after the small known ones. */
const ENVIRONMENT_DEFAULT_MB = 500;
const README_BYTES_MAX = 262_144;
const ANNOUNCE_RETRY_MS = 500;
const ANNOUNCE_TRIES = 20;

const SchemaFactsSchema = z.object({
  schema: z.record(z.string(), z.unknown()),
  concurrency: z.number().int().min(1).nullable(),
  output_is_file_list: z.boolean(),
});

export interface ModelFolder {
  name: string;
  folder: string;
  cog: CogYaml;
  cogway: CogwayYaml;
}

export type Prepared =
  | { name: string; kind: "ready"; version: PreparedVersion }
  | {
      name: string;
      kind: "failed";
      reason: string;
      /** its author has to change something; a missing GPU is none */
      isFault: boolean;
    };

export interface ModelsParts {
  edge: Pick<EdgeClient, "announceModel">;
  versions: VersionStore;
  environments: Environments;
  hasGpu: boolean;
  log: Log;
}

export class Models {
  readonly #parts: ModelsParts;

  constructor(parts: ModelsParts) {
    this.#parts = parts;
  }

  /** Prepares all; one that fails does not keep the others. `signal` stops between models. */
  async prepareAll(folders: string[], signal: AbortSignal): Promise<Prepared[]> {
    const results: Prepared[] = [];
    const models: ModelFolder[] = [];
    for (const folder of folders) {
      const read = readFolder(folder);
      if ("fault" in read) results.push(await this.#fail(read.name, folder, read.fault));
      else models.push(read);
    }
    await Promise.all(models.map((model) => this.#announce(model.name, { ...description(model), state: "preparing" })));
    for (const model of inOrder(models)) {
      if (signal.aborted) break;
      logProgress(this.#parts.log, {
        step: "model.preparing",
        model: model.name,
        done: results.length,
        total: folders.length,
      });
      const result = await this.#prepareOne(model);
      results.push(result);
      if (result.kind === "ready") {
        logProgress(this.#parts.log, {
          step: "model.ready",
          model: model.name,
          done: results.length,
          total: folders.length,
        });
      }
    }
    logProgress(this.#parts.log, {
      step: "models.done",
      done: results.filter((result) => result.kind === "ready").length,
      total: folders.length,
    });
    return results;
  }

  async #prepareOne(model: ModelFolder): Promise<Prepared> {
    if (model.cog.build.gpu && !this.#parts.hasGpu) {
      return this.#fail(model.name, model.folder, "It needs a GPU, and this host has none.", model, false);
    }
    try {
      const version = await this.#prepare(model);
      await this.#announce(model.name, {
        ...description(model),
        state: "ready",
        version: {
          id: version.id,
          cog_version: COG_VERSION,
          openapi_schema: version.schema,
          slots: version.slots,
          memory_bytes: version.memory_bytes,
          ...(version.train_memory_bytes === null ? {} : { train_memory_bytes: version.train_memory_bytes }),
          hardware: "cpu",
          idempotent: version.idempotent,
        },
      });
      return { name: model.name, kind: "ready", version };
    } catch (error) {
      return this.#fail(model.name, model.folder, error instanceof Error ? error.message : String(error), model);
    }
  }

  async #fail(name: string, folder: string, reason: string, model?: ModelFolder, isFault = true): Promise<Prepared> {
    logProgress(this.#parts.log, { step: "model.failed", model: name, detail: reason });
    // What cannot be read says nothing: what the edge knows of the model stays.
    const shown = model === undefined ? {} : description(model);
    // Its path is the operator's; what callers see names only the model.
    const publicReason = reason.replaceAll(`${folder}/`, "").split("\n")[0] ?? "";
    if (NAME_PATTERN.test(name))
      await this.#announce(name, { ...shown, state: "failed", reason: publicReason.slice(0, 500) });
    return { name, kind: "failed", reason, isFault };
  }

  /** Throws what its author can read. */
  async #prepare(model: ModelFolder): Promise<PreparedVersion> {
    const { versions } = this.#parts;
    const files = listFiles(model.folder);
    const id = digestOf(await readFiles(model.folder, files));
    const known = versions.get(id);
    // Settings of cogway.yaml are part of the content, so a known id has them as they were; only its name may be another.
    if (known !== null) return known;
    const source = versions.sourceFolder(id);
    await copyFiles(model.folder, files, source);
    const spec = environmentSpec(model, source);
    const environment = await this.#makeEnvironment(model, spec, source);
    logProgress(this.#parts.log, { step: "schema", model: model.name });
    const facts = await makeSchema(model, source, environment);
    const version: PreparedVersion = {
      id,
      name: model.name,
      environment: spec,
      ref: refOf(model.cog),
      train_ref: model.cog.train ?? null,
      slots: model.cog.concurrency.max ?? facts.concurrency ?? 1,
      memory_bytes: (model.cogway.memory_mb ?? MEMORY_DEFAULT_MB) * 1024 ** 2,
      train_memory_bytes: model.cogway.train_memory_mb === undefined ? null : model.cogway.train_memory_mb * 1024 ** 2,
      idempotent: model.cogway.idempotent ?? false,
      token_metric: model.cogway.token_metric ?? null,
      output_is_file_list: facts.output_is_file_list,
      env: Object.fromEntries(model.cog.environment.map(splitVariable)),
      hardware: "cpu",
      gpus: 0,
      egress: false,
      package: null,
      schema: facts.schema,
    };
    await mkdir(join(source, ".cog"), { recursive: true });
    await writeFile(join(source, ".cog", "openapi_schema.json"), JSON.stringify(schemaForCoglet(facts.schema)));
    versions.save(version);
    return version;
  }

  async #makeEnvironment(model: ModelFolder, spec: EnvironmentSpec, source: string): Promise<string> {
    const { log, environments } = this.#parts;
    const { sdk_version, system_packages } = model.cog.build;
    if (sdk_version !== undefined && String(sdk_version) !== COG_VERSION) {
      const detail = `cog.yaml asks for cog ${sdk_version}; this origin runs ${COG_VERSION}.`;
      logProgress(log, { step: "warning", model: model.name, detail });
    }
    if (system_packages.length > 0) {
      const detail = `System packages are not installed by the process driver; the host must have: ${system_packages.join(", ")}.`;
      logProgress(log, { step: "warning", model: model.name, detail });
    }
    const result = await environments.ensure(spec, source, (detail) =>
      logProgress(log, { step: "environment", model: model.name, detail }),
    );
    if (result.kind === "failed") throw new ModelFault(result.detail);
    if (result.warning !== undefined) logProgress(log, { step: "warning", model: model.name, detail: result.warning });
    return result.binDir;
  }

  /** Tried again for a while: the edge may be starting. */
  async #announce(name: string, announce: ModelAnnounce): Promise<void> {
    for (let tries = 1; ; tries++) {
      const answer = await this.#parts.edge.announceModel(name, announce);
      if (answer.kind === "ok") return;
      this.#parts.log.warn({ model: name, state: announce.state, detail: answer.detail }, "a model was not announced");
      if (answer.kind === "refused" || tries === ANNOUNCE_TRIES) return;
      await new Promise((resolve) => setTimeout(resolve, ANNOUNCE_RETRY_MS));
    }
  }
}

/** Small environments first, so that the first model runs soon; trainers that do not say how large theirs is come last. */
function inOrder(models: ModelFolder[]): ModelFolder[] {
  const size = ({ cog, cogway }: ModelFolder): number =>
    cogway.environment_mb ?? (cog.train === undefined ? ENVIRONMENT_DEFAULT_MB : Number.MAX_SAFE_INTEGER);
  return models.toSorted((a, b) => size(a) - size(b) || a.name.localeCompare(b.name));
}

/** A folder's name, made fit for an address. */
export function modelName(folder: string): string {
  return basename(folder)
    .toLowerCase()
    .replace(/[^a-z0-9._-]+/g, "-")
    .replace(/^[^a-z0-9]+|[^a-z0-9]+$/g, "")
    .slice(0, 64);
}

function readFolder(folder: string): ModelFolder | { name: string; fault: string } {
  const name = modelName(folder);
  try {
    if (!NAME_PATTERN.test(name)) throw new ModelFault(`${folder}: its name cannot be a model's name.`);
    if (!existsSync(folder) || !statSync(folder).isDirectory()) throw new ModelFault(`${folder} is not a folder.`);
    const { cog, cogway } = readModel(folder);
    return { name, folder, cog, cogway };
  } catch (error) {
    return { name, fault: error instanceof Error ? error.message : String(error) };
  }
}

/** All that the folder says, with null for what it does not say: what is left out would stay at the edge as it was. */
function description({ name, folder, cogway }: ModelFolder): Omit<ModelAnnounce, "state"> {
  const example = exampleInput(folder);
  return {
    visibility: cogway.visibility ?? "public",
    title: cogway.title ?? name,
    description: cogway.description ?? null,
    tags: cogway.tags ?? [],
    collections: cogway.collections ?? [],
    official: cogway.official ?? null,
    weights_license: cogway.weights_license ?? null,
    readme: readText(join(folder, "README.md"))?.slice(0, README_BYTES_MAX) ?? null,
    ...(example === null ? {} : { example_input: example }),
  };
}

function exampleInput(folder: string): Record<string, unknown> | null {
  const text = readText(join(folder, "example.json"));
  if (text === null) return null;
  try {
    return z.record(z.string(), z.unknown()).safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}

function readText(path: string): string | null {
  return existsSync(path) ? readFileSync(path, "utf8") : null;
}

function splitVariable(entry: string): [string, string] {
  const at = entry.indexOf("=");
  return [entry.slice(0, at), entry.slice(at + 1)];
}

function environmentSpec(model: ModelFolder, source: string): EnvironmentSpec {
  const { build } = model.cog;
  const file = build.python_requirements;
  const text = file === undefined ? (build.python_packages ?? []).join("\n") : readText(join(source, file));
  if (text === null) throw new ModelFault(`${model.folder}/cog.yaml: the requirements file ${file} is missing.`);
  const lines = text
    .split("\n")
    .map((line) => line.replace(/(^|\s)#.*/, "").trim())
    // The runtime is pinned by the origin.
    .filter((line) => line !== "" && !/^(cog|coglet)\s*([=<>!~[;@]|$)/.test(line));
  return {
    python_version: build.python_version,
    requirements: lines.join("\n"),
    run: build.run.map(({ command }) => command),
  };
}

async function makeSchema(
  model: ModelFolder,
  source: string,
  binDir: string,
): Promise<z.infer<typeof SchemaFactsSchema>> {
  const out = join(source, ".cog", "openapi_schema.json");
  const args = [MAKE_SCHEMA, "--ref", refOf(model.cog), "--out", out, "--timeout", String(SCHEMA_TIMEOUT_S)];
  if (model.cog.train !== undefined) args.push("--train-ref", model.cog.train);
  const { PATH, HOME, LANG } = process.env;
  const result = await execa(join(binDir, "python"), args, {
    cwd: source,
    extendEnv: false,
    env: {
      ...Object.fromEntries(model.cog.environment.map(splitVariable)),
      ...(HOME === undefined ? {} : { HOME }),
      ...(LANG === undefined ? {} : { LANG }),
      PATH: `${binDir}:${PATH ?? ""}`,
      HF_HUB_OFFLINE: "1",
    },
    reject: false,
    stdin: "ignore",
    timeout: (SCHEMA_TIMEOUT_S + 10) * 1000,
    maxBuffer: 16 * 1024 ** 2,
  });
  if (result.exitCode !== 0) {
    throw new ModelFault(
      result.stderr.trim().split("\n").at(-1) || `${refOf(model.cog)}: its schema could not be made.`,
    );
  }
  return SchemaFactsSchema.parse(JSON.parse(result.stdout.trim().split("\n").at(-1) ?? ""));
}

/** Copies into a folder that appears whole or not at all. */
async function copyFiles(folder: string, files: string[], target: string): Promise<void> {
  const temporary = `${target}.part`;
  rmSync(temporary, { recursive: true, force: true });
  for (const name of files) {
    const to = join(temporary, name);
    await mkdir(dirname(to), { recursive: true });
    await cp(join(folder, name), to, { dereference: true });
  }
  await mkdir(temporary, { recursive: true });
  await rm(target, { recursive: true, force: true });
  await rename(temporary, target);
}
