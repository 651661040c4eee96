/** A PredictionObject's guarantees over real SQLite and R2. `restart` drops its memory, as an eviction does; the clock moves only when a test moves it. */
import { describe, expect, it, vi } from "vitest";
import { passTime, stopClockInEachTest } from "./testing/harness.ts";
import {
  aCreate,
  events,
  files,
  line,
  output,
  parseStream,
  readStream,
  running,
  started,
  streamRequest,
  succeeded,
  withPredictions,
} from "./testing/prediction-world.ts";

stopClockInEachTest();

const refusal = (code: string) => () => Response.json({ code, detail: "no such instance" }, { status: 409 });

const idempotent = { spec: { ...aCreate().spec, idempotent: true } };

describe("create", () => {
  it("guarantees a document at once, a start on the leased instance, and the end to a caller that waits", () =>
    withPredictions(async (world) => {
      const request = aCreate({ wait_ms: 50_000 });
      const answer = world.object.create(request);
      await vi.waitFor(() => expect(world.started).toHaveLength(1));
      expect(world.started[0]).toMatchObject({ attempt: 1, instance_id: "instance1", input: { text: "hello" } });
      expect((await world.object.get(request.id, "alice"))?.state).toBe("queued");
      await world.send(request.id, 1, events(0, started, output("a"), output("b"), succeeded));
      const { document, settled } = await answer;
      expect(settled).toBe(true);
      expect(document).toMatchObject({ state: "succeeded", output: ["a", "b"], error: null });
      expect(document.meter).toEqual({
        hardware: "cpu",
        predict_time_s: 0.001,
        outcome: "succeeded",
        platform_failure: false,
      });
      expect(document.created_at).toBeLessThanOrEqual(document.started_at ?? 0);
      expect(document.started_at).toBeLessThanOrEqual(document.completed_at ?? 0);
    }));

  it("guarantees one prediction per id, and nothing to other accounts", () =>
    withPredictions(async (world) => {
      const request = aCreate();
      await Promise.all([world.object.create(request), world.object.create(request)]);
      await world.object.create(request);
      await vi.waitFor(() => expect(world.started.length).toBeGreaterThan(0));
      expect(world.started).toHaveLength(1);
      expect(await world.object.get(request.id, "bob")).toBeNull();
      expect(await world.object.cancel(request.id, "bob")).toBeNull();
      expect(await world.object.getMany([request.id, "unknown"], "alice")).toEqual([
        expect.objectContaining({ id: request.id }),
        null,
      ]);
    }));

  it("guarantees that one whose commit breaks leaves nothing behind, and that the next is stored", () =>
    withPredictions(async (world) => {
      // SQLite takes no value of this size.
      const broken = aCreate({ log_lines: ["x".repeat(3_000_000)] });
      await expect(world.object.create(broken)).rejects.toThrow("too big");
      expect(await world.object.get(broken.id, "alice")).toBeNull();
      const { id } = (await world.object.create(aCreate())).document;
      await world.idle();
      world.restart();
      expect((await world.object.get(id, "alice"))?.id).toBe(id);
      expect((await world.object.figures()).counts.created).toBe(1);
    }));

  it("guarantees that a guessed id stores nothing", () =>
    withPredictions(async ({ object, state }) => {
      expect(await object.get("guess", "alice")).toBeNull();
      expect((await object.fetch(streamRequest("guess"))).status).toBe(404);
      expect(
        await object.applyEvents([{ prediction_id: "guess", attempt: 1, events: events(0, started) }], "o"),
      ).toEqual([expect.objectContaining({ outcome: "unknown" })]);
      expect(state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name = 'predictions'").toArray()).toEqual([]);
    }));

  it("guarantees a refusal with its reason, and why a queued one waits", () =>
    withPredictions(async (world) => {
      world.enqueue = () => ({ kind: "refused", code: "model.setup_failed", detail: "It does not set up." });
      const refused = await world.object.create(aCreate({ wait_ms: 50_000 }));
      expect(refused.document).toMatchObject({ state: "failed", error: "It does not set up." });
      world.enqueue = () => ({ kind: "queued", queue_position: 1 });
      const { document } = await world.object.create(aCreate());
      await vi.waitFor(async () =>
        expect((await world.object.get(document.id, "alice"))?.waiting_for).toMatchObject({ reason: "boot" }),
      );
    }));

  it("guarantees a start though its slot was granted before it was stored", () =>
    withPredictions(async (world) => {
      const answers: unknown[] = [];
      world.enqueue = (key) => {
        void world.object.leasesGranted([leaseOf(key.prediction_id)]).then((answer) => answers.push(answer));
        return { kind: "queued", queue_position: 1 };
      };
      const { id } = (await world.object.create(aCreate())).document;
      await vi.waitFor(() => expect(world.started.map((start) => start.prediction_id)).toEqual([id]));
      expect(answers).toEqual([{ declined: [] }]);
    }));

  it("guarantees that secrets are stored sealed, dropped at the end and never shown", () =>
    withPredictions(async (world) => {
      const id = await running(world, { input: { key: "s3cret" }, shown_input: { key: "[REDACTED]" } });
      expect(world.started[0]?.input).toEqual({ key: "s3cret" });
      const stored = (): string => JSON.stringify(world.state.storage.sql.exec("SELECT * FROM predictions").toArray());
      expect(stored()).not.toContain("s3cret");
      world.restart();
      expect((await world.object.inputOf(id))?.input).toEqual({ key: "s3cret" });
      expect((await world.object.get(id, "alice"))?.input).toEqual({ key: "[REDACTED]" });
      await world.send(id, 1, events(0, started, succeeded));
      expect((await world.object.get(id, "alice"))?.input).toEqual({ key: "[REDACTED]" });
      expect(stored()).not.toMatch(/s3cret|sealed:/);
    }));
});

describe("events", () => {
  it("guarantees that a repeat changes nothing, a gap is asked for again, and a late one is fenced", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const first = events(0, started, output("a"));
      expect((await world.send(id, 1, first))[0]).toMatchObject({ outcome: "stored", through_i: 1 });
      expect((await world.send(id, 1, first))[0]).toMatchObject({ outcome: "stored", through_i: 1 });
      expect((await world.send(id, 1, events(3, output("c"))))[0]).toMatchObject({ outcome: "retry", through_i: 1 });
      world.restart();
      const end = events(2, output("b"), succeeded);
      expect((await world.send(id, 1, end))[0]).toMatchObject({ outcome: "stored", through_i: 3 });
      expect((await world.send(id, 1, end))[0]).toMatchObject({ outcome: "stored" });
      expect((await world.send(id, 1, events(4, output("late"))))[0]).toMatchObject({ outcome: "fenced" });
      expect((await world.send(id, 2, events(0, started)))[0]).toMatchObject({ outcome: "fenced" });
      expect((await world.object.get(id, "alice"))?.output).toEqual(["a", "b"]);
    }));

  it("guarantees one settlement and one release, again and again until they were taken", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      world.ownersAreAway = true;
      await world.send(id, 1, events(0, started, output("a"), succeeded));
      world.restart();
      passTime(5_000);
      await world.object.alarm();
      expect(world.settled).toEqual([]);
      world.ownersAreAway = false;
      world.restart();
      passTime(5_000);
      await world.object.alarm();
      expect(world.settled).toMatchObject([{ prediction_id: id, document: { state: "succeeded" } }]);
      const end = { version: "a".repeat(64), outcome: "succeeded", platform_failure: false };
      expect(world.released).toEqual([
        { prediction_id: id, attempt: 1, ran_ms: 1, instance_gone: false, model: "cogway/test", end },
      ]);
      expect(world.state.storage.sql.exec("SELECT * FROM outbox").toArray()).toEqual([]);
      passTime(5_000);
      await world.object.alarm();
      expect(world.settled).toHaveLength(1);
    }));

  it("guarantees that an alarm with nothing left to send does not stop what comes after it", () =>
    withPredictions(async (world) => {
      const first = await running(world);
      await world.send(first, 1, events(0, started, succeeded));
      await vi.waitFor(() => expect([world.released.length, world.settled.length]).toEqual([1, 1]));
      // The rows were taken, and are deleted by the next commit: the alarm comes before it.
      passTime(5_000);
      await world.object.alarm();
      const second = await running(world);
      await world.send(second, 1, events(0, started, succeeded));
      await vi.waitFor(() => expect([world.released.length, world.settled.length]).toEqual([2, 2]));
    }));

  it("guarantees values above a row's size: whole in the document and the stream, in R2 until removed", () =>
    withPredictions(async (world) => {
      const id = await running(world, { retention_ms: 1_000 });
      const large = "x".repeat(2_500_000);
      await world.send(id, 1, events(0, started, output("a"), output(large), output("b"), succeeded));
      world.restart();
      expect((await world.object.get(id, "alice"))?.output).toEqual(["a", large, "b"]);
      const streamed = await readStream(await world.object.fetch(streamRequest(id)));
      expect(streamed.map(({ data }) => data.length)).toEqual([1, 2_500_000, 1, 2]);
      const rows = world.state.storage.sql.exec<{ size: number }>("SELECT max(length(events)) AS size FROM log").one();
      expect(rows.size).toBeLessThan(262_144 + 1_024);
      expect((await files().list({ prefix: `predictions/${id}/` })).objects).toHaveLength(1);
      passTime(1_001);
      await world.object.alarm();
      expect((await files().list({ prefix: `predictions/${id}/` })).objects).toHaveLength(0);
    }));
});

