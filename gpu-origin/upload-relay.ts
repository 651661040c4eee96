/**
 * Uploads of the registry whose bodies are larger than what a Worker takes: clients send them here, and they go to the edge in pieces. Everything is the edge's
 * to decide. An upload's address has a token of the edge for just that upload, which is passed on as it came; the edge is asked with it before any of a body is
 * read, and answers with the next address. So nothing here is secret, and nothing else can be reached through it.
 */
import http from "node:http";
import https from "node:https";
import { setTimeout as wait } from "node:timers/promises";
import type { HttpBindings } from "@hono/node-server";
import { type Context, Hono } from "hono";
import { NAME_PATTERN } from "../schema/ids.ts";
import { Limiter } from "./builds/limiter.ts";
import { collect } from "./edge-client.ts";
import type { Log } from "./log.ts";

/** What is held of a body, and one request to the edge: whole parts of the edge's own (8 MiB), below the smallest body bound of its platform (100 MB). */
const PIECE_BYTES = 32 * 1024 ** 2;
/** Bodies that are read at a time: with one piece of each, 256 MiB. */
const BODIES_MAX = 8;
/** Those that are read and those that wait until they are; a client sends five or six layers at once. */
const UPLOADS_MAX = 64;
/** Silence of a client within its body. */
const CLIENT_IDLE_MS = 60_000;
/** Silence of the edge. At the end of an upload it reads all of that once more, up to 80 GiB. */
const EDGE_IDLE_MS = 120_000;
const EDGE_END_MS = 900_000;
/** Of one piece, which the edge did not take or whose answer was lost. */
const TRIES_MAX = 5;
const RETRY_MS = 500;
const RETRY_MAX_MS = 30_000;
const ANSWER_BYTES_MAX = 65_536;

/** Of the edge's answer, what the client gets. */
const HEADERS = [
  "location",
  "range",
  "content-type",
  "docker-upload-uuid",
  "docker-content-digest",
  "docker-distribution-api-version",
  "retry-after",
  "upload-offset",
  "www-authenticate",
];

type RelayContext = Context<{ Bindings: HttpBindings }>;

interface Answer {
  status: number;
  headers: http.IncomingHttpHeaders;
  body: Buffer;
}

interface Sent {
  headers?: Record<string, string>;
  /** of a body, in order */
  chunks?: Buffer[];
  idleMs?: number;
}

export interface RelayOptions {
  pieceBytes?: number;
  clientIdleMs?: number;
  bodiesMax?: number;
}

export class UploadRelay {
  readonly #edge: URL;
  readonly #transport: typeof http | typeof https;
  readonly #agent: http.Agent;
  readonly #pieceBytes: number;
  readonly #clientIdleMs: number;
  readonly #bodies: Limiter;
  #uploads = 0;

  /** `options` are for tests. */
  constructor(edgeUrl: string, options: RelayOptions = {}) {
    const { pieceBytes = PIECE_BYTES, clientIdleMs = CLIENT_IDLE_MS, bodiesMax = BODIES_MAX } = options;
    this.#edge = new URL(edgeUrl);
    this.#transport = this.#edge.protocol === "https:" ? https : http;
    // None is kept: one that the edge just closed could not be told from an edge that fails.
    this.#agent = new this.#transport.Agent({ keepAlive: false, maxSockets: UPLOADS_MAX });
    this.#pieceBytes = pieceBytes;
    this.#clientIdleMs = clientIdleMs;
    this.#bodies = new Limiter(bodiesMax);
  }

