/** A stream of server-sent events, taken up again where it broke off. */
import { CogwayError, errorOf } from "./error.ts";
import { sleep } from "./http.ts";

export interface StreamEvent<Name extends string = string> {
  event: Name;
  id: string;
  data: string;
}
/** Text of `output` and `logs`; JSON of `error` and `done`. */
export type PredictionEvent = StreamEvent<"output" | "logs" | "error" | "done">;

type Open = (headers: Record<string, string>, signal: AbortSignal | undefined) => Promise<Response>;

/** Breaks in a row, without an event in between, that are mended. */
const BREAKS_MAX = 5;
const PAUSE_MS = 300;
/** The server sends a comment every 15 s: a connection that is silent for longer is dead. */
const SILENCE_MS_MAX = 45_000;

/** Every event once and in order, `done` last. Ends early only with an error. */
export async function* followEvents<Event extends StreamEvent = PredictionEvent>(
  open: Open,
  signal?: AbortSignal,
): AsyncGenerator<Event> {
  let lastId: string | null = null;
  for (let breaks = 0; ; breaks++) {
    try {
      const answer = await open(lastId === null ? {} : { "last-event-id": lastId }, signal);
      if (!answer.ok) throw await errorOf(answer);
      for await (const event of parseEvents<Event>(answer.body)) {
        lastId = event.id;
        breaks = 0;
        yield event;
        if (event.event === "done") return;
      }
    } catch (error) {
      signal?.throwIfAborted();
      const isRefusal = error instanceof CogwayError && error.status >= 400 && error.status < 500;
      if (isRefusal || breaks >= BREAKS_MAX) throw error;
    }
    if (breaks >= BREAKS_MAX) throw new CogwayError("client.unreachable", "The stream kept breaking off.");
    await sleep(PAUSE_MS * 2 ** breaks, signal);
  }
}

/** Events out of the bytes of a stream (WHATWG HTML, section "Server-sent events"). What stands behind the last empty line is no event. */
export async function* parseEvents<Event extends StreamEvent = PredictionEvent>(
  body: ReadableStream<Uint8Array> | null,
): AsyncGenerator<Event> {
  if (body === null) return;
  let fields = { event: "", id: "", data: [] as string[] };
  for await (const line of readLines(body)) {
    if (line === "") {
      const { event, id, data } = fields;
      if (event !== "") yield { event, id, data: data.join("\n") } as Event;
      fields = { event: "", id, data: [] };
      continue;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") fields.event = value;
    else if (name === "id") fields.id = value;
    else if (name === "data") fields.data.push(value);
  }
}

/** Lines that end in LF or CRLF; a last one without an end is dropped. Throws where nothing came for too long. */
export async function* readLines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await inTime(reader.read());
      if (done) return;
      const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) yield line.endsWith("\r") ? line.slice(0, -1) : line;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function inTime<T>(work: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const silence = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new CogwayError("client.timeout", `Nothing came for ${SILENCE_MS_MAX} ms.`)),
      SILENCE_MS_MAX,
    );
  });
  try {
    return await Promise.race([work, silence]);
  } finally {
    clearTimeout(timer);
  }
}
