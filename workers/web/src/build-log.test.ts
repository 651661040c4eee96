import { expect, it } from "vitest";
import { addLog, blocksOf, LINE_CHARACTERS_MAX, LINES_MAX, NO_LOG } from "./build-log.ts";

const logOf = (...pieces: string[]) => pieces.reduce(addLog, NO_LOG);

it("joins pieces to lines wherever they were cut", () => {
  const text = "fetch: 2 blobs\nresolve\n\nbuilt é\n";
  for (let cut = 0; cut <= text.length; cut++) {
    expect(logOf(text.slice(0, cut), text.slice(cut)).lines.join("\n")).toBe(text);
  }
});

it("shows of a progress bar what it said last", () => {
  expect(logOf("10 %\r20 %", "\r30 %").lines).toEqual(["30 %"]);
  expect(logOf("10 %\r100 %\r\ndone\n").lines).toEqual(["100 %\r", "done", ""]);
});

it("keeps the newest lines, and says how many went", () => {
  const lines = Array.from({ length: 3 * LINES_MAX + 7 }, (_, i) => `line ${i}`);
  const one = logOf(`${lines.join("\n")}\n`);
  expect(one.lines.length).toBeLessThanOrEqual(LINES_MAX);
  expect(one.lines).toEqual([...lines, ""].slice(one.dropped));
  const many = logOf(...lines.map((line) => `${line}\n`));
  expect(many.lines).toEqual([...lines, ""].slice(many.dropped));
  expect(many.lines.length).toBeLessThanOrEqual(LINES_MAX);
  expect(many.lines.length).toBeGreaterThan(LINES_MAX / 2);
});

it("keeps its blocks as they are while older ones go", () => {
  const lines = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, i) => `line ${from + i}\n`).join("");
  const before = addLog(NO_LOG, lines(0, LINES_MAX - 1));
  const after = addLog(before, lines(LINES_MAX - 1, LINES_MAX + 10));
  expect(after.dropped).toBeGreaterThan(0);
  const known = new Map(blocksOf(before).map(({ first, text }) => [first, text]));
  for (const { first, text } of blocksOf(after).slice(0, -2)) expect(text).toBe(known.get(first));
  expect(
    blocksOf(after)
      .map(({ text }) => text)
      .join("\n"),
  ).toBe(after.lines.join("\n"));
});

it("cuts a line that is too long, also one that comes in pieces", () => {
  for (const log of [logOf("x".repeat(1_000_000)), logOf(...Array.from({ length: 100 }, () => "x".repeat(1_000)))]) {
    expect(log.lines).toEqual([`${"x".repeat(LINE_CHARACTERS_MAX - 1)}…`]);
  }
});