describe("rows of the release before", () => {
  it("run to their end and are shown, though they lack what came later", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const { sql } = world.state.storage;
      const { request } = sql.exec<{ request: string }>("SELECT request FROM predictions WHERE id = ?", id).one();
      const { kind, destination, deployment, batch, shown_version, ...earlier } = JSON.parse(request);
      const { release, mode, weights, ...spec } = earlier.spec;
      expect([kind, destination, deployment, batch, shown_version, release, mode, weights]).not.toContain(undefined);
      sql.exec("UPDATE predictions SET request = ? WHERE id = ?", JSON.stringify({ ...earlier, spec }), id);
      world.restart();
      await world.send(id, 1, events(0, started, output("a"), succeeded));
      await world.idle();
      expect(await world.object.get(id, "alice")).toMatchObject({
        kind: "prediction",
        state: "succeeded",
        version: shown_version,
        destination: null,
        deployment: null,
      });
      expect(world.settled).toHaveLength(1);
    }));
});

describe("streams", () => {
  it("guarantees the same bytes to an early, a late and a resumed reader", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const early = readStream(await world.object.fetch(streamRequest(id)));
      await world.send(id, 1, events(0, started, output("a"), line("log\n"), output(" b\nc")));
      const middle = readStream(await world.object.fetch(streamRequest(id)));
      await world.send(id, 1, events(4, output("\r\nd"), succeeded));
      const late = await readStream(await world.object.fetch(streamRequest(id)));
      expect(late.map(({ event, data }) => [event, data])).toEqual([
        ["output", "a"],
        ["logs", "log\n"],
        ["output", " b\nc"],
        ["output", "\nd"],
        ["done", "{}"],
      ]);
      expect(await early).toEqual(late);
      expect(await middle).toEqual(late);
      expect(new Set(late.map((event) => event.id)).size).toBe(late.length);
      world.restart();
      for (const [n, event] of late.entries()) {
        const resumed = await readStream(await world.object.fetch(streamRequest(id, event.id)));
        expect(resumed).toEqual(late.slice(n + 1));
      }
      expect(await readStream(await world.object.fetch(streamRequest(id, "never-1")))).toEqual(late);
    }));

  it("guarantees `error` before `done` when it failed, and resuming between the two", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const failed = { type: "finished", status: "failed", error: "boom", metrics: {}, predict_time_s: 0 } as const;
      await world.send(id, 1, events(0, started, failed));
      const all = await readStream(await world.object.fetch(streamRequest(id)));
      expect(all.map(({ event, data }) => [event, data])).toEqual([
        ["error", '{"detail":"boom"}'],
        ["done", '{"reason":"error"}'],
      ]);
      const resumed = await readStream(await world.object.fetch(streamRequest(id, all[0]?.id)));
      expect(resumed).toEqual(all.slice(1));
    }));

  it("guarantees that a slow reader is cut, the others go on, and it resumes without a gap", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const slow = (await world.object.fetch(streamRequest(id))).body?.getReader();
      const quick = readStream(await world.object.fetch(streamRequest(id)));
      // The slow one takes what was there when it came, and then nothing.
      await slow?.read();
      const chunk = "y".repeat(100_000);
      let i = 1;
      await world.send(id, 1, events(0, started));
      for (; i <= 12; i++) await world.send(id, 1, events(i, output(`${i} ${chunk}`)));
      await world.send(id, 1, events(i, succeeded));
      let text = "";
      const decoder = new TextDecoder();
      await expect(
        (async () => {
          for (let part = await slow?.read(); part?.done === false; part = await slow?.read()) {
            text += decoder.decode(part.value, { stream: true });
          }
        })(),
      ).rejects.toThrow("too slow");
      const all = await quick;
      expect(all).toHaveLength(13);
      const seen = parseStream(text.slice(0, text.lastIndexOf("\n\n") + 2));
      expect(seen.length).toBeLessThan(12);
      const rest = await readStream(await world.object.fetch(streamRequest(id, seen.at(-1)?.id)));
      expect([...seen, ...rest]).toEqual(all);
    }));

  it("guarantees that a reader which left is freed", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      const gone = new AbortController();
      await Promise.all(
        Array.from({ length: 1_000 }, () => world.object.fetch(streamRequest(id, undefined, gone.signal))),
      );
      expect((await world.object.fetch(streamRequest(id))).status).toBe(429);
      gone.abort();
      const next = await world.object.fetch(streamRequest(id));
      expect(next.status).toBe(200);
      await next.body?.cancel();
    }));
});

