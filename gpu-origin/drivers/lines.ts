/** Cuts what a process writes into lines, in bounded memory: a flood without an end of line is passed on in pieces. */
import type { Readable } from "node:stream";
import { StringDecoder } from "node:string_decoder";

/** Characters of a line; what is longer comes as further lines. coglet's JSON lines hold what a model printed, which may be long. */
export const LINE_CHARACTERS_MAX = 65_536;

/** Calls `onLine` for each line of `stream`. The last one comes when the stream ends, though it has no end of line. */
export function readLines(stream: Readable, onLine: (line: string) => void): void {
  const decoder = new StringDecoder("utf8");
  let rest = "";
  const pass = (line: string): void => onLine(line.endsWith("\r") ? line.slice(0, -1) : line);
  stream.on("data", (bytes: Buffer) => {
    const lines = (rest + decoder.write(bytes)).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) pass(line);
    if (rest.length < LINE_CHARACTERS_MAX) return;
    pass(rest);
    rest = "";
  });
  stream.once("close", () => {
    if (rest !== "") pass(rest);
    rest = "";
  });
}
