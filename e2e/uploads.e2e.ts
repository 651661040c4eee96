/** Files as callers upload them, through the started system: the npm client unchanged, a model that reads them, and one in parts. */
import { createHash } from "node:crypto";
import Replicate from "replicate";
import { beforeAll, expect, test } from "vitest";
import type { Api } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";

const PART_BYTES = 8_388_608;
const PUT_TRIES_MAX = 5;

let caller: Api;
let replicate: Replicate;
beforeAll(async () => {
  caller = await newCaller("uploads");
  replicate = new Replicate({ auth: caller.token, baseUrl: `${caller.url}/v1` });
});

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

/** Bytes that no two parts have alike. */
function someBytes(size: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(size);
  const words = new Uint32Array(bytes.buffer, 0, size >> 2);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i, 2_654_435_761);
  return bytes;
}

async function download(url: string): Promise<Uint8Array> {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return new Uint8Array(await answer.arrayBuffer());
}

test("the npm client creates, gets, lists and deletes files", async () => {
  const bytes = someBytes(20_000_000);
  const file = await replicate.files.create(new File([bytes], "na\u00efve \u65e5\u672c.bin", { type: "text/x-test" }), {
    of: "e2e",
  });
  expect(file).toMatchObject({
    name: "na\u00efve \u65e5\u672c.bin",
    content_type: "text/x-test",
    size: 20_000_000,
    checksums: { sha256: sha256(bytes) },
    metadata: { of: "e2e" },
  });
  expect(await replicate.files.get(file.id)).toEqual(file);
  const { results } = await replicate.files.list();
  expect(results.map(({ id }) => id)).toContain(file.id);
  const { urls } = file as unknown as { urls: { download: string } };
  expect(sha256(await download(urls.download))).toBe(sha256(bytes));
  expect(await replicate.files.delete(file.id)).toBe(true);
  await expect(replicate.files.get(file.id)).rejects.toThrow("404");
});

test("run uploads files and buffers, and the model reads them under their names", async () => {
  const image = new File([someBytes(1_234)], "photo.png", { type: "image/png" });
  const output = await replicate.run("cogway/inputs", { input: { file: image, files: [Buffer.from("four"), image] } });
  expect(output).toMatchObject({
    files: [
      { suffix: ".png", size: 1_234 },
      { suffix: ".bin", size: 4 },
      { suffix: ".png", size: 1_234 },
    ],
  });
});

test("a file of another account is no input, and a deleted one neither", async () => {
  const other = await newCaller("uploads");
  const file = await replicate.files.create(Buffer.from("mine"));
  const asOther = await other.tryCreate<{ detail: string }>("inputs", { file: file.urls.get });
  expect([asOther.status, asOther.body.detail]).toEqual([422, expect.stringContaining("input.file")]);
  await replicate.files.delete(file.id);
  const asOwner = await caller.tryCreate<{ detail: string }>("inputs", { file: file.urls.get });
  expect([asOwner.status, asOwner.body.detail]).toEqual([422, asOther.body.detail]);
});

test("a file that is too large for one request is refused with the way to go, as often as it is tried", async () => {
  const body = new FormData();
  body.append("content", new Blob([new Uint8Array(102 * 1024 ** 2)]), "big");
  for (let i = 0; i < 2; i++) {
    const headers = { authorization: `Bearer ${caller.token}` };
    const answer = await fetch(`${caller.url}/v1/files`, { method: "POST", headers, body });
    expect([answer.status, await answer.json()]).toMatchObject([
      413,
      { code: "file.too_large", detail: expect.stringContaining("/v1/files/uploads") },
    ]);
  }
});

test("a file of 80 MiB in parts, put several at a time and some twice, is read back byte for byte", async () => {
  const bytes = someBytes(80 * 1024 ** 2);
  const begun = await caller.request<{ id: string; parts: number; urls: { part: string; complete: string } }>(
    "POST",
    "/v1/files/uploads",
    { body: { name: "film.mp4", content_type: "video/mp4", size_bytes: bytes.length, sha256: sha256(bytes) } },
  );
  expect([begun.status, begun.body.parts]).toEqual([201, 10]);
  const put = async (n: number): Promise<number> => {
    const part = bytes.subarray((n - 1) * PART_BYTES, n * PART_BYTES);
    const digest = createHash("sha256").update(part).digest("base64");
    const headers = { authorization: `Bearer ${caller.token}`, "content-digest": `sha-256=:${digest}:` };
    const url = begun.body.urls.part.replace("{n}", String(n));
    // A busy machine's edge may close an idle connection just when it is used again: any part may be put again.
    for (let tries = 1; ; tries++) {
      const answer = await fetch(url, { method: "PUT", headers, body: part }).catch((error: unknown) => {
        if (tries === PUT_TRIES_MAX) throw error;
      });
      await answer?.body?.cancel();
      if (answer !== undefined) return answer.status;
    }
  };
  const statuses: number[] = [];
  for (const numbers of [
    [10, 3, 7],
    [1, 2, 4],
    [5, 6, 8],
    [9, 3, 1],
  ]) {
    statuses.push(...(await Promise.all(numbers.map(put))));
  }
  expect(new Set(statuses)).toEqual(new Set([200]));
  const made = await caller.request<{ id: string; size: number; urls: { download: string; get: string } }>(
    "POST",
    begun.body.urls.complete,
  );
  expect([made.status, made.body.size]).toEqual([201, bytes.length]);
  expect(sha256(await download(made.body.urls.download))).toBe(sha256(bytes));
  const prediction = await caller.run("inputs", { file: made.body.urls.get });
  expect(prediction.output).toMatchObject({ files: [{ suffix: ".mp4", size: bytes.length }] });
});
