import { expect, it } from "vitest";
import { foldEvents, NOTHING_YET } from "./live-output.ts";

const events = [
  { id: "1", event: "logs", data: "loading\n" },
  { id: "2", event: "output", data: "Once" },
  { id: "3", event: "output", data: " upon\n" },
  { id: "4", event: "done", data: "{}" },
];

it("comes to the same state however the events are cut into pieces", () => {
  const whole = foldEvents(NOTHING_YET, events);
  for (let cut = 0; cut <= events.length; cut++) {
    expect(foldEvents(foldEvents(NOTHING_YET, events.slice(0, cut)), events.slice(cut))).toEqual(whole);
  }
  expect(whole).toEqual({ items: ["Once", " upon\n"], logs: "loading\n", isDone: true, lastEventId: "4" });
});

it("keeps the end of endless logs", () => {
  const line = { id: "1", event: "logs", data: `${"x".repeat(600_000)}\n` };
  const { logs } = foldEvents(NOTHING_YET, [line, line, { ...line, data: "the end\n" }]);
  expect(logs.length).toBe(1024 * 1024);
  expect(logs.endsWith("the end\n")).toBe(true);
});
