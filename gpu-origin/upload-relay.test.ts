/** The relay of uploads between clients over real sockets and an edge that keeps one upload as the registry does (workers/registry-blobs.test.ts). */
import { createHash, randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { Readable } from "node:stream";
import { createAdaptorServer, type ServerType } from "@hono/node-server";
import { Hono } from "hono";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { createLog } from "./log.ts";
import { type RelayOptions, UploadRelay } from "./upload-relay.ts";

const MIB = 1024 ** 2;
const PATH = `/v2/ada/hello/blobs/uploads/${"a".repeat(26)}`;

/** Takes pieces in order, with a new token after each; `fault` may do away with a request before or after it is stored. */
class FakeUpload {
  bytes = 0;
  token = 0;
  requests: string[] = [];
  authorizations = new Set<string | undefined>();
  hash = createHash("sha256");
  held = 0;
  fault: (piece: number) => "refused" | "lost" | null = () => null;
  #relay = "";
  #pieces = 0;
  readonly #server: Server = createServer((incoming, answer) => void this.#serve(incoming, answer));

  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  relayedAt(url: string): string {
    this.#relay = url;
    return this.location;
  }

  get location(): string {
    return `${this.#relay}/relay${PATH}?capability=t.${this.token}`;
  }

  async #serve(incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
    const { method, url = "", headers } = incoming;
    this.authorizations.add(headers.authorization);
    const end = (status: number, code?: string): void => {
      const range = `0-${Math.max(this.bytes - 1, 0)}`;
      answer.writeHead(status, { location: this.location, range, "upload-offset": String(this.bytes), "x-own": "1" });
      answer.end(code === undefined ? undefined : JSON.stringify({ errors: [{ code, message: "the edge's words" }] }));
    };
    const label = `${method} ${headers["content-range"] ?? url.replace(PATH, "")}`;
    this.requests.push(label.trim());
    // The last two count: an answer may be lost.
    const isKnown = [`Bearer t.${this.token}`, `Bearer t.${this.token - 1}`].includes(headers.authorization ?? "");
    if (!url.startsWith(PATH) || !isKnown) return end(401, "UNAUTHORIZED");
    if (method === "GET") return end(204);
    if (method === "DELETE") return end(204);
    if (method === "PUT") return end(201);
    this.#pieces += 1;
    const fault = this.fault(this.#pieces);
    if (fault === "refused") return end(503, "UNAVAILABLE");
    const [first] = (headers["content-range"] ?? String(this.bytes)).split("-");
    if (Number(first) !== this.bytes) return end(416, "BLOB_UPLOAD_INVALID");
    for await (const chunk of incoming) {
      this.hash.update(chunk);
      this.bytes += chunk.length;
    }
    this.held = Math.max(this.held, process.memoryUsage().arrayBuffers);
    this.token += 1;
    if (fault === "lost") incoming.socket.destroy();
    else end(202);
  }

  close(): void {
    this.#server.closeAllConnections();
    this.#server.close();
  }
}

let edge: FakeUpload;
let relay: UploadRelay;
let server: ServerType;
let place: string;

async function start(options: RelayOptions = {}): Promise<void> {
  edge = new FakeUpload();
  relay = new UploadRelay(await edge.listen(), options);
  server = createAdaptorServer({ fetch: new Hono().route("/relay", relay.routes(createLog("silent"))).fetch });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  place = edge.relayedAt(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
}

function stop(): void {
  relay.close();
  if ("closeAllConnections" in server) server.closeAllConnections();
  server.close();
  edge.close();
}

interface Answer {
  status: number;
  headers: IncomingMessage["headers"];
  text: string;
}

/** A body without its length, as container engines send theirs. */
function send(method: string, url: string, body?: Readable, headers: Record<string, string> = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, agent: false, headers }, async (answer) => {
      let text = "";
      for await (const chunk of answer) text += chunk;
      resolve({ status: answer.statusCode ?? 0, headers: answer.headers, text });
    });
    sent.on("error", reject);
    body?.on("error", (error) => sent.destroy(error));
    if (body === undefined) sent.end();
    else body.pipe(sent);
  });
}

const block = randomBytes(MIB);
/** So many MiB, made when they are read. */
const mebibytes = (count: number): Readable => Readable.from(Array<Buffer>(count).fill(block));
const digest = (count: number): string => {
  const hash = createHash("sha256");
  for (let i = 0; i < count; i++) hash.update(block);
  return hash.digest("hex");
};

