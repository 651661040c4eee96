import { beforeAll, expect, test } from "vitest";
import { type Api, streamUrl } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";
import { StreamReader } from "./lib/sse.ts";

let caller: Api;
beforeAll(async () => {
  caller = await newCaller("stream");
});

test("three readers, one of them late and one resumed, get the same bytes", async () => {
  const prediction = await caller.create("tokens", { count: 150, delay_ms: 10 });
  const url = streamUrl(prediction);
  const early = StreamReader.open(url);
  await early.untilOutputs(30);
  const late = StreamReader.open(url);
  const leaving = StreamReader.open(url);
  await leaving.untilOutputs(60);
  leaving.close();
  await leaving.untilEnded();
  const kept = leaving.wire.length;
  const lastEventId = leaving.ids[kept - 1] ?? "";
  await early.untilOutputs(100);
  const resumed = StreamReader.open(url, { lastEventId });
  for (const reader of [early, late, resumed]) await reader.untilEnded();

  expect(early.headers?.get("content-type")).toMatch(/^text\/event-stream/);
  expect(late.wire).toEqual(early.wire);
  expect([...leaving.wire.slice(0, kept), ...resumed.wire]).toEqual(early.wire);
  expect(late.ids).toEqual(early.ids);
  expect(new Set(early.ids).size).toBe(early.ids.length);
  expect(early.outputs()).toEqual(Array.from({ length: 150 }, (_, i) => `token ${i}\n`));
  expect(early.events.at(-1)).toMatchObject({ event: "done", data: "{}" });
  const logs = early.events.filter(({ event }) => event === "logs").map(({ data }) => data);
  const end = await caller.untilEnd(prediction);
  expect(end).toMatchObject({ status: "succeeded", output: early.outputs(), logs: logs.join("") });

  const afterEnd = await StreamReader.readAll(url);
  expect(afterEnd.wire).toEqual(early.wire);
  const afterDone = await StreamReader.readAll(url, { lastEventId: early.ids.at(-1) ?? "" });
  expect(afterDone.events).toEqual([]);
  const unknown = await StreamReader.readAll(url, { lastEventId: "1700000000:99" });
  expect(unknown.wire).toEqual(early.wire);
});

test("tokens come while the model runs, from a concurrent model too", async () => {
  for (const model of ["tokens", "tokens-async"]) {
    const predictions = await Promise.all(
      Array.from({ length: model === "tokens" ? 1 : 3 }, () => caller.create(model, { count: 20, delay_ms: 100 })),
    );
    const readers = predictions.map((prediction) => StreamReader.open(streamUrl(prediction)));
    for (const reader of readers) await reader.untilOutputs(3);
    for (const prediction of predictions) expect((await caller.get(prediction)).status).toBe("processing");
    for (const reader of readers) {
      await reader.untilEnded();
      expect(reader.text).toBe(Array.from({ length: 20 }, (_, i) => `token ${i}\n`).join(""));
    }
    for (const prediction of predictions) {
      const { output } = await caller.untilEnd(prediction);
      expect(Array.isArray(output) ? output.join("") : output).toBe(readers[0]?.text);
    }
  }
});

test("line breaks, spaces and characters of every width survive", async () => {
  const text = "  é\n\nß漢😀\u2028 a: b\ndata: x\n\n";
  const reader = await StreamReader.readAll(streamUrl(await caller.create("tokens", { text })));
  expect(reader.text).toBe(text);
  expect(reader.outputs()).toEqual([...text]);
});

test("a prediction that fails in the middle ends its stream with error, then done", async () => {
  const prediction = await caller.create("tokens", { count: 5, fail_at: 3 });
  const reader = await StreamReader.readAll(streamUrl(prediction));
  expect(reader.text).toBe("token 0\ntoken 1\ntoken 2\n");
  const [error, done] = reader.events.slice(-2);
  expect(error?.event).toBe("error");
  expect(JSON.parse(error?.data ?? "")).toMatchObject({ detail: expect.stringContaining("broke in the middle") });
  expect(done).toMatchObject({ event: "done", data: '{"reason":"error"}' });
  expect(await caller.untilEnd(prediction)).toMatchObject({ status: "failed", output: reader.outputs() });
});

test("a stream's address is its own permission, and a guessed one is not found", async () => {
  const url = streamUrl(await caller.run("tokens", { count: 1 }));
  const wrong = url.slice(0, -1) + (url.endsWith("a") ? "b" : "a");
  expect((await StreamReader.readAll(wrong)).status).toBe(404);
  const withToken = await fetch(url, { headers: { authorization: "Bearer nonsense", accept: "text/event-stream" } });
  expect(withToken.status).toBe(200);
  await withToken.body?.cancel();
});
