/** Output files in parts: real multipart uploads of R2, whose parts have at least 5 MiB but for the last. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { removeObjects } from "../durable-objects/prediction-document.ts";
import { type FileRef, OUTPUT_PART_BYTES, type OutputPart } from "../schema/origin-protocol.ts";
import { bodyDigest } from "../schema/request-signature.ts";
import { anAccount, anAnnounce, call, FakeOrigin, predictionOf, problemOf, theOperator } from "./testing/edge.ts";

const PART_BYTES = 5_242_880;

let origin: FakeOrigin;
let version: string;
let token: string;

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("film-maker", anAnnounce({}, { type: "string", format: "uri" }));
  token = (await anAccount()).token;
});

const aRunning = () => origin.aRunning(token, version);

/** Bytes that no two parts have alike. */
function someBytes(size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  const words = new Uint32Array(bytes.buffer, 0, Math.floor(size / 4));
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 2_654_435_761);
  return bytes;
}

const FILE = someBytes(PART_BYTES + 1_000);
const PARTS = [FILE.subarray(0, PART_BYTES), FILE.subarray(PART_BYTES)];
const BEGIN = { content_type: "video/mp4", size_bytes: FILE.byteLength, sha256: bodyDigest(FILE) };
const REF: FileRef = { $cogway_file: { n: 0, name: "film one.mp4", ...BEGIN } };

/** The calls about the file `film one.mp4` of an attempt. */
class Upload {
  readonly id: string;
  readonly #path: string;

  constructor(id: string, attempt = 1) {
    this.id = id;
    this.#path = `/origin/v1/outputs/${id}/${attempt}/0/${encodeURIComponent("film one.mp4")}`;
  }

  begin(change: Partial<typeof BEGIN> = {}): Promise<Response> {
    return origin.send("POST", `${this.#path}/parts`, JSON.stringify({ ...BEGIN, ...change }));
  }

  put(part: number, bytes = PARTS[part - 1] ?? FILE, sha256 = bodyDigest(bytes), size = bytes.byteLength) {
    const headers = { "content-type": "video/mp4", "content-length": String(size) };
    return origin.send("PUT", `${this.#path}/parts/${part}`, bytes, headers, sha256);
  }

  async putAll(): Promise<OutputPart[]> {
    const parts: OutputPart[] = [];
    for (const [i] of PARTS.entries()) parts.push(await (await this.put(i + 1)).json<OutputPart>());
    return parts;
  }

  complete(parts: OutputPart[]): Promise<Response> {
    return origin.send("POST", `${this.#path}/complete`, JSON.stringify({ parts }));
  }

  /** R2's own upload, if the edge has a record of one. */
  async inR2(): Promise<R2MultipartUpload | null> {
    const record = await env.FILES.get(`predictions/${this.id}/uploads/1/0`);
    if (record === null) return null;
    const { key, upload_id } = await record.json<{ key: string; upload_id: string }>();
    return env.FILES.resumeMultipartUpload(key, upload_id);
  }

  stored(): Promise<R2ObjectBody | null> {
    return env.FILES.get(`outputs/${this.id}/0/film one.mp4`);
  }
}

const end = { type: "finished", status: "failed", error: "x", metrics: {}, predict_time_s: 0 } as const;