  routes(log: Log): Hono<{ Bindings: HttpBindings }> {
    const routes = new Hono<{ Bindings: HttpBindings }>();
    routes.on(["GET", "PATCH", "PUT", "DELETE"], "/v2/:owner/:name/blobs/uploads/:id", async (c) => {
      const { owner, name, id } = c.req.param();
      if (!NAME_PATTERN.test(owner) || !NAME_PATTERN.test(name) || !/^[a-z2-7]{26}$/.test(id)) {
        return ociError(404, "BLOB_UPLOAD_UNKNOWN", "This is no address of an upload.");
      }
      if (this.#uploads >= UPLOADS_MAX) {
        return ociError(503, "UNAVAILABLE", "Too many uploads are relayed now. Try again later.", {
          "retry-after": "5",
        });
      }
      this.#uploads += 1;
      try {
        const path = `/v2/${owner}/${name}/blobs/uploads/${id}`;
        const gone = new AbortController();
        c.env.outgoing.once("close", () => gone.abort());
        const upload = new RelayedUpload(this, path, c.req.query("capability") ?? "", gone.signal);
        return toResponse(await this.#relay(c, upload));
      } catch (error) {
        if (error instanceof BrokenBody) {
          return ociError(400, "BLOB_UPLOAD_INVALID", "The body broke off. GET the upload to see how much of it came.");
        }
        log.warn({ err: error, repository: `${owner}/${name}` }, "an upload could not be relayed");
        return ociError(503, "UNAVAILABLE", "The platform does not answer the relay of uploads. Try again later.");
      } finally {
        this.#uploads -= 1;
      }
    });
    return routes;
  }

  async #relay(c: RelayContext, upload: RelayedUpload): Promise<Answer> {
    const { method } = c.req;
    if (method === "GET" || method === "DELETE") return upload.call(method);
    const state = await upload.call("GET");
    const digest = c.req.query("digest") ?? "";
    const hasBody = c.req.header("transfer-encoding") !== undefined || Number(c.req.header("content-length") ?? 0) > 0;
    // One that is over may be what this asks for: its first answer was lost.
    if (method === "PUT" && (!hasBody || state.status === 404)) return upload.end(digest);
    if (state.status !== 204) return state;
    const answer = await this.#bodies.run(() => this.#passOn(c, upload, state));
    return method === "PUT" && answer.status === 202 ? upload.end(digest) : answer;
  }

  async #passOn(c: RelayContext, upload: RelayedUpload, state: Answer): Promise<Answer> {
    const range = c.req.header("content-range");
    const [, first = state.headers["upload-offset"]] = /^(?:bytes[ =])?(\d{1,15})-\d/.exec(range ?? "") ?? [];
    let at = Number(first);
    let answer: Answer | null = null;
    for await (const { chunks, size } of pieces(c.env.incoming, this.#pieceBytes, this.#clientIdleMs)) {
      answer = await upload.append(chunks, at, size);
      if (answer.status !== 202) return answer;
      at += size;
    }
    return answer ?? upload.call("PATCH", { headers: { "content-length": "0" } });
  }

