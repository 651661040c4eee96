/** What a large layer costs the isolate and the rows of its repository: a Worker has 128 MB, which local workerd does not enforce. */

import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { createHash } from "node:crypto";
import { expect, it } from "vitest";
import { openBlob, PART_BYTES, PARTS_MAX, type Run } from "../durable-objects/blob-parts.ts";
import type { RepositoryApi } from "../durable-objects/registry-contract.ts";
import { repositoryStub } from "../durable-objects/stubs.ts";
import { largestRow, ROW_BYTES_MAX } from "../durable-objects/testing/rows.ts";
import { appendChunk, beginUpload, completeUpload } from "./domain/registry-uploads.ts";
import { type Edge, settingsOf } from "./env.ts";

const LAYER_BYTES = 300 * 1024 ** 2;
const CHUNK_BYTES = 1_048_576;
/** A part, and what is on its way. */
const HELD_BYTES_MAX = PART_BYTES + 4 * CHUNK_BYTES;
/** Disks of shared machines are slow. */
const TIMEOUT_MS = 180_000;

/** A body that is made while it is read. `onChunk` is told before each chunk. */
function layer(
  size: number,
  onChunk: (bytes: number) => void,
  hash = createHash("sha256"),
): ReadableStream<Uint8Array> {
  let sent = 0;
  return new ReadableStream({
    type: "bytes",
    pull(controller) {
      if (sent === size) {
        controller.close();
        controller.byobRequest?.respond(0);
        return;
      }
      const bytes = new Uint8Array(Math.min(CHUNK_BYTES, size - sent)).fill(sent / CHUNK_BYTES);
      sent += bytes.length;
      hash.update(bytes);
      onChunk(bytes.length);
      controller.enqueue(bytes);
    },
  });
}

/** The real bucket, which tells what it has taken. */
function counting(onStored: (bytes: number) => void): R2Bucket {
  return new Proxy(env.FILES, {
    get: (target, name) => {
      if (name !== "put") return Reflect.get(target, name).bind(target);
      return async (key: string, bytes: Uint8Array) => {
        const stored = await target.put(key, bytes);
        onStored(bytes.length);
        return stored;
      };
    },
  });
}

function edgeWith(files: R2Bucket): Edge {
  return { env: { ...env, FILES: files }, settings: settingsOf(env), later: () => undefined };
}

const upload = (repository: RepositoryApi, id: string, body: ReadableStream<Uint8Array> | null) => ({
  ...{ repository, id, body, content_length: body === null ? "0" : undefined, content_range: undefined },
});

it("guarantees that of a layer of 300 MB at most a part and what is on its way are held, and that it arrives whole", {
  timeout: TIMEOUT_MS,
}, async () => {
  let taken = 0;
  let stored = 0;
  let heldMax = 0;
  const edge = edgeWith(
    counting((bytes) => {
      stored += bytes;
    }),
  );
  const hash = createHash("sha256");
  const body = layer(
    LAYER_BYTES,
    (bytes) => {
      taken += bytes;
      heldMax = Math.max(heldMax, taken - stored);
    },
    hash,
  );
  const repository = repositoryStub(env, "limits/layer");
  const id = await beginUpload(repository);
  // As docker does it: one PATCH of unknown length, then an empty PUT.
  expect(await appendChunk(edge, upload(repository, id, body))).toBe(LAYER_BYTES);
  expect(heldMax).toBeLessThan(HELD_BYTES_MAX);
  const sha256 = hash.digest("hex");
  await completeUpload(edge, upload(repository, id, null), `sha256:${sha256}`);
  const held = await repository.blob(`sha256:${sha256}`);
  expect(held?.runs).toEqual([
    [1, Math.floor(LAYER_BYTES / PART_BYTES)],
    ...(LAYER_BYTES % PART_BYTES === 0 ? [] : [[2, 1]]),
  ]);
  const stream = new crypto.DigestStream("SHA-256");
  if (held !== null) await (await openBlob(env.FILES, held))?.pipeTo(stream);
  expect(Buffer.from(await stream.digest).toString("hex")).toBe(sha256);
});

it("guarantees rows below the platform's bound, whatever a manifest names", async () => {
  const name = "limits/rows";
  const repository = repositoryStub(env, name);
  const digests = Array.from({ length: 10_000 }, (_, n) => `sha256:${n.toString(16).padStart(64, "0")}`);
  const staged = await repository.stageManifest({ blobs: [], manifests: [] });
  if (staged.kind !== "staged") throw new Error("not staged");
  const isStored = await repository.putManifest({
    ...{ digest: `sha256:${"a".repeat(64)}`, media_type: "m".repeat(255), size_bytes: 4_194_304, key: staged.key },
    ...{ blobs: [], foreign_blobs: digests, manifests: [], tags: ["t".repeat(128)], subject: digests[0] ?? null },
    ...{ artifact_type: "a".repeat(255), annotations: { a: "x".repeat(65_000) } },
  });
  expect(isStored).toBe(true);
  // An upload of as many parts as there may be.
  const id = (await repository.beginUpload()) ?? "";
  const opened = await repository.openUpload(id, 0);
  if (opened.kind !== "open") throw new Error("not open");
  const runs = Array.from({ length: PARTS_MAX }, (_, n): Run => [n + 10_000, 1]);
  const saved = { size_bytes: 1, runs, tail: null, sha256: null };
  expect(await repository.saveChunk(id, opened.lease, saved)).toBe(true);
  const again = await repository.openUpload(id, 1);
  expect(again.kind === "open" && again.runs.length).toBe(PARTS_MAX);
  const digest = digests[0] ?? "";
  if (again.kind === "open") {
    await repository.finishUpload(id, again.lease, digest, { key: again.key, size_bytes: 1, runs });
  }
  const [repositories, blobs] = [env.REPOSITORIES, env.BLOBS] as unknown as DurableObjectNamespace[];
  for (const stub of [repositories?.getByName(name), blobs?.getByName("0")]) {
    if (stub === undefined) throw new Error("no object");
    const { table, bytes } = await runInDurableObject(stub, (_object, state) => largestRow(state));
    expect(bytes, table).toBeLessThan(ROW_BYTES_MAX);
  }
});
