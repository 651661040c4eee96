/** Answers with one stored file: conditions, ranges and HEAD of RFC 9110, and headers that keep a browser from running it on our host. */
import { create as createDisposition } from "content-disposition";
import { AppError } from "../../schema/problems.ts";
import { matchesEtag, parseRange, type RangeResult } from "./http-range.ts";

/** Types that browsers run or render with scripts: never shown in place on our host. */
const ACTIVE_TYPE = /html|xml|svg|javascript|ecmascript/i;

export interface StoredContent {
  content_type: string;
  size_bytes: number;
  /** quoted */
  etag: string;
  /** further headers, such as how it may be cached */
  headers: Record<string, string>;
  /** the name that a browser saves it under; null leaves that to the URL */
  name: string | null;
}

/** `read` gives the bytes of a range; null when they are gone. It may add headers to those of the answer. */
export async function answerStored(
  request: Request,
  content: StoredContent,
  read: (range: RangeResult, headers: Headers) => Promise<ReadableStream | null>,
): Promise<Response | null> {
  const { size_bytes, etag } = content;
  const headers = headersOf(content);
  const asked = (name: string): string | undefined => request.headers.get(name) ?? undefined;
  if (matchesEtag(asked("if-none-match"), etag)) return new Response(null, { status: 304, headers });
  const isSameFile = (asked("if-range") ?? etag) === etag;
  const range = parseRange(isSameFile ? asked("range") : undefined, size_bytes);
  if (range.kind === "unsatisfiable") {
    throw new AppError("range.not_satisfiable", `The file has ${size_bytes} bytes.`, {
      headers: { "content-range": `bytes */${size_bytes}` },
    });
  }
  if (range.kind === "part") {
    headers.set("content-range", `bytes ${range.offset}-${range.offset + range.length - 1}/${size_bytes}`);
  }
  headers.set("content-length", String(range.kind === "part" ? range.length : size_bytes));
  const status = range.kind === "part" ? 206 : 200;
  if (request.method === "HEAD") return new Response(null, { status, headers });
  const body = await read(range, headers);
  return body === null ? null : new Response(body, { status, headers });
}

function headersOf({ content_type, etag, headers: more, name }: StoredContent): Headers {
  const headers = new Headers({
    "content-type": content_type,
    etag,
    "accept-ranges": "bytes",
    "x-content-type-options": "nosniff",
    // Other sites' pages may show files, as Replicate's delivery host lets them.
    "cross-origin-resource-policy": "cross-origin",
    ...more,
  });
  const isActive = ACTIVE_TYPE.test(content_type);
  if (name !== null) {
    headers.set("content-disposition", createDisposition(name, { type: isActive ? "attachment" : "inline" }));
  } else if (isActive) headers.set("content-disposition", "attachment");
  if (isActive) headers.set("content-security-policy", "default-src 'none'; sandbox");
  return headers;
}
