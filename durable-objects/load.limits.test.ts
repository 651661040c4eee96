/**
 * An isolate has 128 MB of memory and a request 30 s of CPU; local workerd enforces neither. Memory is held to what the code may hold: bytes of readers
 * that they have not taken, pages of a log. Times are printed, and only held far below the bound: this machine is not the platform's.
 */
import { describe, expect, it } from "vitest";
import { EVENT_BATCH_BYTES_MAX, EVENT_BATCH_EVENTS_MAX } from "../schema/origin-protocol.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import type { StreamPosition } from "../schema/stream-events.ts";
import { AccountObject } from "./account.ts";
import { OBJECT_BUFFER_BYTES_MAX, type Page, READERS_PER_PREDICTION_MAX, StreamReaders } from "./stream-readers.ts";
import {
  aDocument,
  anAdmit,
  aSettlement,
  envWith,
  freshName,
  stopClockInEachTest,
  withObject,
} from "./testing/harness.ts";
import {
  aCreate,
  events,
  line,
  output,
  parseStream,
  readStream,
  started,
  streamRequest,
  succeeded,
  type World,
  withPredictions,
} from "./testing/prediction-world.ts";

stopClockInEachTest();

/** A third of what a request has. */
const CPU_MS_MAX = 10_000;
const MIB = 1_048_576;

async function running(world: World): Promise<string> {
  const { id } = (await world.object.create(aCreate())).document;
  await world.idle();
  return id;
}

async function documentOf(world: World, id: string): Promise<PredictionDocument> {
  const document = await world.object.get(id, "alice");
  if (document === null) throw new Error("it is gone");
  return document;
}

/** Runs `work`, prints how long it took, and holds it far below a request's CPU time. */
async function timed<T>(name: string, work: () => Promise<T>): Promise<T> {
  const from = performance.now();
  const result = await work();
  const ms = performance.now() - from;
  console.log(`${name}: ${Math.round(ms)} ms`);
  expect(ms).toBeLessThan(CPU_MS_MAX);
  return result;
}

// ---- memory of readers

/** A log of equal entries. */
class Log {
  entries: string[] = [];
  isOver = false;
  largestPage = 0;

  page(from: number, bytesMax: number): Page {
    let text = "";
    let seq = from;
    while (seq < this.entries.length && text.length < bytesMax) text += this.entries[seq++] ?? "";
    this.largestPage = Math.max(this.largestPage, text.length);
    const atEnd = seq >= this.entries.length;
    return { text, next: { seq, skipError: false }, atEnd, isOver: atEnd && this.isOver };
  }
}

function readersOf(log: Log): StreamReaders {
  return new StreamReaders({
    page: (_id: string, position: StreamPosition, bytesMax: number) => log.page(position.seq, bytesMax),
    waitingComment: async () => null,
    left: () => undefined,
  });
}

const START: StreamPosition = { seq: 0, skipError: false };
const never = new AbortController().signal;
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

