/**
 * Makes the image of a source: BuildKit runs the Dockerfile, a container that can do nothing makes the schema, and a last layer adds that and the labels.
 * Ends within its bounds of time and disk, and says in one message which step failed and what to change.
 */
import type Docker from "dockerode";
import type { BuildStage } from "../../schema/packages.ts";
import { COG_VERSION } from "../environments.ts";
import { ModelFault, readModel } from "../packaging/check-model.ts";
import { refOf } from "../packaging/cog-yaml.ts";
import { faultText } from "../packaging/yaml-faults.ts";
import { type PreparedVersion, schemaForCoglet } from "../prepared-version.ts";
import type { BuildRequest, BuildResult, SourceFolder } from "./builder.ts";
import { buildImage } from "./buildkit.ts";
import { megabytes, saysDiskFull } from "./disk.ts";
import type { VersionImages } from "./docker-builder-cache.ts";
import { DISK_FULL, DiskWatch } from "./docker-builder-disk.ts";
import { contextOf, finishImage, largeFileMounts, readLock } from "./docker-builder-image.ts";
import { type RecipeResult, recipeOf } from "./docker-builder-recipe.ts";
import { makeSchema } from "./docker-builder-schema.ts";
import { type ImagePlan, planImage, stepOf } from "./dockerfile.ts";
import { type HostSettings, hostSettings } from "./dockerfile-host.ts";
import { messageOf } from "./engine-call.ts";
import { PREPARED_LABEL, VERSION_LABEL, writeCogLabels } from "./labels.ts";
import { preparedOf, type SourceModel } from "./source-model.ts";

/** Scope of the download caches of the operator's models; those of others keep nothing, since one could put bad packages there for the next. */
const OPERATOR_CACHES = "operator";

/** gVisor, under the name by which its own documentation registers it with engines. */
const GVISOR = "runsc";

export interface ImageMakerParts {
  docker: Docker;
  /** of this origin's data folder: nothing of another's is touched */
  originId: string;
  images: VersionImages;
  /** image that a model is built on, in place of the one that was resolved */
  baseOf: (resolved: string) => string;
  /** of this process: indexes, proxies and authorities are taken from it */
  env: Record<string, string | undefined>;
  /** given to build.run of the operator's models, by their ids */
  buildSecrets: ReadonlyMap<string, Buffer>;
  /** the engine's name of a runtime for all models; null: gVisor for code of others, where the engine has it */
  runtime: string | null;
}

export type MakeRequest = Omit<BuildRequest, "onStage" | "onLine">;
export type Told = { stage: BuildStage } | { line: string };

/** What an earlier build found out, here or elsewhere, so that nothing is resolved anew. */
export interface Known {
  lock: string | null;
  version: PreparedVersion | null;
}

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

export class ImageMaker {
  readonly #parts: ImageMakerParts;

  constructor(parts: ImageMakerParts) {
    this.#parts = parts;
  }

  async make(request: MakeRequest, known: Known, tell: (told: Told) => void): Promise<BuildResult> {
    const { docker, images } = this.#parts;
    const timeout = AbortSignal.timeout(request.time_limit_ms);
    const disk = new DiskWatch(docker, request.disk_limit_bytes);
    const signal = AbortSignal.any([request.signal, timeout, disk.signal]);
    try {
      await disk.start();
      return await this.#make({ ...request, signal }, known, tell);
    } catch (error) {
      if (request.signal.aborted) return { kind: "canceled" };
      if (timeout.aborted) {
        const seconds = Math.ceil(request.time_limit_ms / 1000);
        const bound = seconds < 120 ? `${seconds} s` : `${Math.ceil(seconds / 60)} minutes`;
        const detail = `The build took longer than its bound of ${bound}. Its log shows what took so long.`;
        return { kind: "failed", code: "build.timeout", detail };
      }
      if (disk.signal.aborted) return { kind: "failed", code: "build.disk_full", detail: disk.detail };
      if (error instanceof Stop) return error.result;
      const isFull = saysDiskFull(messageOf(error));
      return isFull
        ? { kind: "failed", code: "build.disk_full", detail: DISK_FULL }
        : { kind: "failed", code: "build.engine", detail: `The container engine failed: ${messageOf(error)}` };
    } finally {
      disk.stop();
      await images.sweep().catch(() => []);
      await images.pruneBuildCache().catch(() => 0);
    }
  }

