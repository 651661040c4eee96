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
import type { EdgeClient } from "../edge-client.ts";
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
import { VersionImages } from "./docker-builder-cache.ts";
import { HOLDER_LABEL, IMAGE_REPOSITORY, largeFileMounts, tagOf } from "./docker-builder-image.ts";
import { ImageMaker, type ImageMakerParts, type Told } from "./docker-builder-make.ts";
import { SCHEMA_CONTAINER_LABEL } from "./docker-builder-schema.ts";
import { SOURCE_FOLDER } from "./dockerfile.ts";
import { messageOf } from "./engine-call.ts";
import { pullImage } from "./image-pull.ts";
import { PREPARED_LABEL, readCogLabels, VERSION_LABEL } from "./labels.ts";
import { SharedWork } from "./shared-work.ts";

/** Of an image that is built again for an instance: the first build had the bounds of its request. */
const REBUILD_TIMEOUT_MS = 45 * 60_000;
const REBUILD_BYTES_MAX = 50 * 1024 ** 3;
/** A trainer's working folder is its own, on the container's memory disk, with links to the model's files: what it writes there is of one training. */
const OWN_FOLDER = [
  "sh",
  "-ec",
  `mkdir /tmp/training; cp -rs ${SOURCE_FOLDER}/. /tmp/training/; cd /tmp/training; exec "$@"`,
  "sh",
];
const GIVEN_UP = { kind: "failed", detail: "given up" } as const;

export interface DockerBuilderParts extends Omit<ImageMakerParts, "images"> {
  versions: VersionStore;
  edge: Pick<EdgeClient, "registryToken">;
  /** host and port of the registry, as the engine reaches it */
  registryHost: () => Promise<string>;
  /** for the dates of use and the schemas of instances */
  stateDir: string;
}

type Ensured = { kind: "ready" } | { kind: "failed"; detail: string };

export class DockerBuilder implements Builder {
  readonly kind = "docker";
  readonly images: VersionImages;
  readonly #parts: DockerBuilderParts;
  readonly #maker: ImageMaker;
  readonly #builds = new SharedWork<BuildResult, Told>();
  readonly #pulls = new SharedWork<Ensured>();
  readonly #schemas: string;
  #reaped: Promise<void> | null = null;

  constructor(parts: DockerBuilderParts) {
    this.#parts = parts;
    this.#schemas = join(parts.stateDir, "schemas");
    mkdirSync(this.#schemas, { recursive: true });
    this.images = new VersionImages(parts.docker, join(parts.stateDir, "images.json"));
    this.#maker = new ImageMaker({ ...parts, images: this.images });
  }

  /** Removes containers of builds that an earlier process of this origin left. */
  async #reap(): Promise<void> {
    const { docker, originId } = this.#parts;
    for (const label of [HOLDER_LABEL, SCHEMA_CONTAINER_LABEL]) {
      const filters = { label: [`${label}=${originId}`] };
      for (const { Id } of await docker.listContainers({ all: true, filters })) {
        await docker
          .getContainer(Id)
          .remove({ force: true, v: true })
          .catch(() => {});
      }
    }
  }

  /** Before the first build; a failure is told by what follows it. */
  #reapOnce(): Promise<void> {
    this.#reaped ??= this.#reap().catch(() => {});
    return this.#reaped;
  }

  async build(request: BuildRequest): Promise<BuildResult> {
    const { source, signal } = request;
    const release = this.images.hold(source.id);
    try {
      await this.#reapOnce();
      const version = await this.#known(source);
      if (version !== null) return { kind: "built", version, warnings: [] };
      const onProgress = (told: Told): void =>
        "stage" in told ? request.onStage(told.stage) : request.onLine(told.line);
      const result = await this.#builds.run(source.id, { signal, onProgress }, (shared, tell) =>
        this.#maker.make({ ...request, signal: shared }, { lock: null, version: null }, tell),
      );
      return result ?? { kind: "canceled" };
    } catch (error) {
      const detail = `The container engine does not answer: ${messageOf(error)}`;
      return { kind: "failed", code: "build.engine", detail };
    } finally {
      release();
    }
  }

  async launch(version: PreparedVersion, request: LaunchRequest): Promise<LaunchResult> {
    const held = [this.images.hold(version.id), this.#parts.versions.hold(version.id)];
    const release = (): void => {
      for (const each of held) each();
    };
    try {
      const ensured = await this.#ensure(version, request);
      if (ensured.kind === "failed") {
        release();
        return ensured;
      }
      const mounts = await this.#mounts(version, request);
      const prefix = request.mode === "train" ? { prefix: OWN_FOLDER } : {};
      return { kind: "ready", launch: { kind: "image", image: tagOf(version.id), mounts, ...prefix }, release };
    } catch (error) {
      release();
      return request.signal.aborted ? GIVEN_UP : { kind: "failed", detail: messageOf(error) };
    }
  }

  async #ensure(version: PreparedVersion, request: LaunchRequest): Promise<Ensured> {
    if ((await this.images.get(version.id)) !== null) return { kind: "ready" };
    const { signal, onProgress } = request;
    if (version.package?.kind === "image") {
      const { repository, manifest } = version.package;
      const pulled = await this.#pulls.run(version.id, { signal, onProgress }, (shared, tell) =>
        this.#pull(version.id, repository, manifest, shared, tell),
      );
      return pulled ?? GIVEN_UP;
    }
    const { versions } = this.#parts;
    const source = await versions.source(version.id, version.name);
    if (source === null) return { kind: "failed", detail: "the source of this version is not on this host" };
    await this.#reapOnce();
    onProgress("building the image again");
    // A trainer is launched with a schema that is not the version's own: that one is read where it is kept, else made again.
    const kept = versions.get(version.id) ?? (request.mode === "train" ? null : version);
    const built = await this.#builds.run(
      version.id,
      { signal, onProgress: (told) => ("line" in told ? onProgress(told.line) : undefined) },
      (shared, tell) =>
        this.#maker.make(
          {
            source,
            is_trusted: request.is_trusted ?? false,
            signal: shared,
            time_limit_ms: REBUILD_TIMEOUT_MS,
            disk_limit_bytes: REBUILD_BYTES_MAX,
          },
          { lock: version.environment.lock ?? null, version: kept },
          tell,
        ),
    );
    if (built === undefined || built.kind === "canceled") return GIVEN_UP;
    return built.kind === "built" ? { kind: "ready" } : { kind: "failed", detail: built.detail };
  }

  async #pull(
    id: string,
    repository: string,
    digest: string,
    signal: AbortSignal,
    tell: (detail: string) => void,
  ): Promise<Ensured> {
    const { docker, edge } = this.#parts;
    const host = await this.#parts.registryHost();
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
}
