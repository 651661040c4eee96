/**
 * Turns the files inside an output value, at any depth, into references, after the edge has acknowledged their bytes. Files are URLs of our upload
 * server, or data URIs.
 */
import { type FileRef, FileRefSchema } from "../schema/origin-protocol.ts";
import type { EdgeClient } from "./edge-client.ts";
import type { InstanceFiles } from "./instance-files.ts";
import type { AttemptKey } from "./journal.ts";
import { decodeDataUri, extensionOf, type OutputSpool, type SpooledFile } from "./output-spool.ts";

/** An upload that the edge does not take is tried again with a growing pause, for this long in all. */
const UPLOAD_TRIES_MS = 15 * 60_000;
const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 5_000;
const DEPTH_MAX = 64;

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
  readonly #edge: Pick<EdgeClient, "putOutput">;
  readonly #spool: OutputSpool;

  constructor(edge: Pick<EdgeClient, "putOutput">, spool: OutputSpool) {
    this.#edge = edge;
    this.#spool = spool;
  }

  /** The value itself where it holds no file; else a promise of the value with references. Rejects when a file cannot be stored. */
  store(value: unknown, scope: OutputScope): unknown {
    if (!holdsFile(value, scope.files, 0)) return value;
    return this.#replace(value, scope);
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
    const giveUpAt = Date.now() + UPLOAD_TRIES_MS;
    try {
      for (let pause = RETRY_FIRST_MS; ; pause = Math.min(pause * 2, RETRY_MAX_MS)) {
        const answer = await this.#edge.putOutput(path, file);
        if (answer.kind === "ok") return FileRefSchema.parse(answer.value);
        const why = `The output file ${file.name} could not be stored: ${answer.detail}`;
        if (answer.kind === "refused" || scope.signal.aborted || Date.now() > giveUpAt) throw new Error(why);
        await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
      }
    } finally {
      await this.#spool.remove(file);
    }
  }
}

/** coglet writes files as base64 data URIs; a model's own text that begins with `data:` and is none stays text. */
function isFileData(text: string): boolean {
  return text.startsWith("data:") && text.slice(0, 600).includes(";base64,");
}

function holdsFile(value: unknown, files: InstanceFiles, depth: number): boolean {
  if (typeof value === "string") return isFileData(value) || files.isOwnUrl(value);
  if (typeof value !== "object" || value === null || depth > DEPTH_MAX) return false;
  return Object.values(value).some((member) => holdsFile(member, files, depth + 1));
}
