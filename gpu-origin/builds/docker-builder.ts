/**
 * The builder of the docker driver: versions are images of the engine, named by the version's id. A source is built by BuildKit and its schema is made in a
 * container, so nothing of a model runs on the host; a pushed image is pulled. Owns the images of versions in the engine, not the containers of instances.
 *
 * What a build may do: its steps run in BuildKit's containers, as root inside, without privileges, on the engine's default network. They reach what that
 * network reaches: package indexes, which they are for, and services of the local network too, unless its firewall says otherwise. They see no secrets but
 * those that the operator names for models of the operator.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type Docker from "dockerode";
import type { BuildStage } from "../../schema/packages.ts";
import type { EdgeClient } from "../edge-client.ts";
import { COG_VERSION } from "../environments.ts";
import { ModelFault, readModel } from "../packaging/check-model.ts";
import { type CogYaml, refOf } from "../packaging/cog-yaml.ts";
import {
  type PreparedVersion,
  PreparedVersionSchema,
  schemaForCoglet,
  type VersionStore,
} from "../prepared-version.ts";
import type {
  Builder,
  BuildRequest,
  BuildResult,
  LaunchRequest,
  LaunchResult,
  Mount,
  SourceFolder,
} from "./builder.ts";
import { buildImage } from "./buildkit.ts";
import { megabytes, saysDiskFull } from "./disk.ts";
import { VersionImages } from "./docker-builder-cache.ts";
import { DiskWatch } from "./docker-builder-disk.ts";
import { contextOf, finishImage, IMAGE_REPOSITORY, largeFileMounts, readLock, tagOf } from "./docker-builder-image.ts";
import { preparedOf, recipeOf, type SourceModel } from "./docker-builder-recipe.ts";
import { makeSchema } from "./docker-builder-schema.ts";
import { type ImagePlan, planImage, SOURCE_FOLDER, stepOf } from "./dockerfile.ts";
import { hostSettings } from "./dockerfile-host.ts";
import { messageOf } from "./engine-call.ts";
import { pullImage } from "./image-pull.ts";
import { PREPARED_LABEL, readCogLabels, VERSION_LABEL, writeCogLabels } from "./labels.ts";
import { SharedWork } from "./shared-work.ts";

/** Of an image that is built again for an instance: the first build had the bound of its request. */
const REBUILD_TIMEOUT_MS = 45 * 60_000;
const REBUILD_BYTES_MAX = 50 * 1024 ** 3;

export interface DockerBuilderParts {
  docker: Docker;
  versions: VersionStore;
  edge: Pick<EdgeClient, "registryToken">;
  /** host and port of the edge, as the engine reaches it */
  registryHost: string;
  /** image that a model is built on */
  base: (cog: CogYaml) => { image: string } | { fault: string };
  /** of this process: indexes, proxies and authorities are taken from it */
  env: Record<string, string | undefined>;
  /** given to build.run of the operator's models, by their ids */
  buildSecrets: ReadonlyMap<string, Buffer>;
  /** runtime of the engine for code of others, such as runsc; null takes the engine's own */
  untrustedRuntime: string | null;
  /** for what can be made again */
  cacheDir: string;
}

/** A trainer's working folder is its own, on the container's memory disk, with links to the model's files: what it writes there is of one training. */
const OWN_FOLDER = [
  "sh",
  "-ec",
  `mkdir /tmp/training; cp -rs ${SOURCE_FOLDER}/. /tmp/training/; cd /tmp/training; exec "$@"`,
  "sh",
];
/** Scope of the download caches of the operator's models. */
const TRUSTED_CACHES = "operator";
const DISK_FULL = "The disk of the container engine is full. Make room on the host, then push again.";

type Told = { stage: BuildStage } | { line: string };

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

export class DockerBuilder implements Builder {
  readonly kind = "docker";
  readonly images: VersionImages;
  readonly #parts: DockerBuilderParts;
  readonly #builds = new SharedWork<BuildResult, Told>();
  readonly #pulls = new SharedWork<{ kind: "ready" } | { kind: "failed"; detail: string }>();
  readonly #schemas: string;

  constructor(parts: DockerBuilderParts) {
    this.#parts = parts;
    this.#schemas = join(parts.cacheDir, "schemas");
    mkdirSync(this.#schemas, { recursive: true });
    this.images = new VersionImages(parts.docker, join(parts.cacheDir, "images.json"));
  }

  async build(request: BuildRequest): Promise<BuildResult> {
    const { source, signal } = request;
    const release = this.images.hold(source.id);
    try {
      const known = await this.#known(source);
      if (known !== null) return { kind: "built", version: known, warnings: [] };
      const onProgress = (told: Told): void =>
        "stage" in told ? request.onStage(told.stage) : request.onLine(told.line);
      const result = await this.#builds.run(source.id, { signal, onProgress }, (shared, tell) =>
        this.#build({ ...request, signal: shared }, null, tell),
      );
      return result ?? { kind: "canceled" };
    } catch (error) {
      return {
        kind: "failed",
        code: "build.engine",
        detail: `The container engine does not answer: ${messageOf(error)}`,
      };
    } finally {
      release();
    }
  }

