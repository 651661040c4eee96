/** Files that callers upload: the bytes that real clients send, what is kept of them, who may read them, and when they go. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { downloadPath, isDownloadSignatureValid } from "../schema/files.ts";
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

async function refusal(answer: Promise<Response> | Response): Promise<[number, string]> {
  const { status, code } = await problemOf(await answer);
  return [status, code];
}

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

  it("takes metadata in front of the file and behind it, as a field and as a file", async () => {
    const field = (body: string): Part => ({ head: 'Content-Disposition: form-data; name="metadata"', body });
    const blob: Part = {
      head: 'Content-Disposition: form-data; name="metadata"; filename="blob"\r\nContent-Type: application/json',
      body: '{"a":1}',
    };
    expect((await upload(field('{"b":[2]}'), content("x"))).metadata).toEqual({ b: [2] });
    expect((await upload(content("x"), blob)).metadata).toEqual({ a: 1 });
    expect((await upload(content("x"), field(""))).metadata).toEqual({});
  });

  it("takes name and type from fields before those of its part, and drops a path", async () => {
    const field = (name: string, body: string): Part => ({
      head: `Content-Disposition: form-data; name="${name}"`,
      body,
    });
    expect(
      await upload(content("x", "C:\\up\\b.bin"), field("filename", "../../n.png"), field("type", "image/png")),
    ).toMatchObject({
      name: "n.png",
      content_type: "image/png",
    });
    expect((await upload(content("x", "C:\\up\\b.bin"))).name).toBe("b.bin");
  });

  it("takes an empty file", async () => {
    const file = await upload(content(""));
    expect([file.size, file.checksums.sha256]).toEqual([0, sha256Hex("")]);
    const got = await call("GET", pathOf(file.urls.download));
    expect([got.status, await got.text()]).toEqual([200, ""]);
  });

  it("keeps every byte of a file that is larger than a part of R2", async () => {
    const bytes = new Uint8Array(11_000_001);
    const words = new Uint32Array(bytes.buffer, 0, bytes.length >> 2);
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 2_654_435_761);
    const file = await upload(content(bytes, "large.bin", "application/octet-stream"));
    expect([file.size, file.checksums.sha256]).toEqual([bytes.length, sha256Hex(bytes)]);
    expect(sha256Hex(await bytesOf(file))).toBe(sha256Hex(bytes));
    const range = { range: "bytes=5242879-5242881" };
    const part = await call("GET", pathOf(file.urls.download), { headers: range });
    expect(new Uint8Array(await part.arrayBuffer())).toEqual(bytes.subarray(5_242_879, 5_242_882));
  });

  it("is kept as long as its header says", async () => {
    const kept = async (retention: string) =>
      fileOf(await send(multipart([content("x")]), { headers: { "cogway-retention": retention } }));
    const { created_at, expires_at } = await kept("7d");
    expect(Math.round((Date.parse(expires_at ?? "") - Date.parse(created_at)) / 3_600_000)).toBe(7 * 24);
    const forever = await kept("forever");
    expect(forever.expires_at).toBeNull();
    expect(await bytesOf(forever)).toEqual(encoder.encode("x"));
  });

  const cases: [what: string, send: () => Promise<Response>, answer: [number, string]][] = [
    ["a name of 256 bytes", () => send(multipart([content("x", "\u00e9".repeat(128))])), [422, "file.invalid"]],
    ["CR LF in a name", () => send(multipart([content("x", "a%0D%0ASet-Cookie: b")])), [422, "file.invalid"]],
    ["metadata that is no object", () => send(multipart([content("x"), meta("[1]")])), [422, "file.invalid"]],
    ["metadata that is no JSON", () => send(multipart([content("x"), meta("{")])), [422, "file.invalid"]],
    [
      "metadata beyond 16 KiB",
      () => send(multipart([content("x"), meta(`{"a":"${"x".repeat(16_377)}"}`)])),
      [422, "file.invalid"],
    ],
    ["a type that is none", () => send(multipart([content("x", "a", "text")])), [422, "file.invalid"]],
    [
      "a retention that is none",
      () => send(multipart([content("x")]), { headers: { "cogway-retention": "59s" } }),
      [422, "file.invalid"],
    ],
    [
      "JSON",
      () => call("POST", "/v1/files", { token: owner.token, body: {} }),
      [415, "request.unsupported_media_type"],
    ],
    [
      "an announced length beyond the limit",
      () => send(multipart([content("x")]), { headers: { "content-length": "105906177" } }),
      [413, "file.too_large"],
    ],
  ];
  for (const [what, request, answer] of cases) {
    it(`is refused with ${what}`, async () => expect(await refusal(request())).toEqual(answer));
  }

  it("is taken at each limit", async () => {
    const name = `${"\u00e9".repeat(125)}a.txt`;
    expect(new TextEncoder().encode(name).length).toBe(255);
    const file = await upload(content("x", name), meta(`{"a":"${"x".repeat(16_376)}"}`));
    expect([file.name, String(file.metadata["a"]).length]).toEqual([name, 16_376]);
  });

  it("names all faults at once", async () => {
    const problem = await problemOf(await send(multipart([content("x", "a%0Ab", "text"), meta("1")])));
    expect(problem.invalid_fields?.map(({ field }) => field)).toEqual(["filename", "type", "metadata"]);
  });

  it("leaves nothing when it is refused after its bytes came", async () => {
    const body = multipart([content(new Uint8Array(6_000_000)), meta("[]")]);
    const before = (await env.FILES.list({ prefix: "files/" })).objects.length;
    expect(await refusal(send(body))).toEqual([422, "file.invalid"]);
    expect((await env.FILES.list({ prefix: "files/" })).objects.length).toBe(before);
  });
});

const meta = (body: string): Part => ({ head: 'Content-Disposition: form-data; name="metadata"', body });

describe("a download", () => {
  const read = (file: WireFile, headers: Record<string, string> = {}, method = "GET") =>
    call(method, pathOf(file.urls.download), { headers });

  it("has ranges, conditions and HEAD", async () => {
    const file = await upload(content("0123456789"));
    const whole = await read(file);
    expect(Object.fromEntries(whole.headers)).toMatchObject({
      "content-type": "text/plain",
      "content-length": "10",
      etag: `"${file.etag}"`,
      "accept-ranges": "bytes",
      "cache-control": "private, no-cache",
      "x-content-type-options": "nosniff",
      "content-disposition": "inline; filename=a.txt",
    });
    await whole.body?.cancel();
    const part = await read(file, { range: "bytes=2-4" });
    expect([part.status, part.headers.get("content-range"), await part.text()]).toEqual([206, "bytes 2-4/10", "234"]);
    expect((await read(file, { "if-none-match": `"${file.etag}"` })).status).toBe(304);
    const outside = await read(file, { range: "bytes=10-" });
    expect([outside.status, outside.headers.get("content-range")]).toEqual([416, "bytes */10"]);
    await outside.body?.cancel();
    const changed = await read(file, { range: "bytes=2-4", "if-range": '"other"' });
    expect([changed.status, await changed.text()]).toEqual([200, "0123456789"]);
    const head = await read(file, {}, "HEAD");
    expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([200, "10", ""]);
  });

  it("is never shown in place where a browser would run it, and keeps any name", async () => {
    for (const type of ["text/html", "image/svg+xml", "application/xhtml+xml", "text/javascript"]) {
      const answer = await read(await upload(content("<script>", "p.html", type)));
      await answer.body?.cancel();
      expect(answer.headers.get("content-disposition")).toMatch(/^attachment;/);
      expect(answer.headers.get("content-security-policy")).toContain("sandbox");
    }
    const named = await read(await upload(content("x", "\u65e5\u672c %22q%22; filename=x.txt")));
    await named.body?.cancel();
    const disposition = named.headers.get("content-disposition") ?? "";
    expect(disposition).toContain("filename*=UTF-8''%E6%97%A5%E6%9C%AC%20%22q%22%3B%20filename%3Dx.txt");
    expect(disposition).toMatch(/^[\x20-\x7e]+$/);
  });

  it("works without a token for as long as its signature says, and for no other file, account or time", async () => {
    const file = await upload(content("mine"));
    const other = await upload(content("other"));
    const url = new URL(file.urls.download);
    const bent: ((url: URL) => void)[] = [
      (it) => it.searchParams.set("owner", "someone"),
      (it) => it.searchParams.set("expiry", String(Number(it.searchParams.get("expiry")) + 1)),
      (it) => it.searchParams.set("expiry", `0${it.searchParams.get("expiry")}`),
      (it) => it.searchParams.set("expiry", "1"),
      (it) => it.searchParams.delete("signature"),
      (it) => it.searchParams.delete("owner"),
      (it) => {
        it.pathname = it.pathname.replace(file.id, other.id);
      },
    ];
    for (const bend of bent) {
      const address = new URL(url);
      bend(address);
      expect(await refusal(call("GET", address.pathname + address.search))).toEqual([404, "file.not_found"]);
    }
    const past = downloadPath(env.SIGNING_SECRET, owner.id, file.id, Date.now() - 1_000);
    expect(await refusal(call("GET", past))).toEqual([404, "file.not_found"]);
  });

  it("is refused when any character of its signature is another", async () => {
    const file = await upload(content("mine"));
    const url = new URL(file.urls.download);
    const signature = url.searchParams.get("signature") ?? "";
    const given = { owner: owner.id, id: file.id, expiry: url.searchParams.get("expiry") ?? "" };
    const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_ ";
    expect(isDownloadSignatureValid(env.SIGNING_SECRET, { ...given, signature }, Date.now())).toBe(true);
    let refused = 0;
    for (let i = 0; i < signature.length; i++) {
      for (const character of alphabet) {
        if (character === signature[i]) continue;
        const mutated = signature.slice(0, i) + character + signature.slice(i + 1);
        if (!isDownloadSignatureValid(env.SIGNING_SECRET, { ...given, signature: mutated }, Date.now())) refused += 1;
      }
    }
    expect(refused).toBe(signature.length * (alphabet.length - 1));
  });

  it("works with the owner's token alone, and with no other", async () => {
    const file = await upload(content("mine"));
    const path = `/v1/files/${file.id}/download`;
    const own = await call("GET", path, { token: owner.token });
    expect([own.status, await own.text()]).toEqual([200, "mine"]);
    expect(await refusal(call("GET", path))).toEqual([401, "auth.unauthenticated"]);
    expect(await refusal(call("GET", path, { token: (await anAccount()).token }))).toEqual([404, "file.not_found"]);
    const narrow = await aToken(owner.id, ["files:write"]);
    expect(await refusal(call("GET", path, { token: narrow }))).toEqual([403, "auth.forbidden"]);
  });
});

