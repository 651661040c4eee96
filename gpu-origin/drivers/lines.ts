/**
 * Cuts what a process writes into lines, in bounded memory: a flood without an end of line is passed on in pieces. It is read no faster than anybody needs,
 * so that one that floods waits for its own writes and leaves the origin time for the others.
 */
import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";

/** Characters of a line; what is longer comes as further lines. coglet's JSON lines hold what a model printed, which may be long. */
export const LINE_CHARACTERS_MAX = 65_536;

/** Read of one stream in SLICE_MS; 20 MiB/s is far above what coglet mirrors of the busiest predictions. */
const SLICE_BYTES_MAX = 2 * 1024 ** 2;
const SLICE_MS = 100;

/** Calls `onLine` for each line of `stream`. The last one comes when the stream ends, though it has no end of line. */
export function readLines(stream: Readable, onLine: (line: string) => void): void {
  const decoder = new StringDecoder("utf8");
  let rest = "";
  const pass = (line: string): void => onLine(line.endsWith("\r") ? line.slice(0, -1) : line);
  let slice = { began: 0, bytes: 0 };
  let timer: NodeJS.Timeout | undefined;
  const holdBack = (bytes: number): void => {
    const now = performance.now();
    if (now - slice.began > SLICE_MS) slice = { began: now, bytes: 0 };
    slice.bytes += bytes;
    if (slice.bytes < SLICE_BYTES_MAX) return;
    stream.pause();
    timer = setTimeout(() => stream.resume(), SLICE_MS);
  };
  stream.on("data", (bytes: Buffer) => {
    holdBack(bytes.length);
    const lines = (rest + decoder.write(bytes)).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) pass(line);
    if (rest.length < LINE_CHARACTERS_MAX) return;
    pass(rest);
    rest = "";
  });
  stream.once("close", () => {
    clearTimeout(timer);
    if (rest !== "") pass(rest);
    rest = "";
  });
}
