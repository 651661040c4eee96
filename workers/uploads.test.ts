/** Files in parts: real multipart uploads of R2. */

import { env } from "cloudflare:workers";
import { createHash } from "node:crypto";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { accountStub } from "../durable-objects/stubs.ts";
import { UPLOAD_PART_BYTES } from "../schema/files.ts";
import { sha256Hex } from "../schema/ids.ts";
import { anAccount, aToken, call, PUBLIC_URL, problemOf } from "./testing/edge.ts";

let owner: { id: string; token: string };
beforeAll(async () => {
  owner = await anAccount();
});

/** Bytes that no two parts have alike. */
function someBytes(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  const words = new Uint32Array(bytes.buffer, 0, size >> 2);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 2_654_435_761);
  return bytes;
}

const FILE = someBytes(UPLOAD_PART_BYTES + 1_001);
const PARTS = [FILE.subarray(0, UPLOAD_PART_BYTES), FILE.subarray(UPLOAD_PART_BYTES)];
const BEGIN = { name: "film.mp4", content_type: "video/mp4", size_bytes: FILE.length, metadata: { a: 1 } };

interface WireUpload {
  id: string;
  parts: number;
  part_bytes: number;
  received: number[];
  expires_at: string;
  urls: { get: string; part: string; complete: string };
}

