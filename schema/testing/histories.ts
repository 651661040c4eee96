/**
 * Random histories of a prediction: attempts that are lost and run again, batches that come twice, late, in another order or with gaps, cancels and
 * deadlines at any point. After each step the invariants are looked at that reliability rests on; their numbers are those of the messages below.
 */
import { createParser } from "eventsource-parser";
import fc from "fast-check";
import { expect } from "vitest";
import { type Applied, applyAttemptEvents, applyLifecycle, newProgress, type Progress } from "../attempt-events.ts";
import type { AttemptBatch, AttemptEvent } from "../origin-protocol.ts";
import {
  type Effect,
  isTerminal,
  type LifecycleEvent,
  meterOf,
  newLife,
  publicStatus,
} from "../prediction-lifecycle.ts";
import { LogFold, type StoredEvent } from "../prediction-log.ts";
import { encodeStored, positionAfter } from "../stream-events.ts";

const ID = "abcdefghijklmnopqrstuvwxyz";
const CREATED_AT = 1_800_000_000_000;
const VIEW = { publicUrl: "https://cogway.test", signingSecret: "secret" };

/** What is under test; a test may put faults into it. */
export interface Core {
  applyAttemptEvents: typeof applyAttemptEvents;
  applyLifecycle: typeof applyLifecycle;
  encodeStored: typeof encodeStored;
}
export const REAL: Core = { applyAttemptEvents, applyLifecycle, encodeStored };

// ---- histories

type Body = AttemptEvent extends infer E ? (E extends AttemptEvent ? Omit<E, "i" | "t_ms"> : never) : never;
/** `append`: an iterator. `set`: a whole value. `tokens`: an iterator whose whole value comes again at its end, unseen. */
type OutputKind = "append" | "set" | "tokens";

const anyText = fc.string({ unit: "binary", maxLength: 4 });
const anyValue = fc.oneof(
  anyText,
  anyText.map((text) => `${text}\r\n`),
  fc.json({ maxDepth: 1 }).map((json) => JSON.parse(json) as unknown),
);

const anyEnd: fc.Arbitrary<Body | null> = fc.oneof(
  { weight: 3, arbitrary: fc.record({ type: fc.constant("lost" as const), started: fc.boolean(), reason: anyText }) },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constant("finished" as const),
      status: fc.constantFrom("succeeded", "succeeded", "failed", "canceled"),
      error: anyText,
      code: fc.constantFrom("model.crashed", "origin.shutdown", "instance.gone"),
      metrics: fc.constant({}),
      predict_time_s: fc.constantFrom(0, 0.25, 7),
    }),
  },
  { weight: 1, arbitrary: fc.constant(null) },
);

interface Run {
  hasStarted: boolean;
  /** how its outputs differ from those of the first run: the one that is changed, and how many come */
  changed: number | null;
  outputs: number;
  logs: string[];
  end: Body | null;
  afterEnd: number;
}
const anyRun: fc.Arbitrary<Run> = fc.record({
  hasStarted: fc.constantFrom(true, true, true, false),
  changed: fc.option(fc.nat(5), { freq: 4 }),
  outputs: fc.constantFrom(6, 6, 6, 3),
  logs: fc.array(anyText, { maxLength: 3 }),
  end: anyEnd,
  afterEnd: fc.constantFrom(0, 0, 2),
});

type Step =
  /** events from `skew` beside the next one on. `whose`: of the current attempt, an older or a newer one; `hole`: one of them is missing */
  | { kind: "batch"; whose: number; skew: number; count: number; hole: number | null }
  | { kind: "event"; event: LifecycleEvent; isOld: boolean };
const anyStep: fc.Arbitrary<Step & { pause: number }> = fc
  .tuple(
    fc.oneof(
      {
        weight: 8,
        arbitrary: fc.record({
          kind: fc.constant("batch" as const),
          whose: fc.constantFrom(0, 0, 0, 0, 0, -1, 1),
          skew: fc.constantFrom(0, 0, 0, 0, -1, -3, 1),
          count: fc.integer({ min: 1, max: 8 }),
          hole: fc.option(fc.nat(3), { freq: 8 }),
        }),
      },
      {
        weight: 2,
        arbitrary: fc.record({
          kind: fc.constant("event" as const),
          isOld: fc.constantFrom(false, false, true),
          event: fc.constantFrom<LifecycleEvent>(
            { type: "leased" },
            { type: "lost", started: true, reason: "silent" },
            { type: "bounced", reason: "" },
            { type: "refused", code: "model.setup_failed", detail: "" },
            { type: "cancel" },
            { type: "deadline" },
            { type: "forced" },
          ),
        }),
      },
    ),
    fc.integer({ min: -500, max: 2_000 }),
  )
  .map(([step, pause]) => ({ ...step, pause }));

