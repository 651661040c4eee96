/** Files that callers upload: the bytes that real clients send, what is kept of them, who may read them, and when they go. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { sha256Hex } from "../schema/ids.ts";
import { anAccount, aToken, call, PUBLIC_URL, problemOf } from "./testing/edge.ts";

let owner: { id: string; username: string; token: string };
beforeAll(async () => {
  owner = await anAccount();
});

interface WireFile {
  id: string;
  name: string;
  content_type: string;
  size: number;
  etag: string;
  checksums: { sha256: string; md5: string };
  metadata: Record<string, unknown>;
  created_at: string;
  expires_at: string | null;
  urls: { get: string; download: string };
}

const BOUNDARY = "----formdata-undici-012345678901";
const encoder = new TextEncoder();

interface Part {
  head: string;
  body: string | Uint8Array;
}

function multipart(parts: Part[], boundary = BOUNDARY, end = `--${boundary}--\r\n`): Uint8Array {
  const pieces = parts.flatMap(({ head, body }) => [
    encoder.encode(`--${boundary}\r\n${head}\r\n\r\n`),
    typeof body === "string" ? encoder.encode(body) : body,
    encoder.encode("\r\n"),
  ]);
  return Buffer.concat([...pieces, encoder.encode(end)]);
}

const content = (body: string | Uint8Array, name = "a.txt", type = "text/plain"): Part => ({
  head: `Content-Disposition: form-data; name="content"; filename="${name}"\r\nContent-Type: ${type}`,
  body,
});

function send(body: Uint8Array, options: { token?: string; type?: string; headers?: Record<string, string> } = {}) {
  return call("POST", "/v1/files", {
    token: options.token ?? owner.token,
    bytes: body,
    headers: { "content-type": options.type ?? `multipart/form-data; boundary=${BOUNDARY}`, ...options.headers },
  });
}

async function fileOf(answer: Response): Promise<WireFile> {
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

const upload = async (...parts: Part[]): Promise<WireFile> => fileOf(await send(multipart(parts)));
const pathOf = (url: string): string => url.slice(PUBLIC_URL.length);
const bytesOf = async (file: WireFile): Promise<Uint8Array> =>
  new Uint8Array(await (await call("GET", pathOf(file.urls.download))).arrayBuffer());

describe("an upload", () => {
  it("answers Replicate's object, and gives the same bytes back", async () => {
    const answer = await send(multipart([content("hello")]));
    expect(answer.status).toBe(201);
    const file = await answer.json<WireFile>();
    expect(file).toEqual({
      id: expect.stringMatching(/^[a-z2-7]{26}$/),
      name: "a.txt",
      content_type: "text/plain",
      size: 5,
      etag: "5d41402abc4b2a76b9719d911017c592",
      checksums: { sha256: sha256Hex("hello"), md5: "5d41402abc4b2a76b9719d911017c592" },
      metadata: {},
      created_at: expect.any(String),
      expires_at: expect.any(String),
      urls: { get: `${PUBLIC_URL}/v1/files/${file.id}`, download: expect.stringContaining("/download?owner=") },
    });
    const life = Date.parse(file.expires_at ?? "") - Date.parse(file.created_at);
    expect(Math.abs(life - 86_400_000)).toBeLessThan(5_000);
    expect(await bytesOf(file)).toEqual(encoder.encode("hello"));
    expect(await (await call("GET", pathOf(file.urls.get), { token: owner.token })).json()).toMatchObject({
      id: file.id,
    });
  });
});
