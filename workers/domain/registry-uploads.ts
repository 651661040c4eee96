/**
 * Uploads of blobs: each request writes behind what is there (workers/storage/upload-writer.ts), and the repository's object says what that is. A request
 * takes the upload when it begins; what one that was taken over writes is refused when it wants to be saved.
 */
import { addParts, type BlobBytes, countParts, openBlob, partKey, tailKey } from "../../durable-objects/blob-parts.ts";
import type { OpenUpload, RepositoryApi } from "../../durable-objects/registry-contract.ts";
import type { Caller, Edge, Settings } from "../env.ts";
import { takeUploadPlace } from "../storage/upload-places.ts";
import { BLOB_BYTES_MAX, BodyTooLarge, BrokenBody, type WrittenBody, writeBody } from "../storage/upload-writer.ts";
import { RegistryError } from "./registry-errors.ts";
import { digestAlgorithm, parseChunkRange } from "./registry-names.ts";
import { signUploadToken } from "./registry-token.ts";

/** What is not above this takes none of the isolate's places for large bodies. */
const SMALL_BYTES = 262_144;

export interface UploadRequest {
  repository: RepositoryApi;
  id: string;
  body: ReadableStream<Uint8Array> | null;
  content_length: string | undefined;
  content_range: string | undefined;
}

export async function beginUpload(repository: RepositoryApi): Promise<string> {
  const id = await repository.beginUpload();
  if (id !== null) return id;
  throw new RegistryError(
    "TOOMANYREQUESTS",
    "Too many uploads of this repository are unfinished. Finish or cancel some.",
  );
}

/** Where an upload goes on: here, or at the origin that relays it, with a token of its own so that the client's need not reach that. */
export async function uploadLocation(
  settings: Settings,
  caller: Caller | undefined,
  { name, id, isRelayed }: { name: string; id: string; isRelayed: boolean },
): Promise<string> {
  const path = `/v2/${name}/blobs/uploads/${id}`;
  if (!isRelayed || settings.uploadRelayUrl === null || caller === undefined) return path;
  const token = await signUploadToken(settings, { kind: "token", hash: caller.token.hash }, { name, path });
  return `${settings.uploadRelayUrl}/relay${path}?capability=${token}`;
}

/** Adds a chunk. Answers how many bytes the upload has now. */
export async function appendChunk(edge: Edge, request: UploadRequest): Promise<number> {
  const { repository, id } = request;
  const upload = await open(request);
  const { rest, ...saved } = await write(edge, request, upload);
  const key = tailKey(upload.key, upload.lease);
  if (rest.length > 0) await edge.env.FILES.put(key, rest);
  const tail = rest.length === 0 ? null : { key, size_bytes: rest.length };
  if (!(await repository.saveChunk(id, upload.lease, { ...saved, tail }))) throw takenOver();
  return saved.size_bytes;
}

/** Adds what the request brings, and makes the blob. */
export async function completeUpload(edge: Edge, request: UploadRequest, digest: string): Promise<void> {
  const { repository, id } = request;
  const upload = await open(request);
  const { bytes, sha256 } = await finish(edge, request, upload);
  const hex = digest.slice(digest.indexOf(":") + 1);
  const isKnown = digestAlgorithm(digest) === "sha256" && sha256 !== null;
  const found = isKnown ? sha256 : await digestOf(edge, bytes, digest);
  if (found !== hex) {
    await repository.abortUpload(id);
    throw new RegistryError("DIGEST_INVALID", `What came is not ${digest}. Upload it again.`, { detail: { digest } });
  }
  if (!(await repository.finishUpload(id, upload.lease, digest, bytes))) throw takenOver();
}

async function open({ repository, id, content_length, content_range }: UploadRequest): Promise<OpenUpload> {
  const range = content_range === undefined ? null : parseChunkRange(content_range);
  if (content_range !== undefined && range === null) {
    throw new RegistryError("BLOB_UPLOAD_INVALID", "Content-Range is to be `<first byte>-<last byte>`.");
  }
  if (range !== null && content_length !== undefined && Number(content_length) !== range.last - range.first + 1) {
    throw new RegistryError("SIZE_INVALID", "Content-Length and Content-Range do not agree.");
  }
  const opened = await repository.openUpload(id, range?.first ?? null);
  if (opened.kind === "open") return opened;
  if (opened.kind === "unknown") throw unknownUpload();
  throw new OutOfOrder(opened.size_bytes);
}

/** The chunk does not begin where the upload ends. */
export class OutOfOrder extends Error {
  readonly size_bytes: number;

  constructor(size_bytes: number) {
    super("out of order");
    this.size_bytes = size_bytes;
  }
}

async function write(edge: Edge, request: UploadRequest, upload: OpenUpload): Promise<WrittenBody> {
  const { repository, id } = request;
  const length = lengthOf(request);
  const isSmall = length !== null && (upload.tail?.size_bytes ?? 0) + length <= SMALL_BYTES;
  const leave = isSmall ? () => undefined : await takeUploadPlace();
  try {
    return await writeBody(edge.env.FILES, upload, length === 0 ? null : request.body, length);
  } catch (error) {
    if (error instanceof BodyTooLarge) {
      await repository.abortUpload(id);
      throw new RegistryError("SIZE_INVALID", `A blob may have ${BLOB_BYTES_MAX} bytes.`, { status: 413 });
    }
    if (!(error instanceof BrokenBody)) throw error;
    // The client may go on behind the last part; without one, where it was before.
    const { written } = error;
    if (written.size_bytes > upload.size_bytes) {
      await repository.saveChunk(id, upload.lease, { ...written, tail: null, sha256: null });
    }
    throw new RegistryError("BLOB_UPLOAD_INVALID", "The body broke off. GET the upload to see how much of it came.");
  } finally {
    leave();
  }
}

function lengthOf({ body, content_length }: UploadRequest): number | null {
  if (body === null) return 0;
  return content_length === undefined ? null : Number(content_length);
}

async function finish(
  edge: Edge,
  request: UploadRequest,
  upload: OpenUpload,
): Promise<{ bytes: BlobBytes; sha256: string | null }> {
  const { key, lease, tail } = upload;
  // A tail without parts is the whole blob already.
  if (lengthOf(request) === 0 && upload.runs.length === 0 && tail !== null) {
    return { bytes: { ...tail, runs: null }, sha256: upload.sha256 };
  }
  const { rest, size_bytes, sha256, runs } = await write(edge, request, upload);
  const last = partKey(key, lease, countParts(runs));
  if (rest.length > 0 || runs.length === 0) await edge.env.FILES.put(last, rest);
  if (runs.length === 0) return { bytes: { key: last, size_bytes, runs: null }, sha256 };
  return { bytes: { key, size_bytes, runs: addParts(runs, lease, rest.length > 0 ? 1 : 0) }, sha256 };
}

/** Hex of the stored bytes, read once more. */
async function digestOf(edge: Edge, bytes: BlobBytes, digest: string): Promise<string> {
  const stored = await openBlob(edge.env.FILES, bytes);
  if (stored === null) throw takenOver();
  const hash = new crypto.DigestStream(digestAlgorithm(digest) === "sha512" ? "SHA-512" : "SHA-256");
  await stored.pipeTo(hash);
  return Buffer.from(await hash.digest).toString("hex");
}

export function unknownUpload(): RegistryError {
  return new RegistryError("BLOB_UPLOAD_UNKNOWN", "There is no such upload, or it is over. Begin it again.");
}

function takenOver(): RegistryError {
  return new RegistryError("BLOB_UPLOAD_INVALID", "Another request writes to this upload. Begin it again.", {
    status: 409,
  });
}