export const anyHistory = fc.record({
  idempotent: fc.constantFrom(true, true, true, false),
  kind: fc.constantFrom<OutputKind>("append", "append", "set", "tokens"),
  values: fc.array(anyValue, { minLength: 1, maxLength: 5 }),
  runs: fc.array(anyRun, { minLength: 2, maxLength: 4 }),
  steps: fc.array(anyStep, { minLength: 1, maxLength: 25 }),
});
type History = typeof anyHistory extends fc.Arbitrary<infer H> ? H : never;

function eventsOf({ kind, values }: History, run: Run): AttemptEvent[] {
  const shown = values.slice(0, run.outputs).map((value, n) => (n === run.changed ? "another" : value));
  const outputs: Body[] =
    kind === "set"
      ? [{ type: "output", mode: "set", value: shown[0] }]
      : shown.map((value) => ({ type: "output", mode: "append", value }));
  if (kind === "tokens") outputs.push({ type: "output", mode: "set", value: shown.map(textOf).join(""), silent: true });
  const content = outputs.flatMap((output, n): Body[] => [
    ...(run.logs[n] === undefined ? [] : [{ type: "log", source: "stdout", data: run.logs[n] } as const]),
    output,
  ]);
  const late: Body = { type: "output", mode: "append", value: "late" };
  const bodies = [
    ...(run.hasStarted ? [{ type: "started" } as const] : []),
    ...content,
    ...(run.end === null ? [] : [run.end, ...Array<Body>(run.afterEnd).fill(late)]),
  ];
  return bodies.map((body, i) => ({ ...body, i, t_ms: i * 10 }));
}

// ---- what must hold

/** What outputs and logs are, said another way: what each attempt sent without a gap, less what it only repeats. */
class Expected {
  readonly outputs: Extract<AttemptEvent, { type: "output" }>[] = [];
  logs = "";
  received = 0;
  isOver = false;
  hasDiffered = false;
  /** outputs that a later attempt gave again */
  repeats = 0;
  #repeated = 0;
  #toRepeat = 0;

  nextAttempt(): void {
    this.received = 0;
    this.isOver = false;
    this.#repeated = 0;
    this.#toRepeat = this.outputs.length;
  }