describe("a file", () => {
  it("is gone for everybody once it is deleted", async () => {
    const file = await upload(content("x"));
    const path = `/v1/files/${file.id}`;
    expect(await refusal(call("DELETE", path, { token: (await anAccount()).token }))).toEqual([404, "file.not_found"]);
    expect((await call("DELETE", path, { token: owner.token })).status).toBe(204);
    for (const gone of [
      call("DELETE", path, { token: owner.token }),
      call("GET", path, { token: owner.token }),
      call("GET", pathOf(file.urls.download)),
    ]) {
      expect(await refusal(gone)).toEqual([404, "file.not_found"]);
    }
    await vi.waitFor(async () => expect(await env.FILES.head(`files/${file.id}`)).toBeNull(), { timeout: 10_000 });
  });

  it("is not found under an id that we did not make", async () => {
    for (const id of ["x", "a".repeat(26), "%00", "../account", "uploads"]) {
      const answer = await call("GET", `/v1/files/${encodeURIComponent(id)}`, { token: owner.token });
      expect(await refusal(answer)).toEqual([404, "file.not_found"]);
    }
  });

  it("is in its account's list, newest first, on one page only, both ways", async () => {
    const { token } = await anAccount();
    const ids: string[] = [];
    for (let i = 0; i < 102; i++) {
      ids.unshift((await fileOf(await send(multipart([content(String(i))]), { token }))).id);
    }
    interface Page {
      previous: string | null;
      next: string | null;
      results: WireFile[];
    }
    const page = async (path: string): Promise<Page> => (await call("GET", path, { token })).json();
    const seen: string[] = [];
    const first = await page("/v1/files");
    expect(first.previous).toBeNull();
    const second = await page(pathOf(first.next ?? ""));
    seen.push(...[...first.results, ...second.results].map(({ id }) => id));
    expect(first.results).toHaveLength(100);
    expect(seen.toSorted()).toEqual(ids.toSorted());
    expect(second.next).toBeNull();
    const back = await page(pathOf(second.previous ?? ""));
    expect(back.results.map(({ id }) => id)).toEqual(first.results.map(({ id }) => id));
    const times = first.results.map(({ created_at }) => created_at);
    expect(times).toEqual(times.toSorted().toReversed());
  });
});
