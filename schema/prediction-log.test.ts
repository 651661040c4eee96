import { describe, expect, it } from "vitest";
import type { FileRef } from "./origin-protocol.ts";
import { LOG_BYTES_MAX, LogFold, type StoredEvent, storedEvents } from "./prediction-log.ts";

function fold(...events: StoredEvent[]): ReturnType<LogFold["result"]> {
  const log = new LogFold();
  for (const event of events) log.add(event);
  return log.result();
}
const metric = (name: string, value: unknown, mode: "replace" | "increment" | "append"): StoredEvent => ({
  type: "metric",
  name,
  value,
  mode,
});

describe("LogFold", () => {
  it("keeps the newest logs up to their bound, and says that earlier ones are gone", () => {
    const half = "x".repeat(LOG_BYTES_MAX / 2);
    expect(fold({ type: "log", data: half }, { type: "log", data: half }).logs).toBe(half + half);
    const cut = fold({ type: "log", data: half }, { type: "log", data: half }, { type: "log", data: "end" }).logs;
    expect(cut.startsWith("[earlier lines were dropped]\nxxx")).toBe(true);
    expect(cut.endsWith("xend")).toBe(true);
    expect(cut.length).toBe("[earlier lines were dropped]\n".length + LOG_BYTES_MAX);
    const one = fold({ type: "log", data: `${half}${half}end` }).logs;
    expect(one).toBe(cut);
  });

  it("counts the metrics of the last run alone", () => {
    const again: StoredEvent = { type: "requeued", attempt: 2, reason: "lost" };
    const one = metric("tokens", 3, "increment");
    expect(fold(one, one, metric("only", 1, "replace"), again, one).metrics).toEqual({ tokens: 3 });
  });

  it("replaces, adds to and appends to metrics, whatever their names, and changes no entry", () => {
    const list = metric("list", ["kept"], "replace");
    const { metrics } = fold(
      metric("n", 2, "increment"),
      metric("n", 0.5, "increment"),
      metric("__proto__", 1, "replace"),
      metric("constructor", "a", "append"),
      metric("constructor", "b", "append"),
      list,
      metric("list", "more", "append"),
      { type: "ended", state: "succeeded", error: null, metrics: { predict_time: 1 } },
    );
    expect(JSON.parse(JSON.stringify(metrics))).toEqual(
      JSON.parse('{"n":2.5,"__proto__":1,"constructor":["a","b"],"list":["kept","more"],"predict_time":1}'),
    );
    expect(list).toEqual(metric("list", ["kept"], "replace"));
    expect(({} as Record<string, unknown>)["n"]).toBeUndefined();
  });

  it("appends to the list that a whole output was, and changes no entry", () => {
    const whole: StoredEvent = { type: "output", mode: "set", value: [1] };
    expect(fold(whole, { type: "output", mode: "append", value: 2 }).output).toEqual([1, 2]);
    expect(whole).toEqual({ type: "output", mode: "set", value: [1] });
    expect(fold({ type: "started", attempt: 1 }).output).toBeNull();
  });
});

describe("storedEvents", () => {
  const event = { i: 0, t_ms: 0, type: "output" } as const;
  const file = (n: number): FileRef => ({
    $cogway_file: { n, name: `${n}.png`, content_type: "image/png", size_bytes: 1, sha256: "0".repeat(64) },
  });

  it("streams a list of files file by file, which folds to the same list", () => {
    const files = [file(0), file(1)];
    const stored = storedEvents({ ...event, mode: "set", value: files });
    expect(stored).toHaveLength(2);
    expect(fold(...stored).output).toEqual(files);
  });

  it.each([{ value: [] }, { value: [file(0), "text"] }, { value: { file: file(0) } }, { value: null }])(
    "keeps every other output whole: %j",
    ({ value }) => {
      const stored = storedEvents({ ...event, mode: "set", value });
      expect(stored).toEqual([{ type: "output", mode: "set", value }]);
      expect(fold(...stored).output).toEqual(value);
    },
  );

  it("takes an output without a value for null, which JSON has", () => {
    expect(storedEvents({ ...event, mode: "append", value: undefined })).toEqual([
      { type: "output", mode: "append", value: null },
    ]);
  });
});
