/**
 * Signed calls from this origin to the edge, over kept-alive connections of node:http (npm's undici waits about a millisecond on each sequential call).
 * Outcomes are values; nothing here decides whether to try again.
 */
import { randomBytes } from "node:crypto";
import { chmodSync, createReadStream, readFileSync, renameSync, writeFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { z } from "zod";
import {
  BuildAckSchema,
  EventBatchResultSchema,
  type FileRef,
  FileRefSchema,
  type Heartbeat,
  HeartbeatResultSchema,
  type ModelAnnounce,
  OUTPUT_PART_BYTES,
  type OutputBegin,
  type OutputPart,
  OutputPartSchema,
  type Register,
  type RegisterResult,
  RegisterResultSchema,
} from "../schema/origin-protocol.ts";
import { type Package, PackageSchema } from "../schema/packages.ts";
import { bodyDigest, type SigningKey, signRequest } from "../schema/request-signature.ts";
import type { FilePart, SpooledFile } from "./output-spool.ts";

/** The edge only stores before it answers; longer means that it is gone. */
const CALL_TIMEOUT_MS = 15_000;
/** Silence of a connection while a file is sent or put together, or an input is read. */
const TRANSFER_IDLE_MS = 60_000;
/** The edge copies gigabytes of weights within one call. */
const KEEP_TIMEOUT_MS = 300_000;
const CONNECTIONS_MAX = 16;
/** Connections that read large files; they are apart, so that no event waits behind gigabytes. */
const TRANSFERS_MAX = 8;
/** Manifests and packages; the registry's own bound of a manifest is 4 MiB. */
const DOCUMENT_BYTES_MAX = 16 * 1024 ** 2;

const CredentialSchema = z.object({
  origin_id: z.string(),
  key: z.object({ key_id: z.string(), secret: z.string() }),
});
export type Credential = z.infer<typeof CredentialSchema>;

export type EdgeAnswer<T> =
  | { kind: "ok"; value: T }
  /** 4xx: the same call again is refused again */
  | { kind: "refused"; status: number; detail: string }
  /** no answer, or 5xx or 429: the same call may succeed later */
  | { kind: "unavailable"; detail: string };

interface RawAnswer {
  status: number;
  body: Buffer;
}

/** Reads the key of an origin that joined before; null when it never did. */
export function loadCredential(path: string): Credential | null {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch {
    return null;
  }
  const parsed = CredentialSchema.safeParse(JSON.parse(text));
  return parsed.success ? parsed.data : null;
}

/** Readable by its owner only; renamed into place, so that a crash leaves the old one. */
export function saveCredential(path: string, credential: Credential): void {
  const temporary = `${path}.${randomBytes(4).toString("hex")}`;
  writeFileSync(temporary, JSON.stringify(credential), { mode: 0o600 });
  chmodSync(temporary, 0o600);
  renameSync(temporary, path);
}

export class EdgeClient {
  readonly #base: URL;
  readonly #transport: typeof http | typeof https;
  readonly #agent: http.Agent | https.Agent;
  readonly #transfers: http.Agent | https.Agent;
  #credential: Credential | null = null;

  constructor(edgeUrl: string) {
    this.#base = new URL(edgeUrl);
    this.#transport = this.#base.protocol === "https:" ? https : http;
    this.#agent = new this.#transport.Agent({ keepAlive: true, maxSockets: CONNECTIONS_MAX });
    this.#transfers = new this.#transport.Agent({ keepAlive: true, maxSockets: TRANSFERS_MAX });
  }

  get credential(): Credential | null {
    return this.#credential;
  }

  setCredential(credential: Credential | null): void {
    this.#credential = credential;
  }

  /** The secret of a live key, for calls that come from the edge. */
  secretOf(keyId: string): string | null {
    return this.#credential?.key.key_id === keyId ? this.#credential.key.secret : null;
  }

  register(register: Register): Promise<EdgeAnswer<RegisterResult>> {
    return this.#json("POST", "/origin/v1/register", JSON.stringify(register), RegisterResultSchema);
  }

  heartbeat(heartbeat: Heartbeat): Promise<EdgeAnswer<z.infer<typeof HeartbeatResultSchema>>> {
    return this.#json("POST", "/origin/v1/heartbeat", JSON.stringify(heartbeat), HeartbeatResultSchema);
  }

  /** `body` is the JSON text of an EventBatch, joined from events that are texts already. */
  postEvents(body: string): Promise<EdgeAnswer<z.infer<typeof EventBatchResultSchema>>> {
    return this.#json("POST", "/origin/v1/events", body, EventBatchResultSchema);
  }

  announceModel(name: string, announce: ModelAnnounce): Promise<EdgeAnswer<unknown>> {
    const path = `/origin/v1/models/${encodeURIComponent(name)}`;
    return this.#json("PUT", path, JSON.stringify(announce), z.unknown());
  }

  fetchInput(path: string): Promise<EdgeAnswer<Record<string, unknown>>> {
    return this.#json("GET", path, "", z.record(z.string(), z.unknown()), TRANSFER_IDLE_MS);
  }

  /**
   * Reads bytes `start` to `end` (not included) of a file, in order; `write` has taken each before the next comes. When it breaks off, what `write` has
   * taken stays taken.
   */
  fetchRange(
    url: string,
    { start, end }: { start: number; end: number },
    write: (chunk: Buffer) => Promise<void>,
    signal: AbortSignal,
  ): Promise<EdgeAnswer<null>> {
    const headers = { ...this.#signed("GET", url, bodyDigest("")), range: `bytes=${start}-${end - 1}` };
    return new Promise((resolve) => {
      const fail = (error: Error): void => resolve({ kind: "unavailable", detail: error.message });
      const request = this.#transport.request({
        ...this.#target("GET", url, headers, TRANSFER_IDLE_MS),
        agent: this.#transfers,
        signal,
      });
      request.on("error", fail);
      request.on("timeout", () => request.destroy(new Error(`no byte from the edge within ${TRANSFER_IDLE_MS} ms`)));
      request.on("response", (response) => {
        const whole = response.statusCode === 200 && start === 0 && Number(response.headers["content-length"]) === end;
        if (response.statusCode !== 206 && !whole) {
          collect(response, DOCUMENT_BYTES_MAX).then((body) => {
            if (body instanceof Error) return fail(body);
            const isRange = response.statusCode === 200;
            resolve(isRange ? { kind: "unavailable", detail: "the edge gave another range" } : refusal(response, body));
          }, fail);
          return;
        }
        const take = async (): Promise<EdgeAnswer<null>> => {
          let left = end - start;
          for await (const chunk of response as AsyncIterable<Buffer>) {
            left -= chunk.length;
            if (left < 0) throw new Error("the edge sent more than was asked for");
            await write(chunk);
          }
          return left === 0 ? { kind: "ok", value: null } : { kind: "unavailable", detail: "the transfer broke off" };
        };
        take().then(resolve, (error: unknown) => {
          response.destroy();
          fail(error instanceof Error ? error : new Error(String(error)));
        });
      });
      request.end();
    });
  }

  /** A compile cache, as it was kept by {@link putCompileCache}. */
  async fetchCompileCache(path: string): Promise<EdgeAnswer<Buffer>> {
    return this.#bytes(await this.#get(path, OUTPUT_PART_BYTES));
  }

  /** In the place of an earlier one. `archive` may have OUTPUT_PART_BYTES. */
  async putCompileCache(path: string, archive: Buffer): Promise<EdgeAnswer<unknown>> {
    const headers = { "content-type": "application/gzip", "content-length": String(archive.length) };
    const send = (request: http.ClientRequest): void => void request.end(archive);
    return this.#parse(
      await this.#call("PUT", path, headers, bodyDigest(archive), send, TRANSFER_IDLE_MS),
      z.unknown(),
    );
  }

  /** Bytes of a manifest; their digest is the caller's to check. */
  async fetchManifest(repository: string, digest: string): Promise<EdgeAnswer<Buffer>> {
    return this.#bytes(await this.#get(`/origin/v1/repositories/${repository}/manifests/${digest}`));
  }

  #bytes(answer: RawAnswer | Error): EdgeAnswer<Buffer> {
    if (answer instanceof Error) return { kind: "unavailable", detail: answer.message };
    return answer.status === 200
      ? { kind: "ok", value: answer.body }
      : refusal({ statusCode: answer.status }, answer.body);
  }

  /** Where a blob of a repository is read, by {@link fetchRange}. */
  static blobUrl(repository: string, digest: string): string {
    return `/origin/v1/repositories/${repository}/blobs/${digest}`;
  }

  /** What makes a version start on any origin. */
  fetchPackage(repository: string, versionId: string): Promise<EdgeAnswer<Package>> {
    return this.#json("GET", `/origin/v1/packages/${repository}/${versionId}`, "", PackageSchema, TRANSFER_IDLE_MS);
  }

  /** A token with which an engine pulls images of a repository from the registry. */
  registryToken(repository: string): Promise<EdgeAnswer<{ token: string; expires_in: number }>> {
    const schema = z.object({ token: z.string().min(1), expires_in: z.number() });
    return this.#json("POST", `/origin/v1/repositories/${repository}/token`, "", schema);
  }

  /** `body` is the JSON text of BuildEvents. */
  postBuildEvents(buildId: string, body: string): Promise<EdgeAnswer<z.infer<typeof BuildAckSchema>>> {
    return this.#json("POST", `/origin/v1/builds/${buildId}/events`, body, BuildAckSchema);
  }

  /** Keeps an output file of a training beyond its data. Idempotent. */
  keepWeights(prediction_id: string, attempt: number, file: FileRef): Promise<EdgeAnswer<unknown>> {
    const path = `/origin/v1/weights/${prediction_id}/${attempt}`;
    return this.#json("POST", path, JSON.stringify(file), z.unknown(), KEEP_TIMEOUT_MS);
  }

  /** Streams a file of one part. Idempotent, as all calls about outputs are: equal bytes at the same place answer the same. */
  putOutput(path: string, file: SpooledFile, part: FilePart): Promise<EdgeAnswer<FileRef>> {
    return this.#sendPart(path, file, part, FileRefSchema);
  }

  beginOutput(path: string, begin: OutputBegin): Promise<EdgeAnswer<unknown>> {
    return this.#json("POST", `${path}/parts`, JSON.stringify(begin), z.unknown());
  }

  /** Streams the part of this number, from 1. */
  putOutputPart(path: string, number: number, file: SpooledFile, part: FilePart): Promise<EdgeAnswer<OutputPart>> {
    return this.#sendPart(`${path}/parts/${number}`, file, part, OutputPartSchema);
  }

  completeOutput(path: string, parts: OutputPart[]): Promise<EdgeAnswer<FileRef>> {
    return this.#json("POST", `${path}/complete`, JSON.stringify({ parts }), FileRefSchema, TRANSFER_IDLE_MS);
  }

  async #sendPart<T>(path: string, file: SpooledFile, part: FilePart, schema: z.ZodType<T>): Promise<EdgeAnswer<T>> {
    const { start, size_bytes, sha256 } = part;
    const headers = { "content-type": file.content_type, "content-length": String(size_bytes) };
    const send = (request: http.ClientRequest): void => {
      if (size_bytes === 0) {
        request.end();
        return;
      }
      const stream = createReadStream(file.path, { start, end: start + size_bytes - 1 });
      stream.on("error", (error) => request.destroy(error));
      // A request that breaks off leaves the file open otherwise.
      request.on("close", () => stream.destroy());
      stream.pipe(request);
    };
    return this.#parse(await this.#call("PUT", path, headers, sha256, send, TRANSFER_IDLE_MS), schema);
  }

  async #json<T>(
    method: string,
    path: string,
    body: string,
    schema: z.ZodType<T>,
    timeoutMs = CALL_TIMEOUT_MS,
  ): Promise<EdgeAnswer<T>> {
    const headers: Record<string, string> =
      body === "" ? {} : { "content-type": "application/json", "content-length": String(Buffer.byteLength(body)) };
    const call = () =>
      this.#call(
        method,
        path,
        headers,
        bodyDigest(body),
        (request) => request.end(body === "" ? undefined : body),
        timeoutMs,
      );
    let answer = await call();
    // A kept-alive connection that the other end closed meanwhile says nothing about the edge.
    if (answer instanceof Error && "code" in answer && (answer.code === "ECONNRESET" || answer.code === "EPIPE"))
      answer = await call();
    return this.#parse(answer, schema);
  }

  #parse<T>(answer: RawAnswer | Error, schema: z.ZodType<T>): EdgeAnswer<T> {
    if (answer instanceof Error) return { kind: "unavailable", detail: answer.message };
    const { status } = answer;
    if (status < 200 || status >= 300) return refusal({ statusCode: status }, answer.body);
    const value = schema.safeParse(parseJson(answer.body.toString("utf8")));
    if (value.success) return { kind: "ok", value: value.data };
    return { kind: "unavailable", detail: "the edge's answer is not of this protocol" };
  }

  #get(path: string, bytesMax = DOCUMENT_BYTES_MAX): Promise<RawAnswer | Error> {
    return this.#call("GET", path, {}, bodyDigest(""), (request) => void request.end(), TRANSFER_IDLE_MS, bytesMax);
  }

  #call(
    method: string,
    path: string,
    headers: Record<string, string>,
    bodySha256: string,
    send: (request: http.ClientRequest) => void,
    idleMs: number,
    bytesMax = DOCUMENT_BYTES_MAX,
  ): Promise<RawAnswer | Error> {
    return new Promise((resolve) => {
      const request = this.#transport.request(
        {
          ...this.#target(method, path, { ...headers, ...this.#signed(method, path, bodySha256) }, idleMs),
          agent: this.#agent,
        },
        (response) => {
          collect(response, bytesMax).then(
            (body) => resolve(body instanceof Error ? body : { status: response.statusCode ?? 0, body }),
            resolve,
          );
        },
      );
      request.on("error", resolve);
      request.on("timeout", () => request.destroy(new Error(`no answer from the edge within ${idleMs} ms`)));
      send(request);
    });
  }

  #signed(method: string, path: string, bodySha256: string): Record<string, string> {
    const key: SigningKey | null = this.#credential?.key ?? null;
    return key === null ? {} : { ...signRequest(key, { method, path, body_sha256: bodySha256 }, Date.now()) };
  }

  #target(method: string, path: string, headers: Record<string, string>, timeout: number): http.RequestOptions {
    const { protocol, hostname, port } = this.#base;
    return { protocol, hostname, port, method, path, timeout, headers };
  }

  close(): void {
    this.#agent.destroy();
    this.#transfers.destroy();
  }
}

/** The body, or why there is none. */
export function collect(response: http.IncomingMessage, bytesMax: number): Promise<Buffer | Error> {
  return new Promise((resolve) => {
    const chunks: Buffer[] = [];
    let size = 0;
    response.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size > bytesMax) response.destroy(new Error("the edge's answer is too long"));
      else chunks.push(chunk);
    });
    response.on("end", () => resolve(Buffer.concat(chunks)));
    response.on("error", resolve);
    response.on("aborted", () => resolve(new Error("the edge closed the connection")));
  });
}

/** What an answer that is not 2xx means to its caller. */
function refusal(
  { statusCode = 0 }: { statusCode?: number | undefined },
  body: Buffer,
): Exclude<EdgeAnswer<never>, { kind: "ok" }> {
  const problem = z.object({ detail: z.string() }).safeParse(parseJson(body.toString("utf8")));
  const detail = problem.success ? problem.data.detail : `the edge answered ${statusCode}`;
  const isPassing = statusCode >= 500 || statusCode === 429 || statusCode === 408 || statusCode < 400;
  return isPassing ? { kind: "unavailable", detail } : { kind: "refused", status: statusCode, detail };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
