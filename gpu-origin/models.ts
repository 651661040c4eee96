/**
 * Makes model folders into versions that can be booted, and announces them: `preparing` for all at once, then one by one, the smallest environment first and
 * trainers of unknown size last, `ready` or `failed`. A version that was prepared before is ready at once.
 */
import { existsSync, statSync } from "node:fs";
import { cp, mkdir, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { NAME_PATTERN } from "../schema/ids.ts";
import type { ModelAnnounce } from "../schema/origin-protocol.ts";
import type { VersionMaker } from "./builds/make-version.ts";
import { builtOf, describe } from "./builds/source-model.ts";
import type { EdgeClient } from "./edge-client.ts";
import { type Log, logProgress } from "./log.ts";
import { ModelFault, readModel } from "./packaging/check-model.ts";
import type { CogYaml } from "./packaging/cog-yaml.ts";
import type { CogwayYaml } from "./packaging/cogway-yaml.ts";
import { digestOf, listFiles, readFiles } from "./packaging/source.ts";
import type { PreparedVersion, VersionStore } from "./prepared-version.ts";

/** Unknown sizes are prepared after the small known ones. */
const ENVIRONMENT_DEFAULT_MB = 500;
/** The operator's own: these are for what hangs or runs away. */
const TIME_LIMIT_MS = 3_600_000;
const DISK_LIMIT_BYTES = 256 * 1024 ** 3;
const ANNOUNCE_RETRY_MS = 500;
const ANNOUNCE_TRIES = 20;

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
  /** null where another origin of the host tells of them */
  edge: Pick<EdgeClient, "announceModel"> | null;
  versions: VersionStore;
  maker: VersionMaker;
  hasGpu: () => boolean;
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
      const result = await this.#prepareOne(model, signal);
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

  async #prepareOne(model: ModelFolder, signal: AbortSignal): Promise<Prepared> {
    if (model.cog.build.gpu && !this.#parts.hasGpu()) {
      return this.#fail(model.name, model.folder, "It needs a GPU, and this host has none.", model, false);
    }
    try {
      const version = await this.#prepare(model, signal);
      const { prepared: _, ...built } = builtOf(version);
      await this.#announce(model.name, {
        ...description(model),
        state: "ready",
        version: built,
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
  async #prepare(model: ModelFolder, signal: AbortSignal): Promise<PreparedVersion> {
    const { versions, maker, log } = this.#parts;
    const paths = listFiles(model.folder);
    const files = await readFiles(model.folder, paths, signal);
    const id = digestOf(files);
    const known = versions.get(id);
    // Pushed before, it might be let go for want of room; the operator's own stays.
    if (known !== null && known.package !== null) versions.save({ ...known, package: null });
    if (known !== null) return known;
    const release = versions.hold(id);
    const temporary = versions.temporaryFolder();
    try {
      await copyFiles(model.folder, paths, temporary);
      await versions.takeSource({ id, name: model.name, folder: temporary, files });
      const source = { id, name: model.name, folder: versions.sourceFolder(id), files };
      const progress = (step: "environment" | "schema" | "warning", detail?: string): void =>
        logProgress(log, { step, model: model.name, ...(detail === undefined ? {} : { detail }) });
      const result = await maker.make(
        {
          source,
          is_trusted: true,
          signal,
          time_limit_ms: TIME_LIMIT_MS,
          disk_limit_bytes: DISK_LIMIT_BYTES,
          onStage: (stage) => (stage === "schema" ? progress("schema") : undefined),
          onLine: (line) => {
            const warning = /^warning: (.*)/.exec(line)?.[1];
            if (warning !== undefined) progress("warning", warning);
            else if (isWorthShowing(line)) progress("environment", withoutHost(line).slice(0, 120));
          },
        },
        null,
      );
      if (result.kind === "built") return result.version;
      throw new ModelFault(result.kind === "failed" ? result.detail : "The origin is shutting down.");
    } finally {
      await rm(temporary, { recursive: true, force: true });
      release();
      versions.discard(id);
    }
  }

  /** Tried again for a while: the edge may be starting. */
  async #announce(name: string, announce: ModelAnnounce): Promise<void> {
    const { edge } = this.#parts;
    if (edge === null) return;
    for (let tries = 1; ; tries++) {
      const answer = await edge.announceModel(name, announce);
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
  const { title, example_input, stable: _, ...said } = describe(folder, cogway);
  return {
    ...said,
    visibility: cogway.visibility ?? "public",
    title: title ?? name,
    collections: cogway.collections ?? [],
    official: cogway.official ?? null,
    ...(example_input === null ? {} : { example_input }),
  };
}

/** What of an installer's line tells that it goes on. */
function isWorthShowing(line: string): boolean {
  return /^\s*(Making|Fetching|Fetched|Waiting|Collecting|Downloading|Installing collected packages|Building|Resolved|Prepared|Installed|Bytecode compiled|Successfully installed|==>|\$)/.test(
    line,
  );
}

function withoutHost(line: string): string {
  return line.trim().replace(/https?:\/\/\S+\//, "");
}

async function copyFiles(folder: string, paths: string[], target: string): Promise<void> {
  await mkdir(target, { recursive: true, mode: 0o700 });
  for (const path of paths) {
    const to = join(target, path);
    await mkdir(dirname(to), { recursive: true });
    await cp(join(folder, path), to, { dereference: true });
  }
}