  async #make(request: MakeRequest, known: Known, tell: (told: Told) => void): Promise<BuildResult> {
    const { source, signal, is_trusted } = request;
    tell({ stage: "resolve" });
    const model = readSource(source);
    for (const warning of model.advice) tell({ line: `warning: ${warning}` });
    tell({ stage: "environment" });
    const { image, planned } = await this.#image(source, model, known.lock, is_trusted, signal, tell);
    try {
      return await this.#finish(request, known, model, image, planned, tell);
    } catch (error) {
      // BuildKit keeps its layers for the next try; nobody else knows the image.
      await this.#parts.docker
        .getImage(image)
        .remove()
        .catch(() => {});
      throw error;
    }
  }

  /** Schema, labels and name for an image that was built. */
  async #finish(
    { source, is_trusted, signal, disk_limit_bytes }: MakeRequest,
    known: Known,
    model: SourceModel & { advice: string[] },
    image: string,
    planned: Planned,
    tell: (told: Told) => void,
  ): Promise<BuildResult> {
    const { docker, originId, images } = this.#parts;
    tell({ stage: "schema" });
    // Neither needs the other.
    const [lock, made] = await Promise.all([
      readLock(docker, image, originId),
      known.version === null
        ? makeSchema(docker, {
            originId,
            image,
            ref: refOf(model.cog),
            train_ref: model.cog.train ?? null,
            mounts: largeFileMounts(source),
            runtime: await this.#runtime(is_trusted),
            signal,
          })
        : null,
    ]);
    if (made?.kind === "failed") {
      for (const line of made.lines) tell({ line });
      throw stop("build.schema", made.detail);
    }
    const warnings = [...model.advice, ...planned.warnings, ...(made?.facts.warnings ?? [])];
    for (const warning of made?.facts.warnings ?? []) tell({ line: `warning: ${warning}` });
    const version =
      known.version ?? (made === null ? null : preparedOf(source, model, made.facts, { ...planned.environment, lock }));
    if (version === null) throw stop("build.schema", "The schema was not made.");
    tell({ stage: "image" });
    await finishImage(docker, image, {
      originId,
      version_id: source.id,
      schema: schemaForCoglet(version.schema),
      env: { COG_MAX_CONCURRENCY: String(version.slots) },
      labels: {
        ...writeCogLabels({
          cog_version: COG_VERSION,
          config: model.cog,
          openapi_schema: version.schema,
          pip_freeze: lock,
        }),
        [VERSION_LABEL]: source.id,
        [PREPARED_LABEL]: JSON.stringify(version),
      },
    });
    const size = (await images.get(source.id))?.size_bytes ?? 0;
    if (size > disk_limit_bytes) {
      await images.remove(source.id);
      const bound = megabytes(disk_limit_bytes);
      throw stop(
        "build.disk_full",
        `The image has ${megabytes(size)}; at most ${bound} are allowed. Leave packages out, or take smaller ones.`,
      );
    }
    return { kind: "built", version, warnings };
  }

  /** The image without schema and labels, and what it was made of. */
  async #image(
    source: SourceFolder,
    model: SourceModel,
    lock: string | null,
    isTrusted: boolean,
    signal: AbortSignal,
    tell: (told: Told) => void,
  ): Promise<{ image: string; planned: Planned }> {
    const planned = this.#plan(source, model, lock, isTrusted, true);
    for (const warning of planned.warnings) tell({ line: `warning: ${warning}` });
    const first = await this.#run(planned, source, isTrusted, signal, tell);
    if ("image" in first) return { image: first.image, planned };
    if (!planned.hasTorchIndex || !/download\.pytorch\.org/.test(first.detail)) throw stop(first.code, first.detail);
    const warning = "PyTorch's index cannot be reached; its packages come from the usual one, which may be larger.";
    tell({ line: `warning: ${warning}` });
    const other = this.#plan(source, model, lock, isTrusted, false);
    const second = await this.#run(other, source, isTrusted, signal, tell);
    if ("image" in second) {
      return { image: second.image, planned: { ...other, warnings: [...other.warnings, warning] } };
    }
    throw stop(second.code, second.detail);
  }

  #plan(
    source: SourceFolder,
    model: SourceModel,
    lock: string | null,
    isTrusted: boolean,
    usesTorchIndex: boolean,
  ): Planned {
    const { baseOf, buildSecrets } = this.#parts;
    const result = recipeOf(source, model, {
      baseOf,
      lock,
      cacheScope: isTrusted ? OPERATOR_CACHES : null,
      secretIds: isTrusted ? [...buildSecrets.keys()] : [],
      usesTorchIndex,
    });
    if (result.kind === "failed") throw new Stop(result);
    const planned = planImage(result.recipe);
    if (planned.kind === "refused") throw stop("build.manifest", planned.detail);
    return { ...result, plan: planned.plan };
  }

  async #run(
    { plan, localFiles }: Planned,
    source: SourceFolder,
    isTrusted: boolean,
    signal: AbortSignal,
    tell: (told: Told) => void,
  ): Promise<{ image: string } | { code: string; detail: string }> {
    const host = this.#host(isTrusted);
    const built = await buildImage(this.#parts.docker, {
      context: contextOf(plan, source, localFiles),
      buildArgs: host.buildArgs,
      secrets: new Map([...(isTrusted ? this.#parts.buildSecrets : []), ...host.secrets]),
      signal,
      watch: {
        onLine: (line) => tell({ line }),
        onStep: (name, isCached) => {
          const step = stepOf(plan, name);
          if (step !== null) tell({ line: `==> ${step.title}${isCached ? " (as before)" : ""}` });
        },
      },
    });
    signal.throwIfAborted();
    if (built.kind === "built") return { image: built.imageId };
    if (built.kind === "aborted") throw new Stop({ kind: "canceled" });
    const { failure, detail } = built;
    const tail = failure?.tail.join("\n") ?? "";
    if (saysDiskFull(`${tail}\n${detail}`)) return { code: "build.disk_full", detail: DISK_FULL };
    const step = failure === null ? null : stepOf(plan, failure.step);
    if (step === null) return { code: "build.image", detail: imageFault(detail) };
    const shown = tail === "" ? [`${step.title} failed: ${detail}`] : [`${step.title} failed:`, tail];
    return { code: step.code, detail: [...shown, step.advice].join("\n") };
  }

  #host(isTrusted: boolean): HostSettings {
    try {
      return hostSettings(this.#parts.env, isTrusted);
    } catch (error) {
      throw stop("build.environment", messageOf(error));
    }
  }

  async #runtime(isTrusted: boolean): Promise<string | null> {
    const { docker, runtime } = this.#parts;
    if (runtime !== null || isTrusted) return runtime;
    const info: { Runtimes?: Record<string, unknown> } = await docker.info();
    return info.Runtimes?.[GVISOR] === undefined ? null : GVISOR;
  }
}

type Planned = Extract<RecipeResult, { kind: "ready" }> & { plan: ImagePlan };

function readSource(source: SourceFolder): SourceModel & { advice: string[] } {
  try {
    const { warnings, ...model } = readModel(source.folder);
    return { ...model, advice: warnings.map(faultText) };
  } catch (error) {
    if (error instanceof ModelFault) throw stop("build.manifest", error.message.replaceAll(`${source.folder}/`, ""));
    throw error;
  }
}

/** What failed outside of all steps: mostly the base image. */
function imageFault(detail: string): string {
  const isBase = /pull access denied|failed to resolve|load metadata|no such host|dial tcp|i\/o timeout/i.test(detail);
  return isBase
    ? `The base image could not be pulled: ${detail}. Let the container engine reach its registry, or name an image that it has in COGWAY_BASE_IMAGE.`
    : `The image could not be built: ${detail}`;
}