describe("cancel", () => {
  it("guarantees an answer at the end: a queued one at once, a running one when the model stopped", () =>
    withPredictions(async (world) => {
      world.enqueue = () => ({ kind: "queued", queue_position: 1 });
      const queued = (await world.object.create(aCreate())).document.id;
      expect(await world.object.cancel(queued, "alice")).toMatchObject({ state: "canceled", started_at: null });
      expect(await world.object.leasesGranted([leaseOf(queued)])).toEqual({
        declined: [{ prediction_id: queued, attempt: 1 }],
      });
      world.enqueue = (key) => world.leased(key);
      const id = await running(world);
      await world.send(id, 1, events(0, started, output("a")));
      const canceled = world.object.cancel(id, "alice");
      await vi.waitFor(() => expect(world.cancels).toEqual([`${id}/1`]));
      const stopped = { type: "finished", status: "canceled", metrics: {}, predict_time_s: 0 } as const;
      await world.send(id, 1, events(2, stopped));
      expect(await canceled).toMatchObject({ state: "canceled", output: ["a"] });
      expect(await world.object.cancel(id, "alice")).toMatchObject({ state: "canceled" });
    }));

  it("guarantees the end though the origin never confirms, also over an eviction", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      await world.send(id, 1, events(0, started));
      const canceled = world.object.cancel(id, "alice");
      await vi.waitFor(() => expect(world.cancels).toHaveLength(1));
      passTime(8_000);
      await world.object.alarm();
      expect(await canceled).toMatchObject({ state: "canceled" });
      expect((await world.send(id, 1, events(1, succeeded)))[0]).toMatchObject({ outcome: "fenced" });
    }));

  it("guarantees the deadline: aborted before it started, canceled after", () =>
    withPredictions(async (world) => {
      world.enqueue = () => ({ kind: "queued", queue_position: 1 });
      const waiting = (await world.object.create(aCreate({ deadline_at: Date.now() + 10_000 }))).document.id;
      world.enqueue = (key) => world.leased(key);
      const id = await running(world, { deadline_at: Date.now() + 10_000 });
      await world.send(id, 1, events(0, started));
      passTime(10_001);
      await world.object.alarm();
      expect(await world.object.get(waiting, "alice")).toMatchObject({ state: "aborted" });
      await vi.waitFor(() => expect(world.cancels).toEqual([`${id}/1`]));
      const stopped = { type: "finished", status: "canceled", metrics: {}, predict_time_s: 0 } as const;
      await world.send(id, 1, events(1, stopped));
      expect(await world.object.get(id, "alice")).toMatchObject({ state: "canceled" });
    }));
});

