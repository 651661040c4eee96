/**
 * Builds and starts versions as processes of this host: a Python environment for each set of resolved requirements, shared by the versions that need it, and
 * the schema read in a bounded child. Nothing keeps what runs here apart from the host, so code of others is refused unless the operator says otherwise.
 */
import { existsSync, lstatSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { COG_VERSION, type EnvironmentFailure, type Environments } from "../environments.ts";
import { checkModel } from "../packaging/check-model.ts";
import { refOf } from "../packaging/cog-yaml.ts";
import { conflictText, type Resolution, resolveCompatibility } from "../packaging/compatibility.ts";
import { readRequirements } from "../packaging/requirements-file.ts";
import { faultText } from "../packaging/yaml-faults.ts";
import { type EnvironmentSpec, type PreparedVersion, schemaForCoglet, type VersionStore } from "../prepared-version.ts";
import type { Builder, BuildRequest, BuildResult, LaunchRequest, LaunchResult } from "./builder.ts";
import { DISK_FULL, folderBytes, freeBytes, megabytes, saysDiskFull } from "./disk.ts";
import { SharedWork } from "./shared-work.ts";
import { environmentOf, preparedOf, type SchemaFacts, SchemaFactsSchema, type SourceModel } from "./source-model.ts";

const MAKE_SCHEMA = fileURLToPath(new URL("../python/make_schema.py", import.meta.url));
/** Importing a predictor may import a framework. */
const SCHEMA_TIMEOUT_S = 300;
/** A schema with thousands of choices is below it. */
const SCHEMA_OUTPUT_BYTES_MAX = 16 * 1024 ** 2;
const DISK_LOOK_MS = 2_000;
/** Left for everything else on that disk. */
const DISK_RESERVE_BYTES = 256 * 1024 ** 2;
/** Where a container has the model's files; weights may be asked for below it. */
const SOURCE_TARGET = "/src";

export interface ProcessBuilderParts {
  versions: VersionStore;
  environments: Environments;
  /** working folders of trainers, by instance; emptied at the start */
  trainersFolder: string;
  /** the operator takes what models of others may do to this host */
  trustsAll: boolean;
  /** what the environment of a model's child may inherit */
  env: Record<string, string | undefined>;
}

type Told = { stage: "resolve" | "environment" | "schema" } | { line: string };

/** Ends a build with this result. */
class Stop extends Error {
  readonly result: BuildResult;
  constructor(result: BuildResult) {
    super(result.kind);
    this.result = result;
  }
}

function stop(code: string, detail: string): Stop {
  return new Stop({ kind: "failed", code, detail });
}

export class ProcessBuilder implements Builder {
  readonly kind = "process";
  readonly #parts: ProcessBuilderParts;
  readonly #builds = new SharedWork<BuildResult, Told>();

  constructor(parts: ProcessBuilderParts) {
    this.#parts = parts;
    rmSync(parts.trainersFolder, { recursive: true, force: true });
  }

  async build(request: BuildRequest): Promise<BuildResult> {
    const { source, signal } = request;
    if (!request.is_trusted && !this.#parts.trustsAll)
      return { kind: "failed", code: "build.untrusted", detail: UNTRUSTED };
    const onProgress = (told: Told): void =>
      "stage" in told ? request.onStage(told.stage) : request.onLine(told.line);
    const result = await this.#builds.run(source.id, { signal, onProgress }, (shared, tell) =>
      this.#build({ ...request, signal: shared }, tell),
    );
    return result ?? { kind: "canceled" };
  }

  async #build(request: BuildRequest, tell: (told: Told) => void): Promise<BuildResult> {
    const { source, time_limit_ms, disk_limit_bytes } = request;
    const timeout = AbortSignal.timeout(time_limit_ms);
    const disk = new DiskWatch(source.folder, disk_limit_bytes);
    const signal = AbortSignal.any([request.signal, timeout, disk.signal]);
    const times = new StageTimes(tell);
    try {
      disk.start();
      return await this.#make(request, signal, disk, times, tell);
    } catch (error) {
      if (request.signal.aborted) return { kind: "canceled" };
      if (disk.fault !== null) return { kind: "failed", code: "build.disk_full", detail: disk.fault };
      if (timeout.aborted) {
        const minutes = Math.ceil(time_limit_ms / 60_000);
        const detail = `The build took longer than its bound of ${minutes} minutes. Its log shows what took so long.`;
        return { kind: "failed", code: "build.timeout", detail };
      }
      if (error instanceof Stop) return error.result;
      const detail = error instanceof Error ? error.message : String(error);
      if (saysDiskFull(detail)) return { kind: "failed", code: "build.disk_full", detail: DISK_FULL };
      return { kind: "failed", code: "build.failed", detail };
    } finally {
      times.end();
      disk.stop();
    }
  }

  async #make(
    { source }: BuildRequest,
    signal: AbortSignal,
    disk: DiskWatch,
    times: StageTimes,
    tell: (told: Told) => void,
  ): Promise<BuildResult> {
    const { environments } = this.#parts;
    times.begin("resolve");
    const onLine = (line: string): void => tell({ line });
    const { model, resolution, warnings } = await this.#read(source.folder);
    const spec = await this.#resolve(source.folder, model, resolution, warnings, { signal, onLine });
    times.begin("environment");
    const made = await environments.ensure(spec, source.folder, {
      signal,
      onLine,
      onFolder: (folder) => disk.add(folder),
    });
    if (made.kind !== "ready") throw stopFor(made);
    times.begin("schema");
    const facts = await this.#makeSchema(source.folder, model, made.binDir, { signal, onLine });
    warnings.push(...facts.warnings);
    for (const warning of warnings) onLine(`warning: ${warning}`);
    return { kind: "built", version: preparedOf(source, model, facts, spec), warnings };
  }

  /** The model, or every fault of its two files. */
  async #read(folder: string): Promise<{ model: SourceModel; resolution: Resolution | null; warnings: string[] }> {
    const { environments } = this.#parts;
    const { cog } = checkModel(folder);
    const python = await environments.pythonVersion(cog?.build.python_version ?? null);
    const host = { driver: "process" as const, ...(python === null ? {} : { python }) };
    const check = checkModel(folder, host);
    if (check.cog === null || check.faults.length > 0)
      throw stop("build.manifest", check.faults.map(faultText).join("\n"));
    const { sdk_version, system_packages } = check.cog.build;
    const warnings = check.warnings.map(faultText);
    if (sdk_version !== undefined && sdk_version !== COG_VERSION) {
      warnings.push(`build.sdk_version is ${sdk_version}; Cogway's runtime is cog ${COG_VERSION}.`);
    }
    if (system_packages.length > 0) {
      warnings.push(
        `System packages are not installed where models run as processes; the host must have: ${system_packages.join(", ")}.`,
      );
    }
    for (const { target } of check.cog.weights) {
      if (belowSource(target) !== null) continue;
      const detail = `weights: ${target} is an absolute path of a container, which a process has not got. Set a target below ${SOURCE_TARGET}, or let this origin start with COGWAY_DRIVER=docker.`;
      throw stop("build.weights", detail);
    }
    const { cog: checked, cogway } = check;
    // What fits the Python that cog.yaml names may not fit this host's.
    const { python_version, gpu, cuda, cudnn } = checked.build;
    if (python === null || python === python_version || python.startsWith(`${python_version}.`)) {
      return { model: { cog: checked, cogway }, resolution: check.resolution, warnings };
    }
    const { requirements } = readRequirements(folder, checked);
    const fit = resolveCompatibility({ python, gpu, cuda, cudnn, requirements });
    if (fit.kind === "conflict") {
      throw stop("build.compatibility", `This host has Python ${python}, and models run with it. ${conflictText(fit)}`);
    }
    warnings.push(...fit.warnings);
    return { model: { cog: checked, cogway }, resolution: fit, warnings: [...new Set(warnings)] };
  }

  async #resolve(
    folder: string,
    { cog }: SourceModel,
    fit: Resolution | null,
    warnings: string[],
    options: { signal: AbortSignal; onLine: (line: string) => void },
  ): Promise<EnvironmentSpec> {
    const { environments } = this.#parts;
    const { pre_install, run } = cog.build;
    const text = readRequirements(folder, cog);
    const requirements = withoutRuntime(text.requirements);
    const spec = (index: string | null): EnvironmentSpec => ({
      python_version: cog.build.python_version,
      requirements: index === null ? requirements : `--extra-index-url ${index}\n${requirements}`,
      run: run.map(({ command }) => command),
      ...(pre_install.length === 0 ? {} : { pre_install }),
    });
    const constraints = [text.constraints, ...(fit?.constraints ?? [])].join("\n");
    const index = fit?.torch_index ?? null;
    let wanted = spec(index);
    let resolved = await environments.resolve(wanted, folder, { ...options, constraints });
    if (resolved.kind === "failed" && index !== null && /Failed to fetch/.test(resolved.detail)) {
      warnings.push(`${index} cannot be reached; PyTorch comes from the usual index, which may be larger.`);
      wanted = spec(null);
      resolved = await environments.resolve(wanted, folder, { ...options, constraints });
    }
    if (resolved.kind !== "resolved") throw stopFor(resolved);
    warnings.push(...resolved.warnings);
    const { lock } = resolved;
    return lock === undefined ? wanted : { ...wanted, lock };
  }

  async #makeSchema(
    folder: string,
    { cog }: SourceModel,
    binDir: string,
    { signal, onLine }: { signal: AbortSignal; onLine: (line: string) => void },
  ): Promise<SchemaFacts> {
    const ref = refOf(cog);
    const out = join(folder, ".cog", "openapi_schema.json");
    const args = [MAKE_SCHEMA, "--ref", ref, "--out", out, "--timeout", String(SCHEMA_TIMEOUT_S)];
    if (cog.train !== undefined) args.push("--train-ref", cog.train);
    const { PATH, HOME, LANG } = this.#parts.env;
    const result = await execa(join(binDir, "python"), args, {
      cwd: folder,
      extendEnv: false,
      env: {
        ...environmentOf(cog),
        HOME,
        LANG,
        PATH: `${binDir}:${PATH ?? ""}`,
        HF_HUB_OFFLINE: "1",
        TRANSFORMERS_OFFLINE: "1",
      },
      reject: false,
      stdin: "ignore",
      cancelSignal: signal,
      killDescendants: true,
      timeout: (SCHEMA_TIMEOUT_S + 10) * 1000,
      maxBuffer: SCHEMA_OUTPUT_BYTES_MAX,
    } as const);
    signal.throwIfAborted();
    if (result.exitCode !== 0) {
      const lines = result.stderr.trim().split("\n");
      for (const line of lines) onLine(line);
      if (saysDiskFull(result.stderr)) throw stop("build.disk_full", DISK_FULL);
      throw stop("build.schema", lines.at(-1) || `${ref}: its schema could not be made.`);
    }
    const facts = SchemaFactsSchema.parse(JSON.parse(result.stdout.trim().split("\n").at(-1) ?? ""));
    await mkdir(dirname(out), { recursive: true });
    writeFileSync(out, JSON.stringify(schemaForCoglet(facts.schema)));
    return facts;
  }

  async launch(
    version: PreparedVersion,
    { instance_id, mode, is_trusted, onProgress, signal }: LaunchRequest,
  ): Promise<LaunchResult> {
    const { versions, environments, trainersFolder, trustsAll } = this.#parts;
    if (is_trusted === false && !trustsAll) return { kind: "failed", detail: UNTRUSTED };
    if (version.package?.kind === "image") return { kind: "failed", detail: NO_IMAGES };
    const held = [versions.hold(version.id)];
    const giveBack = (): void => {
      for (const each of held.splice(0)) each();
    };
    const fail = (detail: string): LaunchResult => {
      giveBack();
      return { kind: "failed", detail };
    };
    try {
      const folder = versions.sourceFolder(version.id);
      if (!existsSync(folder)) return fail("the source of this version is not on this host");
      const environment = await environments.ensure(version.environment, folder, { signal, onLine: onProgress });
      if (environment.kind !== "ready") return fail(environment.kind === "failed" ? environment.detail : "given up");
      held.push(environments.hold(environment.key));
      const detail = this.#linkWeights(version, folder);
      if (detail !== null) return fail(detail);
      const schema = join(folder, ".cog", "openapi_schema.json");
      if (!existsSync(schema)) {
        mkdirSync(dirname(schema), { recursive: true });
        writeFileSync(schema, JSON.stringify(schemaForCoglet(version.schema)));
      }
      const trainer = mode === "train" ? join(trainersFolder, instance_id) : null;
      if (trainer !== null) versions.makeTrainerFolder(version, trainer);
      const release = (): void => {
        giveBack();
        if (trainer !== null) rmSync(trainer, { recursive: true, force: true });
      };
      return {
        kind: "ready",
        launch: { kind: "process", cwd: trainer ?? folder, binDir: environment.binDir },
        release,
      };
    } catch (error) {
      return fail(error instanceof Error ? error.message : String(error));
    }
  }

  /** Weights appear where the model finds them from its own folder. Null, or why they cannot. */
  #linkWeights(version: PreparedVersion, folder: string): string | null {
    const { versions } = this.#parts;
    for (const { name, target } of version.weights) {
      const below = belowSource(target);
      if (below === null)
        return `weights: ${target} needs a container; this origin must be started with COGWAY_DRIVER=docker`;
      const link = join(folder, below);
      // Most often the files are there already, as part of the source.
      if (lstatSync(link, { throwIfNoEntry: false }) !== undefined) continue;
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(versions.weightsFolder(version.id, name), link);
    }
    return null;
  }
}

