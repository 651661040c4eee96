/**
 * Files that models made, at signed addresses that need no token. R2 says whether a file is still there, so none outlives its prediction's data;
 * the bytes of repeats come from the Cache API.
 */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { problemResponses } from "../../schema/api/common.ts";
import { isOutputSignatureValid } from "../../schema/capabilities.ts";
import { isPredictionId } from "../../schema/ids.ts";
import { AppError } from "../../schema/problems.ts";
import { matchesEtag, parseRange, type RangeResult } from "../domain/http-range.ts";
import { type AppEnv, edgeOf } from "../env.ts";
import { newRouter, verbatim } from "./router.ts";

export const outputs = newRouter();

/** How long others may keep a copy. The data itself lives at least as long by default. */
const MAX_AGE_S = 3_600;
/** Up to this size a file is in the cache before its first reader has it, so the second is a hit; larger ones follow behind the answer. */
const CACHED_FIRST_BYTES_MAX = 8_388_608;
/** The platform keeps no larger objects in its cache. */
const CACHED_BYTES_MAX = 512 * 1024 ** 2;
/** Types that browsers run or render with scripts: never shown in place on our host. */
const ACTIVE_TYPE = /html|xml|svg|javascript|ecmascript/i;

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
      200: { description: "The file", content: { "*/*": { schema: { type: "string", format: "binary" } } } },
      206: { description: "The asked range of it" },
      304: { description: "It has not changed" },
      ...problemResponses,
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
  const headers = headersOf(file);
  if (matchesEtag(c.req.header("if-none-match"), file.httpEtag)) return new Response(null, { status: 304, headers });
  const isSameFile = (c.req.header("if-range") ?? file.httpEtag) === file.httpEtag;
  const range = parseRange(isSameFile ? c.req.header("range") : undefined, file.size);
  if (range.kind === "unsatisfiable") {
    throw new AppError("range.not_satisfiable", `The file has ${file.size} bytes.`, {
      headers: { "content-range": `bytes */${file.size}` },
    });
  }
  if (range.kind === "part") {
    headers.set("content-range", `bytes ${range.offset}-${range.offset + range.length - 1}/${file.size}`);
  }
  headers.set("content-length", String(range.kind === "part" ? range.length : file.size));
  const status = range.kind === "part" ? 206 : 200;
  if (c.req.method === "HEAD") return new Response(null, { status, headers });

  const cacheKey = `${edgeOf(c).settings.publicUrl}/${encodeURIComponent(key)}?etag=${file.etag}`;
  const cached = await caches.default.match(new Request(cacheKey, { headers: rangeHeader(range) }));
  headers.set("x-cogway-cache", cached?.status === status ? "HIT" : "MISS");
  if (cached?.status === status) return new Response(cached.body, { status, headers });
  await cached?.body?.cancel();
  if (cached === undefined && file.size <= CACHED_BYTES_MAX) {
    const filled = fillCache(c.env, cacheKey, key);
    if (file.size <= CACHED_FIRST_BYTES_MAX) await filled;
    else edgeOf(c).later(filled);
  }
  const body = await c.env.FILES.get(key, range.kind === "part" ? { range } : {});
  if (body === null) throw notFound();
  return new Response(body.body, { status, headers });
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

function headersOf(file: R2Object): Headers {
  const type = file.httpMetadata?.contentType ?? "application/octet-stream";
  const headers = new Headers({
    "content-type": type,
    etag: file.httpEtag,
    "last-modified": file.uploaded.toUTCString(),
    "cache-control": `public, max-age=${MAX_AGE_S}`,
    "accept-ranges": "bytes",
    "x-content-type-options": "nosniff",
    // Other sites' pages may show outputs, as Replicate's delivery host lets them.
    "cross-origin-resource-policy": "cross-origin",
  });
  if (ACTIVE_TYPE.test(type)) {
    headers.set("content-disposition", "attachment");
    headers.set("content-security-policy", "default-src 'none'; sandbox");
  }
  return headers;
}

function notFound(): AppError {
  return new AppError("output.not_found", "This file does not exist, or its prediction's data was removed.");
}
