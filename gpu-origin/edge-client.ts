/**
 * Signed calls from this origin to the edge, over kept-alive connections of node:http (npm's undici waits about a millisecond on each sequential call).
 * Outcomes are values; nothing here decides whether to try again.
 */
import { randomBytes } from "node:crypto";
import { chmodSync, createReadStream, createWriteStream, readFileSync, renameSync, writeFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { pipeline } from "node:stream/promises";
import { z } from "zod";
import {
  EventBatchResultSchema,
  type FileRef,
  FileRefSchema,
  type Heartbeat,
  HeartbeatResultSchema,
  type ModelAnnounce,
  type OutputBegin,
  type OutputPart,
  OutputPartSchema,
  type Register,
  type RegisterResult,
  RegisterResultSchema,
} from "../schema/origin-protocol.ts";
import { bodyDigest, type SigningKey, signRequest } from "../schema/request-signature.ts";
import type { FilePart, SpooledFile } from "./output-spool.ts";

/** The edge only stores before it answers; longer means that it is gone. */
const CALL_TIMEOUT_MS = 15_000;
/** Silence of a connection while a file is sent or put together, or an input is read. */
const TRANSFER_IDLE_MS = 60_000;
/** The edge copies gigabytes of weights within one call. */
const KEEP_TIMEOUT_MS = 300_000;
const CONNECTIONS_MAX = 16;

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
  #credential: Credential | null = null;

  constructor(edgeUrl: string) {
    this.#base = new URL(edgeUrl);
    this.#transport = this.#base.protocol === "https:" ? https : http;
    this.#agent = new this.#transport.Agent({ keepAlive: true, maxSockets: CONNECTIONS_MAX });
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

  /** Reads a file into `path`, which must not exist. Its bytes are the caller's to check. */
  async fetchFile(url: string, path: string): Promise<EdgeAnswer<null>> {
    const send = (request: http.ClientRequest): void => void request.end();
    return this.#parse(await this.#call("GET", url, {}, bodyDigest(""), send, TRANSFER_IDLE_MS, path), z.null());
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
    const body = parseJson(answer.body.toString("utf8"));
    if (status >= 200 && status < 300) {
      const value = schema.safeParse(body);
      if (value.success) return { kind: "ok", value: value.data };
      return { kind: "unavailable", detail: "the edge's answer is not of this protocol" };
    }
    const problem = z.object({ detail: z.string() }).safeParse(body);
    const detail = problem.success ? problem.data.detail : `the edge answered ${status}`;
    const isPassing = status >= 500 || status === 429 || status === 408 || status < 400;
    return isPassing ? { kind: "unavailable", detail } : { kind: "refused", status, detail };
  }

  #call(
    method: string,
    path: string,
    headers: Record<string, string>,
    bodySha256: string,
    send: (request: http.ClientRequest) => void,
    idleMs: number,
    /** file that gets the body of a 200 */
    into?: string,
  ): Promise<RawAnswer | Error> {
    const key: SigningKey | null = this.#credential?.key ?? null;
    const signed = key === null ? {} : signRequest(key, { method, path, body_sha256: bodySha256 }, Date.now());
    return new Promise((resolve) => {
      const request = this.#transport.request(
        {
          protocol: this.#base.protocol,
          hostname: this.#base.hostname,
          port: this.#base.port,
          method,
          path,
          agent: this.#agent,
          timeout: idleMs,
          headers: { ...headers, ...signed },
        },
        (response) => {
          if (into !== undefined && response.statusCode === 200) {
            const file = createWriteStream(into, { flags: "wx", mode: 0o600 });
            pipeline(response, file).then(() => resolve({ status: 200, body: Buffer.of() }), resolve);
            return;
          }
          const chunks: Buffer[] = [];
          response.on("data", (chunk: Buffer) => chunks.push(chunk));
          response.on("end", () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }));
          response.on("error", resolve);
          response.on("aborted", () => resolve(new Error("the edge closed the connection")));
        },
      );
      request.on("error", resolve);
      request.on("timeout", () => request.destroy(new Error(`no answer from the edge within ${idleMs} ms`)));
      send(request);
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
