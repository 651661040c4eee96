/**
 * The request log: one JSON object a line. Lines wait a moment for company, since each write wakes whoever reads the runtime's log: locally that is
 * another process, and costs as much as a call of an object. Warnings and errors are written at once, elsewhere.
 */

const FLUSH_MS = 200;
/** As many lines are written without waiting on. */
const LINES_MAX = 500;

let lines: string[] = [];
let flushAt = 0;

/** `later` keeps the flush alive behind the answer of the request that began it. */
export function logRequest(line: Record<string, unknown>, later: (work: Promise<unknown>) => void): void {
  lines.push(JSON.stringify(line));
  const now = Date.now();
  if (lines.length >= LINES_MAX) flush();
  // A request that was cut off took its flush with it: the next one begins another.
  else if (lines.length === 1 || now > flushAt + FLUSH_MS) {
    flushAt = now + FLUSH_MS;
    later(new Promise((resolve) => setTimeout(resolve, FLUSH_MS)).then(flush));
  }
}

function flush(): void {
  const written = lines;
  lines = [];
  for (const line of written) console.log(line);
}
