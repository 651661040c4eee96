/** A reader of server-sent events that keeps what came: the parsed events with their ids and times, and the bytes. */
import { createParser } from "eventsource-parser";
import { waitFor } from "./wait.ts";

const EVENT_TIMEOUT_MS = 60_000;

export interface StreamEvent {
  event: string;
  id: string;
  data: string;
  /** milliseconds since the start of the process */
  at: number;
}

export class StreamReader {
  readonly events: StreamEvent[] = [];
  readonly comments: string[] = [];
  status: number | null = null;
  headers: Headers | null = null;
  /** null while open; then how it ended */
  ended: "closed by the server" | "cut" | "closed by the reader" | null = null;
  #raw = "";
  readonly #abort = new AbortController();
  readonly #reading: Promise<void>;

  private constructor(url: string, headers: Record<string, string>) {
    this.#reading = this.#read(url, headers);
  }

  /** Opens `url` at once. No token is sent: the URL itself grants access. */
  static open(url: string, options: { lastEventId?: string; headers?: Record<string, string> } = {}): StreamReader {
    return new StreamReader(url, {
      accept: "text/event-stream",
      ...(options.lastEventId === undefined ? {} : { "last-event-id": options.lastEventId }),
      ...options.headers,
    });
  }

  /** Reads all of it, to the end that the server makes. */
  static async readAll(url: string, options: { lastEventId?: string } = {}): Promise<StreamReader> {
    const reader = StreamReader.open(url, options);
    await reader.untilEnded();
    return reader;
  }

  async #read(url: string, headers: Record<string, string>): Promise<void> {
    const parser = createParser({
      onEvent: ({ event, id, data }) =>
        this.events.push({ event: event ?? "message", id: id ?? "", data, at: performance.now() }),
      onComment: (comment) => this.comments.push(comment),
    });
    try {
      const response = await fetch(url, { headers, signal: this.#abort.signal });
      this.status = response.status;
      this.headers = response.headers;
      const decoder = new TextDecoder();
      for await (const chunk of response.body ?? []) {
        const text = decoder.decode(chunk, { stream: true });
        this.#raw += text;
        parser.feed(text);
      }
      this.ended ??= "closed by the server";
    } catch {
      this.ended ??= "cut";
    }
  }

  /** What was read, event by event as it stood on the wire, without comments and without one that was cut off in the middle. */
  get wire(): string[] {
    return this.#raw
      .split("\n\n")
      .slice(0, -1)
      .filter((block) => !block.startsWith(":"));
  }

  get ids(): string[] {
    return this.events.map(({ id }) => id);
  }

  outputs(): string[] {
    return this.events.filter(({ event }) => event === "output").map(({ data }) => data);
  }

  /** All output, joined as a caller would show it. */
  get text(): string {
    return this.outputs().join("");
  }

  async untilOutputs(count: number): Promise<void> {
    await waitFor(`${count} outputs of a stream`, EVENT_TIMEOUT_MS, () =>
      this.outputs().length >= count || this.ended !== null ? true : null,
    );
    if (this.outputs().length < count) throw new Error(`the stream ended with ${this.outputs().length} outputs`);
  }

  /** Waits until no more comes, whoever ended it. */
  async untilEnded(timeoutMs = EVENT_TIMEOUT_MS): Promise<void> {
    await waitFor("the end of a stream", timeoutMs, () => this.ended);
    await this.#reading;
  }

  close(): void {
    this.ended ??= "closed by the reader";
    this.#abort.abort();
  }
}
