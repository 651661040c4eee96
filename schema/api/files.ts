/** Files on the wire: Replicate's HTTP API, and uploads in parts beside it. */
import { z } from "@hono/zod-openapi";
import { FILE_NAME_BYTES_MAX, UPLOAD_BYTES_MAX, UPLOAD_PART_BYTES } from "../files.ts";
import { CursorQuerySchema, pageOf } from "./common.ts";

const HEX_SHA256 = /^[0-9a-f]{64}$/;

export const FileSchema = z
  .object({
    id: z.string(),
    name: z.string(),
    content_type: z.string(),
    size: z.number().int().describe("bytes"),
    etag: z.string().describe("MD5, hex"),
    checksums: z.object({ sha256: z.string(), md5: z.string() }).describe("hex"),
    metadata: z.record(z.string(), z.unknown()),
    created_at: z.string(),
    expires_at: z.string().nullable().describe("null: kept until it is deleted"),
    urls: z.object({
      get: z.string().describe("this object; as an input of a prediction or training, the file itself"),
      download: z.string().describe("the bytes: signed, works without a token until the file expires, a day at most"),
    }),
  })
  .openapi("File");
export const FilePageSchema = pageOf(FileSchema, "FilePage");
export const FileParams = z.object({ file_id: z.string() });
export const ListFilesQuery = CursorQuerySchema;

/** Only for the document: the form is read as a stream. */
export const CreateFileForm = z
  .object({
    content: z.string().openapi({ format: "binary" }).describe("the file; name and type are those of its part"),
    filename: z.string().optional().describe(`at most ${FILE_NAME_BYTES_MAX} bytes of UTF-8`),
    type: z.string().optional().describe("media type"),
    metadata: z.string().optional().describe("a JSON object, as a plain field or as a file"),
  })
  .openapi("FileForm");

export const RetentionHeaderSchema = z.object({
  "cogway-retention": z
    .string()
    .optional()
    .openapi({ example: "7d" })
    .describe("how long the file is kept, such as `12h`, `7d` or `forever`; a day by default"),
});

export const DownloadQuery = z.object({
  owner: z.string().optional().describe("the account"),
  expiry: z.string().optional().describe("seconds since 1970"),
  signature: z.string().optional().describe('base64 of HMAC-SHA256 of "{owner} {id} {expiry}"'),
});

export const BeginUploadSchema = z
  .strictObject({
    name: z.string().min(1),
    content_type: z.string().optional(),
    size_bytes: z.number().int().min(1).max(UPLOAD_BYTES_MAX),
    sha256: z.string().regex(HEX_SHA256).optional().describe("of the whole file, hex: checked at the end"),
    metadata: z.record(z.string(), z.unknown()).optional(),
  })
  .openapi("UploadRequest");

export const UploadSchema = z
  .object({
    id: z.string().describe("of the upload, and of the file that it becomes"),
    part_bytes: z.number().int().describe(`each part but the last has exactly so many bytes: ${UPLOAD_PART_BYTES}`),
    parts: z.number().int().describe("how many there are, numbered from 1"),
    received: z.array(z.number().int()).describe("numbers of the parts that are there"),
    expires_at: z.string().describe("then an unfinished upload is removed"),
    urls: z.object({
      get: z.string(),
      part: z.string().describe("with the number for `{n}`"),
      complete: z.string(),
    }),
  })
  .openapi("Upload");
export const UploadParams = z.object({ upload_id: z.string() });
export const UploadPartParams = UploadParams.extend({ n: z.coerce.number().int().min(1) });
export const UploadPartSchema = z
  .object({ part: z.number().int(), size_bytes: z.number().int(), sha256: z.string().describe("hex") })
  .openapi("UploadPart");
