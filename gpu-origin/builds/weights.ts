/**
 * `weights` of cog.yaml: files of the source, or of https addresses, that a model finds below an absolute path. A build says which they are, with their
 * digests, and every origin that starts the version puts the same files in place, as links into the cache of blobs.
 */
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, posix } from "node:path";
import dockerIgnore from "@balena/dockerignore";
import { downloadGuarded } from "../guarded-download.ts";
import type { CogYaml } from "../packaging/cog-yaml.ts";
import type { SourceFile } from "../packaging/source.ts";
import type { PreparedVersion, VersionStore, VersionWeights } from "../prepared-version.ts";
import type { UrlPolicy } from "../url-guard.ts";
import { type BlobCache, linkBlob } from "./blob-cache.ts";
import type { SourceFolder } from "./builder.ts";
import { megabytes } from "./disk.ts";

/** One file of an https address. */
const DOWNLOAD_TIMEOUT_MS = 3_600_000;
const DOWNLOAD_TRIES_MAX = 3;

/** The message says what to change. */
export class WeightsFault extends Error {}

export interface WeightsParts {
  versions: VersionStore;
  blobs: BlobCache;
  /** which addresses may be fetched */
  policy: UrlPolicy;
  download?: typeof downloadGuarded;
}

export interface WeightsOptions {
  signal: AbortSignal;
  onLine: (line: string) => void;
  bytes_max: number;
}

/** Which files a model's `weights` are. Those of https addresses are fetched, since only their bytes say which they are. */
export async function planWeights(
  cog: CogYaml,
  source: SourceFolder,
  parts: WeightsParts,
  options: WeightsOptions,
): Promise<VersionWeights[]> {
  const planned: VersionWeights[] = [];
  for (const { name, target, source: sources } of cog.weights) {
    const files: VersionWeights["files"] = [];
    for (const { uri, include, exclude } of sources) {
      if (/^https:/i.test(uri)) files.push(await fetchWeights(uri, null, parts, options));
      else files.push(...filesOf(uri, include, exclude, source.files));
    }
    const paths = files.map(({ path }) => path);
    const twice = paths.find((path, index) => paths.indexOf(path) !== index);
    if (twice !== undefined)
      throw new WeightsFault(`weights: ${name} has two files ${twice}; give each a target of its own.`);
    planned.push({ name, target, files });
  }
  return planned;
}

/** Files of the source below `uri`; their paths are told from there. */
function filesOf(uri: string, include: string[], exclude: string[], files: SourceFile[]): VersionWeights["files"] {
  const root = posix.normalize(uri.replace(/^file:(\/\/)?/i, "")).replace(/\/$/, "");
  const included = dockerIgnore().add(include);
  const excluded = dockerIgnore().add(exclude);
  const found = files.flatMap(({ path, size_bytes, sha256 }) => {
    const isFile = path === root;
    if (!isFile && root !== "." && !path.startsWith(`${root}/`)) return [];
    const below = isFile ? basename(path) : root === "." ? path : path.slice(root.length + 1);
    return (include.length === 0 || included.ignores(below)) && !excluded.ignores(below)
      ? [{ path: below, sha256, size_bytes, from: path }]
      : [];
  });
  if (found.length > 0) return found;
  throw new WeightsFault(
    `weights: ${uri} names no file of the source. Look whether .dockerignore leaves it out, and at include and exclude.`,
  );
}

/** Brings one into the cache; with a digest, only what has it. */
async function fetchWeights(
  url: string,
  known: { sha256: string; path: string } | null,
  { blobs, policy, download = downloadGuarded }: WeightsParts,
  { signal, onLine, bytes_max }: WeightsOptions,
): Promise<VersionWeights["files"][number]> {
  const path = known?.path ?? nameOf(url);
  let reason = "";
  for (let tries = 1; tries <= DOWNLOAD_TRIES_MAX; tries++) {
    signal.throwIfAborted();
    const temporary = blobs.temporaryFile();
    onLine(`Fetching ${url}`);
    const bounds = { bytesMax: bytes_max, timeoutMs: DOWNLOAD_TIMEOUT_MS };
    const got = await download(url, temporary, policy, signal, bounds);
    if (got.kind === "failed") {
      reason = got.reason;
      continue;
    }
    const put = await blobs.put(temporary, known?.sha256 ?? null);
    if (put === null)
      throw new WeightsFault(
        `weights: what ${url} has now is not what the version was built with. Push the model again.`,
      );
    put.release();
    onLine(`Fetched ${megabytes(put.size_bytes)}, sha256 ${put.sha256}`);
    return { path, sha256: put.sha256, size_bytes: put.size_bytes, from: url };
  }
  throw new WeightsFault(`weights: ${url} cannot be fetched: ${reason}.`);
}

function nameOf(url: string): string {
  const last = decodeURIComponent(new URL(url).pathname.split("/").at(-1) ?? "");
  const name = last.replace(/[^\w.-]+/g, "_").slice(0, 200);
  return name === "" || name === "." || name === ".." ? "weights" : name;
}

/** Puts a version's weights where launches find them; fetches what this host has not got. */
export async function placeWeights(
  version: Pick<PreparedVersion, "id" | "weights">,
  parts: WeightsParts,
  options: WeightsOptions,
): Promise<void> {
  const { versions, blobs } = parts;
  for (const { name, files } of version.weights) {
    const folder = versions.weightsFolder(version.id, name);
    if (existsSync(folder)) continue;
    const temporary = `${folder}.${randomBytes(4).toString("hex")}`;
    try {
      for (const file of files) {
        const to = join(temporary, file.path);
        await mkdir(dirname(to), { recursive: true });
        if (!/^https:/i.test(file.from)) {
          await linkBlob(join(versions.sourceFolder(version.id), file.from), to);
          continue;
        }
        if (!blobs.has(file.sha256)) await fetchWeights(file.from, file, parts, options);
        const held = await blobs.holdBlob({ sha256: file.sha256, size_bytes: file.size_bytes, parts: [] });
        if (held.kind === "failed") throw new WeightsFault(`weights: ${file.from} could not be kept: ${held.detail}`);
        await linkBlob(held.path, to).finally(held.release);
      }
      // Another that placed the same came first.
      await rename(temporary, folder).catch((error: unknown) => {
        if (!existsSync(folder)) throw error;
      });
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  }
}
