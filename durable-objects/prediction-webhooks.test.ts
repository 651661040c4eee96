/** What receivers of webhooks are promised. The clock moves only when a test moves it; calls go to a receiver inside the test. */
import { validateWebhook } from "replicate";
import { Webhook } from "standardwebhooks";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { CreatePrediction, WebhookLogEntry } from "./prediction-contract.ts";
import { passTime, stopClockInEachTest } from "./testing/harness.ts";
import {
  aCreate,
  events,
  files,
  line,
  output,
  running,
  started,
  succeeded,
  WEBHOOK_KEYS,
  type World,
  withPredictions,
} from "./testing/prediction-world.ts";
import { Receiver, ringNext } from "./testing/receiver.ts";

const HOUR_MS = 3_600_000;
const URL_ = "https://receiver.test/hook?secret=1";

stopClockInEachTest();
afterEach(() => {
  vi.unstubAllGlobals();
});

async function told(world: World, change: Partial<CreatePrediction> = {}): Promise<string> {
  const id = await running(world, { webhook: URL_, ...change });
  await world.idle();
  return id;
}

async function logOf(world: World, id: string): Promise<WebhookLogEntry[]> {
  return (await world.object.webhooks(id, "alice"))?.events ?? [];
}

const failing = (): Response => new Response(null, { status: 500 });
const failed = { type: "finished", status: "failed", error: "boom", metrics: {}, predict_time_s: 0 } as const;
const completedOnly = { webhook_events_filter: ["completed"] };

/** As Replicate's client judges it. */
function isValid(headers: Headers, body: string, secret: string): Promise<boolean> {
  const header = (name: string): string => headers.get(name) ?? "";
  const [id, timestamp, signature] = [header("webhook-id"), header("webhook-timestamp"), header("webhook-signature")];
  return validateWebhook({ id, timestamp, signature, body, secret });
}

describe("events", () => {
  it("come in their order, one at a time, with the prediction as `get` shows it", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const items = [{ unit: "second" as const, price_micros: 5_000_000, per: 1_000_000 }];
      const id = await told(world, { rates: { basis: "active", hardware: "cpu", items, discount_ppm: 0 } });
      await world.send(id, 1, events(0, started, output("a"), line("log\n"), succeeded));
      await world.idle();
      expect(receiver.events).toEqual(["start", "output", "logs", "completed"]);
      expect(receiver.mostOpen).toBe(1);
      expect(new Set(receiver.calls.map((call) => call.id)).size).toBe(4);
      const [start, , , completed] = receiver.calls;
      expect(start?.url).toBe(URL_);
      expect(start?.body).toMatchObject({ id, status: "processing", completed_at: null, error: null, cost: null });
      expect(completed?.body).toMatchObject({ id, status: "succeeded", output: ["a"], logs: "log\n", webhook: URL_ });
      expect(completed?.body).toMatchObject({ cost: 5_000, cost_usd: "0.005000" });
      expect(completed?.body["completed_at"]).not.toBeNull();
      expect(completed?.body["urls"]).toMatchObject({ get: expect.stringContaining(`/v1/predictions/${id}`) });
    }));

  it("verify with the clients' own functions, over the exact bytes, with either key", () =>
    withPredictions(async (world) => {
      vi.setSystemTime(Date.now());
      const receiver = new Receiver();
      const id = await told(world, { input: { text: "grüße \u2028 \ud83d\ude00" } });
      await world.send(id, 1, events(0, started, output("“é”"), succeeded));
      await world.idle();
      expect(receiver.calls.length).toBeGreaterThan(2);
      for (const { headers, text } of receiver.calls) {
        for (const key of WEBHOOK_KEYS) {
          const named = Object.fromEntries(headers);
          expect(new Webhook(key).verify(text, named)).toMatchObject({ id });
          expect(await isValid(headers, text, key)).toBe(true);
          expect(await isValid(headers, `${text} `, key)).toBe(false);
        }
        expect(await isValid(headers, text, "whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB")).toBe(false);
      }
    }));

  it.each([
    [["completed"], ["completed"]],
    [["start"], ["start"]],
    [["output"], ["output"]],
    [
      ["logs", "start"],
      ["start", "logs"],
    ],
    [[], []],
  ])("are those of the filter: %j", (webhook_events_filter, expected) =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const id = await told(world, { webhook_events_filter });
      await world.send(id, 1, events(0, started, output("a"), line("log\n"), succeeded));
      await world.idle();
      expect(receiver.events).toEqual(expected);
    }),
  );

  it("of output and logs come once in 500 ms each, the newest with all that came", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const id = await told(world);
      await world.send(id, 1, events(0, started));
      await world.idle();
      for (let i = 1; i <= 40; i++) {
        await world.send(id, 1, events(i, i % 2 === 0 ? output(`${i}`) : line(`${i}\n`)));
        await world.idle();
        passTime(50);
        while (await ringNext(world, 0));
      }
      await world.send(id, 1, events(41, succeeded));
      await world.idle();
      for (const kind of ["output", "logs"]) {
        const times = receiver.calls.filter(({ event }) => event === kind).map(({ at }) => at);
        expect(times.length).toBeGreaterThanOrEqual(3);
        for (const [n, at] of times.entries()) if (n > 0) expect(at - (times[n - 1] ?? 0)).toBeGreaterThanOrEqual(500);
      }
      expect(receiver.events.at(0)).toBe("start");
      expect(receiver.events.at(-1)).toBe("completed");
      const second = receiver.calls.filter(({ event }) => event === "output")[1]?.body["output"];
      expect(second).toEqual(expect.arrayContaining(["2", "4", "6", "8"]));
      // Nothing is owed after the end.
      passTime(HOUR_MS / 2);
      while (await ringNext(world, 0));
      expect(receiver.events.at(-1)).toBe("completed");
    }));

  it("that only ask for output get the last one too, when its time has come", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const id = await told(world, { webhook_events_filter: ["output"] });
      await world.send(id, 1, events(0, started, output("a")));
      await world.idle();
      await world.send(id, 1, events(2, output("b"), succeeded));
      await world.idle();
      expect(receiver.calls).toHaveLength(1);
      passTime(500);
      await world.object.alarm();
      await world.idle();
      expect(receiver.calls[1]?.body).toMatchObject({ output: ["a", "b"] });
    }));

  it("of a training carry it as a training", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const id = await told(world, { kind: "training", destination: "alice/mine", ...completedOnly });
      await world.send(id, 1, events(0, started, failed));
      await world.idle();
      expect(receiver.calls).toMatchObject([{ body: { status: "failed", error: "boom", destination: "alice/mine" } }]);
      expect(receiver.calls[0]?.body["urls"]).toMatchObject({
        get: expect.stringContaining(`/v1/trainings/${id}`),
      });
      expect(await world.object.webhooks(id, "alice")).toMatchObject({ kind: "training" });
    }));

  it("are told of a cancel before it ran", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      world.enqueue = () => ({ kind: "queued", queue_position: 1 });
      const { id } = (await world.object.create(aCreate({ webhook: URL_ }))).document;
      await world.object.cancel(id, "alice");
      await world.idle();
      expect(receiver.calls).toMatchObject([{ event: "completed", body: { status: "canceled" } }]);
    }));
});

