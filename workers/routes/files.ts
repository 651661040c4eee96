/** Files that callers upload: Replicate's HTTP API. Larger ones come in parts: uploads.ts. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { except } from "hono/combine";
import { accountStub } from "../../durable-objects/stubs.ts";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import {
  CreateFileForm,
  DownloadQuery,
  FilePageSchema,
  FileParams,
  FileSchema,
  ListFilesQuery,
  RetentionHeaderSchema,
} from "../../schema/api/files.ts";
import { fileKey, isDownloadSignatureValid, type StoredFile } from "../../schema/files.ts";
import { isFileId } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import { createFile } from "../domain/create-file.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { showFile } from "../domain/show-file.ts";
import { answerStored } from "../domain/stored-file.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { allow, allowBytes, json, newRouter, verbatim } from "./router.ts";
import { uploads } from "./uploads.ts";

export const files = newRouter();
const tags = ["files"];
const PAGE_ROWS = 100;

const createFileRoute = createRoute({
  method: "post",
  path: "/v1/files",
  tags,
  summary: "Upload a file",
  description: "At most 100 MiB; larger files come in parts (`POST /v1/files/uploads`). The body is read as a stream.",
  security: bearer,
  request: {
    headers: RetentionHeaderSchema,
    body: { required: true, content: { "multipart/form-data": { schema: CreateFileForm } } },
  },
  responses: { 201: { description: "The file", content: json(FileSchema) }, ...problemResponses },
});
// A typed route would read the form whole before its handler runs.
files.openAPIRegistry.registerPath(createFileRoute);
files.on("POST", ["/v1/files"], ...allowBytes("files:write"), async (c: Context<AppEnv>) => {
  const file = await createFile(edgeOf(c), callerOf(c), {
    body: c.req.raw.body,
    content_type: c.req.header("content-type") ?? "",
    content_length: Number(c.req.header("content-length") ?? Number.NaN),
    retention: c.req.header("cogway-retention"),
  });
  return c.json(showFile(edgeOf(c), callerOf(c).account_id, file), 201);
});

/** A row of the list, and on which side of it the page lies: `before` it is older. */
const FileCursor = z.object({
  side: z.enum(["before", "after"]),
  created_at: z.number().int(),
  file_id: z.string(),
});

files.openapi(
  createRoute({
    method: "get",
    path: "/v1/files",
    tags,
    summary: "List your files, newest first",
    security: bearer,
    middleware: allow("files:read"),
    request: { query: ListFilesQuery },
    responses: { 200: { description: "A page of files", content: json(FilePageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { account_id } = callerOf(c);
    const cursor = decodeCursor(c.req.valid("query").cursor, FileCursor);
    const { files: rows, more } = await accountStub(c.env, account_id).files({
      limit: PAGE_ROWS,
      ...(cursor === null ? {} : { [cursor.side]: cursor }),
    });
    const isBackward = cursor?.side === "after";
    const url = (side: "before" | "after", row: StoredFile | undefined): string | null => {
      const position = row === undefined ? null : { side, created_at: row.created_at, file_id: row.id };
      return pageUrl(edge.settings.publicUrl, "/v1/files", c.req.query(), position);
    };
    const hasNewer = isBackward ? more : cursor !== null;
    return c.json(
      {
        previous: hasNewer ? url("after", rows[0]) : null,
        next: isBackward || more ? url("before", rows.at(-1)) : null,
        results: rows.map((row) => showFile(edge, account_id, row)),
      },
      200,
    );
  },
);

files.openapi(
  createRoute({
    method: "get",
    path: "/v1/files/{file_id}",
    tags,
    summary: "Get a file's description",
    security: bearer,
    middleware: allow("files:read"),
    request: { params: FileParams },
    responses: { 200: { description: "The file", content: json(FileSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { account_id } = callerOf(c);
    const file = await requireFile(c, account_id, c.req.valid("param").file_id);
    return c.json(showFile(edgeOf(c), account_id, file), 200);
  },
);

files.openapi(
  createRoute({
    method: "delete",
    path: "/v1/files/{file_id}",
    tags,
    summary: "Delete a file",
    description:
      "At once and for good: a prediction that waits and was to read it fails; one that runs has its own copy.",
    security: bearer,
    middleware: allow("files:write"),
    request: { params: FileParams },
    responses: { 204: { description: "It is gone" }, ...problemResponses },
  }),
  async (c) => {
    const { file_id } = c.req.valid("param");
    const isKnown = isFileId(file_id, edgeOf(c).settings.signingSecret);
    if (!isKnown || !(await accountStub(c.env, callerOf(c).account_id).removeFile(file_id, "ready"))) {
      throw notFound(file_id);
    }
    return c.body(null, 204);
  },
);

files.openapi(
  createRoute({
    method: "get",
    path: "/v1/files/{file_id}/download",
    tags,
    summary: "Download a file",
    description:
      "With `owner`, `expiry` and `signature` of `urls.download` no token is needed; with none of them the owner's is.",
    security: [{}, ...bearer],
    middleware: except(isSigned, ...allowBytes("files:read")),
    request: { params: FileParams, query: DownloadQuery },
    responses: {
      200: { description: "The file", content: { "*/*": { schema: { type: "string", format: "binary" } } } },
      206: { description: "The asked range of it" },
      304: { description: "It has not changed" },
      ...problems(416),
    },
  }),
  async (c) => {
    const { file_id } = c.req.valid("param");
    const file = await requireFile(c, ownerOfDownload(c, file_id), file_id);
    const content = {
      content_type: file.content_type,
      size_bytes: file.size_bytes,
      etag: `"${file.md5}"`,
      name: file.name,
      headers: { "cache-control": "private, no-cache", "last-modified": new Date(file.created_at).toUTCString() },
    };
    const answer = await answerStored(c.req.raw, content, async (range) => {
      const stored = await c.env.FILES.get(fileKey(file_id), range.kind === "part" ? { range } : {});
      return stored?.body ?? null;
    });
    if (answer === null) throw notFound(file_id);
    return verbatim(answer);
  },
);

/** An address with any of these stands on its signature alone. */
function isSigned(c: Context): boolean {
  return ["owner", "expiry", "signature"].some((name) => c.req.query(name) !== undefined);
}

/** The account whose file may be read: that of the signature, else that of the token. */
function ownerOfDownload(c: Context<AppEnv>, id: string): string {
  if (!isSigned(c)) return callerOf(c).account_id;
  const { owner = "", expiry = "", signature = "" } = c.req.query();
  const signed = { id, owner, expiry, signature };
  if (!isDownloadSignatureValid(edgeOf(c).settings.signingSecret, signed, Date.now())) throw notFound(id);
  return owner;
}

/** Refuses ids that we did not make before any object is touched. */
async function requireFile(c: Context<AppEnv>, accountId: string, id: string): Promise<StoredFile> {
  const isKnown = isFileId(id, edgeOf(c).settings.signingSecret);
  const file = isKnown ? await accountStub(c.env, accountId).file(id) : null;
  if (file === null) throw notFound(id);
  return file;
}

function notFound(id: string): AppError {
  return new AppError("file.not_found", `The file ${id.slice(0, 64)} does not exist, or has expired.`);
}

files.route("/", uploads);
