/**
 * Files in parts, for those that are larger than one request may be: begin, put each part in any order and as often as needed, complete. Beside
 * Replicate's API, which has nothing of the kind.
 */
import { createRoute, type z } from "@hono/zod-openapi";
import type { Context } from "hono";
import type { FileUpload } from "../../durable-objects/account-contract.ts";
import { accountStub } from "../../durable-objects/stubs.ts";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import {
  BeginUploadSchema,
  FileSchema,
  RetentionHeaderSchema,
  UploadParams,
  UploadPartParams,
  UploadPartSchema,
  UploadSchema,
} from "../../schema/api/files.ts";
import { UPLOAD_PART_BYTES, uploadParts } from "../../schema/files.ts";
import { isFileId } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import { fileIntent } from "../domain/file-intent.ts";
import { showFile } from "../domain/show-file.ts";
import { beginUpload, completeUpload, putUploadPart } from "../domain/uploads.ts";
import { type AppEnv, type Edge, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { allow, allowBytes, json, newRouter } from "./router.ts";

export const uploads = newRouter();
const tags = ["files"];
const UPLOAD_PATH = "/v1/files/uploads/{upload_id}";

uploads.openapi(
  createRoute({
    method: "post",
    path: "/v1/files/uploads",
    tags,
    summary: "Begin an upload in parts",
    description: "For files up to 5 GiB. What is not complete a day later is removed.",
    security: bearer,
    middleware: allow("files:write"),
    request: { headers: RetentionHeaderSchema, body: { required: true, content: json(BeginUploadSchema) } },
    responses: { 201: { description: "The upload", content: json(UploadSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { size_bytes, sha256, ...claims } = c.req.valid("json");
    const intent = fileIntent({
      name: claims.name,
      content_type: claims.content_type,
      metadata: JSON.stringify(claims.metadata ?? {}),
      retention: c.req.header("cogway-retention"),
    });
    const upload = await beginUpload(edge, callerOf(c), { ...intent, size_bytes, sha256: sha256 ?? null });
    return c.json(showUpload(edge, upload), 201);
  },
);

uploads.openapi(
  createRoute({
    method: "get",
    path: UPLOAD_PATH,
    tags,
    summary: "Which parts of an upload are there",
    security: bearer,
    middleware: allow("files:write"),
    request: { params: UploadParams },
    responses: { 200: { description: "The upload", content: json(UploadSchema) }, ...problemResponses },
  }),
  async (c) => c.json(showUpload(edgeOf(c), await requireUpload(c, c.req.valid("param").upload_id)), 200),
);

uploads.openapi(
  createRoute({
    method: "put",
    path: `${UPLOAD_PATH}/parts/{n}`,
    tags,
    summary: "Put a part of an upload",
    description:
      "Its bytes as they are, as many as the upload says. Again: it takes the place of the earlier one. With `Content-Digest` (RFC 9530, sha-256) they are held to it.",
    security: bearer,
    middleware: allowBytes("files:write"),
    request: {
      params: UploadPartParams,
      body: { required: true, content: { "*/*": { schema: { type: "string", format: "binary" } } } },
    },
    responses: { 200: { description: "It is stored", content: json(UploadPartSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { upload_id, n } = c.req.valid("param");
    const upload = await requireUpload(c, upload_id);
    const part = await putUploadPart(edgeOf(c), callerOf(c), upload, {
      n,
      body: c.req.raw.body,
      content_length: Number(c.req.header("content-length") ?? Number.NaN),
      content_digest: c.req.header("content-digest"),
    });
    return c.json(part, 200);
  },
);

uploads.openapi(
  createRoute({
    method: "post",
    path: `${UPLOAD_PATH}/complete`,
    tags,
    summary: "Make the file of its parts",
    description: "Reads it once to take its digests. Again: the same file.",
    security: bearer,
    middleware: allow("files:write"),
    request: { params: UploadParams },
    responses: { 201: { description: "The file", content: json(FileSchema) }, ...problems(409, 422) },
  }),
  async (c) => {
    const { upload_id } = c.req.valid("param");
    const { account_id } = callerOf(c);
    const account = accountStub(c.env, account_id);
    const isKnown = isFileId(upload_id, edgeOf(c).settings.signingSecret);
    const whole = isKnown ? await account.file(upload_id) : null;
    const file = whole ?? (await completeUpload(edgeOf(c), callerOf(c), await requireUpload(c, upload_id)));
    return c.json(showFile(edgeOf(c), account_id, file), 201);
  },
);

uploads.openapi(
  createRoute({
    method: "delete",
    path: UPLOAD_PATH,
    tags,
    summary: "Abort an upload",
    security: bearer,
    middleware: allow("files:write"),
    request: { params: UploadParams },
    responses: { 204: { description: "It is gone" }, ...problemResponses },
  }),
  async (c) => {
    const { upload_id } = c.req.valid("param");
    await requireUpload(c, upload_id);
    await accountStub(c.env, callerOf(c).account_id).removeFile(upload_id, "pending");
    return c.body(null, 204);
  },
);

async function requireUpload(c: Context<AppEnv>, id: string): Promise<FileUpload> {
  const isKnown = isFileId(id, edgeOf(c).settings.signingSecret);
  const upload = isKnown ? await accountStub(c.env, callerOf(c).account_id).upload(id) : null;
  if (upload === null) throw new AppError("upload.unknown", "There is no such upload, or it is over. Begin it again.");
  return upload;
}

function showUpload({ settings }: Edge, upload: FileUpload): z.infer<typeof UploadSchema> {
  const url = `${settings.publicUrl}/v1/files/uploads/${upload.id}`;
  return {
    id: upload.id,
    part_bytes: UPLOAD_PART_BYTES,
    parts: uploadParts(upload.file.size_bytes).count,
    received: upload.parts.map(({ part }) => part),
    expires_at: new Date(upload.expires_at).toISOString(),
    urls: { get: url, part: `${url}/parts/{n}`, complete: `${url}/complete` },
  };
}
