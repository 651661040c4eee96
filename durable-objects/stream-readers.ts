/**
 * Readers of streams. A reader first gets the log in pages, as fast as it takes them, and joins the live ones with no await between the last page and
 * joining: no gap, no repeat. Live events are encoded once, and the same bytes go to every reader.
 *
 * Bounds: a reader that is more than READER_BUFFER_BYTES_MAX behind when more comes is cut, and resumes; so are the slowest when an object holds too much
 * for all. Pages of replay are the smaller the more is unsent. A reader that left is noticed by the abort of its request, at the latest at the next write (a comment every 15 s).
 */
import { encodeComment, KEEP_ALIVE_INTERVAL_MS, type StreamPosition } from "../schema/stream-events.ts";

/** A reader's unsent bytes: about a second of a fast model. */
export const READER_BUFFER_BYTES_MAX = 262_144;
/** Unsent bytes of all readers of an object: a quarter of what an isolate has. */
export const OBJECT_BUFFER_BYTES_MAX = 33_554_432;
/** More wait for a place, or read from a relay. */
export const READERS_PER_PREDICTION_MAX = 1_000;
/** A page of replay (design section 9), and the smallest one. */
const PAGE_BYTES_MAX = 262_144;
const PAGE_BYTES_MIN = 16_384;
/** A page takes this part of the room that is left; of the largest, so many fill half of what the object may hold. */
const PAGES_IN_ROOM = 64;
/** A reader gets its next page while less than this is unsent. */
const HIGH_WATER_BYTES = 16_384;

const encoder = new TextEncoder();

/** Where a page of the log comes from. */
export interface LogSource<Position = StreamPosition> {
  /**
   * The encoded entries from `position` on, about `bytesMax`. `next` is where the following page begins; `atEnd`: the page reaches the newest entry as of
   * the moment it is returned; `isOver`: and that was the last one.
   */
  page(id: string, position: Position, bytesMax: number): Page<Position> | Promise<Page<Position>>;
  /** A comment for a reader of a prediction that waits; null when there is nothing to say. */
  waitingComment(id: string): Promise<string | null>;
  /** A reader is gone. `tookAll`: it got the whole stream. */
  left(id: string, tookAll: boolean): void;
}
export interface Page<Position = StreamPosition> {
  text: string;
  next: Position;
  atEnd: boolean;
  isOver: boolean;
}

interface Reader<Position> {
  id: string;
  position: Position;
  isLive: boolean;
  controller: ReadableStreamDefaultController<Uint8Array>;
}

export class StreamReaders<Position = StreamPosition> {
  readonly #source: LogSource<Position>;
  readonly #byPrediction = new Map<string, Set<Reader<Position>>>();
  #keepAlive: ReturnType<typeof setInterval> | null = null;

  constructor(source: LogSource<Position>) {
    this.#source = source;
  }

  count(id: string): number {
    return this.#byPrediction.get(id)?.size ?? 0;
  }

