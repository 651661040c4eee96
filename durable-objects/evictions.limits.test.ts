/**
 * The platform may evict an object between any two calls; local workerd does not. So short histories are played twice, all side by side: once to an
 * object that lives through them, once to one that loses its memory after each step. What callers see must be equal.
 */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import type { AttemptEvent } from "../schema/origin-protocol.ts";
import type { PredictionDocument } from "../schema/prediction-document.ts";
import type { Lease } from "./deployment-contract.ts";
import type { CreatePrediction } from "./prediction-contract.ts";
import { aPredictionId, freshName, passTime, START, stopClockInEachTest } from "./testing/harness.ts";
import {
  aCreate,
  events,
  line,
  output,
  readStream,
  started,
  streamRequest,
  succeeded,
  type World,
  withPredictions,
} from "./testing/prediction-world.ts";

stopClockInEachTest();

/** One step of a prediction's life. `next`, `both`: the next event of its attempt, the next two in one batch. `again`: the last batch. */
const STEPS = ["next", "both", "again", "ahead", "lost", "done", "fail", "cancel"] as const;
/** Steps of one that waits in its queue first. */
const QUEUE_STEPS = ["grant", "refuse", "next", "done", "cancel"] as const;
type Step = (typeof STEPS)[number] | (typeof QUEUE_STEPS)[number] | "last";

/** What the model does; whole runs repeat it. */
const SCRIPT = [started, output("a"), line("log\n"), output(" b\r\nc"), output("d")];
const done = succeeded;
const fail = { type: "finished", status: "failed", error: "boom", metrics: {}, predict_time_s: 0.5 } as const;
const lost = { type: "lost", started: true, reason: "its origin restarted" } as const;

/** The origin's side of one prediction. */
class Played {
  readonly id = aPredictionId();
  readonly steps: readonly Step[];
  #attempt = 1;
  #next = 0;
  #last: AttemptEvent[] = [];

  constructor(steps: readonly Step[]) {
    this.steps = steps;
  }