describe("memory", () => {
  it("holds no more than an object may, whatever 1,000 live readers do not take", async () => {
    const log = new Log();
    const readers = readersOf(log);
    const open = Array.from({ length: READERS_PER_PREDICTION_MAX }, () => readers.open("a", START, never));
    const taken = open.map((stream) => stream.getReader());
    await Promise.all(taken.map((reader) => reader.read()));
    await turn();
    const chunk = "x".repeat(10_000);
    let most = 0;
    for (let n = 0; n < 100; n++) {
      readers.broadcast("a", chunk, false);
      // What is new is one text that all share; what is older is bounded.
      most = Math.max(most, readers.heldBytes() - readers.count("a") * chunk.length);
      await turn();
    }
    console.log(`held at most: ${(most / MIB).toFixed(1)} MiB; ${readers.count("a")} readers left`);
    expect(most).toBeLessThanOrEqual(OBJECT_BUFFER_BYTES_MAX);
    expect(most).toBeGreaterThan(OBJECT_BUFFER_BYTES_MAX / 2);
    readers.broadcast("a", "", true);
  });

  it("holds no more than an object may while 1,000 readers take nothing of a long log", async () => {
    const log = new Log();
    log.isOver = true;
    log.entries = Array.from({ length: 2_000 }, (_, n) => `${n}:${"x".repeat(1_000)}\n`);
    const readers = readersOf(log);
    const open = Array.from({ length: READERS_PER_PREDICTION_MAX }, () => readers.open("a", START, never));
    let most = 0;
    for (let n = 0; n < 10; n++) {
      await turn();
      most = Math.max(most, readers.heldBytes());
    }
    console.log(`held at most: ${(most / MIB).toFixed(1)} MiB; pages of ${log.largestPage} bytes`);
    expect(most).toBeLessThanOrEqual(OBJECT_BUFFER_BYTES_MAX);
    // None was cut for the others' sake, and none is forgotten while it holds something.
    expect(readers.count("a")).toBe(READERS_PER_PREDICTION_MAX);
    const whole = log.entries.join("").length;
    const lengths = await Promise.all(
      open.slice(0, 50).map(async (stream) => (await new Response(stream).text()).length - ": cogway\n\n".length),
    );
    expect(new Set(lengths)).toEqual(new Set([whole]));
    await Promise.all(open.slice(50).map((stream) => stream.cancel()));
    expect([readers.count("a"), readers.heldBytes()]).toEqual([0, 0]);
  });

  it("cuts the slowest when single events are so large that not all can wait", async () => {
    const log = new Log();
    log.isOver = true;
    log.entries = Array.from({ length: 3 }, (_, n) => `${n}:${"x".repeat(4 * MIB)}\n`);
    const readers = readersOf(log);
    const open = Array.from({ length: 20 }, () => readers.open("a", START, never));
    await turn();
    await turn();
    expect(readers.heldBytes()).toBeLessThanOrEqual(OBJECT_BUFFER_BYTES_MAX);
    expect(readers.count("a")).toBeGreaterThan(5);
    expect(readers.count("a")).toBeLessThan(20);
    await Promise.all(open.map((stream) => stream.cancel().catch(() => undefined)));
  });

  it("cuts no quick reader for a large event", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const reader = readStream(await world.object.fetch(streamRequest(id)));
      await world.send(id, 1, events(0, started, output("a")));
      const large = "x".repeat(3 * MIB);
      await world.send(id, 1, events(2, output(large)));
      await world.send(id, 1, events(3, output("b"), succeeded));
      expect((await reader).map(({ data }) => data.length)).toEqual([1, 3 * MIB, 1, 2]);
    }));
});

// ---- the largest of everything

