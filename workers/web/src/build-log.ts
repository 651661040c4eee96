/** The end of a build's log, as lines. Pure, and bounded however long the log is: all of it can be downloaded. */
export interface LogTail {
  /** The last one may still grow; it is empty where the text ended with a line. */
  lines: readonly string[];
  /** lines before them that are not kept here */
  dropped: number;
}

export const NO_LOG: LogTail = { lines: [""], dropped: 0 };

/** What a browser lays out at once without a pause. */
export const LINES_MAX = 2_000;
/** Lines go by whole blocks: what stays is the same elements, to which browsers hold the place of somebody who reads further up. */
const BLOCK_LINES = 500;
export const LINE_CHARACTERS_MAX = 2_000;

export function addLog(tail: LogTail, text: string): LogTail {
  if (text === "") return tail;
  const [first = "", ...more] = text.split("\n");
  const open = (tail.lines.at(-1) ?? "") + first;
  const lines = [...tail.lines.slice(0, -1), ...[open, ...more].map(shown)];
  const over = lines.length - LINES_MAX;
  if (over <= 0) return { ...tail, lines };
  const gone = Math.ceil(over / BLOCK_LINES) * BLOCK_LINES;
  return { lines: lines.slice(gone), dropped: tail.dropped + gone };
}

/** The lines as blocks that stay what they are while others come and go. `first`: place of its first line in the whole log. */
export function blocksOf({ lines, dropped }: LogTail): { first: number; text: string }[] {
  return Array.from({ length: Math.ceil(lines.length / BLOCK_LINES) }, (_, i) => {
    const at = i * BLOCK_LINES;
    return { first: dropped + at, text: lines.slice(at, at + BLOCK_LINES).join("\n") };
  });
}

/** Progress bars rewrite their line with carriage returns; a terminal shows what came last. */
function shown(line: string): string {
  const end = line.endsWith("\r") ? line.length - 2 : line.length;
  const last = line.slice(line.lastIndexOf("\r", end) + 1);
  return last.length > LINE_CHARACTERS_MAX ? `${last.slice(0, LINE_CHARACTERS_MAX - 1)}…` : last;
}
