/** What compilers made in a model's setup, between origins and R2 (gpu-origin/compile-cache.ts says what keeps the caches of accounts apart). */
import { createRoute, z } from "@hono/zod-openapi";
import { problemResponses, problems } from "../../schema/api/common.ts";
import { OUTPUT_PART_BYTES } from "../../schema/origin-protocol.ts";
import { AppError } from "../../schema/problems.ts";
import { compileCacheKey, makeRoomForCompileCache } from "../domain/compile-caches.ts";
import { edgeOf } from "../env.ts";
import { claimedDigest, held, verifyOrigin, verifyOriginHeaders } from "../middleware/verify-origin.ts";
import { findVersions } from "../storage/models.ts";
import { json, newRouter, verbatim } from "./router.ts";

export const originCaches = newRouter();
const tags = ["origins"];
const security = [{ originSignature: [] as string[] }];
const path = "/origin/v1/compile-caches/{version_id}/{key}";
const params = z.object({
  version_id: z.string().regex(/^[0-9a-f]{64}$/),
  /** digest of the deployment key, the function and the hardware */
  key: z.string().regex(/^[0-9a-f]{64}$/),
});
const octets = { schema: { type: "string" as const, format: "binary" } };

originCaches.openapi(
  createRoute({
    method: "get",
    path,
    tags,
    summary: "Fetch a compile cache",
    security,
    middleware: [verifyOrigin],
    request: { params },
    responses: {
      200: { description: "The cache, a gzipped tar", content: { "application/gzip": octets } },
      ...problemResponses,
    },
  }),
  async (c) => {
    const { version_id, key } = c.req.valid("param");
    const stored = await c.env.FILES.get(compileCacheKey(version_id, key));
    if (stored === null) throw new AppError("output.not_found", "No compile cache is kept for this hardware.");
    const headers = { "content-type": "application/gzip", "content-length": String(stored.size) };
    return verbatim(new Response(stored.body, { headers }));
  },
);

originCaches.openapi(
  createRoute({
    method: "put",
    path,
    tags,
    summary: "Keep a compile cache",
    description: "It takes the place of an earlier one.",
    security,
    middleware: [verifyOriginHeaders],
    request: { params, body: { required: true, content: { "application/gzip": octets } } },
    responses: { 200: { description: "Kept", content: json(z.object({})) }, ...problems(404) },
  }),
  async (c) => {
    const { version_id, key } = c.req.valid("param");
    const size = Number(c.req.header("content-length") ?? Number.NaN);
    if (!Number.isSafeInteger(size)) throw new AppError("request.malformed", "Content-Length is needed.");
    if (size > OUTPUT_PART_BYTES) {
      throw new AppError("request.too_large", `A compile cache may have ${OUTPUT_PART_BYTES} bytes.`);
    }
    const edge = edgeOf(c);
    if ((await findVersions(edge.env.DB, version_id, edge.later)).length === 0) {
      throw new AppError("version.not_found", "There is no such version.");
    }
    const body = c.req.raw.body?.pipeThrough(new FixedLengthStream(size)) ?? new Uint8Array();
    await makeRoomForCompileCache(c.env.FILES, version_id, key);
    // R2 refuses bytes that are not what was signed.
    await held(c.env.FILES.put(compileCacheKey(version_id, key), body, { sha256: claimedDigest(c) }));
    return c.json({}, 200);
  },
);
