/** What an upload of the largest size costs the isolate: a Worker has 128 MB, which local workerd does not enforce. */

import { env } from "cloudflare:workers";
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { FILE_BYTES_MAX } from "../schema/files.ts";
import { readUploadForm } from "./domain/upload-form.ts";
import { FileWriter } from "./storage/file-writer.ts";
import { takeUploadPlace } from "./storage/upload-places.ts";

const CHUNK_BYTES = 65_536;
const HEAD = '--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\n';

/** A form with a file of `size` bytes, made while it is read. `onChunk` is told before each chunk. */
function form(size: number, onChunk: () => void, hash = createHash("sha256")): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let sent = 0;
  return new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(encoder.encode(HEAD)),
    pull(controller) {
      onChunk();
      if (sent === size) {
        controller.enqueue(encoder.encode("\r\n--b--\r\n"));
        controller.close();
        return;
      }
      const bytes = new Uint8Array(Math.min(CHUNK_BYTES, size - sent)).fill(sent / CHUNK_BYTES);
      sent += bytes.length;
      hash.update(bytes);
      controller.enqueue(bytes);
    },
  });
}

interface Upload {
  written: { size_bytes: number; sha256: string };
  sha256: string;
  /** the most that was taken from the sender and is not yet in R2 */
  heldBytesMax: number;
}

/** Uploads a file; what is held is what came in less what R2 has taken. */
async function upload(id: string, size: number): Promise<Upload> {
  let taken = 0;
  let stored = 0;
  let heldBytesMax = 0;
  const hash = createHash("sha256");
  const bucket = counting((bytes) => {
    stored += bytes;
  });
  const writer = new FileWriter(bucket, id, async () => undefined);
  try {
    const body = form(
      size,
      () => {
        taken += CHUNK_BYTES;
        heldBytesMax = Math.max(heldBytesMax, taken - stored);
      },
      hash,
    );
    await readUploadForm(body, "multipart/form-data; boundary=b", (bytes) => writer.write(bytes));
    return { written: await writer.finish(), sha256: hash.digest("hex"), heldBytesMax };
  } finally {
    writer.release();
  }
}

/** The real bucket, which tells what it has taken. */
function counting(onStored: (bytes: number) => void): R2Bucket {
  return new Proxy(env.FILES, {
    get: (target, name) => {
      if (name !== "createMultipartUpload") return Reflect.get(target, name).bind(target);
      return async (key: string) => {
        const inR2 = await target.createMultipartUpload(key);
        return {
          uploadId: inR2.uploadId,
          complete: (parts: R2UploadedPart[]) => inR2.complete(parts),
          uploadPart: async (part: number, bytes: Uint8Array) => {
            const done = await inR2.uploadPart(part, bytes);
            onStored(bytes.length);
            return done;
          },
        };
      };
    },
  });
}

it("guarantees that a file of 100 MiB arrives whole and that at most a part of it and what is on its way are held", async () => {
  const { written, sha256, heldBytesMax } = await upload("limits-whole", FILE_BYTES_MAX);
  expect(written).toMatchObject({ size_bytes: FILE_BYTES_MAX, sha256 });
  expect(heldBytesMax).toBeLessThan(8 * 1024 ** 2);
  const stored = await env.FILES.get("files/limits-whole");
  const hash = createHash("sha256");
  for await (const bytes of stored?.body ?? []) hash.update(bytes);
  expect(hash.digest("hex")).toBe(sha256);
});

it("refuses the byte behind the limit, and gives back what was held", async () => {
  await expect(upload("limits-over", FILE_BYTES_MAX + 1)).rejects.toMatchObject({ code: "file.too_large" });
  expect((await upload("limits-after", 8 * 1024 ** 2)).written.size_bytes).toBe(8 * 1024 ** 2);
});

it("lets large files wait for a place, and refuses none before many wait", async () => {
  const places = await Promise.all(Array.from({ length: 5 }, takeUploadPlace));
  const waiting = Array.from({ length: 50 }, takeUploadPlace);
  await expect(takeUploadPlace()).rejects.toMatchObject({ code: "edge.busy" });
  const order: number[] = [];
  for (const [i, place] of waiting.entries()) void place.then(() => order.push(i));
  for (const leave of places) {
    leave();
    leave();
  }
  await Promise.all(waiting.slice(0, 5));
  await new Promise((resolve) => setTimeout(resolve, 0));
  expect(order).toEqual([0, 1, 2, 3, 4]);
  for (const place of waiting) (await place)();
  const files = await Promise.all(Array.from({ length: 8 }, (_, i) => upload(`limits-${i}`, 6 * 1024 ** 2)));
  expect(files.every(({ written, sha256 }) => written.sha256 === sha256)).toBe(true);
});
