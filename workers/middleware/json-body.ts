/**
 * Reads JSON bodies within bounds, before anything parses them: bytes, nesting, and how many large ones this isolate holds at once.
 * The text stays in Hono's cache, so validators and routes read it again at no cost. An empty body is never parsed.
 */
import type { MiddlewareHandler } from "hono";
import { AppError } from "../../schema/problems.ts";
import type { AppEnv } from "../env.ts";

/** Creates carry data URIs. */
export const CREATE_BODY_BYTES_MAX = 16_777_216;
export const BODY_BYTES_MAX = 1_048_576;
/** An isolate has 128 MB, and a parsed body costs several times its bytes: of bodies above the first bound only so many are held at once. */
const LARGE_BODY_BYTES = 4_194_304;
const LARGE_BODIES_MAX = 4;
/** Deeper JSON serves nobody and costs stack. */
const JSON_DEPTH_MAX = 64;

let largeBodies = 0;

/** Bounds the body of every request that this middleware meets to `bytesMax`, and the nesting of its JSON. */
export function jsonBody(bytesMax: number, depthMax = JSON_DEPTH_MAX): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    const stream = c.req.raw.body;
    if (stream === null) return next();
    const announced = Number(c.req.header("content-length") ?? Number.NaN);
    if (announced > bytesMax) throw tooLarge(bytesMax);
    let holdsPlace = false;
    const takePlace = () => {
      if (holdsPlace) return;
      if (largeBodies >= LARGE_BODIES_MAX)
        throw new AppError("edge.busy", "Too many large requests at once. Try again.");
      largeBodies += 1;
      holdsPlace = true;
    };
    try {
      if (announced > LARGE_BODY_BYTES) takePlace();
      const text =
        announced <= LARGE_BODY_BYTES
          ? await readAnnounced(c.req.raw, bytesMax)
          : await readText(stream, bytesMax, takePlace);
      if (exceedsDepth(text, depthMax)) {
        throw new AppError("request.malformed", `JSON is nested deeper than ${depthMax} levels.`);
      }
      // Hono keeps a promise here, whatever its types say.
      c.req.bodyCache.text = Promise.resolve(text) as unknown as string;
      await next();
    } finally {
      if (holdsPlace) largeBodies -= 1;
    }
  };
}

function tooLarge(bytesMax: number): AppError {
  return new AppError("request.too_large", `The body is larger than ${bytesMax} bytes. Pass large inputs as URLs.`);
}

/** A body whose length is announced is small enough to be taken whole, which costs a tenth of reading its stream. */
async function readAnnounced(request: Request, bytesMax: number): Promise<string> {
  let bytes: ArrayBuffer;
  try {
    bytes = await request.arrayBuffer();
  } catch (error) {
    throw unreadable(error);
  }
  if (bytes.byteLength > bytesMax) throw tooLarge(bytesMax);
  try {
    return wholeText.decode(bytes);
  } catch (error) {
    throw unreadable(error);
  }
}

/** Drops a byte order mark at the start of the body, and refuses what is not UTF-8. */
const wholeText = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

function unreadable(cause: unknown): AppError {
  return new AppError("request.malformed", "The body is not UTF-8 text, or ended too early.", { cause });
}

async function readText(stream: ReadableStream<Uint8Array>, bytesMax: number, onLarge: () => void): Promise<string> {
  // Left to do it, workerd drops a byte order mark at the start of any chunk, not of the body alone.
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const reader = stream.getReader();
  let bytes = 0;
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) {
        text += decoder.decode();
        return text.startsWith("\ufeff") ? text.slice(1) : text;
      }
      bytes += value.byteLength;
      if (bytes > bytesMax) throw tooLarge(bytesMax);
      if (bytes > LARGE_BODY_BYTES) onLarge();
      text += decoder.decode(value, { stream: true });
    }
  } catch (error) {
    await reader.cancel().catch(() => undefined);
    if (error instanceof AppError) throw error;
    throw unreadable(error);
  }
}

/** Whether arrays and objects in JSON text nest deeper than `depthMax`. Text that is no JSON may answer either way: it is refused later. */
export function exceedsDepth(text: string, depthMax: number): boolean {
  let depth = 0;
  for (let i = 0; i < text.length; i++) {
    const character = text.charCodeAt(i);
    if (character === QUOTE) {
      // Strings are most of a large body (data URIs), so they are jumped over, not walked.
      for (i = text.indexOf('"', i + 1); i >= 0 && isEscaped(text, i); i = text.indexOf('"', i + 1));
      if (i < 0) return false;
    } else if (character === OPEN_BRACKET || character === OPEN_BRACE) {
      depth += 1;
      if (depth > depthMax) return true;
    } else if (character === CLOSE_BRACKET || character === CLOSE_BRACE) depth -= 1;
  }
  return false;
}

const QUOTE = 34;
const BACKSLASH = 92;
const OPEN_BRACKET = 91;
const CLOSE_BRACKET = 93;
const OPEN_BRACE = 123;
const CLOSE_BRACE = 125;

function isEscaped(text: string, quoteAt: number): boolean {
  let backslashes = 0;
  while (text.charCodeAt(quoteAt - 1 - backslashes) === BACKSLASH) backslashes += 1;
  return backslashes % 2 === 1;
}
