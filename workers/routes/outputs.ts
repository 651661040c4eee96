/**
 * Files that models made, at signed addresses that need no token. R2 says whether a file is still there, so none outlives its prediction's data;
 * the bytes of repeats come from the Cache API.
 */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { problems } from "../../schema/api/common.ts";
import { isOutputSignatureValid } from "../../schema/capabilities.ts";
import { isPredictionId } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import type { RangeResult } from "../domain/http-range.ts";
import { answerStored } from "../domain/stored-file.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { newRouter, verbatim } from "./router.ts";

export const outputs = newRouter();

/** How long others may keep a copy. The data itself lives at least as long by default. */
const MAX_AGE_S = 3_600;
/** Up to this size a file is in the cache before its first reader has it, so the second is a hit; larger ones follow behind the answer. */
const CACHED_FIRST_BYTES_MAX = 8_388_608;
/** The platform keeps no larger objects in its cache. */
const CACHED_BYTES_MAX = 512 * 1024 ** 2;

const cacheHeader = {
  "x-cogway-cache": { description: "whether the bytes came from the cache: HIT or MISS", schema: { type: "string" } },
} as const;

outputs.openapi(
  createRoute({
    method: "get",
    path: "/outputs/{prediction_id}/{n}/{name}",
    tags: ["predictions"],
    summary: "Download an output file",
    security: [],
    request: {
      params: z.object({ prediction_id: z.string(), n: z.string(), name: z.string() }),
      query: z.object({ s: z.string().optional().describe("signature") }),
    },
    responses: {
      200: {
        description: "The file",
        headers: cacheHeader,
        content: { "*/*": { schema: { type: "string", format: "binary" } } },
      },
      206: { description: "The asked range of it", headers: cacheHeader },
      304: { description: "It has not changed" },
      ...problems(416),
    },
  }),
  async (c) => {
    const { prediction_id, n, name } = c.req.valid("param");
    const { signingSecret } = edgeOf(c).settings;
    const isSigned =
      /^\d{1,9}$/.test(n) &&
      isPredictionId(prediction_id, signingSecret) &&
      isOutputSignatureValid(signingSecret, { prediction_id, n: Number(n), name }, c.req.valid("query").s ?? "");
    if (!isSigned) throw notFound();
    return verbatim(await readOutput(c, `outputs/${prediction_id}/${Number(n)}/${name}`));
  },
);

async function readOutput(c: Context<AppEnv>, key: string): Promise<Response> {
  const file = await c.env.FILES.head(key);
  if (file === null) throw notFound();
  const content = {
    content_type: file.httpMetadata?.contentType ?? "application/octet-stream",
    size_bytes: file.size,
    etag: file.httpEtag,
    name: null,
    headers: { "last-modified": file.uploaded.toUTCString(), "cache-control": `public, max-age=${MAX_AGE_S}` },
  };
  const answer = await answerStored(c.req.raw, content, async (range, headers) => {
    const cached = await readCached(c, file, range);
    headers.set("x-cogway-cache", cached === null ? "MISS" : "HIT");
    return cached ?? (await c.env.FILES.get(key, range.kind === "part" ? { range } : {}))?.body ?? null;
  });
  if (answer === null) throw notFound();
  return answer;
}

/** What the cache has of the range; null when nothing, and then the next reader's cache is filled. */
async function readCached(c: Context<AppEnv>, file: R2Object, range: RangeResult): Promise<ReadableStream | null> {
  const cacheKey = `${edgeOf(c).settings.publicUrl}/${encodeURIComponent(file.key)}?etag=${file.etag}`;
  const cached = await caches.default.match(new Request(cacheKey, { headers: rangeHeader(range) }));
  if (cached?.status === (range.kind === "part" ? 206 : 200)) return cached.body;
  await cached?.body?.cancel();
  if (cached === undefined && file.size <= CACHED_BYTES_MAX) {
    const filled = fillCache(c.env, cacheKey, file.key);
    if (file.size <= CACHED_FIRST_BYTES_MAX) await filled;
    else edgeOf(c).later(filled);
  }
  return null;
}

/** A cache that cannot take the file costs a hit later, never the answer. */
async function fillCache(env: Env, cacheKey: string, key: string): Promise<void> {
  try {
    const file = await env.FILES.get(key);
    if (file === null) return;
    const headers = { "content-length": String(file.size), "cache-control": `public, max-age=${MAX_AGE_S}` };
    await caches.default.put(cacheKey, new Response(file.body, { headers }));
  } catch (error) {
    console.warn(JSON.stringify({ level: "warn", message: "an output was not cached", error: String(error) }));
  }
}

function rangeHeader(range: RangeResult): Record<string, string> {
  return range.kind === "part" ? { range: `bytes=${range.offset}-${range.offset + range.length - 1}` } : {};
}

function notFound(): AppError {
  return new AppError("output.not_found", "This file does not exist, or its prediction's data was removed.");
}