  call(method: string, path: string, token: string, { headers = {}, chunks = [], idleMs = EDGE_IDLE_MS }: Sent) {
    const { protocol, hostname, port } = this.#edge;
    return new Promise<Answer>((resolve, reject) => {
      const request = this.#transport.request(
        {
          ...{ protocol, hostname, port, method, path, agent: this.#agent, timeout: idleMs },
          headers: { ...headers, authorization: `Bearer ${token}` },
        },
        (response) => {
          collect(response, ANSWER_BYTES_MAX).then((body) => {
            if (body instanceof Error) reject(body);
            else resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
          }, reject);
        },
      );
      request.on("error", reject);
      request.on("timeout", () => request.destroy(new Error(`no answer from the edge within ${idleMs} ms`)));
      for (const chunk of chunks) request.write(chunk);
      request.end();
    });
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** One upload at the edge, with the newest token that the edge gave for it. */
class RelayedUpload {
  readonly #relay: UploadRelay;
  readonly #path: string;
  readonly #signal: AbortSignal;
  #token: string;

  constructor(relay: UploadRelay, path: string, token: string, signal: AbortSignal) {
    this.#relay = relay;
    this.#path = path;
    // A header can take no other characters than a token has.
    this.#token = token.replace(/[^\w.-]/g, "");
    this.#signal = signal;
  }

  async call(method: string, sent: Sent = {}, query = ""): Promise<Answer> {
    const answer = await this.#relay.call(method, this.#path + query, this.#token, sent);
    const { location } = answer.headers;
    const next = location === undefined ? null : URL.parse(location)?.searchParams.get("capability");
    this.#token = next ?? this.#token;
    return answer;
  }

  end(digest: string): Promise<Answer> {
    const sent = { headers: { "content-length": "0" }, idleMs: EDGE_END_MS };
    return this.call("PUT", sent, `?${new URLSearchParams({ digest })}`);
  }

  /** Sends a piece, again where the edge fails: it says where it is, so nothing is stored twice. */
  async append(chunks: Buffer[], first: number, size: number): Promise<Answer> {
    const end = first + size;
    let at = first;
    for (let tries = 1; ; tries++) {
      const headers = { "content-range": `${at}-${end - 1}`, "content-length": String(end - at) };
      const sent = this.call("PATCH", { headers, chunks: skip(chunks, at - first) });
      const answer = await sent.catch((error: unknown) => {
        if (tries === TRIES_MAX || this.#signal.aborted) throw error;
        return null;
      });
      if (answer?.status === 416 && tries > 1) {
        const stored = Number(answer.headers["upload-offset"]);
        if (stored === end) return { ...answer, status: 202, body: Buffer.alloc(0) };
        if (stored < first || stored > end) return answer;
        at = stored;
      } else if (answer !== null && answer.status < 500 && answer.status !== 429) return answer;
      if (answer !== null && (tries === TRIES_MAX || this.#signal.aborted)) return answer;
      const asked = Number(answer?.headers["retry-after"] ?? 0) * 1_000;
      const pauseMs = Math.min(Math.max(asked, RETRY_MS * 2 ** (tries - 1)), RETRY_MAX_MS);
      await wait(pauseMs, null, { signal: this.#signal }).catch(() => undefined);
    }
  }
}

class BrokenBody extends Error {}

/** The body in pieces of this size, the last one smaller. Nothing is read while a piece is away. */
async function* pieces(
  incoming: http.IncomingMessage,
  pieceBytes: number,
  idleMs: number,
): AsyncGenerator<{ chunks: Buffer[]; size: number }> {
  const body = incoming.iterator({ destroyOnReturn: false });
  const next = async (): Promise<Buffer | null> => {
    const idle = setTimeout(() => incoming.destroy(new Error("the client is silent")), idleMs);
    try {
      const { value, done } = await body.next();
      return done === true ? null : value;
    } catch (error) {
      throw new BrokenBody("the body broke off", { cause: error });
    } finally {
      clearTimeout(idle);
    }
  };
  let chunks: Buffer[] = [];
  let size = 0;
  for (let chunk = await next(); chunk !== null; chunk = await next()) {
    while (size + chunk.length >= pieceBytes) {
      const rest = pieceBytes - size;
      yield { chunks: [...chunks, chunk.subarray(0, rest)], size: pieceBytes };
      chunk = chunk.subarray(rest);
      chunks = [];
      size = 0;
    }
    chunks.push(chunk);
    size += chunk.length;
  }
  if (size > 0) yield { chunks, size };
}

function skip(chunks: Buffer[], bytes: number): Buffer[] {
  let left = bytes;
  return chunks.flatMap((chunk) => {
    const skipped = Math.min(left, chunk.length);
    left -= skipped;
    return skipped === chunk.length ? [] : [chunk.subarray(skipped)];
  });
}

function toResponse({ status, headers, body }: Answer): Response {
  const passed = HEADERS.flatMap((name): [string, string][] => {
    const value = headers[name];
    return typeof value === "string" ? [[name, value]] : [];
  });
  return new Response(status === 204 ? null : new Uint8Array(body), { status, headers: passed });
}

function ociError(status: number, code: string, message: string, headers: Record<string, string> = {}): Response {
  return Response.json({ errors: [{ code, message }] }, { status, headers });
}