describe("an output file in parts", () => {
  it("becomes the file when it is complete, and is served as any other", async () => {
    const upload = new Upload(await aRunning());
    expect((await upload.begin()).status).toBe(200);
    const parts = await upload.putAll();
    expect(parts.map(({ part }) => part)).toEqual([1, 2]);
    expect(await upload.stored()).toBeNull();
    const completed = await upload.complete(parts);
    expect([completed.status, await completed.json()]).toEqual([201, REF]);
    await origin.events(upload.id, 1, [
      { type: "output", mode: "set", value: REF },
      { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0 },
    ]);
    const { output } = await predictionOf(await call("GET", `/v1/predictions/${upload.id}`, { token }));
    const served = await call("GET", String(output), {
      headers: { range: `bytes=${PART_BYTES - 2}-${PART_BYTES + 1}` },
    });
    expect(served.headers.get("content-type")).toBe("video/mp4");
    expect(new Uint8Array(await served.arrayBuffer())).toEqual(FILE.subarray(PART_BYTES - 2, PART_BYTES + 2));
    const whole = await (await call("GET", String(output))).arrayBuffer();
    expect(bodyDigest(new Uint8Array(whole))).toBe(BEGIN.sha256);
  });

  it("takes each call again: begun twice it is one upload, a part replaces itself, the end says the same", async () => {
    const upload = new Upload(await aRunning());
    await upload.begin();
    const first = await upload.inR2();
    await upload.put(1);
    expect((await upload.begin()).status).toBe(200);
    expect((await upload.inR2())?.uploadId).toBe(first?.uploadId);
    const parts = await upload.putAll();
    expect((await upload.complete(parts)).status).toBe(201);
    const again = await upload.complete(parts);
    expect([again.status, await again.json()]).toEqual([201, REF]);
    expect((await upload.stored())?.size).toBe(FILE.byteLength);
  });

  it("is one upload when it is begun twice at the same time", async () => {
    const upload = new Upload(await aRunning());
    const begun = await Promise.all([upload.begin(), upload.begin(), upload.begin()]);
    expect(begun.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect((await upload.complete(await upload.putAll())).status).toBe(201);
  });

  it("keeps no part that broke off or is not what was signed, and goes on with a right one", async () => {
    const upload = new Upload(await aRunning());
    await upload.begin();
    const other = PARTS[0]?.slice() ?? FILE;
    other.set([1, 2, 3]);
    const wrong = await upload.put(1, other, bodyDigest(PARTS[0] ?? FILE));
    expect((await problemOf(wrong)).code).toBe("request.malformed");
    const cut = await upload.put(1, PARTS[0]?.subarray(0, 100_000), bodyDigest(PARTS[0] ?? FILE), PART_BYTES);
    expect(cut.status).toBe(400);
    expect((await upload.complete(await upload.putAll())).status).toBe(201);
    expect(bodyDigest(new Uint8Array((await (await upload.stored())?.arrayBuffer()) ?? []))).toBe(BEGIN.sha256);
  });

  it.each<[string, (parts: OutputPart[]) => OutputPart[]]>([
    ["another part's name", (parts) => parts.map((each) => ({ ...each, etag: parts[0]?.etag ?? "" }))],
    ["a part that is missing", (parts) => [...parts, { part: 3, etag: "x" }]],
    ["fewer bytes than it began with", (parts) => parts.slice(0, 1)],
  ])("does not become a file of %s; the upload is gone, and the next begins anew", async (_what, change) => {
    const upload = new Upload(await aRunning());
    await upload.begin();
    const refused = await upload.complete(change(await upload.putAll()));
    expect((await problemOf(refused)).code).toBe("upload.unknown");
    expect(await upload.stored()).toBeNull();
    expect((await upload.put(1)).status).toBe(404);
    await upload.begin();
    expect((await upload.complete(await upload.putAll())).status).toBe(201);
  });

  it("that was never begun is unknown", async () => {
    const upload = new Upload(await aRunning());
    expect((await problemOf(await upload.put(1))).code).toBe("upload.unknown");
    expect((await upload.complete([{ part: 1, etag: "x" }])).status).toBe(404);
  });

  it("is taken from live attempts alone: what one that is over had begun is ended", async () => {
    const upload = new Upload(await aRunning());
    await upload.begin();
    const parts = await upload.putAll();
    const inR2 = await upload.inR2();
    expect((await new Upload(upload.id, 2).begin()).status).toBe(409);
    await origin.events(upload.id, 1, [end]);
    expect((await problemOf(await upload.complete(parts))).code).toBe("attempt.fenced");
    expect((await upload.put(1)).status).toBe(409);
    expect((await upload.begin()).status).toBe(409);
    expect(await upload.inR2()).toBeNull();
    await expect(inR2?.uploadPart(3, "x")).rejects.toThrow("(10024)");
    expect((await env.FILES.list({ prefix: `predictions/${upload.id}/uploads/` })).objects).toEqual([]);
  });

  it("leaves nothing when its attempt died and the prediction's data is removed", async () => {
    const upload = new Upload(await aRunning());
    await upload.begin();
    await upload.put(1);
    const inR2 = await upload.inR2();
    await removeObjects(env, upload.id);
    expect(await upload.inR2()).toBeNull();
    await expect(inR2?.uploadPart(2, "x")).rejects.toThrow("(10024)");
  });

  it("is removed with the prediction's data when it was complete", async () => {
    const upload = new Upload(await aRunning());
    await upload.begin();
    await upload.complete(await upload.putAll());
    await removeObjects(env, upload.id);
    expect(await upload.stored()).toBeNull();
    expect((await env.FILES.list({ prefix: `predictions/${upload.id}/` })).objects).toEqual([]);
  });

  it("has parts of at most the bound, and a file above it comes in no other way", async () => {
    const upload = new Upload(await aRunning());
    const tooLarge = await upload.put(1, FILE, bodyDigest(FILE), OUTPUT_PART_BYTES + 1);
    expect((await problemOf(tooLarge)).code).toBe("request.too_large");
    const headers = { "content-type": "video/mp4", "content-length": String(OUTPUT_PART_BYTES + 1) };
    const whole = await origin.send("PUT", `/origin/v1/outputs/${upload.id}/1/0/film.mp4`, FILE, headers);
    expect(whole.status).toBe(413);
  });
});
