import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { encodeComment, encodeEvent } from "../stream-events.ts";
import { type PredictionEvent, parseEvents } from "./events.ts";

/** A body that arrives in pieces of these lengths, over and over. */
function inPieces(text: string, lengths: number[]): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder().encode(text);
  let at = 0;
  let turn = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      const end = at + (lengths[turn++ % lengths.length] ?? 1);
      controller.enqueue(bytes.slice(at, end));
      at = end;
    },
  });
}

async function parsed(text: string, lengths = [1_000]): Promise<PredictionEvent[]> {
  const events: PredictionEvent[] = [];
  for await (const event of parseEvents(inPieces(text, lengths))) events.push(event);
  return events;
}

describe("parseEvents", () => {
  it("guarantees what was encoded, wherever the bytes are cut", async () => {
    const sent = fc.record({
      event: fc.constantFrom("output", "logs", "error", "done"),
      data: fc.string({ unit: "binary" }),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(sent, { maxLength: 8 }),
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 9 }),
        async (events, lengths) => {
          const wire = events.map(({ event, data }, i) => encodeComment("alive") + encodeEvent(event, `x-${i}`, data));
          expect(await parsed(wire.join(""), lengths)).toEqual(
            // the format ends lines with any of three marks, which all arrive as one
            events.map(({ event, data }, i) => ({ event, id: `x-${i}`, data: data.replaceAll(/\r\n|\r/g, "\n") })),
          );
        },
      ),
      // each piece is a turn of the loop
      { numRuns: 25 },
    );
  });

  it("guarantees that an event whose end did not come is none", async () => {
    const whole = encodeEvent("output", "x-1", "a");
    for (let cut = 0; cut < whole.length; cut++) expect(await parsed(whole.slice(0, cut))).toEqual([]);
    expect(await parsed(whole)).toHaveLength(1);
  });

  it("reads lines that end in CRLF, and fields without a space", async () => {
    expect(await parsed("event:logs\r\nid:1\r\ndata:x\r\ndata\r\n\r\n")).toEqual([
      { event: "logs", id: "1", data: "x\n" },
    ]);
  });
});
