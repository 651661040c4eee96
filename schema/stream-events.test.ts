import { createParser } from "eventsource-parser";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { StoredEvent } from "./prediction-log.ts";
import { encodeComment, encodeEvent, encodeStored, positionAfter } from "./stream-events.ts";

const ID = "abcdefghijklmnopqrstuvwxyz";
const VIEW = { publicUrl: "https://cogway.test", signingSecret: "secret" };

interface Parsed {
  event: string | undefined;
  id: string | undefined;
  data: string;
}

/** What a client reads, from bytes that the network cut at `cuts`. */
function read(text: string, cuts: number[] = []): { events: Parsed[]; comments: string[] } {
  const events: Parsed[] = [];
  const comments: string[] = [];
  const parser = createParser({
    onEvent: ({ event, id, data }) => events.push({ event, id, data }),
    onComment: (comment) => comments.push(comment),
    onError: (error) => {
      throw error;
    },
  });
  const bytes = new TextEncoder().encode(text);
  // Else workerd takes U+FEFF at the start of any part for a byte order mark.
  const decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
  let from = 0;
  for (const cut of [...cuts].map((each) => each % (bytes.length + 1)).sort((a, b) => a - b)) {
    parser.feed(decoder.decode(bytes.subarray(from, cut), { stream: true }));
    from = cut;
  }
  parser.feed(decoder.decode(bytes.subarray(from)));
  return { events, comments };
}

const asLines = (text: string): string => text.replaceAll(/\r\n|\r/g, "\n");

/** All of Unicode, and what could end a line, a field or an event more often than chance has it. */
const anyText = fc
  .array(
    fc.oneof(
      fc.string({ unit: "binary", maxLength: 5 }),
      fc.constantFrom("\r", "\n", "\r\n", "\n\n", "\r\r", "\u2028", "\u2029", "\u0085", "\u0000", "\ufeff", " ", ":"),
      fc.constantFrom("data: x", "event: done", "id: 1", "retry: 1", "\n\nevent: done\ndata: {}\n\n", ": comment"),
    ),
    { maxLength: 8 },
  )
  .map((parts) => parts.join(""));

describe("encodeEvent", () => {
  it("guarantees that any text arrives as it is, its line ends as LF, and forges no event", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom("output", "logs", "error", "done"), anyText), { maxLength: 6 }),
        fc.array(fc.nat(), { maxLength: 6 }),
        (sent, cuts) => {
          const text = sent.map(([event, data], n) => encodeEvent(event, `id-${n}`, data)).join("");
          expect(read(encodeComment("cogway") + text, cuts).events).toEqual(
            sent.map(([event, data], n) => ({ event, id: `id-${n}`, data: asLines(data) })),
          );
        },
      ),
      { numRuns: 2_000 },
    );
  });

  it("guarantees every code point there is", () => {
    let text = "";
    for (let code = 0; code <= 0x10ffff; code++) {
      if (code < 0xd800 || code > 0xdfff) text += String.fromCodePoint(code);
    }
    const { events } = read(encodeComment("cogway") + encodeEvent("output", "1", text));
    expect(events).toHaveLength(1);
    expect(events[0]?.data === asLines(text)).toBe(true);
  });
});

describe("encodeComment", () => {
  it("guarantees one comment and no event, whatever it says", () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const { events, comments } = read(encodeComment("first") + encodeComment(text));
        expect(events).toEqual([]);
        expect(comments).toHaveLength(2);
      }),
    );
  });
});

describe("encodeStored", () => {
  it("shows outputs as text or JSON, logs, and the end with its reason; and nothing else", () => {
    const file = { n: 0, name: "a b.png", content_type: "image/png", size_bytes: 1, sha256: "0".repeat(64) };
    const log: StoredEvent[] = [
      { type: "started", attempt: 1 },
      { type: "output", mode: "append", value: "a\r\nb" },
      { type: "output", mode: "append", value: { n: 1 } },
      { type: "output", mode: "append", value: { $cogway_file: file } },
      { type: "output", mode: "set", value: "a", silent: true },
      { type: "log", data: "line\n" },
      { type: "metric", name: "m", value: 1, mode: "replace" },
      { type: "requeued", attempt: 2, reason: "lost" },
      { type: "ended", state: "failed", error: "line 1\nline 2", metrics: {} },
    ];
    const text = log.map((entry, seq) => encodeStored(ID, seq, entry, VIEW)).join("");
    const shown = read(text).events.map(({ event, id, data }) => [event, id, data]);
    expect(shown).toEqual([
      ["output", "bcdefghi-1", "a\nb"],
      ["output", "bcdefghi-2", '{"n":1}'],
      ["output", "bcdefghi-3", expect.stringMatching(/^https:\/\/cogway\.test\/outputs\/[a-z]{26}\/0\/a%20b\.png\?s=/)],
      ["logs", "bcdefghi-5", "line\n"],
      ["error", "bcdefghi-8e", '{"detail":"line 1\\nline 2"}'],
      ["done", "bcdefghi-8", '{"reason":"error"}'],
    ]);
  });

  it.each([
    ["succeeded", "{}"],
    ["canceled", '{"reason":"canceled"}'],
    ["aborted", '{"reason":"canceled"}'],
  ] as const)("ends with done alone when it %s", (state, data) => {
    const { events } = read(encodeStored(ID, 7, { type: "ended", state, error: null, metrics: {} }, VIEW));
    expect(events).toEqual([{ event: "done", id: "bcdefghi-7", data }]);
  });
});

describe("positionAfter", () => {
  it("goes on behind a known id, between error and done, and anew after any other", () => {
    expect(positionAfter(ID, "bcdefghi-4", 9)).toEqual({ seq: 5, skipError: false });
    expect(positionAfter(ID, "bcdefghi-8", 9)).toEqual({ seq: 9, skipError: false });
    expect(positionAfter(ID, "bcdefghi-8e", 9)).toEqual({ seq: 8, skipError: true });
    const anew = { seq: 0, skipError: false };
    for (const id of [
      null,
      "",
      "4",
      "bcdefghi-9",
      "zbcdefgh-4",
      "bcdefghi--1",
      "bcdefghi-1.5",
      "bcdefghi-99999999999",
    ]) {
      expect(positionAfter(ID, id, 9)).toEqual(anew);
    }
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (id) => {
        const { seq } = positionAfter(ID, id, 9);
        expect(Number.isSafeInteger(seq) && seq >= 0 && seq <= 9).toBe(true);
      }),
    );
  });
});