  async launch(version: PreparedVersion, request: LaunchRequest): Promise<LaunchResult> {
    const release = this.images.hold(version.id);
    try {
      const made = await this.#ensure(version, request);
      if (made.kind === "failed") {
        release();
        return made;
      }
      const mounts = await this.#mounts(version, request);
      const prefix = request.mode === "train" ? { prefix: OWN_FOLDER } : {};
      return { kind: "ready", launch: { kind: "image", image: tagOf(version.id), mounts, ...prefix }, release };
    } catch (error) {
      release();
      return { kind: "failed", detail: request.signal.aborted ? "given up" : messageOf(error) };
    }
  }

  async #ensure(
    version: PreparedVersion,
    request: LaunchRequest,
  ): Promise<{ kind: "ready" } | { kind: "failed"; detail: string }> {
    if ((await this.images.get(version.id)) !== null) return { kind: "ready" };
    const { signal, onProgress } = request;
    const canceled = { kind: "failed", detail: "given up" } as const;
    if (version.package?.kind === "image") {
      const { repository, manifest } = version.package;
      const pulled = await this.#pulls.run(version.id, { signal, onProgress }, (shared, tell) =>
        this.#pull(version.id, repository, manifest, shared, tell),
      );
      return pulled ?? canceled;
    }
    const source = await this.#parts.versions.source(version.id, version.name);
    if (source === null) return { kind: "failed", detail: "the source of this version is not on this host" };
    onProgress("building the image again");
    const built = await this.#builds.run(
      version.id,
      { signal, onProgress: (told) => ("line" in told ? onProgress(told.line) : undefined) },
      (shared, tell) =>
        this.#build(
          {
            source,
            is_trusted: request.is_trusted ?? false,
            signal: shared,
            time_limit_ms: REBUILD_TIMEOUT_MS,
            disk_limit_bytes: REBUILD_BYTES_MAX,
          },
          version,
          tell,
        ),
    );
    if (built === undefined || built.kind === "canceled") return canceled;
    return built.kind === "built" ? { kind: "ready" } : { kind: "failed", detail: built.detail };
  }

  async #pull(
    id: string,
    repository: string,
    digest: string,
    signal: AbortSignal,
    tell: (detail: string) => void,
  ): Promise<{ kind: "ready" } | { kind: "failed"; detail: string }> {
    const { docker, edge, registryHost: host } = this.#parts;
    const pulled = await pullImage(docker, edge, { host, repository, digest, signal, onProgress: tell });
    if (pulled.kind === "failed") return pulled;
    const image = docker.getImage(pulled.reference);
    const labels = readCogLabels((await image.inspect()).Config.Labels ?? {});
    if ("fault" in labels) {
      await image.remove().catch(() => {});
      return { kind: "failed", detail: labels.fault };
    }
    await image.tag({ repo: IMAGE_REPOSITORY, tag: id });
    await this.images.sweep();
    return { kind: "ready" };
  }

  /** What an instance needs beside the image: large files, weights, and the schema where the image's is another. */
  async #mounts(version: PreparedVersion, { mode }: LaunchRequest): Promise<Mount[]> {
    const { versions } = this.#parts;
    const source = version.package?.kind === "image" ? null : await versions.source(version.id, version.name);
    const mounts = source === null ? [] : largeFileMounts(source);
    for (const { name, target } of version.weights) {
      mounts.push({ source: versions.weightsFolder(version.id, name), target });
    }
    // A trainer's is another, and an image's own may lack the mark that opens server-sent events.
    if (source === null || mode === "train") {
      const path = join(this.#schemas, `${version.id}-${mode}.json`);
      writeFileSync(path, JSON.stringify(schemaForCoglet(version.schema)), { mode: 0o644 });
      mounts.push({ source: path, target: `${SOURCE_FOLDER}/.cog/openapi_schema.json` });
    }
    return mounts;
  }

  /** The version of a source whose image is there. */
  async #known(source: SourceFolder): Promise<PreparedVersion | null> {
    const image = await this.images.get(source.id);
    const text = image?.labels[VERSION_LABEL] === source.id ? image.labels[PREPARED_LABEL] : undefined;
    if (text === undefined) return null;
    const parsed = PreparedVersionSchema.safeParse(JSON.parse(text));
    return parsed.success ? { ...parsed.data, name: source.name } : null;
  }

  /** `version` is what an earlier build made of the source, here or elsewhere: then nothing is resolved anew, and the schema is known. */
  async #build(
    request: Omit<BuildRequest, "onStage" | "onLine">,
    version: PreparedVersion | null,
    tell: (told: Told) => void,
  ): Promise<BuildResult> {
    const { docker } = this.#parts;
    const timeout = AbortSignal.timeout(request.time_limit_ms);
    const disk = new DiskWatch(docker, request.disk_limit_bytes);
    const signal = AbortSignal.any([request.signal, timeout, disk.signal]);
    try {
      await disk.start();
      return await this.#make({ ...request, signal }, version, tell);
    } catch (error) {
      if (request.signal.aborted) return { kind: "canceled" };
      if (timeout.aborted) {
        const minutes = Math.ceil(request.time_limit_ms / 60_000);
        return {
          kind: "failed",
          code: "build.timeout",
          detail: `The build took longer than its bound of ${minutes} minutes.`,
        };
      }
      if (disk.signal.aborted) return { kind: "failed", code: "build.disk_full", detail: disk.detail };
      if (error instanceof Stop) return error.result;
      if (saysDiskFull(messageOf(error))) {
        return { kind: "failed", code: "build.disk_full", detail: DISK_FULL };
      }
      return { kind: "failed", code: "build.engine", detail: `The container engine failed: ${messageOf(error)}` };
    } finally {
      disk.stop();
      await this.images.sweep().catch(() => []);
      await this.images.pruneBuildCache().catch(() => 0);
    }
  }

  async #make(
    request: Omit<BuildRequest, "onStage" | "onLine">,
    version: PreparedVersion | null,
    tell: (told: Told) => void,
  ): Promise<BuildResult> {
    const { docker, untrustedRuntime } = this.#parts;
    const { source, signal, is_trusted } = request;
    tell({ stage: "resolve" });
    const model = readSource(source);
    const plan = this.#plan(source, model, version, is_trusted);
    for (const warning of plan.warnings) tell({ line: `warning: ${warning}` });
    tell({ stage: "environment" });
    const image = await this.#image(plan.plan, source, plan.localFiles, is_trusted, signal, tell);
    const lock = await readLock(docker, image);
    const ref = refOf(model.cog);
    const train_ref = model.cog.train ?? null;
    let prepared = version;
    if (prepared === null) {
      tell({ stage: "schema" });
      const made = await makeSchema(docker, {
        image,
        ref,
        train_ref,
        mounts: largeFileMounts(source),
        runtime: is_trusted ? null : untrustedRuntime,
        signal,
      });
      if (made.kind === "failed") {
        for (const line of made.lines) tell({ line });
        throw stop("build.schema", made.detail);
      }
      prepared = preparedOf(source, model, made.facts, lock);
    }
    tell({ stage: "image" });
    await finishImage(docker, image, {
      version_id: source.id,
      schema: schemaForCoglet(prepared.schema),
      env: { COG_MAX_CONCURRENCY: String(prepared.slots) },
      labels: {
        ...writeCogLabels({
          cog_version: COG_VERSION,
          config: model.cog,
          openapi_schema: prepared.schema,
          pip_freeze: lock,
        }),
        [VERSION_LABEL]: source.id,
        [PREPARED_LABEL]: JSON.stringify(prepared),
      },
    });
    const made = await this.images.get(source.id);
    if (made !== null && made.size_bytes > request.disk_limit_bytes) {
      await this.images.remove(source.id);
      throw stop(
        "build.disk_full",
        `The image has ${megabytes(made.size_bytes)}; at most ${megabytes(request.disk_limit_bytes)} are allowed. Leave packages out, or take smaller ones.`,
      );
    }
    return { kind: "built", version: prepared, warnings: plan.warnings };
  }

  #plan(
    source: SourceFolder,
    model: SourceModel,
    version: PreparedVersion | null,
    isTrusted: boolean,
  ): { plan: ImagePlan; localFiles: string[]; warnings: string[] } {
    const base = this.#parts.base(model.cog);
    if ("fault" in base) throw stop("build.compatibility", base.fault);
    const { recipe, localFiles, warnings } = recipeOf(source, model, {
      base: base.image,
      lock: version?.environment.lock ?? null,
      cacheScope: isTrusted ? TRUSTED_CACHES : null,
      secretIds: isTrusted ? [...this.#parts.buildSecrets.keys()] : [],
    });
    const planned = planImage(recipe);
    if (planned.kind === "refused") throw stop("build.manifest", planned.detail);
    return { plan: planned.plan, localFiles, warnings };
  }

  /** Id of the image without schema and labels. */
  async #image(
    plan: ImagePlan,
    source: SourceFolder,
    localFiles: string[],
    isTrusted: boolean,
    signal: AbortSignal,
    tell: (told: Told) => void,
  ): Promise<string> {
    const host = hostSettings(this.#parts.env, isTrusted);
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
    if (built.kind === "built") return built.imageId;
    if (built.kind === "aborted") throw new Stop({ kind: "canceled" });
    const step = built.failure === null ? null : stepOf(plan, built.failure.step);
    if (built.failure === null || step === null) {
      throw stop(
        "build.image",
        saysDiskFull(built.detail) ? DISK_FULL : `The image could not be built: ${built.detail}`,
      );
    }
    const tail = built.failure.tail.join("\n");
    if (saysDiskFull(`${tail}\n${built.detail}`)) throw stop("build.disk_full", DISK_FULL);
    throw stop(
      step.code,
      [`${step.title} failed${tail === "" ? "." : ":"}`, ...(tail === "" ? [] : [tail]), step.advice].join("\n"),
    );
  }
}

function readSource(source: SourceFolder): SourceModel {
  try {
    return readModel(source.folder);
  } catch (error) {
    if (error instanceof ModelFault) throw stop("build.manifest", error.message.replaceAll(`${source.folder}/`, ""));
    throw error;
  }
}