  take(event: AttemptEvent): void {
    if (event.i !== this.received || this.isOver) return;
    this.received += 1;
    const isRepeating = this.#repeated < this.#toRepeat;
    if (event.type === "log") this.logs += event.data;
    if (event.type === "output" && isRepeating) {
      this.hasDiffered ||= JSON.stringify(event.value) !== JSON.stringify(this.outputs[this.#repeated]?.value);
      this.#repeated += 1;
      this.repeats += 1;
    } else if (event.type === "output") this.outputs.push(event);
    if (event.type === "finished" && event.status === "succeeded") this.hasDiffered ||= isRepeating;
    this.isOver = this.hasDiffered || event.type === "finished" || event.type === "lost";
  }

  get output(): unknown {
    return this.outputs.reduce<unknown>(
      (all, { mode, value }) => (mode === "set" ? value : [...(Array.isArray(all) ? all : []), value]),
      null,
    );
  }
}

/** Throws where an invariant is broken. Answers how the prediction ended, and of how many attempts outputs came. */
export function checkHistory(core: Core, history: History): string {
  const scripts = history.runs.map((run) => eventsOf(history, run));
  const expected = new Expected();
  const log: StoredEvent[] = [];
  const effects: Effect[] = [];
  const streams: string[] = [];
  let progress = freeze(newProgress(newLife(CREATED_AT, history.idempotent)));
  let now = CREATED_AT;
  const outputAt = (n: number): unknown => log.filter((entry) => entry.type === "output")[n]?.value;

  const record = (change: Pick<Applied, "progress" | "stored" | "effects">): void => {
    const before = progress;
    progress = freeze(change.progress);
    const isUnchanged = change.stored.length + change.effects.length === 0;
    if (isTerminal(before.life.state)) {
      expect(progress, "invariant 1: a terminal state never changes").toEqual(before);
      expect(isUnchanged, "invariant 7: a late event changes nothing").toBe(true);
    }
    const ranks = [before, progress].map(({ life }) => rankOf(publicStatus(life.state, life.started_at)));
    expect(ranks[1], "invariant 1: a status never goes back").toBeGreaterThanOrEqual(ranks[0] ?? 0);
    log.push(...change.stored);
    effects.push(...change.effects);
    if (progress.life.attempt !== before.life.attempt) expected.nextAttempt();
    const { created_at, started_at, completed_at } = progress.life;
    if (before.life.started_at !== null)
      expect(started_at, "invariant 3: started_at stays").toBe(before.life.started_at);
    expect(started_at ?? created_at, "invariant 3: created before started").toBeGreaterThanOrEqual(created_at);
    expect(completed_at ?? Number.POSITIVE_INFINITY, "invariant 3: started before completed").toBeGreaterThanOrEqual(
      started_at ?? created_at,
    );
    expect(completed_at !== null, "invariant 3: completed when terminal").toBe(isTerminal(progress.life.state));
    expect(progress.next_seq, "invariant 9: each entry has its place").toBe(log.length);
    streams.push(streamText(core, log, null));
  };

  for (const step of history.steps) {
    now += step.pause;
    const { attempt } = progress.life;
    if (step.kind === "event") {
      const isOld = step.isOld && attempt > 1;
      const apply = (to: Progress): Pick<Applied, "progress" | "stored" | "effects"> => {
        const isFenced = to.life.attempt !== attempt || isOld;
        return (
          (isFenced ? null : core.applyLifecycle(to, step.event, now)) ?? { progress: to, stored: [], effects: [] }
        );
      };
      const once = apply(progress);
      record(once);
      expect(apply(progress), "invariant 7: twice is once").toEqual({ progress, stored: [], effects: [] });
    } else {
      const batch = batchOf(step, scripts, attempt, expected.received);
      if (batch === null) continue;
      const before = progress;
      const wasOver = isTerminal(before.life.state);
      if (batch.attempt === attempt && !wasOver) for (const event of batch.events) expected.take(event);
      const { received, hasDiffered } = expected;
      const once = core.applyAttemptEvents(before, batch, now, outputAt);
      record(once);
      const twice = core.applyAttemptEvents(progress, batch, now, outputAt);
      expect(twice, "invariant 7: twice is once").toMatchObject({ progress, stored: [], effects: [] });
      if (batch.attempt !== attempt) {
        expect(once, "invariant 6: fenced").toMatchObject({
          outcome: "fenced",
          progress: before,
          stored: [],
          effects: [],
        });
      } else if (!wasOver) {
        expect(once.outcome, "a gap is asked for again").toBe(isWithoutGap(batch, received, once) ? "stored" : "retry");
        if (progress.life.attempt === attempt) expect(progress.last_i, "stored to here").toBe(received - 1);
        if (hasDiffered) expect(progress.life, "a run that differs ends").toMatchObject({ state: "failed" });
      }
    }
  }
  if (!isTerminal(progress.life.state)) {
    for (const type of ["cancel", "forced"] as const) {
      const change = core.applyLifecycle(progress, { type }, now);
      if (change !== null) record(change);
    }
  }
  expectEnd(core, history, { progress, log, effects, streams, expected });
  const { life } = progress;
  return `${life.state}${expected.repeats > 0 ? " after repeating" : ""}${expected.hasDiffered ? " differently" : ""}`;
}

function batchOf(
  step: Extract<Step, { kind: "batch" }>,
  scripts: AttemptEvent[][],
  current: number,
  received: number,
): AttemptBatch | null {
  const attempt = current + step.whose;
  const script = scripts[(attempt + scripts.length - 1) % scripts.length] ?? [];
  const from = Math.max(0, (step.whose === 0 ? received : 0) + step.skew);
  const events = script.slice(from, from + step.count).filter((_, n) => n !== step.hole);
  return events.length === 0 ? null : freeze({ prediction_id: ID, attempt, events });
}

/** Whether everything up to the end of the batch, or of its attempt, was taken. */
function isWithoutGap(batch: AttemptBatch, received: number, { progress }: Applied): boolean {
  const isOver = progress.life.attempt !== batch.attempt || isTerminal(progress.life.state);
  return isOver || (batch.events.at(-1)?.i ?? -1) < received;
}

function expectEnd(
  core: Core,
  { kind }: History,
  {
    progress,
    log,
    effects,
    streams,
    expected,
  }: {
    progress: Progress;
    log: StoredEvent[];
    effects: Effect[];
    streams: string[];
    expected: Expected;
  },
): void {
  const { life } = progress;
  expect(isTerminal(life.state), "invariant 2: it ends").toBe(true);
  if (life.state === "failed") expect(life.error, "invariant 4: failed says why").toBeTruthy();
  else expect(life.error, "invariant 4: no error without failure").toBeNull();

  const fold = new LogFold();
  for (const entry of structuredClone(log)) fold.add(entry);
  const document = fold.result();
  expect(document.output, "invariant 4 and 8: the output is what came").toEqual(expected.output);
  expect(document.logs, "invariant 8: the logs are what came").toBe(expected.logs);
  const ends = log.filter((entry) => entry.type === "ended");
  expect(ends, "invariant 8: one end").toEqual([log.at(-1)]);
  expect(ends[0], "invariant 8: the log's end is the document's").toMatchObject({
    state: life.state,
    error: life.error,
  });
  const { predict_time } = document.metrics as { predict_time?: number };
  expect(predict_time, "invariant 5").toBe(life.started_at === null ? undefined : life.predict_time_s);
  const ranMs = (life.completed_at ?? 0) - (life.started_at ?? life.created_at);
  expect((predict_time ?? 0) * 1_000, "invariant 5: within its time").toBeLessThanOrEqual(ranMs + 1);

  const all = parse(streams.at(-1) ?? "");
  for (const text of streams) expect(streams.at(-1)?.startsWith(text), "invariant 9: streams only grow").toBe(true);
  const shown = all.filter(({ event }) => event === "output").map(({ data }) => data);
  const isList = kind !== "set" && Array.isArray(document.output);
  const whole = document.output === null && shown.length === 0 ? "" : isList ? undefined : textOf(document.output);
  expect(shown.join(""), "invariant 9: what was streamed is the output").toBe(
    asLines(whole ?? (document.output as unknown[]).map(textOf).map(asLines).join("")),
  );
  const places = all.map(({ id }) => Number(/-(\d+)/.exec(id)?.[1]) * 2 + (id.endsWith("e") ? 0 : 1));
  for (let n = 1; n < places.length; n++) {
    expect(places[n], "invariant 9: ids rise").toBeGreaterThan(places[n - 1] ?? 0);
  }
  for (const [n, { id }] of all.entries()) {
    expect(parse(streamText(core, log, id)), "invariant 9: resuming gives exactly the rest").toEqual(all.slice(n + 1));
  }
  const last = all.filter(({ event }) => event === "error" || event === "done").map(({ event }) => event);
  expect(last, "invariant 10").toEqual(life.state === "failed" ? ["error", "done"] : ["done"]);
  expect(
    all.slice(-last.length).map(({ event }) => event),
    "invariant 10: last",
  ).toEqual(last);

  const of = (wanted: Effect["kind"]): Effect[] => effects.filter(({ kind: each }) => each === wanted);
  expect(of("settle"), "invariant 11: settled once").toHaveLength(1);
  expect(of("enqueue"), "each attempt is asked for once").toHaveLength(life.attempt - 1);
  const attempts = Array.from({ length: life.attempt }, (_, n) => n + 1);
  expect(
    of("release").map((effect) => ("attempt" in effect ? effect.attempt : 0)),
    "each slot freed once",
  ).toEqual(attempts);
  const meter = meterOf(life, "cpu");
  expect(meter?.predict_time_s, "invariant 11: the bill is of the log").toBe(predict_time ?? 0);
}

/** The text of a stream as a reader gets it who comes with `lastEventId`. */
function streamText(core: Core, log: StoredEvent[], lastEventId: string | null): string {
  const { seq, skipError } = positionAfter(ID, lastEventId, log.length);
  return log
    .slice(seq)
    .map((entry, n) => core.encodeStored(ID, seq + n, entry, VIEW, skipError && n === 0))
    .join("");
}

function parse(text: string): { event: string; id: string; data: string }[] {
  const found: { event: string; id: string; data: string }[] = [];
  const parser = createParser({ onEvent: ({ event = "", id = "", data }) => found.push({ event, id, data }) });
  parser.feed(text);
  return found;
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function asLines(text: string): string {
  return text.replaceAll(/\r\n|\r/g, "\n");
}

function rankOf(status: string): number {
  const live = ["starting", "processing"].indexOf(status);
  return live < 0 ? 2 : live;
}

function freeze<T extends object>(value: T): T {
  for (const member of Object.values(value)) if (typeof member === "object" && member !== null) Object.freeze(member);
  return Object.freeze(value);
}