describe("retries", () => {
  it("of `completed` follow the schedule for three days, with one id and a fresh time and signature", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      receiver.answer = failing;
      const id = await told(world, { ...completedOnly, retention_ms: null });
      await world.send(id, 1, events(0, started, succeeded));
      await world.idle();
      const end = Date.now();
      for (let n = 0; n < 100 && (await ringNext(world)); n++);
      const pauses = receiver.calls.map(({ at }, n) => (at - (receiver.calls[n - 1]?.at ?? end)) / 1_000);
      const schedule = [0, 1, 5, 15, 60, 300, 1_800, 7_200, 18_000, 36_000, 86_400, 108_000];
      expect(pauses).toHaveLength(schedule.length);
      for (const [n, pause] of pauses.entries()) {
        expect(pause).toBeGreaterThanOrEqual((schedule[n] ?? 0) * 0.85);
        expect(pause).toBeLessThanOrEqual((schedule[n] ?? 0) * 1.1 + 0.1);
      }
      expect(new Set(receiver.calls.map((call) => call.id)).size).toBe(1);
      for (const { headers, at } of receiver.calls) {
        expect(headers.get("webhook-timestamp")).toBe(String(Math.floor(at / 1_000)));
      }
      expect(new Set(receiver.calls.map(({ headers }) => headers.get("webhook-signature"))).size).toBe(12);
      expect(await logOf(world, id)).toMatchObject([
        { event: "completed", state: "failed", tried: 12, next_attempt_at: null },
      ]);
    }));

  it("are for `completed` alone, and end when it was taken", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      receiver.answer = () => (receiver.calls.length < 5 ? failing() : new Response("ok"));
      const id = await told(world);
      await world.send(id, 1, events(0, started, output("a"), succeeded));
      await world.idle();
      for (let n = 0; n < 20; n++) await ringNext(world, 60_000);
      expect(receiver.events).toEqual(["start", "output", "completed", "completed", "completed"]);
      const log = await logOf(world, id);
      expect(log.map(({ event, state }) => [event, state])).toEqual([
        ["start", "failed"],
        ["output", "failed"],
        ["completed", "delivered"],
      ]);
      expect(log[2]?.attempts.map(({ status, error }) => [status, error])).toEqual([
        [500, "status"],
        [500, "status"],
        [200, null],
      ]);
    }));

  it("wait as long as the receiver asks, up to an hour", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const asked = ["120", "999999", new Date(Date.now() + 600_000).toUTCString()];
      receiver.answer = () =>
        new Response(null, { status: 503, headers: { "retry-after": asked[receiver.calls.length - 1] ?? "0" } });
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, succeeded));
      await world.idle();
      await expect.poll(() => receiver.calls.length).toBe(1);
      const next = async (): Promise<number> => ((await logOf(world, id))[0]?.next_attempt_at ?? 0) - Date.now();
      expect(await next()).toBe(120_000);
      passTime(120_000);
      await world.object.alarm();
      await world.idle();
      expect(await next()).toBe(HOUR_MS);
    }));

  it("follow no redirect, end at 410, and take a lost connection for a failure", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const answers = [
        () => new Response(null, { status: 302, headers: { location: "https://elsewhere.test/" } }),
        () => Promise.reject(new Error("internal error; reference = 1")),
        () => new Response(null, { status: 410 }),
      ];
      receiver.answer = () => answers[receiver.calls.length - 1]?.() ?? new Response("ok");
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, succeeded));
      await world.idle();
      for (let n = 0; n < 10; n++) await ringNext(world, 60_000);
      expect(receiver.calls.map(({ url, init }) => [url, init.redirect])).toEqual(Array(3).fill([URL_, "manual"]));
      const [completed] = await logOf(world, id);
      expect(completed?.attempts.map(({ error }) => error)).toEqual(["redirect", "network", "gone"]);
      expect(completed).toMatchObject({ state: "failed", next_attempt_at: null });
    }));
});

