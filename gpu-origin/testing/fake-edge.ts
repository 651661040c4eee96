/**
 * An edge for tests of the origin: it verifies signatures, stores events by (attempt, i) as the real one does, keeps output files, and can be told to be
 * away, slow, forgetful or to fence. Its `call` speaks to the origin as the edge does.
 */
import { randomBytes } from "node:crypto";
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import {
  type AttemptAck,
  type AttemptEvent,
  type EventBatch,
  EventBatchSchema,
  type FileRef,
  FileRefSchema,
  HeartbeatSchema,
  type InstanceStatus,
  type ModelAnnounce,
  ModelAnnounceSchema,
  type OutputBegin,
  OutputBeginSchema,
  OutputCompleteSchema,
  type Register,
  RegisterSchema,
} from "../../schema/origin-protocol.ts";
import { bodyDigest, type SigningKey, signRequest, verifyRequest } from "../../schema/request-signature.ts";
import { FakeRegistry } from "./fake-registry.ts";

export const JOIN_TOKEN = "join-token-of-tests";

export interface StoredFile {
  path: string;
  content_type: string;
  bytes: Buffer;
}

type Answer = (status: number, value: unknown) => void;

export class FakeEdge {
  readonly key: SigningKey = { key_id: "testkey", secret: randomBytes(32).toString("base64") };
  readonly events = new Map<string, AttemptEvent[]>();
  readonly statuses: InstanceStatus[] = [];
  readonly announces = new Map<string, ModelAnnounce[]>();
  readonly files: StoredFile[] = [];
  /** files in parts that are not complete, by path: what was begun, and the parts by number */
  readonly uploads = new Map<string, { begin: OutputBegin; parts: Map<number, Buffer> }>();
  /** method and end of the path of every call about a file in parts, in order */
  readonly uploadCalls: string[] = [];
  /** called before such a call is carried out; what it gives goes wrong: the connection breaks before or behind the work, or the answer is this status */
  uploadFault: (call: string) => "cut" | "lost" | number | null = () => null;
  readonly inputs = new Map<string, unknown>();
  /** weights of fine-tunes by path, and how often each was fetched */
  readonly weights = new Map<string, Buffer>();
  readonly weightsFetches: string[] = [];
  /** output files that were to be kept as weights */
  readonly kept: FileRef[] = [];
  readonly registry = new FakeRegistry();
  readonly batches: EventBatch[] = [];
  readonly registrations: (Register & { joined: boolean })[] = [];
  heartbeats = 0;
  /** answers 503 to event batches and uploads, while true */
  isAway = false;
  /** event batches that were sent while it was away */
  turnedAway = 0;
  /** stores batches, then loses the next answers */
  loseAnswers = 0;
  ackDelayMs = 0;
  /** what to acknowledge instead of `stored` */
  outcomeOf: (key: string) => AttemptAck["outcome"] = () => "stored";
  /** batches that it answers 422 as a whole */
  refuses: (batch: EventBatch) => boolean = () => false;
  knowsIncarnation = true;
  originUrl = "";
  #server: Server;
  #origin: { url: string } = { url: "" };
  #changed: (() => void)[] = [];
  port = 0;