describe("the relay of uploads", () => {
  beforeEach(() => start({ pieceBytes: 8 * MIB }));
  afterEach(stop);

  it("passes 200 MB on in pieces, holds one of them, and gives addresses of its own", async () => {
    stop();
    await start();
    const before = process.memoryUsage().arrayBuffers;
    const patched = await send("PATCH", place, mebibytes(200), { authorization: "Bearer the client's" });
    expect(patched).toMatchObject({ status: 202, headers: { location: edge.location, range: `0-${200 * MIB - 1}` } });
    expect(patched.headers["x-own"]).toBeUndefined();
    const sizes = Array.from({ length: 7 }, (_, i) => [i * 32 * MIB, Math.min((i + 1) * 32, 200) * MIB - 1].join("-"));
    expect(edge.requests).toEqual(["GET", ...sizes.map((range) => `PATCH ${range}`)]);
    expect(edge.hash.digest("hex")).toBe(digest(200));
    // Garbage that was not collected yet counts too.
    expect((edge.held - before) / MIB).toBeLessThan(130);
    const ended = await send("PUT", `${patched.headers.location}&digest=sha256:ab`);
    expect([ended.status, edge.requests.at(-1)]).toEqual([201, "PUT ?digest=sha256%3Aab"]);
    expect([...edge.authorizations]).not.toContain("Bearer the client's");
  });

  it("goes on where a connection was cut", async () => {
    const cut = Readable.from(
      (async function* () {
        yield* mebibytes(20);
        await expect.poll(() => edge.bytes, { timeout: 5_000 }).toBe(16 * MIB);
        throw new Error("cut");
      })(),
    );
    await expect(send("PATCH", place, cut)).rejects.toThrow();
    const state = await send("GET", edge.location);
    expect([state.status, state.headers.range]).toEqual([204, `0-${16 * MIB - 1}`]);
    const range = { "content-range": `${16 * MIB}-${20 * MIB - 1}` };
    expect((await send("PATCH", edge.location, mebibytes(4), { "content-range": "0-4194303" })).status).toBe(416);
    expect((await send("PUT", `${edge.location}&digest=x`, mebibytes(4), range)).status).toBe(201);
    expect([edge.bytes, edge.hash.digest("hex")]).toEqual([20 * MIB, digest(20)]);
  });

  it("sends a piece again that the edge refused, and none twice whose answer was lost", async () => {
    edge.fault = (piece) => (piece === 2 ? "refused" : piece === 4 ? "lost" : null);
    const patched = await send("PATCH", place, mebibytes(20));
    expect([patched.status, patched.headers.range, edge.bytes]).toEqual([202, `0-${20 * MIB - 1}`, 20 * MIB]);
    expect(edge.hash.digest("hex")).toBe(digest(20));
  });

  it("reads nothing of a body whose address the edge refuses, and passes its words on", async () => {
    const forged = place.replace("t.0", "t.9");
    const answer = await send("PATCH", forged, mebibytes(1));
    expect([answer.status, JSON.parse(answer.text).errors[0].message]).toEqual([401, "the edge's words"]);
    expect(edge.requests).toEqual(["GET"]);
    expect((await send("GET", place.replace(/capability.*/, ""))).status).toBe(401);
  });

  it("reaches nothing but uploads", async () => {
    for (const [method, path] of [
      ["GET", "/relay/v2/ada/hello/blobs/sha256:ab"],
      ["GET", `/relay${PATH.replace("hello", "..%2fx")}?capability=t.0`],
      ["PUT", "/relay/v2/ada/hello/manifests/latest"],
      ["POST", "/relay/v2/ada/hello/blobs/uploads/"],
      ["GET", "/relay/v1/models"],
    ] as const) {
      expect((await send(method, new URL(path, place).href)).status, path).toBe(404);
    }
    expect(edge.requests).toEqual([]);
  });

  it("lets bodies wait for a place, and ends one whose client is silent", async () => {
    stop();
    await start({ pieceBytes: MIB, bodiesMax: 1, clientIdleMs: 300 });
    const body = new Readable({ read: () => undefined });
    body.push("x");
    const silent = expect(send("PATCH", place, body)).rejects.toThrow();
    await expect.poll(() => edge.requests.length, { timeout: 5_000 }).toBe(1);
    const patched = send("PATCH", place, mebibytes(2));
    await silent;
    expect((await patched).status).toBe(202);
    expect((await send("DELETE", edge.location)).status).toBe(204);
  });
});
