/** Uploads a file of an input, as a whole or in parts. */
import { existsSync, openAsBlob, statSync } from "node:fs";
import { basename } from "node:path";
import type { z } from "zod";
import type { FileSchema, UploadSchema } from "../../../schema/api/files.ts";
import { errorOf } from "../../../schema/client/error.ts";
import type { Connection } from "./connection.ts";
import { CliFault } from "./fault.ts";
import { type Failure, retried, retryAfterMs } from "./retry.ts";

type StoredFile = z.infer<typeof FileSchema>;
type Upload = z.infer<typeof UploadSchema>;

/** Larger files go in parts: platforms bound the body of a request. */
const WHOLE_BYTES_MAX = 64 * 1024 ** 2;

/** Broken off, or an answer that another try can better. */
class UploadFault extends Error {
  readonly failure: Failure;

  constructor(message: string, failure: Failure, cause: unknown) {
    super(message, { cause });
    this.failure = failure;
  }
}

/** The address that a prediction takes as an input. */
export async function uploadFile(connection: Connection, path: string, signal: AbortSignal): Promise<string> {
  if (!existsSync(path) || !statSync(path).isFile()) throw new CliFault(`There is no file ${path}.`);
  const blob = await openAsBlob(path);
  const name = basename(path);
  if (blob.size <= WHOLE_BYTES_MAX) {
    const form = new FormData();
    form.append("content", blob, name);
    const file = (await call(connection, "POST", "/v1/files", { body: form }, signal)) as StoredFile;
    return file.urls.get;
  }
  const json = { "content-type": "application/json" };
  const body = JSON.stringify({ name, size_bytes: blob.size });
  const upload = (await call(connection, "POST", "/v1/files/uploads", { body, headers: json }, signal)) as Upload;
  for (let part = 1; part <= upload.parts; part++) {
    const bytes = blob.slice((part - 1) * upload.part_bytes, part * upload.part_bytes);
    await call(connection, "PUT", `/v1/files/uploads/${upload.id}/parts/${part}`, { body: bytes }, signal);
  }
  const file = (await call(connection, "POST", `/v1/files/uploads/${upload.id}/complete`, {}, signal)) as StoredFile;
  return file.urls.get;
}

function call(
  { url, token }: Connection,
  method: string,
  path: string,
  init: { body?: FormData | Blob | string; headers?: Record<string, string> },
  signal: AbortSignal,
): Promise<unknown> {
  return retried(
    async () => {
      const headers = { ...init.headers, authorization: `Bearer ${token}` };
      const answer = await fetch(url + path, { ...init, method, headers, signal }).catch((cause: unknown) => {
        throw new UploadFault(`${url} broke off`, { status: null, retryAfterMs: null }, cause);
      });
      if (answer.ok) return answer.json();
      const error = await errorOf(answer);
      const wait = retryAfterMs(answer.headers.get("retry-after"), Date.now());
      throw answer.status >= 500 || answer.status === 429
        ? new UploadFault(error.detail, { status: answer.status, retryAfterMs: wait }, error)
        : error;
    },
    (error) => (error instanceof UploadFault ? error.failure : null),
    { signal },
  );
}