export const UNTRUSTED =
  "This origin runs models as processes of its host, so it builds only the operator's own. Its operator can start it with COGWAY_DRIVER=docker, or, where every pusher is trusted, with COGWAY_TRUST_ALL_MODELS=1.";
const NO_IMAGES = "this origin runs no images; its operator has to start it with COGWAY_DRIVER=docker";

/** A target as a path of the source; null for one that is elsewhere. */
function belowSource(target: string): string | null {
  const path = posix.normalize(target);
  return path.startsWith(`${SOURCE_TARGET}/`) ? path.slice(SOURCE_TARGET.length + 1) : null;
}

/** What cog's extra `tracing` stands for. */
const TRACING_PACKAGES = ["opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"];

/** The runtime is this origin's to choose. */
function withoutRuntime(requirements: string): string {
  return requirements
    .split("\n")
    .map((line) => line.replace(/(^|\s)#.*/, "").trim())
    .flatMap((line) => (/^cog\s*\[[^\]]*\btracing\b/.test(line) ? TRACING_PACKAGES : [line]))
    .filter((line) => line !== "" && !/^(cog|coglet)\s*([=<>!~[;@]|$)/.test(line))
    .join("\n");
}

function stopFor(failure: EnvironmentFailure): Stop {
  if (failure.kind === "canceled") return new Stop({ kind: "canceled" });
  return stop(failure.code, failure.code === "build.disk_full" ? DISK_FULL : failure.detail);
}

/** Tells each stage, and at its end how long it took. */
class StageTimes {
  readonly #tell: (told: Told) => void;
  #stage: "resolve" | "environment" | "schema" | null = null;
  #since = 0;

  constructor(tell: (told: Told) => void) {
    this.#tell = tell;
  }

  begin(stage: "resolve" | "environment" | "schema"): void {
    this.end();
    this.#stage = stage;
    this.#since = performance.now();
    this.#tell({ stage });
  }

  end(): void {
    if (this.#stage === null) return;
    this.#tell({ line: `${this.#stage}: ${((performance.now() - this.#since) / 1000).toFixed(1)} s` });
    this.#stage = null;
  }
}

/** Ends a build whose folders grow beyond its bound, or that fills the disk. */
class DiskWatch {
  readonly #limit: number;
  readonly #folders: string[];
  readonly #abort = new AbortController();
  #timer: NodeJS.Timeout | null = null;
  fault: string | null = null;

  constructor(folder: string, limit: number) {
    this.#folders = [folder];
    this.#limit = limit;
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  add(folder: string): void {
    this.#folders.push(folder);
  }

  start(): void {
    const look = async (): Promise<void> => {
      const sizes = await Promise.all(this.#folders.map(folderBytes));
      const bytes = sizes.reduce((sum, size) => sum + size, 0);
      if (bytes > this.#limit) {
        this.fault = `The build uses ${megabytes(bytes)} of disk, and its bound is ${megabytes(this.#limit)}. Leave packages or files out, or take smaller ones.`;
      }
      for (const folder of this.#folders) {
        // One that is not there yet, or not any more, says nothing.
        const free = await freeBytes(folder).catch(() => Number.POSITIVE_INFINITY);
        if (free < DISK_RESERVE_BYTES) this.fault ??= DISK_FULL;
      }
      if (this.fault !== null) this.#abort.abort();
      else if (this.#timer !== null) this.#timer = setTimeout(() => void look(), DISK_LOOK_MS);
    };
    this.#timer = setTimeout(() => void look(), 0);
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
