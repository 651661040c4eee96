/** The use case of an upload in parts: R2's multipart upload holds the bytes, the account's row says which parts are there. */
import { createHash } from "node:crypto";
import type { FileIntent, FileUpload } from "../../durable-objects/account-contract.ts";
import { isUploadRefusal } from "../../durable-objects/output-uploads.ts";
import { accountStub } from "../../durable-objects/stubs.ts";
import { fileKey, type StoredFile, uploadParts } from "../../schema/files.ts";
import { newFileId } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { takeUploadPlace } from "../storage/upload-places.ts";
import { tooManyUploads } from "./create-file.ts";

export async function beginUpload(edge: Edge, caller: Caller, file: FileIntent): Promise<FileUpload> {
  const id = newFileId(edge.settings.signingSecret);
  const account = accountStub(edge.env, caller.account_id);
  const upload = await edge.env.FILES.createMultipartUpload(fileKey(id));
  if (!(await account.beginFile({ id, created_at: Date.now(), upload_id: upload.uploadId, file }))) {
    edge.later(upload.abort());
    throw tooManyUploads();
  }
  const begun = await account.upload(id);
  if (begun === null) throw new Error("an upload is not there right after it was begun");
  return begun;
}

export interface PartRequest {
  n: number;
  body: ReadableStream<Uint8Array> | null;
  content_length: number;
  content_digest: string | undefined;
}

export async function putUploadPart(
  edge: Edge,
  caller: Caller,
  upload: FileUpload,
  { n, body, content_length, content_digest }: PartRequest,
): Promise<{ part: number; size_bytes: number; sha256: string }> {
  const { count, sizeOf } = uploadParts(upload.file.size_bytes);
  if (n > count) throw new AppError("request.malformed", `This upload has the parts 1 to ${count}.`);
  const size_bytes = sizeOf(n);
  if (body === null || content_length !== size_bytes) {
    throw new AppError("request.malformed", `Part ${n} has ${size_bytes} bytes, which Content-Length is to say.`);
  }
  const wanted = parseDigest(content_digest);
  const leave = await takeUploadPlace();
  try {
    const bytes = await readWhole(body, size_bytes);
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    if (wanted !== null && wanted !== sha256) {
      throw new AppError("request.malformed", `Part ${n} is not the one of its Content-Digest.`);
    }
    const { etag } = await edge.env.FILES.resumeMultipartUpload(fileKey(upload.id), upload.upload_id).uploadPart(
      n,
      bytes,
    );
    if (!(await accountStub(edge.env, caller.account_id).keepPart(upload.id, n, etag))) throw unknownUpload();
    return { part: n, size_bytes, sha256 };
  } catch (error) {
    throw isUploadRefusal(error) ? unknownUpload(error) : error;
  } finally {
    leave();
  }
}

/** A body of exactly `size` bytes. */
async function readWhole(body: ReadableStream<Uint8Array>, size: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(size);
  let at = 0;
  try {
    for await (const chunk of body) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
  } catch (error) {
    throw new AppError("request.malformed", "The part broke off, or is longer than it says.", { cause: error });
  }
  if (at !== size) throw new AppError("request.malformed", "The part ended too early.");
  return bytes;
}

/** Lower-case hex of the `sha-256` of a Content-Digest field (RFC 9530); null when there is none. */
function parseDigest(header: string | undefined): string | null {
  if (header === undefined) return null;
  const match = /(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):/.exec(header);
  if (match === null) {
    throw new AppError("request.header_invalid", "Content-Digest must be as `sha-256=:<base64>:`.");
  }
  return Buffer.from(match[1] ?? "", "base64").toString("hex");
}

/** Makes the file, reads it once for its digests, and takes it into the books. What breaks off in between goes on when it is asked for again. */
export async function completeUpload(edge: Edge, caller: Caller, upload: FileUpload): Promise<StoredFile> {
  const { FILES } = edge.env;
  const key = fileKey(upload.id);
  const { size_bytes } = upload.file;
  const { count } = uploadParts(size_bytes);
  if (upload.parts.length < count) {
    const there = new Set(upload.parts.map(({ part }) => part));
    const missing = Array.from({ length: count }, (_, i) => i + 1).filter((n) => !there.has(n));
    throw incomplete(`These parts are missing: ${shortList(missing)}.`);
  }
  try {
    const named = upload.parts.map(({ part, etag }) => ({ partNumber: part, etag }));
    await FILES.resumeMultipartUpload(key, upload.upload_id).complete(named);
  } catch (error) {
    if (!isUploadRefusal(error)) throw error;
    // So an upload is refused that was completed, when what came behind it broke off.
    if ((await FILES.head(key))?.size !== size_bytes) {
      throw incomplete("Its parts changed while it was put together. Put all of them again.");
    }
  }
  const stored = await FILES.get(key);
  if (stored === null) throw unknownUpload();
  const [sha256, md5] = await digestsOf(stored.body);
  const account = accountStub(edge.env, caller.account_id);
  if (upload.file.sha256 !== null && upload.file.sha256 !== sha256) {
    await account.removeFile(upload.id, "pending");
    throw new AppError("file.invalid", `The file's SHA-256 is ${sha256}, not the announced one. Begin it again.`);
  }
  const file = await account.finishFile(upload.id, { ...upload.file, sha256, md5 });
  if (file === null) throw unknownUpload();
  return file;
}

async function digestsOf(body: ReadableStream<Uint8Array>): Promise<[sha256: string, md5: string]> {
  const hashes = [createHash("sha256"), createHash("md5")] as const;
  const reader = body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return [hashes[0].digest("hex"), hashes[1].digest("hex")];
    for (const hash of hashes) hash.update(value);
  }
}

/** Numbers that one answer names. */
const NAMED_MAX = 20;

function shortList(numbers: number[]): string {
  const more = numbers.length - NAMED_MAX;
  return `${numbers.slice(0, NAMED_MAX).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

function incomplete(detail: string): AppError {
  return new AppError("upload.incomplete", detail);
}

function unknownUpload(cause?: unknown): AppError {
  return new AppError("upload.unknown", "There is no such upload, or it is over. Begin it again.", { cause });
}
