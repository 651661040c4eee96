/**
 * Fetches a user's URL into a file under the URL guard: the connection goes to the address that was checked, each redirect is checked anew, and bytes, time
 * and decompressed size are bounded. No header of ours goes along but a user agent.
 */
import { createWriteStream } from "node:fs";
import { rm } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { isIPv6 } from "node:net";
import type { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createBrotliDecompress, createGunzip, createInflate } from "node:zlib";
import { checkUrl, type UrlPolicy } from "./url-guard.ts";

/** One input file, as sent and as decompressed. */
const INPUT_FILE_BYTES_MAX = 1024 ** 3;
/** From the first byte asked for to the last one stored. */
export const INPUT_FETCH_TIMEOUT_MS = 300_000;
const CONNECT_TIMEOUT_MS = 15_000;
const REDIRECTS_MAX = 3;

export interface DownloadBounds {
  bytesMax: number;
  timeoutMs: number;
}

export type Download =
  /** `filename`: what a host that is trusted calls it */
  | { kind: "done"; url: URL; content_type: string; size_bytes: number; filename?: string }
  | { kind: "failed"; reason: string };

/** Never throws; on failure no file is left. */
export async function downloadGuarded(
  text: string,
  path: string,
  policy: UrlPolicy,
  signal: AbortSignal,
  bounds: DownloadBounds = { bytesMax: INPUT_FILE_BYTES_MAX, timeoutMs: INPUT_FETCH_TIMEOUT_MS },
): Promise<Download> {
  const limit = AbortSignal.any([signal, AbortSignal.timeout(bounds.timeoutMs)]);
  let next = text;
  for (let hops = 0; hops <= REDIRECTS_MAX; hops++) {
    const check = await checkUrl(next, policy);
    if (!check.ok) return failed(check.reason);
    const response = await open(check.url, check.address, limit);
    if (response instanceof Error)
      return failed(limitReason(limit, bounds) ?? `it cannot be fetched (${response.message})`);
    const status = response.statusCode ?? 0;
    if ([301, 302, 303, 307, 308].includes(status)) {
      response.destroy();
      const location = URL.parse(response.headers.location ?? "", check.url.href);
      if (location === null) return failed("it redirects to nowhere");
      next = location.href;
      continue;
    }
    if (status !== 200) {
      response.destroy();
      return failed(`its host answered ${status}`);
    }
    return save(response, path, check.url, limit, bounds);
  }
  return failed(`it redirects more than ${REDIRECTS_MAX} times`);
}

function open(url: URL, address: string, signal: AbortSignal): Promise<http.IncomingMessage | Error> {
  const transport = url.protocol === "https:" ? https : http;
  return new Promise((resolve) => {
    const made = transport.get(url, {
      agent: false,
      signal,
      // The answer that was checked is the only one there is; the Host header and the name in TLS stay the URL's.
      lookup: (_name, options, callback) => {
        const family = isIPv6(address) ? 6 : 4;
        if (options.all === true) callback(null, [{ address, family }]);
        else callback(null, address, family);
      },
      headers: { "user-agent": "Cogway", accept: "*/*", "accept-encoding": "identity" },
    });
    made.setTimeout(CONNECT_TIMEOUT_MS, () => made.destroy(new Error("timed out")));
    made.on("error", resolve);
    made.on("response", resolve);
  });
}

async function save(
  response: http.IncomingMessage,
  path: string,
  url: URL,
  signal: AbortSignal,
  bounds: DownloadBounds,
): Promise<Download> {
  const tooLarge = `it is larger than ${bounds.bytesMax} bytes`;
  if (Number(response.headers["content-length"] ?? 0) > bounds.bytesMax) {
    response.destroy();
    return failed(tooLarge);
  }
  const body = decompress(response);
  if (body === null) {
    response.destroy();
    return failed("it is compressed in a way that is not understood");
  }
  let size = 0;
  let isTooLarge = false;
  try {
    const counted = async function* (chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
      for await (const chunk of chunks) {
        size += chunk.length;
        if (size > bounds.bytesMax) {
          isTooLarge = true;
          throw new Error(tooLarge);
        }
        yield chunk;
      }
    };
    await pipeline(body, counted, createWriteStream(path, { flags: "wx", mode: 0o600 }), { signal });
  } catch {
    response.destroy();
    await rm(path, { force: true });
    if (isTooLarge) return failed(tooLarge);
    return failed(limitReason(signal, bounds) ?? "its transfer broke off");
  }
  const content_type = response.headers["content-type"] ?? "application/octet-stream";
  return { kind: "done", url, content_type, size_bytes: size };
}

/** We ask for plain bytes, but some hosts compress all the same. Null for an encoding that we do not know. */
function decompress(response: http.IncomingMessage): Readable | null {
  const decoder = decoderOf(response.headers["content-encoding"]?.toLowerCase() ?? "identity");
  if (decoder === null || decoder === "none") return decoder === null ? null : response;
  // A transfer that breaks off must end the decoder too, which `pipe` alone does not do.
  response.on("error", (error) => decoder.destroy(error));
  response.on("aborted", () => decoder.destroy(new Error("broke off")));
  decoder.on("close", () => response.destroy());
  return response.pipe(decoder);
}

function decoderOf(encoding: string): Transform | "none" | null {
  switch (encoding) {
    case "identity":
      return "none";
    case "gzip":
    case "x-gzip":
      return createGunzip();
    case "deflate":
      return createInflate();
    case "br":
      return createBrotliDecompress();
    default:
      return null;
  }
}

function limitReason(signal: AbortSignal, bounds: DownloadBounds): string | null {
  return signal.aborted ? `it did not arrive within ${Math.round(bounds.timeoutMs / 1000)} s` : null;
}

function failed(reason: string): Download {
  return { kind: "failed", reason };
}
