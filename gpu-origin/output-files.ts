/**
 * Turns the files inside an output value, at any depth, into references, after the edge has acknowledged their bytes. Files are URLs of our upload
 * server, or data URIs.
 */
import type { FileRef, OutputPart } from "../schema/origin-protocol.ts";
import type { EdgeAnswer, EdgeClient } from "./edge-client.ts";
import type { InstanceFiles } from "./instance-files.ts";
import type { AttemptKey } from "./journal.ts";
import { decodeDataUri, extensionOf, type OutputSpool, type SpooledFile } from "./output-spool.ts";

/** A file, or a part of one, that the edge does not take is tried again with a growing pause, for this long in all. */
const UPLOAD_TRIES_MS = 15 * 60_000;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5_000;
/** A file in parts whose upload the edge no longer knows is sent anew, so often in all. */
const UPLOADS_MAX = 3;
const DEPTH_MAX = 64;

type OutputCalls = Pick<EdgeClient, "putOutput" | "beginOutput" | "putOutputPart" | "completeOutput" | "keepWeights">;

export interface OutputScope {
  key: AttemptKey;
  cogId: string;
  files: InstanceFiles;
  /** numbers files in the model's order, from 0 */
  nextFile: () => number;
  /** aborted when the attempt is given up */
  signal: AbortSignal;
}

export class OutputFiles {
  readonly #edge: OutputCalls;
  readonly #spool: OutputSpool;

  constructor(edge: OutputCalls, spool: OutputSpool) {
    this.#edge = edge;
    this.#spool = spool;
  }

  /** The value itself where it holds no file; else a promise of the value with references. Rejects when a file cannot be stored. */
  store(value: unknown, scope: OutputScope): unknown {
    if (!holdsFile(value, scope.files, 0)) return value;
    return this.#replace(value, scope);
  }

  /** Has the edge keep a stored file as weights. Rejects as {@link store} does. */
  async keepWeights(file: FileRef, scope: OutputScope): Promise<void> {
    const { prediction_id, attempt } = scope.key;
    await untilTaken(file.$cogway_file, scope, () => this.#edge.keepWeights(prediction_id, attempt, file));
  }

  /** Removes files that no output named. */
  discard(files: SpooledFile[]): void {
    for (const file of files) void this.#spool.remove(file);
  }

  /** In sequence, so that numbers follow the model's order. */
  async #replace(value: unknown, scope: OutputScope): Promise<unknown> {
    if (typeof value === "string") return this.#replaceText(value, scope);
    if (Array.isArray(value)) {
      const list: unknown[] = [];
      for (const element of value) list.push(await this.#replace(element, scope));
      return list;
    }
    if (typeof value !== "object" || value === null) return value;
    const entries: [string, unknown][] = [];
    for (const [name, member] of Object.entries(value)) entries.push([name, await this.#replace(member, scope)]);
    return Object.fromEntries(entries);
  }

  async #replaceText(text: string, scope: OutputScope): Promise<unknown> {
    const uploaded = scope.files.takeOutput(scope.cogId, text);
    if (uploaded !== null) return this.#send(uploaded, scope);
    const data = decodeDataUri(text);
    if (data === null || !isFileData(text)) return text;
    const n = scope.nextFile();
    const name = `${n === 0 ? "output" : `output-${n}`}.${extensionOf(data.content_type)}`;
    return this.#send(await this.#spool.writeBytes(data.bytes, name, data.content_type), scope, n);
  }

  async #send(file: SpooledFile, scope: OutputScope, n = scope.nextFile()): Promise<FileRef> {
    const { prediction_id, attempt } = scope.key;
    const path = `/origin/v1/outputs/${prediction_id}/${attempt}/${n}/${encodeURIComponent(file.name)}`;
    const [first, ...others] = file.parts;
    try {
      if (first === undefined || others.length > 0) return await this.#sendInParts(path, file, scope);
      return await untilTaken(file, scope, () => this.#edge.putOutput(path, file, first));
    } finally {
      await this.#spool.remove(file);
    }
  }

  /** What breaks off is repeated from the part at hand. The edge ends what is never completed, with the attempt or its data. */
  async #sendInParts(path: string, file: SpooledFile, scope: OutputScope): Promise<FileRef> {
    for (let upload = 1; ; upload++) {
      try {
        return await this.#upload(path, file, scope);
      } catch (error) {
        const isUnknown = error instanceof RefusedError && error.status === 404;
        if (!isUnknown || upload === UPLOADS_MAX) throw error;
      }
    }
  }

  async #upload(path: string, file: SpooledFile, scope: OutputScope): Promise<FileRef> {
    const { content_type, size_bytes, sha256 } = file;
    await untilTaken(file, scope, () => this.#edge.beginOutput(path, { content_type, size_bytes, sha256 }));
    const sent: OutputPart[] = [];
    for (const [i, part] of file.parts.entries()) {
      if (scope.signal.aborted) throw new Error(`The attempt was given up before ${file.name} was stored.`);
      sent.push(await untilTaken(file, scope, () => this.#edge.putOutputPart(path, i + 1, file, part)));
    }
    return untilTaken(file, scope, () => this.#edge.completeOutput(path, sent));
  }
}

class RefusedError extends Error {
  readonly status: number;
  constructor(message: string, status: number) {
    super(message);
    this.status = status;
  }
}

/** Repeats a call until the edge takes it. Rejects when the edge refuses it, the attempt is given up, or it took too long. */
async function untilTaken<T>(
  file: Pick<SpooledFile, "name">,
  scope: OutputScope,
  call: () => Promise<EdgeAnswer<T>>,
): Promise<T> {
  const giveUpAt = Date.now() + UPLOAD_TRIES_MS;
  for (let pause = RETRY_FIRST_MS; ; pause = Math.min(pause * 2, RETRY_MAX_MS)) {
    const answer = await call();
    if (answer.kind === "ok") return answer.value;
    const why = `The output file ${file.name} could not be stored: ${answer.detail}`;
    if (answer.kind === "refused") throw new RefusedError(why, answer.status);
    if (scope.signal.aborted || Date.now() > giveUpAt) throw new Error(why);
    await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
  }
}

/** coglet writes files as base64 data URIs; a model's own text that begins with `data:` and is none stays text. */
function isFileData(text: string): boolean {
  return text.startsWith("data:") && text.slice(0, 600).includes(";base64,");
}

/** Whether the output is one file and never nothing. coglet gives nothing for a path that it cannot read: a folder, a file that is not there. */
export function mustBeFile(schema: Record<string, unknown>): boolean {
  const { components } = schema as { components?: { schemas?: { Output?: Record<string, unknown> } } };
  const output = components?.schemas?.Output;
  return output?.["type"] === "string" && output["format"] === "uri" && output["nullable"] !== true;
}

function holdsFile(value: unknown, files: InstanceFiles, depth: number): boolean {
  if (typeof value === "string") return isFileData(value) || files.isOwnUrl(value);
  if (typeof value !== "object" || value === null || depth > DEPTH_MAX) return false;
  return Object.values(value).some((member) => holdsFile(member, files, depth + 1));
}
