/** A platform that does what a test says: the registry's calls, with failures where one is due. What it stores is real, what it refuses is not. */
import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

/** Answers a call instead of the platform; false leaves it to it. */
export type Fault = (call: string, request: IncomingMessage, response: ServerResponse) => boolean | Promise<boolean>;

export class FakePlatform {
  readonly url: string;
  readonly blobs = new Map<string, Buffer>();
  readonly manifests = new Map<string, Buffer>();
  /** method and path of every call, in order */
  readonly calls: string[] = [];
  tokenTtlS = 300;
  fault: Fault = () => false;
  readonly #server: Server;
  #tokens = 0;
  /** tokens before this one have ended */
  #validFrom = 0;

  private constructor(server: Server) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    server.on("request", (request, response) => void this.#answer(request, response));
  }

  static async start(): Promise<FakePlatform> {
    const server = createServer();
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    return new FakePlatform(server);
  }

  stop(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  /** Every token that was given so far is refused from now on. */
  endTokens(): void {
    this.#validFrom = this.#tokens;
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", this.url);
    const call = `${request.method} ${url.pathname.replace(/sha256:[0-9a-f]{64}/, "DIGEST")}`;
    this.calls.push(call);
    if (await this.fault(call, request, response)) return;
    if (url.pathname === "/v2/token") {
      const token = `t${this.#tokens++}`;
      return send(response, 200, { token, expires_in: this.tokenTtlS });
    }
    const token = Number(/^Bearer t(\d+)$/.exec(request.headers.authorization ?? "")?.[1] ?? -1);
    if (token < this.#validFrom) return send(response, 401, oci("UNAUTHORIZED", "the token has ended"));
    const digest = /sha256:[0-9a-f]{64}/.exec(`${url.pathname}${url.search.replaceAll("%3A", ":")}`)?.[0] ?? "";
    if (request.method === "HEAD") return send(response, this.blobs.has(digest) ? 200 : 404);
    if (request.method === "POST") {
      response.setHeader("location", `${url.pathname}some-upload?state=1`);
      return send(response, 202);
    }
    const body = await read(request);
    if (body === null) return;
    if (`sha256:${createHash("sha256").update(body).digest("hex")}` !== digest) {
      return send(response, 400, oci("DIGEST_INVALID", "the bytes have another digest"));
    }
    (url.pathname.includes("/manifests/") ? this.manifests : this.blobs).set(digest, body);
    send(response, 201);
  }
}

/** Null where the body broke off. */
async function read(request: IncomingMessage): Promise<Buffer | null> {
  try {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    return Buffer.concat(chunks);
  } catch {
    return null;
  }
}

function oci(code: string, message: string): unknown {
  return { errors: [{ code, message }] };
}

function send(response: ServerResponse, status: number, body?: unknown): void {
  response.writeHead(status, body === undefined ? {} : { "content-type": "application/json" });
  response.end(body === undefined ? undefined : JSON.stringify(body));
}