  async play(world: World, step: Step): Promise<void> {
    // An origin starts another attempt when it is told to.
    const newest = world.started.filter((start) => start.prediction_id === this.id).at(-1)?.attempt ?? 1;
    if (newest > this.#attempt) {
      this.#attempt = newest;
      this.#next = 0;
      this.#last = [];
    }
    const script = (count: number): AttemptEvent[] =>
      events(this.#next, ...SCRIPT.slice(this.#next, this.#next + count));
    switch (step) {
      case "next":
        return this.#send(world, script(1));
      case "both":
        return this.#send(world, script(2));
      case "last":
        return this.#send(world, events(this.#next, line("last")));
      case "done":
        return this.#send(world, events(this.#next, done));
      case "fail":
        return this.#send(world, events(this.#next, fail));
      case "lost":
        return this.#send(world, events(this.#next, lost));
      case "again":
        await world.send(this.id, this.#attempt, this.#last);
        return;
      case "ahead":
        await world.send(this.id, this.#attempt, events(this.#next + 1, output("from behind a gap")));
        return;
      case "cancel":
        // It answers when the end is reached, which may be never in an object that is evicted.
        void world.object.cancel(this.id, "alice");
        return;
      case "grant":
        await world.object.leasesGranted([leaseOf(this.id)]);
        return;
      case "refuse":
        await world.object.leasesRefused([{ prediction_id: this.id, code: "model.setup_failed", detail: "No." }]);
    }
  }

  /** Sends one more line, unless it never got a slot. */
  async speak(world: World): Promise<void> {
    if (world.started.some((start) => start.prediction_id === this.id)) await this.play(world, "last");
  }

  async #send(world: World, sent: AttemptEvent[]): Promise<void> {
    if (sent.length === 0) return;
    await world.send(this.id, this.#attempt, sent);
    this.#last = sent;
    this.#next += sent.length;
  }
}

function leaseOf(prediction_id: string): Lease {
  return { prediction_id, attempt: 1, instance_id: "instance1", origin_id: "origin1", leased_at: START };
}

interface Seen {
  document: PredictionDocument | null;
  stream: { event: string; id: string; data: string }[];
  released: number[];
  settled: unknown[];
}

interface Way {
  /** the object loses its memory after each step */
  isEvicted: boolean;
  /** its alarm rings after each step, a check's time later */
  rings: boolean;
}

/** Plays all histories side by side, and answers what was seen of each. */
async function play(
  histories: readonly (readonly Step[])[],
  ids: string[],
  create: Partial<CreatePrediction>,
  way: Way,
  prepare: (world: World) => void = () => undefined,
): Promise<Seen[]> {
  vi.setSystemTime(START);
  const seen: Seen[] = [];
  await withPredictions(async (world) => {
    prepare(world);
    const predictions = histories.map((steps) => new Played(steps));
    for (const [n, played] of predictions.entries()) ids[n] ??= played.id;
    for (const [n, played] of predictions.entries()) Object.assign(played, { id: ids[n] });
    const between = async (): Promise<void> => {
      await world.idle();
      if (way.isEvicted) world.restart();
      passTime(way.rings ? 20_000 : 10);
      if (way.rings) await world.object.alarm();
      await world.idle();
      if (way.isEvicted) world.restart();
    };
    // Deadlines that come one after another: each alarm must ask for the next.
    const deadline = (n: number): number => START + 200_000 + (n % 3) * 30_000;
    await Promise.all(
      predictions.map(({ id }, n) => world.object.create(aCreate({ id, deadline_at: deadline(n), ...create }))),
    );
    await between();
    const most = Math.max(...histories.map((steps) => steps.length));
    for (let n = 0; n < most; n++) {
      await Promise.all(
        predictions.map(async (played) => {
          const step = played.steps[n];
          if (step !== undefined) await played.play(world, step);
        }),
      );
      await between();
    }
    // Everything ends: who was leased speaks once more, the deadline passes, force follows, and what is owed is sent.
    await Promise.all(predictions.map((played) => played.speak(world)));
    await between();
    for (const pause of [200_000, 30_000, 30_000, 20_000, 20_000]) {
      passTime(pause);
      await world.object.alarm();
      await world.idle();
      if (way.isEvicted) world.restart();
    }
    for (const { id } of predictions) {
      const document = await world.object.get(id, "alice");
      const stream = await readStream(await world.object.fetch(streamRequest(id)));
      const ours = { prediction_id: id };
      const released = new Set(world.released.filter((one) => one.prediction_id === id).map(({ attempt }) => attempt));
      const settled = world.settled.filter((one) => one.prediction_id === id);
      // Told again is told the same.
      for (const one of settled) expect(one).toEqual(settled[0]);
      seen.push({ document, stream, released: [...released].sort(), settled: settled.slice(0, 1) });
      expect(settled[0]).toMatchObject(ours);
    }
    expect(world.state.storage.sql.exec("SELECT * FROM outbox").toArray()).toEqual([]);
  });
  return seen;
}

/** All lists of `length` steps. */
function allOf<T extends Step>(steps: readonly T[], length: number): T[][] {
  return length === 0 ? [[]] : allOf(steps, length - 1).flatMap((list) => steps.map((step) => [...list, step]));
}

/**
 * A lease that only memory knows of is forgotten: then a cancel ends at once what would have been stopped at its origin first (which the fence does as
 * well). Both are right, and differ; so a cancel comes only after the attempt has spoken, or before it was leased.
 */
function isEqualEitherWay(steps: readonly Step[]): boolean {
  let hasSpoken = false;
  let isGranted = false;
  for (const step of steps) {
    if (step === "next" || step === "both") hasSpoken = true;
    if (step === "lost") hasSpoken = false;
    if (step === "grant") isGranted = true;
    if (step === "cancel" && !hasSpoken && (isGranted || !steps.includes("grant"))) return false;
  }
  return true;
}

const WAYS: [string, boolean][] = [
  ["", false],
  [", its alarm ringing too", true],
];

describe("an eviction after each step", () => {
  it.each(WAYS)("changes no document, stream, release or settlement%s", async (_name, rings) => {
    const short = allOf(STEPS, 3);
    const long = fc.sample(fc.array(fc.constantFrom(...STEPS), { minLength: 5, maxLength: 8 }), {
      numRuns: 250,
      seed: 1,
    });
    const histories = [...short, ...long].filter(isEqualEitherWay);
    const create = { spec: { ...aCreate().spec, idempotent: true } };
    const ids: string[] = [];
    const whole = await play(histories, ids, create, { isEvicted: false, rings });
    const evicted = await play(histories, ids, create, { isEvicted: true, rings });
    expect(whole).toHaveLength(histories.length);
    for (const [n, steps] of histories.entries()) expect(evicted[n], steps.join(", ")).toEqual(whole[n]);
    // They go where faults could be.
    const ends = new Set(whole.map(({ document }) => document?.state));
    expect([...ends].sort()).toEqual(["aborted", "canceled", "failed", "succeeded"]);
    expect(whole.some(({ released, document }) => released.length === 2 && document?.state === "succeeded")).toBe(true);
    expect(Math.max(...whole.map(({ stream }) => stream.length))).toBeGreaterThan(4);
  });

  it("changes nothing while it waits in its queue", async () => {
    const histories = allOf(QUEUE_STEPS, 3).filter(isEqualEitherWay);
    const ids: string[] = [];
    const queue = (world: World): void => {
      world.enqueue = () => ({ kind: "queued", queue_position: 1 });
    };
    const whole = await play(histories, ids, {}, { isEvicted: false, rings: false }, queue);
    const evicted = await play(histories, ids, {}, { isEvicted: true, rings: false }, queue);
    for (const [n, steps] of histories.entries()) expect(evicted[n], steps.join(", ")).toEqual(whole[n]);
    const ends = new Set(whole.map(({ document }) => document?.state));
    expect([...ends].sort()).toEqual(["aborted", "canceled", "failed", "succeeded"]);
  });
});

describe("silence", () => {
  it("ends nothing and hangs nothing: 90 s without an event or a reader, evicted all the while", () =>
    withPredictions(async (world) => {
      const { id } = (await world.object.create(aCreate())).document;
      await world.idle();
      await world.send(id, 1, events(0, started, output("a")));
      const before = await world.state.storage.getAlarm();
      expect(before).not.toBeNull();
      for (let at = 0; at < 90_000; ) {
        // The platform wakes the object when it asked to be woken, and nothing else does.
        world.restart();
        const wakeAt = (await world.state.storage.getAlarm()) ?? Number.POSITIVE_INFINITY;
        expect(wakeAt - Date.now()).toBeLessThanOrEqual(20_000);
        const pause = Math.max(wakeAt - Date.now(), 1);
        passTime(pause);
        at += pause;
        await world.object.alarm();
        await world.idle();
      }
      world.restart();
      expect((await world.object.get(id, "alice"))?.state).toBe("processing");
      await world.send(id, 1, events(2, output("b"), succeeded));
      expect(await world.object.get(id, "alice")).toMatchObject({ state: "succeeded", output: ["a", "b"] });
      const streamed = await readStream(await world.object.fetch(streamRequest(id)));
      expect(streamed.map(({ data }) => data)).toEqual(["a", "b", "{}"]);
    }));

  it("ends a prediction whose origin died unheard, by the alarm alone", () =>
    withPredictions(async (world) => {
      const { id } = (await world.object.create(aCreate({ retention_ms: null }))).document;
      await world.idle();
      await world.send(id, 1, events(0, started, output("a")));
      world.originIsAlive = false;
      world.attemptState = null;
      for (let n = 0; n < 3; n++) {
        world.restart();
        const wakeAt = await world.state.storage.getAlarm();
        if (wakeAt !== null) vi.setSystemTime(Math.max(wakeAt, Date.now()));
        await world.object.alarm();
        await world.idle();
      }
      expect(await world.object.get(id, "alice")).toMatchObject({ state: "failed", error_code: "origin.lost" });
      // Told at least once; the account takes repeats for one.
      expect(world.settled[0]).toMatchObject({ prediction_id: id, meter: { platform_failure: true } });
      expect(world.state.storage.sql.exec("SELECT * FROM outbox").toArray()).toEqual([]);
    }));

  it("ends what its caller waited for, though caller and object went away while it ran", () =>
    withPredictions(async (world) => {
      const request = aCreate({ wait_ms: 300 });
      const waiting = world.object.create(request);
      await vi.waitFor(() => expect(world.started).toHaveLength(1));
      world.restart();
      await world.send(request.id, 1, events(0, started, output("a"), succeeded));
      await world.idle();
      expect(world.settled).toMatchObject([{ prediction_id: request.id, document: { state: "succeeded" } }]);
      // The evicted one knows nothing of it: its caller is told to ask again.
      expect((await waiting).settled).toBe(false);
      const again = await world.object.create({ ...request, wait_ms: 50_000 });
      expect(again).toMatchObject({ settled: true, document: { output: ["a"] } });
    }));
});

describe("constructors", () => {
  it.each(["ACCOUNTS", "DEPLOYMENTS", "FLEETS", "PREDICTIONS", "RUN_COUNTERS"] as const)(
    "of %s write nothing, so that guessing names stores nothing",
    async (binding) => {
      const namespace = env[binding] as unknown as DurableObjectNamespace;
      await runInDurableObject(namespace.getByName(freshName()), async (_object, { storage }) => {
        const tables = storage.sql.exec("SELECT name FROM sqlite_master WHERE substr(name, 1, 4) <> '_cf_'").toArray();
        expect(tables).toEqual([]);
        expect(await storage.getAlarm()).toBeNull();
        expect((await storage.list()).size).toBe(0);
      });
    },
  );
});