describe("the largest", () => {
  it("batches, logs, documents and replays are far below a request's time", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const room = Math.floor(EVENT_BATCH_BYTES_MAX / EVENT_BATCH_EVENTS_MAX);
      const text = "x".repeat(room - JSON.stringify(events(100_000, output(""))[0]).length);
      await world.send(id, 1, events(0, started));
      let i = 1;
      const batch = () => {
        const sent = events(i, ...Array.from({ length: EVENT_BATCH_EVENTS_MAX }, (_, n) => bodyAt(n, text)));
        i += sent.length;
        return sent;
      };
      await timed("a batch of 1 MiB and 5,000 events", () => world.send(id, 1, batch()));
      const first = await world.object.fetch(streamRequest(id));
      for (let n = 1; n < 40; n++) await world.send(id, 1, batch());
      await first.body?.cancel();
      world.restart();
      const document = await timed("a document of 200,000 events", () => documentOf(world, id));
      const outputs = document.output as string[];
      expect([outputs.length, (document.metrics["list"] as unknown[]).length]).toEqual([100_000, 50_000]);
      await world.send(id, 1, events(i, succeeded));
      const readers = await timed("a replay of 200,000 events by four readers", () =>
        Promise.all([0, 1, 2, 3].map(async () => readStream(await world.object.fetch(streamRequest(id))))),
      );
      expect(readers.map((streamed) => streamed.filter(({ event }) => event === "output").length)).toEqual([
        100_000, 100_000, 100_000, 100_000,
      ]);
      expect(readers[0]?.at(-1)?.event).toBe("done");
    }));

  it("output of 16 MiB is shown and streamed whole, and one event more is refused", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      await world.send(id, 1, events(0, started));
      const part = "x".repeat(MIB - 2);
      for (let n = 1; n <= 16; n++) await world.send(id, 1, events(n, output(part)));
      const document = await timed("a document of 16 MiB", () => documentOf(world, id));
      expect((document.output as string[]).map((each) => each.length)).toEqual(Array(16).fill(MIB - 2));
      await world.send(id, 1, events(17, output("")));
      expect(await world.object.get(id, "alice")).toMatchObject({ state: "failed", error_code: "output.too_large" });
      const streamed = await readStream(await world.object.fetch(streamRequest(id)));
      expect(streamed.map(({ event }) => event)).toEqual([...Array(16).fill("output"), "error", "done"]);
    }));

  it("log of 64 MiB is replayed by several readers in pages, to the same bytes", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      await world.send(id, 1, events(0, started));
      const part = "x".repeat(199_990);
      for (let n = 1; n <= 330; n++) await world.send(id, 1, events(n, line(part + n)));
      await world.send(id, 1, events(331, succeeded));
      const texts = await timed("a replay of 64 MiB by three readers", () =>
        Promise.all([0, 1, 2].map(async () => (await world.object.fetch(streamRequest(id))).text())),
      );
      const [one = ""] = texts;
      expect(texts.every((text) => text === one)).toBe(true);
      const streamed = parseStream(one);
      expect(streamed.filter(({ event }) => event === "logs").at(-1)?.data).toBe(`${part}330`);
      expect(one.length).toBeGreaterThan(60 * MIB);
      const document = await timed("a document with 64 MiB of logs", () => documentOf(world, id));
      expect(document.logs.length).toBeLessThan(1.1 * MIB);
    }));

  it("streams end though outputs leave no room for the newest lines of logs", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      await world.send(id, 1, events(0, started));
      let i = 1;
      for (let n = 0; n < 40; n++) {
        await world.send(id, 1, events(i, ...Array.from({ length: 5_000 }, () => output(""))));
        i += 5_000;
      }
      const waiting = await world.object.fetch(streamRequest(id));
      for (let n = 0; n < 3; n++) await world.send(id, 1, events(i++, line("dropped at once")));
      const late = readStream(await world.object.fetch(streamRequest(id)));
      await world.send(id, 1, events(i, succeeded));
      for (const streamed of [await readStream(waiting), await late]) {
        expect(streamed.filter(({ event }) => event === "output")).toHaveLength(200_000);
        expect(streamed.at(-1)?.event).toBe("done");
      }
    }));

  it("page of a list is far below a request's time", () =>
    withObject("ACCOUNTS", freshName(), async (state) => {
      const account = new AccountObject(state as never, envWith({}));
      for (let n = 0; n < 500; n++) {
        const { prediction_id, created_at } = anAdmit({ created_at: Date.now() + n });
        await account.admit(anAdmit({ prediction_id, created_at }));
        const document = aDocument({ id: prediction_id, created_at, output: "x".repeat(15_500) });
        await account.settle([aSettlement(document)]);
      }
      const { rows, more } = await timed("a list page of 100 documents of 16 KiB", () =>
        account.list({ kind: "prediction", limit: 100 }),
      );
      expect([rows.filter((row) => row.document !== null).length, more]).toEqual([100, true]);
    }));
});

/** Outputs, lines and metrics in turn. */
function bodyAt(n: number, text: string): Parameters<typeof events>[1] {
  if (n % 2 === 0) return output(text);
  return n % 4 === 1 ? line("a line\n") : { type: "metric", name: "list", value: n, mode: "append" };
}
