/** Files above the bound of one request go to the edge in parts, of which each is repeated until it is taken. The bound is small here. */
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { Readable } from "node:stream";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import { FileRefSchema } from "../schema/origin-protocol.ts";
import { bodyDigest } from "../schema/request-signature.ts";
import { EdgeClient } from "./edge-client.ts";
import { InstanceFiles } from "./instance-files.ts";
import { OutputFiles, type OutputScope } from "./output-files.ts";
import { OutputSpool } from "./output-spool.ts";
import { FakeEdge } from "./testing/fake-edge.ts";
import { temporaryFolder } from "./testing/harness.ts";

const PART_BYTES = 100_000;

describe("a file above the bound", () => {
  const folder = temporaryFolder();
  let edge: FakeEdge;
  let client: EdgeClient;
  let spool: OutputSpool;

  beforeAll(async () => {
    edge = new FakeEdge();
    await edge.listen();
    client = new EdgeClient(edge.url);
    client.setCredential({ origin_id: "origin-of-tests", key: edge.key });
    spool = new OutputSpool(join(folder.path, "spool"), PART_BYTES);
  });
  beforeEach(() => {
    edge.uploadCalls.length = 0;
    edge.uploadFault = () => null;
  });
  afterAll(async () => {
    client.close();
    await edge.close();
    folder.remove();
  });

  function aScope(): OutputScope & { abort: AbortController } {
    const abort = new AbortController();
    let n = 0;
    const key = { prediction_id: newId(26), attempt: 1 };
    return { key, cogId: "x", files: new InstanceFiles(spool), nextFile: () => n++, signal: abort.signal, abort };
  }

  /** What a model gave as a data URI. */
  const uriOf = (bytes: Buffer): string => `data:image/png;base64,${bytes.toString("base64")}`;

  async function send(bytes: Buffer, scope = aScope()): Promise<unknown> {
    return new OutputFiles(client, spool).store(uriOf(bytes), scope);
  }

  async function expectSent(bytes: Buffer): Promise<void> {
    const scope = aScope();
    const { $cogway_file } = FileRefSchema.parse(await send(bytes, scope));
    const described = { name: "output.png", content_type: "image/png", size_bytes: bytes.length };
    expect($cogway_file).toEqual({ n: 0, ...described, sha256: bodyDigest(bytes) });
    const stored = edge.files.filter((file) => file.path.includes(scope.key.prediction_id));
    expect(stored.map((file) => [file.content_type, file.bytes.equals(bytes)])).toEqual([["image/png", true]]);
    expect(readdirSync(join(folder.path, "spool"))).toEqual([]);
  }

  const ONE_MORE = ["POST parts", "PUT parts/1", "PUT parts/2", "POST complete"];

  it("goes in parts, in order; one of the bound goes whole", async () => {
    await expectSent(randomBytes(PART_BYTES));
    expect(edge.uploadCalls).toEqual([]);
    await expectSent(randomBytes(PART_BYTES + 1));
    expect(edge.uploadCalls).toEqual(ONE_MORE);
  });

  it("is cut where the edge wants it, however its bytes come", async () => {
    const bytes = randomBytes(2 * PART_BYTES + 50_000);
    const chunks = Array.from({ length: 20 }, (_, i) => bytes.subarray(i * 12_500, (i + 1) * 12_500));
    for (const stream of [Readable.from(chunks), Readable.from([bytes])]) {
      const file = await spool.writeStream(stream, "a.bin", "application/x-of-tests");
      expect(file.parts).toEqual(
        [0, PART_BYTES, 2 * PART_BYTES].map((start) => {
          const part = bytes.subarray(start, start + PART_BYTES);
          return { start, size_bytes: part.length, sha256: bodyDigest(part) };
        }),
      );
      expect(file.sha256).toBe(bodyDigest(bytes));
      await spool.remove(file);
    }
  });

  it("repeats the part whose connection broke, and no other", async () => {
    edge.uploadFault = (call) => (call === "PUT parts/2" && !edge.uploadCalls.includes(call) ? "cut" : null);
    await expectSent(randomBytes(2 * PART_BYTES + 1));
    expect(edge.uploadCalls).toEqual([
      "POST parts",
      "PUT parts/1",
      "PUT parts/2",
      "PUT parts/2",
      "PUT parts/3",
      "POST complete",
    ]);
  });

  it.each(["POST parts", "PUT parts/2", "POST complete"])("survives the loss of the answer to %s", async (lost) => {
    edge.uploadFault = (call) => (call === lost && !edge.uploadCalls.includes(call) ? "lost" : null);
    await expectSent(randomBytes(PART_BYTES + 1));
    expect(edge.uploadCalls).toEqual(ONE_MORE.flatMap((call) => (call === lost ? [call, call] : [call])));
  });

  it("waits for an edge that is away", async () => {
    edge.uploadFault = () => (edge.uploadCalls.length < 2 ? 503 : null);
    await expectSent(randomBytes(PART_BYTES + 1));
    expect(edge.uploadCalls).toEqual(["POST parts", "POST parts", ...ONE_MORE]);
  });

  it("begins again when the edge knows nothing of its upload", async () => {
    edge.uploadFault = (call) => {
      if (call === "POST complete" && !edge.uploadCalls.includes(call)) edge.uploads.clear();
      return null;
    };
    await expectSent(randomBytes(PART_BYTES + 1));
    expect(edge.uploadCalls).toEqual([...ONE_MORE, ...ONE_MORE]);
  });

  it("is given up after three uploads that the edge forgot", async () => {
    edge.uploadFault = (call) => (call === "POST complete" ? 404 : null);
    await expect(send(randomBytes(PART_BYTES + 1))).rejects.toThrow("output.png could not be stored");
    expect(edge.uploadCalls).toEqual([...ONE_MORE, ...ONE_MORE, ...ONE_MORE]);
  });

  it("is given up at once when the attempt is fenced", async () => {
    edge.uploadFault = (call) => (call === "PUT parts/2" ? 409 : null);
    await expect(send(randomBytes(2 * PART_BYTES + 1))).rejects.toThrow("output.png could not be stored");
    expect(edge.uploadCalls).toEqual(["POST parts", "PUT parts/1", "PUT parts/2"]);
    expect(readdirSync(join(folder.path, "spool"))).toEqual([]);
  });

  it("is given up between two parts when the attempt is", async () => {
    const scope = aScope();
    edge.uploadFault = (call) => {
      if (call === "PUT parts/1") scope.abort.abort();
      return null;
    };
    await expect(send(randomBytes(2 * PART_BYTES + 1), scope)).rejects.toThrow("given up");
    expect(edge.uploadCalls).toEqual(["POST parts", "PUT parts/1"]);
  });

  it("of other bytes than when it was spooled is refused", async () => {
    const file = await spool.writeBytes(randomBytes(PART_BYTES + 1), "a.bin", "application/x-of-tests");
    const [first, second] = file.parts;
    if (first === undefined || second === undefined) throw new Error("two parts");
    const path = `/origin/v1/outputs/${newId(26)}/1/0/a.bin`;
    await client.beginOutput(path, file);
    const wrong = { ...second, start: first.start, size_bytes: 1 };
    expect(await client.putOutputPart(path, 2, file, wrong)).toMatchObject({ kind: "refused", status: 401 });
    expect(existsSync(file.path)).toBe(true);
    await spool.remove(file);
  });
});