async function begin(change: Record<string, unknown> = {}, token = owner.token): Promise<WireUpload> {
  const answer = await call("POST", "/v1/files/uploads", { token, body: { ...BEGIN, ...change } });
  if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

const pathOf = (url: string): string => url.slice(PUBLIC_URL.length);
const contentDigest = (bytes: Uint8Array): string => `sha-256=:${createHash("sha256").update(bytes).digest("base64")}:`;

function put(upload: WireUpload, n: number, bytes = PARTS[n - 1] ?? FILE, headers: Record<string, string> = {}) {
  return call("PUT", pathOf(upload.urls.part.replace("{n}", String(n))), { token: owner.token, bytes, headers });
}

async function refusal(answer: Promise<Response>): Promise<[number, string]> {
  const { status, code } = await problemOf(await answer);
  return [status, code];
}

const complete = (upload: WireUpload) => call("POST", pathOf(upload.urls.complete), { token: owner.token });
const received = async (upload: WireUpload): Promise<number[]> =>
  (await (await call("GET", pathOf(upload.urls.get), { token: owner.token })).json<WireUpload>()).received;

describe("an upload in parts", () => {
  it("becomes a file like any other, whatever the order of its parts", async () => {
    const upload = await begin({ sha256: sha256Hex(FILE) });
    expect(upload).toMatchObject({ parts: 2, part_bytes: UPLOAD_PART_BYTES, received: [] });
    expect(Math.round((Date.parse(upload.expires_at) - Date.now()) / 60_000)).toBe(24 * 60);
    const [, second = FILE] = PARTS;
    const last = await put(upload, 2, second, { "content-digest": contentDigest(second) });
    expect([last.status, await last.json()]).toEqual([
      200,
      { part: 2, size_bytes: second.length, sha256: sha256Hex(second) },
    ]);
    expect(await received(upload)).toEqual([2]);
    await put(upload, 1);
    await put(upload, 1);
    const made = await complete(upload);
    expect(made.status).toBe(201);
    const file = await made.json<Record<string, unknown> & { id: string; urls: { download: string } }>();
    const md5 = createHash("md5").update(FILE).digest("hex");
    expect(file).toMatchObject({
      id: upload.id,
      name: "film.mp4",
      content_type: "video/mp4",
      size: FILE.length,
      etag: md5,
      checksums: { sha256: sha256Hex(FILE), md5 },
      metadata: { a: 1 },
    });
    const bytes = new Uint8Array(await (await call("GET", pathOf(file.urls.download))).arrayBuffer());
    expect(sha256Hex(bytes)).toBe(sha256Hex(FILE));
    const again = await complete(upload);
    expect([again.status, (await again.json<{ id: string }>()).id]).toEqual([201, upload.id]);
    expect(await refusal(put(upload, 1))).toEqual([404, "upload.unknown"]);
  });

  it("goes on where it broke off after it was put together", async () => {
    const upload = await begin();
    await put(upload, 1);
    await put(upload, 2);
    // As when the Worker died behind R2's completion.
    const account = accountStub(env, owner.id);
    const begun = await account.upload(upload.id);
    if (begun === null) throw new Error("no upload");
    await env.FILES.resumeMultipartUpload(`files/${upload.id}`, begun.upload_id).complete(
      begun.parts.map(({ part, etag }) => ({ partNumber: part, etag })),
    );
    const made = await complete(upload);
    expect([made.status, (await made.json<{ checksums: { sha256: string } }>()).checksums.sha256]).toEqual([
      201,
      sha256Hex(FILE),
    ]);
  });

  it("takes no part that is not as it should be, and goes on with a right one", async () => {
    const upload = await begin();
    const wrong = contentDigest(new Uint8Array(1));
    expect(await refusal(put(upload, 1, undefined, { "content-digest": wrong }))).toEqual([400, "request.malformed"]);
    expect(await refusal(put(upload, 1, FILE.subarray(0, 10)))).toEqual([400, "request.malformed"]);
    expect(await refusal(put(upload, 3, FILE.subarray(0, 10)))).toEqual([400, "request.malformed"]);
    expect(await refusal(put(upload, 1, undefined, { "content-digest": "md5=:x:" }))).toEqual([
      400,
      "request.header_invalid",
    ]);
    expect(await received(upload)).toEqual([]);
    const missing = await problemOf(await complete(upload));
    expect([missing.status, missing.code, missing.detail]).toEqual([
      409,
      "upload.incomplete",
      "These parts are missing: 1, 2.",
    ]);
    await put(upload, 1, undefined, { "content-digest": contentDigest(PARTS[0] ?? FILE) });
    await put(upload, 2);
    expect((await complete(upload)).status).toBe(201);
  });

  it("does not become a file with another SHA-256 than the one announced", async () => {
    const upload = await begin({ sha256: sha256Hex("another") });
    await put(upload, 1);
    await put(upload, 2);
    expect(await refusal(complete(upload))).toEqual([422, "file.invalid"]);
    expect(await refusal(complete(upload))).toEqual([404, "upload.unknown"]);
    await vi.waitFor(async () => expect(await env.FILES.head(`files/${upload.id}`)).toBeNull(), { timeout: 10_000 });
  });

  it("is gone once it is aborted, and R2's upload with it", async () => {
    const upload = await begin();
    await put(upload, 1);
    const account = accountStub(env, owner.id);
    const begun = await account.upload(upload.id);
    const aborted = await call("DELETE", pathOf(upload.urls.get), { token: owner.token });
    expect(aborted.status).toBe(204);
    expect(await refusal(complete(upload))).toEqual([404, "upload.unknown"]);
    await vi.waitFor(
      async () => {
        const inR2 = env.FILES.resumeMultipartUpload(`files/${upload.id}`, begun?.upload_id ?? "");
        await expect(inR2.uploadPart(1, FILE.subarray(0, 10))).rejects.toThrow(/10024|does not exist/);
      },
      { timeout: 10_000 },
    );
  });

  it("is its account's alone, and no file before it is complete", async () => {
    const upload = await begin();
    const { token } = await anAccount();
    const paths: [method: string, path: string][] = [
      ["GET", pathOf(upload.urls.get)],
      ["POST", pathOf(upload.urls.complete)],
      ["DELETE", pathOf(upload.urls.get)],
    ];
    for (const [method, path] of paths) {
      expect(await refusal(call(method, path, { token }))).toEqual([404, "upload.unknown"]);
      const narrow = await aToken(owner.id, ["files:read"]);
      expect(await refusal(call(method, path, { token: narrow }))).toEqual([403, "auth.forbidden"]);
    }
    const file = call("GET", `/v1/files/${upload.id}`, { token: owner.token });
    expect(await refusal(file)).toEqual([404, "file.not_found"]);
  });

  it("has at least 1 byte and at most 5 GiB", async () => {
    expect((await begin({ size_bytes: 5 * 1024 ** 3 })).parts).toBe(640);
    for (const size_bytes of [0, 5 * 1024 ** 3 + 1, 1.5]) {
      const answer = call("POST", "/v1/files/uploads", { token: owner.token, body: { ...BEGIN, size_bytes } });
      expect(await refusal(answer)).toEqual([422, "input.invalid"]);
    }
  });
});