describe("an eviction", () => {
  it.each([0, 1, 2, 3, 4, 5])("after step %i loses no `completed`, and nothing else follows it", (step) =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      receiver.answer = () => (receiver.calls.length % 3 === 1 ? failing() : new Response("ok"));
      let steps = 0;
      const between = (): void => {
        if (steps === step) world.restart();
        steps += 1;
      };
      const id = await told(world);
      between();
      await world.send(id, 1, events(0, started));
      between();
      await world.send(id, 1, events(1, output("a"), line("l\n")));
      between();
      await world.idle();
      between();
      await world.send(id, 1, events(3, output("b"), succeeded));
      between();
      await world.idle();
      between();
      await world.idle();
      for (let n = 0; n < 20; n++) {
        await ringNext(world, 61_000);
        world.restart();
      }
      const firsts = [...new Map(receiver.calls.toReversed().map((call) => [call.id, call])).values()].toReversed();
      expect(firsts.at(-1)).toMatchObject({ event: "completed", body: { output: ["a", "b"], status: "succeeded" } });
      expect(firsts.filter(({ event }) => event === "completed")).toHaveLength(1);
      expect((await logOf(world, id)).at(-1)).toMatchObject({ state: "delivered" });
    }),
  );

  it("while a call is out makes it again, with the same id", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      receiver.answer = () => new Promise(() => undefined);
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, succeeded));
      await expect.poll(() => receiver.calls.length).toBe(1);
      world.restart();
      receiver.answer = () => new Response("ok");
      passTime(30_000);
      await world.object.alarm();
      await expect.poll(() => receiver.calls.length).toBe(2);
      expect(receiver.calls[1]?.id).toBe(receiver.calls[0]?.id);
      await expect.poll(async () => (await logOf(world, id))[0]?.state).toBe("delivered");
    }));

  it("or an account that is away costs no attempt", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      world.ownersAreAway = true;
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, succeeded));
      await world.idle();
      expect(receiver.calls).toEqual([]);
      world.ownersAreAway = false;
      for (let n = 0; n < 5; n++) await ringNext(world, 10_000);
      expect(receiver.events).toEqual(["completed"]);
      expect(await logOf(world, id)).toMatchObject([{ state: "delivered", tried: 1 }]);
    }));
});

