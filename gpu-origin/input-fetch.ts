/**
 * Makes an input ready for coglet: a large one is fetched from the edge, URLs of files are downloaded under the guard, large data URIs become files.
 * coglet gets loopback URLs of that attempt, with the extension kept; it never fetches a user's URL itself, since it has no guard and follows redirects.
 */
import { createWriteStream, mkdirSync, rmSync } from "node:fs";
import { rm, writeFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { extname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { parse as parseDisposition } from "content-disposition";
import type { AttemptStart, WeightsSource } from "../schema/origin-protocol.ts";
import { WEIGHTS_INPUT } from "../schema/weights.ts";
import type { BlobCache } from "./builds/blob-cache.ts";
import type { EdgeClient } from "./edge-client.ts";
import { type Download, downloadGuarded, INPUT_FETCH_TIMEOUT_MS } from "./guarded-download.ts";
import type { InstanceFiles, ServedInput } from "./instance-files.ts";
import { decodeDataUri, extensionOf, safeFileName } from "./output-spool.ts";
import { fileInputs, type PreparedVersion } from "./prepared-version.ts";
import type { UrlPolicy } from "./url-guard.ts";

/** coglet takes seconds for large data URIs (16 MiB: 1.2 s), so from here on they go as files. */
const DATA_URI_MAX = 1_048_576;

export type PreparedInput = { kind: "ready"; input: Record<string, unknown> } | { kind: "failed"; error: string };

interface Target {
  cogId: string;
  files: InstanceFiles;
  signal: AbortSignal;
}

export class InputFetch {
  readonly #root: string;
  readonly #edge: Pick<EdgeClient, "fetchInput">;
  readonly #policy: UrlPolicy;
  readonly #edgeUrl: string;
  readonly #publicUrl: string;
  readonly #weights: BlobCache;
  readonly #fileInputs = new WeakMap<PreparedVersion, string[]>();
  /** attempts that have files here; most have none, and nothing is to be removed after them */
  readonly #folders = new Set<string>();
  /** weights of fine-tunes that attempts read */
  readonly #held = new Map<string, () => void>();
  #count = 0;

  constructor(
    root: string,
    edge: Pick<EdgeClient, "fetchInput">,
    options: { policy: UrlPolicy; edgeUrl: string; publicUrl: string; weights: BlobCache },
  ) {
    rmSync(root, { recursive: true, force: true });
    mkdirSync(root, { recursive: true, mode: 0o700 });
    this.#root = root;
    this.#edge = edge;
    this.#policy = options.policy;
    this.#edgeUrl = options.edgeUrl;
    this.#publicUrl = options.publicUrl;
    this.#weights = options.weights;
  }

  /** Answers at once where nothing is to fetch. Aborting ends it with `failed`. */
  prepare(
    start: AttemptStart,
    version: PreparedVersion,
    files: InstanceFiles,
    cogId: string,
    signal: AbortSignal,
  ): PreparedInput | Promise<PreparedInput> {
    const target = { cogId, files, signal };
    const input = this.#prepareInput(start, version, target);
    return start.weights === undefined ? input : this.#addWeights(input, start.weights, target);
  }

  async #addWeights(
    given: PreparedInput | Promise<PreparedInput>,
    source: WeightsSource,
    { cogId, files, signal }: Target,
  ): Promise<PreparedInput> {
    const prepared = await given;
    if (prepared.kind === "failed") return prepared;
    const held = await this.#weights.hold(source, signal);
    if (held.kind === "failed") return { kind: "failed", error: held.detail };
    this.#held.set(cogId, held.release);
    const { path, name } = held;
    const served = { path, name, content_type: "application/octet-stream", size_bytes: source.size_bytes };
    return { kind: "ready", input: { ...prepared.input, [WEIGHTS_INPUT]: files.serveInput(cogId, served) } };
  }

  #prepareInput(start: AttemptStart, version: PreparedVersion, target: Target): PreparedInput | Promise<PreparedInput> {
    const names = this.#fileInputsOf(version);
    if (start.input === undefined) return this.#fetchWhole(start, names, target);
    const input = withoutNulls(start.input);
    if (!names.some((name) => name in input)) return { kind: "ready", input };
    return this.#prepareFiles(input, names, target);
  }

  /** Removes the files of an attempt that ended. */
  discard(cogId: string): void {
    this.#held.get(cogId)?.();
    this.#held.delete(cogId);
    if (this.#folders.delete(cogId)) void rm(join(this.#root, cogId), { recursive: true, force: true });
  }

  #fileInputsOf(version: PreparedVersion): string[] {
    const known = this.#fileInputs.get(version) ?? fileInputs(version.schema);
    this.#fileInputs.set(version, known);
    return known;
  }

  async #fetchWhole(start: AttemptStart, names: string[], target: Target): Promise<PreparedInput> {
    if (start.input_ref === undefined) return { kind: "failed", error: "The input is missing." };
    const answer = await this.#edge.fetchInput(start.input_ref);
    if (answer.kind !== "ok") return { kind: "failed", error: `The input could not be fetched: ${answer.detail}` };
    return this.#prepareFiles(withoutNulls(answer.value), names, target);
  }

  async #prepareFiles(input: Record<string, unknown>, names: string[], target: Target): Promise<PreparedInput> {
    const ready: Record<string, unknown> = { ...input };
    for (const name of names) {
      const value = input[name];
      const values: unknown[] = Array.isArray(value) ? value : [value];
      const replaced: unknown[] = [];
      for (const text of values) {
        if (typeof text !== "string") {
          replaced.push(text);
          continue;
        }
        const file = await this.#file(text, target);
        if ("failure" in file) return { kind: "failed", error: `Input ${name}: ${file.failure}` };
        replaced.push(file.url);
      }
      if (name in input) ready[name] = Array.isArray(value) ? replaced : replaced[0];
    }
    return { kind: "ready", input: ready };
  }

  async #file(text: string, target: Target): Promise<{ url: string } | { failure: string }> {
    if (text.slice(0, 5).toLowerCase() === "data:") return this.#dataFile(text, target);
    const url = URL.parse(text);
    if (url === null || (url.protocol !== "http:" && url.protocol !== "https:")) {
      return { failure: "only http, https and data URLs are files." };
    }
    const path = this.#newPath(target.cogId);
    const own = this.#ownUrl(url);
    const download =
      own === null
        ? await downloadGuarded(text, path, this.#policy, target.signal)
        : await downloadOwn(own, path, target.signal);
    if (download.kind === "failed") return { failure: `the file could not be downloaded: ${download.reason}.` };
    const name = fileName(url, download);
    return this.#serve({ path, name, content_type: download.content_type, size_bytes: download.size_bytes }, target);
  }

  async #dataFile(text: string, target: Target): Promise<{ url: string } | { failure: string }> {
    if (text.length <= DATA_URI_MAX) return { url: text };
    const data = decodeDataUri(text);
    if (data === null) return { failure: "the data URI is malformed." };
    const path = this.#newPath(target.cogId);
    await writeFile(path, data.bytes, { flag: "wx", mode: 0o600 });
    const name = `input.${extensionOf(data.content_type)}`;
    return this.#serve({ path, name, content_type: data.content_type, size_bytes: data.bytes.length }, target);
  }

  #serve(input: ServedInput, { cogId, files }: Target): { url: string } {
    return { url: files.serveInput(cogId, input) };
  }

  #newPath(cogId: string): string {
    const folder = join(this.#root, cogId);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    this.#folders.add(cogId);
    return join(folder, String(this.#count++));
  }

  /** A file of this Cogway: outputs and uploads under the public address are read from the edge directly, which may be on loopback. */
  #ownUrl(url: URL): URL | null {
    const base = new URL(this.#publicUrl);
    if (url.origin !== base.origin || url.username !== "" || url.password !== "") return null;
    if (!url.pathname.startsWith("/outputs/") && !url.pathname.startsWith("/v1/files/")) return null;
    return new URL(url.pathname + url.search, this.#edgeUrl);
  }
}

/** The edge's own signed file URLs; they never redirect. */
async function downloadOwn(url: URL, path: string, signal: AbortSignal): Promise<Download> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(INPUT_FETCH_TIMEOUT_MS)]);
  const transport = url.protocol === "https:" ? https : http;
  const response = await new Promise<http.IncomingMessage | Error>((resolve) => {
    const made = transport.get(url, { agent: false, signal: limit });
    made.on("error", resolve);
    made.on("response", resolve);
  });
  if (response instanceof Error) return { kind: "failed", reason: "it cannot be fetched" };
  if (response.statusCode !== 200) {
    response.destroy();
    return { kind: "failed", reason: `its host answered ${response.statusCode}` };
  }
  let size_bytes = 0;
  response.on("data", (chunk: Buffer) => {
    size_bytes += chunk.length;
  });
  try {
    await pipeline(response, createWriteStream(path, { flags: "wx", mode: 0o600 }), { signal: limit });
  } catch {
    await rm(path, { force: true });
    return { kind: "failed", reason: "its transfer broke off" };
  }
  const disposition = response.headers["content-disposition"];
  const filename = disposition === undefined ? undefined : parseDisposition(disposition).parameters["filename"];
  return {
    kind: "done",
    url,
    content_type: response.headers["content-type"] ?? "",
    size_bytes,
    ...(filename === undefined ? {} : { filename }),
  };
}

/** The file's own name, else the URL's last segment; with an extension by type where it has none, since models tell formats by it. */
function fileName(url: URL, download: Download & { kind: "done" }): string {
  if (download.filename !== undefined) return withExtension(safeFileName(download.filename), download);
  let segment = download.url.pathname.split("/").at(-1) ?? "";
  if (extname(segment) === "") segment = url.pathname.split("/").at(-1) ?? "";
  try {
    segment = decodeURIComponent(segment);
  } catch {
    // Not percent-encoded text: the segment stays as it is.
  }
  return withExtension(safeFileName(segment === "" ? "input" : segment), download);
}

function withExtension(name: string, { content_type }: Download & { kind: "done" }): string {
  return extname(name) === "" ? `${name}.${extensionOf(content_type)}` : name;
}

/** coglet refuses an explicit null for an optional input. */
function withoutNulls(input: Record<string, unknown>): Record<string, unknown> {
  const names = Object.keys(input);
  if (!names.some((name) => input[name] === null)) return input;
  return Object.fromEntries(Object.entries(input).filter(([, value]) => value !== null));
}
