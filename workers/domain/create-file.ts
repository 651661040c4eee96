/** The use case of an upload in one request: the body streams through the form's parser into R2, between a row that expects it and one that has it. */
import { accountStub } from "../../durable-objects/stubs.ts";
import { FILE_BYTES_MAX, fileKey, type StoredFile } from "../../schema/files.ts";
import { newFileId } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import type { Caller, Edge } from "../env.ts";
import { FileWriter, fileTooLarge } from "../storage/file-writer.ts";
import { fileIntent } from "./file-intent.ts";
import { readUploadForm } from "./upload-form.ts";

/** Boundaries, headers of parts and the small fields around a file. */
const FORM_BYTES_MAX = 1_048_576;

/** A refused body up to this size is taken to its end. */
const DISCARD_BYTES_MAX = 268_435_456;
const DISCARD_TIME_MAX_MS = 30_000;

export interface UploadRequest {
  body: ReadableStream<Uint8Array> | null;
  content_type: string;
  /** NaN when it is not announced */
  content_length: number;
  retention: string | undefined;
}

export async function createFile(edge: Edge, caller: Caller, request: UploadRequest): Promise<StoredFile> {
  try {
    // Nothing of it is kept, so nothing of it is parsed.
    if (request.content_length > FILE_BYTES_MAX + FORM_BYTES_MAX) throw fileTooLarge();
    return await receiveFile(edge, caller, request);
  } catch (error) {
    await discardRest(request);
    throw error;
  }
}

async function receiveFile(edge: Edge, caller: Caller, request: UploadRequest): Promise<StoredFile> {
  const id = newFileId(edge.settings.signingSecret);
  const account = accountStub(edge.env, caller.account_id);
  let isBegun = false;
  const writer = new FileWriter(edge.env.FILES, id, async (upload_id) => {
    isBegun = await account.beginFile({ id, created_at: Date.now(), upload_id, file: null });
    if (!isBegun) throw tooManyUploads();
  });
  try {
    const { content, fields } = await readUploadForm(request.body, request.content_type, (bytes) =>
      writer.write(bytes),
    );
    const intent = fileIntent({
      name: fields.filename ?? content.filename,
      content_type: fields.type ?? content.type,
      metadata: fields.metadata,
      retention: request.retention,
    });
    const file = await account.finishFile(id, { ...intent, ...(await writer.finish()) });
    if (file !== null) return file;
    await edge.env.FILES.delete(fileKey(id));
    throw new Error("an upload was given up while it came");
  } catch (error) {
    if (isBegun) edge.later(account.removeFile(id, "pending"));
    throw error;
  } finally {
    writer.release();
  }
}

/** Some clients (fetch of Node) see no answer that comes before their whole body is taken, only a broken connection: then nobody reads what was wrong. */
async function discardRest({ body, content_length }: UploadRequest): Promise<void> {
  if (body === null || !(content_length <= DISCARD_BYTES_MAX)) return;
  const reader = body.getReader();
  const deadline = setTimeout(() => void reader.cancel().catch(() => undefined), DISCARD_TIME_MAX_MS);
  try {
    while (!(await reader.read()).done);
  } catch {
    // It broke off: there is nobody to answer.
  } finally {
    clearTimeout(deadline);
  }
}

export function tooManyUploads(): AppError {
  return new AppError("upload.too_many", "Too many uploads are unfinished. Complete or abort some: DELETE their URL.");
}