describe("bodies", () => {
  it("above 1 MiB go without the data", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, output("x".repeat(1_100_000)), succeeded));
      await world.idle();
      const [call] = receiver.calls;
      expect(call?.body).toMatchObject({ id, truncated: true, output: null, logs: "", input: {}, status: "succeeded" });
      expect(call?.body["urls"]).toMatchObject({ get: expect.any(String) });
      expect(call?.text.length).toBeLessThan(10_000);
    }));

  it.each([10, 400_000])("of %i bytes that were not taken outlive the data, until they are", (size) =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      receiver.answer = failing;
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, output("x".repeat(size)), succeeded));
      await world.idle();
      for (let n = 0; n < 100 && Date.now() < Date.UTC(2090, 0, 1, 20); n++) await ringNext(world);
      expect(await world.object.get(id, "alice")).toMatchObject({ data_removed: true, output: null });
      expect((await files().list({ prefix: `webhooks/${id}/` })).objects).toHaveLength(size > 300_000 ? 1 : 0);
      world.restart();
      receiver.answer = () => new Response("ok");
      for (let n = 0; n < 200 && (await ringNext(world)); n++);
      expect(receiver.calls.at(-1)?.text).toBe(receiver.calls[0]?.text);
      expect(receiver.calls.at(-1)?.body["output"]).toEqual(["x".repeat(size)]);
      expect((await files().list({ prefix: `webhooks/${id}/` })).objects).toHaveLength(0);
      // Its row is gone with its last deadline.
      expect(await world.object.get(id, "alice")).toBeNull();
      expect(world.state.storage.sql.exec("SELECT * FROM webhooks").toArray()).toEqual([]);
    }),
  );

  it("that nobody takes go after 72 hours, and the row with them", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      receiver.answer = failing;
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, output("x".repeat(400_000)), succeeded));
      const end = Date.now();
      await world.idle();
      while (Date.now() < end + 60 * HOUR_MS) await ringNext(world);
      expect(await logOf(world, id)).toMatchObject([{ state: "pending" }]);
      for (let n = 0; n < 200 && (await ringNext(world)); n++);
      expect(receiver.calls).toHaveLength(12);
      expect(Date.now()).toBeLessThan(end + 76 * HOUR_MS);
      expect(await world.object.get(id, "alice")).toBeNull();
      expect((await files().list({ prefix: `webhooks/${id}/` })).objects).toHaveLength(0);
    }));
});

describe("a replay", () => {
  it("sends again now with the same id and a new time, before and after the data went", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      const id = await told(world);
      await world.send(id, 1, events(0, started, output("a"), succeeded));
      await world.idle();
      passTime(1_000);
      const before = await world.object.replayWebhook(id, "alice", "completed");
      expect(before).toMatchObject({ kind: "sent", event: { state: "delivered", tried: 1 } });
      const [first, second] = receiver.calls.filter(({ event }) => event === "completed");
      expect(second?.id).toBe(first?.id);
      expect(second?.text).toBe(first?.text);
      expect(second?.headers.get("webhook-timestamp")).not.toBe(first?.headers.get("webhook-timestamp"));
      passTime(HOUR_MS);
      await world.object.alarm();
      await world.idle();
      await world.object.replayWebhook(id, "alice", first?.id ?? "");
      expect(receiver.calls.at(-1)).toMatchObject({
        id: first?.id,
        body: { data_removed: true, output: null, input: {}, status: "succeeded" },
      });
    }));

  it("of one that failed delivers it; others' and unknown ones are not found; and there are not too many", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      receiver.answer = () => new Response(null, { status: 410 });
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, succeeded));
      await world.idle();
      expect(await world.object.replayWebhook(id, "bob", "completed")).toEqual({ kind: "unknown" });
      expect(await world.object.webhooks(id, "bob")).toBeNull();
      expect(await world.object.replayWebhook(id, "alice", "start")).toEqual({ kind: "unknown" });
      receiver.answer = () => new Response("ok");
      expect(await world.object.replayWebhook(id, "alice", "completed")).toMatchObject({
        kind: "sent",
        event: { state: "delivered", attempts: [{ error: "gone" }, { error: null, is_replay: true }] },
      });
      for (let n = 1; n < 10; n++) await world.object.replayWebhook(id, "alice", "completed");
      expect(await world.object.replayWebhook(id, "alice", "completed")).toMatchObject({ kind: "limited" });
      passTime(60_001);
      expect(await world.object.replayWebhook(id, "alice", "completed")).toMatchObject({ kind: "sent" });
    }));

  it("waits for the call that is out: one at a time", () =>
    withPredictions(async (world) => {
      const receiver = new Receiver();
      let release = (): void => undefined;
      receiver.answer = () => new Promise((resolve) => (release = () => resolve(new Response("ok"))));
      const id = await told(world, completedOnly);
      await world.send(id, 1, events(0, started, succeeded));
      await expect.poll(() => receiver.calls.length).toBe(1);
      const replayed = world.object.replayWebhook(id, "alice", "completed");
      release();
      await expect.poll(() => receiver.calls.length).toBe(2);
      release();
      expect(await replayed).toMatchObject({ kind: "sent" });
      expect(receiver.mostOpen).toBe(1);
    }));
});
