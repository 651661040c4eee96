/** A reader of one stream that loses its connection, by itself or by what is between, and goes on with `Last-Event-ID` until `done`. */
import { get } from "node:http";
import { setTimeout as pause } from "node:timers/promises";

const PAUSE_MS = 100;
const PATIENCE_MS = 180_000;
/** Comments come every 15 s at the latest. */
const SILENCE_MS = 20_000;

export interface ReadStream {
  /** each event as it stood on the wire, without comments */
  wire: string[];
  /** how often it was taken up again */
  resumes: number;
}

/** Reads to `done`. `cuts`: after how many events in a connection this reader drops it by itself, one number for each of its first connections. */
export async function readResuming(url: string, cuts: readonly number[]): Promise<ReadStream> {
  const until = performance.now() + PATIENCE_MS;
  const wire: string[] = [];
  for (let connections = 0; ; connections++) {
    await readOnce(url, wire, cuts[connections] ?? Number.POSITIVE_INFINITY);
    if (isDone(wire)) return { wire, resumes: connections };
    if (performance.now() > until) throw new Error(`the stream had no done within ${PATIENCE_MS} ms: ${wire.at(-1)}`);
    await pause(PAUSE_MS);
  }
}

function isDone(wire: readonly string[]): boolean {
  return wire.at(-1)?.includes("event: done\n") ?? false;
}

/** Appends what comes until the connection is gone, however that is. */
function readOnce(url: string, wire: string[], most: number): Promise<void> {
  const last = /^id: ?(.*)$/m.exec(wire.at(-1) ?? "")?.[1];
  return new Promise((resolve) => {
    const request = get(url, {
      agent: false,
      timeout: SILENCE_MS,
      headers: { accept: "text/event-stream", ...(last === undefined ? {} : { "last-event-id": last }) },
    });
    const close = (): void => {
      request.destroy();
      resolve();
    };
    request.on("timeout", close);
    request.on("error", close);
    request.on("response", (response) => {
      if (response.statusCode !== 200) return close();
      let rest = "";
      let count = 0;
      response.setEncoding("utf8");
      response.on("data", (chunk: string) => {
        if (request.destroyed) return;
        const blocks = (rest + chunk).split("\n\n");
        rest = blocks.pop() ?? "";
        for (const block of blocks.filter((each) => !each.startsWith(":"))) {
          wire.push(`${block}\n`);
          if (++count >= most) return close();
        }
      });
      response.on("error", close);
      response.on("close", () => resolve());
    });
  });
}

/** The data of its `output` events, in order. */
export function outputsOf(wire: readonly string[]): string[] {
  return wire
    .filter((block) => /^event: ?output$/m.test(block))
    .map((block) =>
      block
        .split("\n")
        .flatMap((line) => (line.startsWith("data:") ? [line.slice(5).replace(/^ /, "")] : []))
        .join("\n"),
    );
}