describe("what gets lost", () => {
  it("guarantees another attempt when the slot was not there", () =>
    withPredictions(async (world) => {
      world.startAnswer = refusal("instance.unknown");
      const { id } = (await world.object.create(aCreate())).document;
      await vi.waitFor(() => expect(world.started.length).toBeGreaterThan(1));
      world.startAnswer = () => Response.json({}, { status: 500 });
      expect(world.released[0]).toEqual({
        prediction_id: id,
        attempt: 1,
        ran_ms: 0,
        instance_gone: true,
        model: "cogway/test",
      });
      expect(world.started[1]?.attempt).toBe(2);
    }));

  it("guarantees that an attempt whose start was lost is started again after an eviction, once", () =>
    withPredictions(async (world) => {
      const id = await running(world);
      world.restart();
      passTime(20_000);
      await world.object.alarm();
      expect(world.started.map(({ prediction_id, attempt }) => [prediction_id, attempt])).toEqual([
        [id, 1],
        [id, 1],
      ]);
    }));

  it("guarantees an end with a reason when the origin lost a started attempt, or is gone", () =>
    withPredictions(async (world) => {
      const lost = await running(world);
      await world.send(lost, 1, events(0, started, output("a")));
      await world.send(lost, 1, events(2, { type: "lost", started: true, reason: "it was restarted" }));
      expect(await world.object.get(lost, "alice")).toMatchObject({
        state: "failed",
        error_code: "origin.lost",
        output: ["a"],
        meter: { platform_failure: true },
      });
      const silent = await running(world);
      await world.send(silent, 1, events(0, started));
      world.attemptState = null;
      world.restart();
      passTime(20_000);
      await world.object.alarm();
      expect(await world.object.get(silent, "alice")).toMatchObject({ state: "failed", error_code: "origin.lost" });
    }));

  it("guarantees an idempotent one another run, whose readers see no output twice", () =>
    withPredictions(async (world) => {
      const id = await running(world, idempotent);
      const reader = readStream(await world.object.fetch(streamRequest(id)));
      await world.send(id, 1, events(0, started, output("a"), output("b")));
      await world.send(id, 1, events(3, { type: "lost", started: true, reason: "it was restarted" }));
      await vi.waitFor(() => expect(world.started.at(-1)?.attempt).toBe(2));
      world.restart();
      await world.send(id, 2, events(0, started, output("a")));
      await world.send(id, 2, events(2, output("b"), output("c"), succeeded));
      expect(await world.object.get(id, "alice")).toMatchObject({ state: "succeeded", output: ["a", "b", "c"] });
      const late = await readStream(await world.object.fetch(streamRequest(id)));
      expect(late.map(({ data }) => data)).toEqual(["a", "b", "c", "{}"]);
      // The reader of the evicted object is gone with it; it got what was there.
      void reader;
    }));

  it("guarantees `origin.lost` when the second run says something else, or less", () =>
    withPredictions(async (world) => {
      for (const second of [[output("x")], [output("a"), succeeded]]) {
        const id = await running(world, idempotent);
        await world.send(id, 1, events(0, started, output("a"), output("b")));
        await world.send(id, 1, events(3, { type: "lost", started: true, reason: "it was restarted" }));
        await vi.waitFor(() => expect(world.started.at(-1)).toMatchObject({ prediction_id: id, attempt: 2 }));
        await world.send(id, 2, events(0, started, ...second));
        expect(await world.object.get(id, "alice")).toMatchObject({
          state: "failed",
          error_code: "origin.lost",
          output: ["a", "b"],
        });
      }
    }));
});

function leaseOf(prediction_id: string) {
  return { prediction_id, attempt: 1, instance_id: "instance1", origin_id: "origin1", leased_at: Date.now() };
}
