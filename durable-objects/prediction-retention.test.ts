/** When a prediction's data goes: in its time, and not before what is owed of it was taken. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { passTime, stopClockInEachTest } from "./testing/harness.ts";
import {
  aCreate,
  events,
  files,
  line,
  output,
  readStream,
  running,
  started,
  streamRequest,
  succeeded,
  type World,
  withPredictions,
} from "./testing/prediction-world.ts";
import { Receiver, ringNext } from "./testing/receiver.ts";

const HOUR_MS = 3_600_000;

stopClockInEachTest();
afterEach(() => {
  vi.unstubAllGlobals();
});

describe("retention", () => {
  it("guarantees that data goes in time and not before what is owed was taken, the row a day later", () =>
    withPredictions(async (world) => {
      const id = await running(world, { retention_ms: 10_000 });
      await files().put(`outputs/${id}/0/a.png`, "bytes");
      world.ownersAreAway = true;
      const file = { n: 0, name: "a.png", content_type: "image/png", size_bytes: 5, sha256: "0".repeat(64) };
      await world.send(id, 1, events(0, started, output({ $cogway_file: file }), line("log"), succeeded));
      passTime(10_001);
      await world.object.alarm();
      expect((await world.object.get(id, "alice"))?.data_removed).toBe(false);
      world.ownersAreAway = false;
      passTime(60_000);
      await world.object.alarm();
      const document = await world.object.get(id, "alice");
      expect(document).toMatchObject({ data_removed: true, input: {}, output: null, logs: "", state: "succeeded" });
      expect(document?.metrics["predict_time"]).toBe(0.001);
      expect(await files().head(`outputs/${id}/0/a.png`)).toBeNull();
      expect((await world.object.fetch(streamRequest(id))).status).toBe(410);
      await vi.waitFor(() => expect(world.removed).toMatchObject([{ id, data_removed: true }]));
      passTime(86_400_001);
      await world.object.alarm();
      expect(await world.object.get(id, "alice")).toBeNull();
      expect(world.state.storage.sql.exec("SELECT * FROM log").toArray()).toEqual([]);
    }));
});

describe("retention 0", () => {
  const zero = { retention_ms: 0 };
  const isRemoved = async (world: World, id: string): Promise<void> => {
    await ringNext(world, 0);
    expect(world.state.storage.sql.exec("SELECT * FROM log WHERE prediction_id = ?", id).toArray()).toEqual([]);
    expect(await world.object.get(id, "alice")).toMatchObject({ data_removed: true, output: null });
  };

  it("removes data after the create that waited was answered whole", () =>
    withPredictions(async (world) => {
      const request = aCreate({ ...zero, wait_ms: 50_000 });
      const answer = world.object.create(request);
      await vi.waitFor(() => expect(world.started).toHaveLength(1));
      await world.send(request.id, 1, events(0, started, output("a"), succeeded));
      expect(await answer).toMatchObject({ settled: true, document: { output: ["a"], data_removed: false } });
      await world.idle();
      await isRemoved(world, request.id);
    }));

  it("removes data after the first read that showed the end", () =>
    withPredictions(async (world) => {
      const id = await running(world, zero);
      await world.send(id, 1, events(0, started, output("a")));
      expect(await world.object.get(id, "alice")).toMatchObject({ output: ["a"] });
      await world.send(id, 1, events(2, succeeded));
      await world.idle();
      expect(await world.object.getMany([id], "alice")).toMatchObject([{ output: ["a"] }]);
      expect(await world.object.get(id, "bob")).toBeNull();
      await world.idle();
      expect(await ringNext(world, 0)).toBe(false);
      expect(await world.object.get(id, "alice")).toMatchObject({ output: ["a"], data_removed: false });
      await world.idle();
      await isRemoved(world, id);
    }));

  it("removes data after the last stream, and after the webhook was taken", () =>
    withPredictions(async (world) => {
      const streamed = await running(world, zero);
      const reader = readStream(await world.object.fetch(streamRequest(streamed)));
      const large = "x".repeat(200_000);
      await world.send(streamed, 1, events(0, started, output(large), output(large), output(large)));
      // It has a page, and asks for the next when it has read that.
      const slow = (await world.object.fetch(streamRequest(streamed))).body?.getReader();
      await world.send(streamed, 1, events(4, succeeded));
      expect((await reader).at(-1)).toMatchObject({ event: "done" });
      await world.idle();
      expect(await ringNext(world, 0)).toBe(false);
      for (let part = await slow?.read(); part?.done === false; part = await slow?.read());
      await world.idle();
      await isRemoved(world, streamed);

      const receiver = new Receiver();
      receiver.answer = () => new Response(null, { status: 500 });
      const told = await running(world, {
        ...zero,
        webhook: "https://receiver.test/hook",
        webhook_events_filter: ["completed"],
      });
      await world.send(told, 1, events(0, started, output("b"), succeeded));
      await world.idle();
      receiver.answer = () => new Response("ok");
      await ringNext(world, 2_000);
      expect(receiver.calls.at(-1)?.body["output"]).toEqual(["b"]);
      await isRemoved(world, told);
    }));

  it("removes what nobody took after the default retention, and with `forever` nothing ever", () =>
    withPredictions(async (world) => {
      const id = await running(world, zero);
      const kept = await running(world, { retention_ms: null });
      for (const each of [id, kept]) await world.send(each, 1, events(0, started, output("a"), succeeded));
      await world.idle();
      passTime(HOUR_MS - 1_000);
      await world.object.alarm();
      expect(await world.object.getMany([id], "alice")).toMatchObject([{ output: ["a"] }]);
      passTime(2_000);
      await world.object.alarm();
      await world.idle();
      expect(await world.object.getMany([id], "alice")).toMatchObject([{ data_removed: true }]);
      passTime(400 * 24 * HOUR_MS);
      await world.object.alarm();
      expect(await world.object.get(kept, "alice")).toMatchObject({ output: ["a"], expires_at: null });
    }));
});