  constructor() {
    this.#server = createServer((request, response) => {
      void this.#handle(request, response).catch((error: unknown) => {
        response.writeHead(500).end(JSON.stringify({ detail: String(error) }));
      });
    });
  }

  async listen(port = 0): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(port, "127.0.0.1", resolve));
    const address = this.#server.address();
    this.port = typeof address === "object" && address !== null ? address.port : 0;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`;
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  eventsOf(id: string, attempt = 1): AttemptEvent[] {
    return this.events.get(`${id}/${attempt}`) ?? [];
  }

  /** Waits until `read` gives something; fails after `timeoutMs` with `what`. */
  async until<T>(read: () => T | null | undefined | false, what: string, timeoutMs = 20_000): Promise<T> {
    const end = Date.now() + timeoutMs;
    for (;;) {
      const value = read();
      if (value !== null && value !== undefined && value !== false) return value;
      if (Date.now() > end) throw new Error(`waited ${timeoutMs} ms in vain for ${what}`);
      await Promise.race([wait(20), new Promise<void>((resolve) => this.#changed.push(resolve))]);
    }
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = request.url ?? "";
    const isUpload = /^\/origin\/v1\/outputs(\/[^/]+){4}\/./.test(path);
    const upload = isUpload ? `${request.method} ${path.split("/").slice(8).join("/")}` : null;
    const fault = upload === null ? null : this.uploadFault(upload);
    if (upload !== null) this.uploadCalls.push(upload);
    const chunks: Buffer[] = [];
    for await (const chunk of request) {
      if (fault === "cut") {
        request.destroy();
        return;
      }
      chunks.push(chunk);
    }
    const body = Buffer.concat(chunks);
    const answer: Answer = (status, value) => {
      response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
      for (const resolve of this.#changed.splice(0)) resolve();
    };
    const isJoin = path === "/origin/v1/register" && request.headers["cogway-signature"] === undefined;
    const verified = isJoin
      ? { ok: true as const }
      : verifyRequest(
          {
            method: request.method ?? "",
            path,
            header: (name) => request.headers[name]?.toString(),
            body,
          },
          (keyId) => (keyId === this.key.key_id ? this.key.secret : null),
          Date.now(),
        );
    if (!verified.ok && path.startsWith("/origin/")) return answer(401, { detail: verified.reason });
    if (this.registry.serve(request, body, response)) {
      for (const resolve of this.#changed.splice(0)) resolve();
      return;
    }
    const json = (): unknown => JSON.parse(body.toString("utf8"));
    if (typeof fault === "number") return answer(fault, { detail: "as the test wants it" });
    if (upload !== null) return this.#upload(path, body, fault === "lost" ? () => response.destroy() : answer);
    switch (`${request.method} ${path.split("/").slice(0, 4).join("/")}`) {
      case "POST /origin/v1/register":
        return answer(...this.#register(json(), isJoin));
      case "POST /origin/v1/heartbeat":
        HeartbeatSchema.parse(json());
        this.heartbeats += 1;
        return answer(200, { known: this.knowsIncarnation, unowned: [] });
      case "POST /origin/v1/events":
        return this.#events(EventBatchSchema.parse(json()), response, answer);
      case "PUT /origin/v1/models": {
        const name = path.split("/")[4] ?? "";
        this.announces.set(name, [...(this.announces.get(name) ?? []), ModelAnnounceSchema.parse(json())]);
        return answer(200, {});
      }
      case "PUT /origin/v1/outputs":
        return this.#output(path, request, body, answer);
      case "POST /origin/v1/weights":
        this.kept.push(FileRefSchema.parse(json()));
        return answer(200, {});
      case "GET /origin/v1/weights": {
        this.weightsFetches.push(path);
        const bytes = this.weights.get(path);
        return bytes === undefined ? answer(404, { detail: "no such weights" }) : void response.end(bytes);
      }
      case "GET /origin/v1/inputs":
        return answer(200, this.inputs.get(path));
      default:
        return this.inputs.has(path)
          ? void response.writeHead(200, { "content-type": "text/plain" }).end(String(this.inputs.get(path)))
          : answer(404, { detail: "no such address" });
    }
  }

  #register(value: unknown, isJoin: boolean): [number, unknown] {
    const register = RegisterSchema.parse(value);
    if (isJoin && register.join_token !== JOIN_TOKEN) return [401, { detail: "wrong join token" }];
    this.registrations.push({ ...register, joined: isJoin });
    this.#origin = { url: register.url };
    return [200, { origin_id: "origin-of-tests", ...(isJoin ? { key: this.key } : {}) }];
  }

  async #events(batch: EventBatch, response: ServerResponse, answer: Answer): Promise<void> {
    if (this.isAway) {
      this.turnedAway += 1;
      return answer(503, { detail: "away" });
    }
    if (this.refuses(batch)) return answer(422, { detail: "this cannot be taken" });
    this.batches.push(batch);
    this.statuses.push(...batch.instances);
    const acks = batch.attempts.map(({ prediction_id, attempt, events }): AttemptAck => {
      const key = `${prediction_id}/${attempt}`;
      const outcome = this.outcomeOf(key);
      const stored = this.events.get(key) ?? [];
      if (outcome === "stored") for (const event of events) if (event.i === stored.length) stored.push(event);
      this.events.set(key, stored);
      return { prediction_id, attempt, through_i: stored.length - 1, outcome };
    });
    if (this.loseAnswers > 0) {
      this.loseAnswers -= 1;
      response.destroy();
      return;
    }
    if (this.ackDelayMs > 0) await wait(this.ackDelayMs);
    answer(200, { acks });
  }

  #output(path: string, request: IncomingMessage, bytes: Buffer, answer: Answer): void {
    if (this.isAway) {
      answer(503, { detail: "away" });
      return;
    }
    const content_type = request.headers["content-type"] ?? "";
    this.files.push({ path, content_type, bytes });
    answer(201, fileRef(path, content_type, bytes));
  }

  /** Parts of a file, as the real edge takes them; the digest of each was checked with its signature. */
  #upload(path: string, body: Buffer, answer: Answer): void {
    const [, place = "", call, part] = /^(.*)\/(parts|complete)(?:\/(\d+))?$/.exec(path) ?? [];
    const upload = this.uploads.get(place);
    const done = this.files.find((file) => file.path === place);
    if (call === "parts" && part === undefined) {
      const begin = OutputBeginSchema.parse(JSON.parse(body.toString("utf8")));
      if (upload === undefined) this.uploads.set(place, { begin, parts: new Map() });
      answer(200, {});
    } else if (call === "parts" && upload !== undefined) {
      upload.parts.set(Number(part), body);
      answer(200, { part: Number(part), etag: bodyDigest(body) });
    } else if (call === "complete" && (upload !== undefined || done !== undefined)) {
      const { parts } = OutputCompleteSchema.parse(JSON.parse(body.toString("utf8")));
      const bytes = done?.bytes ?? Buffer.concat(parts.map((each) => upload?.parts.get(each.part) ?? Buffer.of()));
      const content_type = done?.content_type ?? upload?.begin.content_type ?? "";
      if (done === undefined) this.files.push({ path: place, content_type, bytes });
      this.uploads.delete(place);
      answer(201, fileRef(place, content_type, bytes));
    } else answer(404, { code: "upload.unknown", detail: "no such upload" });
  }

  /** One signed call of the edge to the origin. */
  call(
    method: string,
    path: string,
    value?: unknown,
    headers: Record<string, string> = {},
  ): Promise<{ status: number; body: unknown }> {
    const body = value === undefined ? "" : JSON.stringify(value);
    const signed = signRequest(this.key, { method, path, body }, Date.now());
    return new Promise((resolve, reject) => {
      const request = httpRequest(this.#origin.url + path, {
        method,
        headers: { ...signed, ...(body === "" ? {} : { "content-type": "application/json" }), ...headers },
      });
      request.on("error", reject);
      request.on("response", async (response) => {
        let text = "";
        for await (const chunk of response) text += String(chunk);
        resolve({ status: response.statusCode ?? 0, body: JSON.parse(text) });
      });
      request.end(body);
    });
  }
}

function fileRef(path: string, content_type: string, bytes: Buffer): FileRef {
  const [n, name] = path.split("/").slice(-2);
  const described = { content_type, size_bytes: bytes.length, sha256: bodyDigest(bytes) };
  return { $cogway_file: { n: Number(n), name: decodeURIComponent(name ?? ""), ...described } };
}