  /** The body of a stream from `position` on. `signal` is the reader's request. */
  open(id: string, position: Position, signal: AbortSignal): ReadableStream<Uint8Array> {
    let reader: Reader<Position> | null = null;
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          reader = { id, position, isLive: false, controller };
          this.#add(reader);
          signal.addEventListener("abort", () => reader !== null && this.#remove(reader));
          this.#send(reader, encoder.encode(encodeComment("cogway")));
          void this.#sayWaiting(id, [reader]);
        },
        pull: () => (reader === null || reader.isLive ? undefined : this.#replay(reader)),
        cancel: () => {
          if (reader !== null) this.#remove(reader);
        },
      },
      { highWaterMark: HIGH_WATER_BYTES, size: (chunk) => chunk.byteLength },
    );
  }

  /** One page to a reader that is behind. Where a page shows nothing, the next one. */
  async #replay(reader: Reader<Position>): Promise<void> {
    let page: Page<Position>;
    do {
      try {
        const pending = this.#source.page(reader.id, reader.position, this.#pageBytes());
        page = pending instanceof Promise ? await pending : pending;
      } catch (error) {
        this.#remove(reader);
        throw error;
      }
      if (!this.#isHere(reader)) return;
      reader.position = page.next;
    } while (page.text === "" && !page.atEnd);
    if (page.text !== "") this.#send(reader, encoder.encode(page.text));
    // Closed only when it has taken all, so that who never reads is counted.
    else if (page.isOver) this.#close(reader);
    // There was no await since the page: what is stored next is sent live.
    else reader.isLive = true;
    this.#bound();
  }

  /** The less room is left, the less each gets: so that those who come last get something too. */
  #pageBytes(): number {
    const room = OBJECT_BUFFER_BYTES_MAX / 2 - this.heldBytes();
    return Math.max(PAGE_BYTES_MIN, Math.min(PAGE_BYTES_MAX, room / PAGES_IN_ROOM));
  }

  /** Sends what was just stored to all live readers. `isOver`: it was the end. */
  broadcast(id: string, text: string, isOver: boolean): void {
    const readers = this.#byPrediction.get(id);
    if (readers === undefined) return;
    // Who took all that came before gets what comes now, however large it is: all readers share its bytes.
    this.#bound();
    const bytes = text === "" ? null : encoder.encode(text);
    for (const reader of [...readers]) {
      if (!reader.isLive) continue;
      if (unsent(reader) > READER_BUFFER_BYTES_MAX) {
        this.#cut(reader);
        continue;
      }
      if (bytes !== null) this.#send(reader, bytes);
      if (isOver) this.#close(reader);
    }
  }

  /** Unsent bytes of all readers. */
  heldBytes(): number {
    let total = 0;
    for (const readers of this.#byPrediction.values()) for (const reader of readers) total += unsent(reader);
    return total;
  }

  #send(reader: Reader<Position>, bytes: Uint8Array): void {
    try {
      reader.controller.enqueue(bytes);
    } catch {
      this.#remove(reader);
    }
  }

  #cut(reader: Reader<Position>): void {
    this.#remove(reader);
    try {
      reader.controller.error(new Error("This reader is too slow: it resumes with Last-Event-ID."));
    } catch {
      // It was gone already.
    }
  }

  #close(reader: Reader<Position>): void {
    this.#remove(reader, true);
    try {
      reader.controller.close();
    } catch {
      // It was gone already.
    }
  }

  /** Cuts the slowest readers until all hold no more than the object may. */
  #bound(): void {
    let total = this.heldBytes();
    if (total <= OBJECT_BUFFER_BYTES_MAX) return;
    const readers = [...this.#byPrediction.values()].flatMap((each) => [...each]);
    const slowestFirst = readers.map((reader) => ({ reader, bytes: unsent(reader) })).sort((a, b) => b.bytes - a.bytes);
    for (const { reader, bytes } of slowestFirst) {
      if (total <= OBJECT_BUFFER_BYTES_MAX) return;
      total -= bytes;
      this.#cut(reader);
    }
  }

  #isHere(reader: Reader<Position>): boolean {
    return this.#byPrediction.get(reader.id)?.has(reader) === true;
  }

  #add(reader: Reader<Position>): void {
    const readers = this.#byPrediction.get(reader.id) ?? new Set();
    readers.add(reader);
    this.#byPrediction.set(reader.id, readers);
    this.#keepAlive ??= setInterval(() => void this.#ping(), KEEP_ALIVE_INTERVAL_MS);
  }

  #remove(reader: Reader<Position>, tookAll = false): void {
    const readers = this.#byPrediction.get(reader.id);
    const wasHere = readers?.delete(reader) === true;
    if (readers?.size === 0) this.#byPrediction.delete(reader.id);
    if (wasHere) this.#source.left(reader.id, tookAll);
    if (this.#byPrediction.size > 0 || this.#keepAlive === null) return;
    clearInterval(this.#keepAlive);
    this.#keepAlive = null;
  }

  /** Keeps connections open, says why a prediction waits, and finds readers that left. */
  async #ping(): Promise<void> {
    for (const [id, readers] of [...this.#byPrediction]) {
      const live = [...readers].filter((reader) => reader.isLive);
      if (await this.#sayWaiting(id, live)) continue;
      const bytes = encoder.encode(encodeComment("ping"));
      for (const reader of live) this.#send(reader, bytes);
    }
  }

  /** True when there was something to say. */
  async #sayWaiting(id: string, readers: Reader<Position>[]): Promise<boolean> {
    const waiting = await this.#source.waitingComment(id).catch(() => null);
    if (waiting === null) return false;
    for (const reader of readers) if (this.#isHere(reader)) this.#send(reader, encoder.encode(waiting));
    return true;
  }
}

/** Bytes that a reader has not taken. */
function unsent(reader: Reader<unknown>): number {
  return HIGH_WATER_BYTES - (reader.controller.desiredSize ?? HIGH_WATER_BYTES);
}
