import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PREDICTION_STATES, type PredictionState } from "./prediction-document.ts";
import {
  ATTEMPTS_MAX,
  isTerminal,
  type LifecycleEvent,
  type LifecycleEventType,
  LOST_RUNS_MAX,
  meterOf,
  newLife,
  type PredictionLife,
  publicStatus,
  TRANSITIONS,
  transition,
} from "./prediction-lifecycle.ts";

const CREATED_AT = 1_800_000_000_000;

const EVENTS: Record<LifecycleEventType, fc.Arbitrary<LifecycleEvent>> = {
  leased: fc.constant({ type: "leased" }),
  started: fc.constant({ type: "started" }),
  finished: fc.record({
    type: fc.constant("finished" as const),
    status: fc.constantFrom("succeeded", "failed", "canceled"),
    error: fc.option(fc.string({ maxLength: 8 }), { nil: undefined }),
    code: fc.constantFrom(undefined, "model.crashed", "origin.shutdown", "instance.gone", "output.upload_failed"),
    predict_time_s: fc.constantFrom(0, 0.001, 1.5, 3_600),
  }),
  lost: fc.record({ type: fc.constant("lost" as const), started: fc.boolean(), reason: fc.string({ maxLength: 8 }) }),
  bounced: fc.record({ type: fc.constant("bounced" as const), reason: fc.string({ maxLength: 8 }) }),
  refused: fc.record({
    type: fc.constant("refused" as const),
    code: fc.constantFrom("model.setup_failed", "deployment.queue_full"),
    detail: fc.string({ maxLength: 8 }),
  }),
  cancel: fc.constant({ type: "cancel" }),
  deadline: fc.constant({ type: "deadline" }),
  limit: fc.record({ type: fc.constant("limit" as const), reason: fc.constantFrom("max_cost", "budget") }),
  forced: fc.constant({ type: "forced" }),
};
const anyEvent = fc.oneof(...Object.values(EVENTS));
/** Clocks of different machines: time may stand still or go back. */
const anyPause = fc.integer({ min: -2_000, max: 60_000 });

const often = (arbitrary: fc.Arbitrary<number>, value: number) =>
  fc.oneof({ weight: 4, arbitrary }, { weight: 1, arbitrary: fc.constant(value) });

/** Every life that a state can have, the ends of both counters more often than chance has them. */
function lifeIn(state: PredictionState): fc.Arbitrary<PredictionLife> {
  return fc
    .record({
      attempt: often(fc.integer({ min: 1, max: ATTEMPTS_MAX }), ATTEMPTS_MAX),
      lost_runs: often(fc.integer({ min: 0, max: LOST_RUNS_MAX }), LOST_RUNS_MAX - 1),
      idempotent: fc.boolean(),
      ran: fc.boolean(),
      startedAfter: fc.integer({ min: 0, max: 10_000 }),
      cancel_reason: fc.constantFrom("user" as const, "deadline" as const),
      limit: fc.constantFrom(null, "max_cost" as const, "budget" as const),
      error: fc.string({ minLength: 1, maxLength: 8 }),
    })
    .map(({ attempt, lost_runs, idempotent, ran, startedAfter, cancel_reason, limit, error }) => {
      const hasStarted = ran || state === "processing" || state === "succeeded";
      const started_at = hasStarted ? CREATED_AT + startedAfter : null;
      return {
        ...newLife(CREATED_AT, idempotent),
        state,
        attempt,
        lost_runs,
        attempt_started: state === "processing" || (state === "canceling" && ran),
        started_at,
        completed_at: isTerminal(state) ? (started_at ?? CREATED_AT) : null,
        cancel_reason:
          state === "canceling"
            ? (limit ?? cancel_reason)
            : state === "canceled" || state === "aborted"
              ? cancel_reason
              : null,
        error: state === "failed" ? error : null,
      };
    });
}

const PAIRS = PREDICTION_STATES.flatMap((state) =>
  Object.keys(EVENTS).map((type) => [state, type as LifecycleEventType] as const),
);

describe("transition", () => {
  it.each(PAIRS)("keeps to the table and to its invariants: %s, %s", (state, type) => {
    const targets = TRANSITIONS[state][type] ?? [];
    const reached = new Set<PredictionState>();
    fc.assert(
      fc.property(lifeIn(state), EVENTS[type], anyPause, (life, event, pause) => {
        const before = structuredClone(life);
        const result = transition(life, event, CREATED_AT + pause);
        expect(life).toEqual(before);
        expect(result.ok).toBe(targets.length > 0);
        if (!result.ok) return;
        expect(targets).toContain(result.next.state);
        reached.add(result.next.state);
        expectSound(life, result.next);
        // An attempt ends in its release, a prediction in one settlement; another attempt is asked for.
        const isEnd = isTerminal(result.next.state);
        const isAgain = result.next.attempt !== life.attempt;
        const stop = result.next.state === "canceling" && life.state !== "canceling";
        expect(result.effects.map((effect) => effect.kind)).toEqual([
          ...(isEnd || isAgain ? ["release"] : []),
          ...(isEnd ? ["settle"] : []),
          ...(isAgain ? ["enqueue"] : []),
          ...(stop ? ["stop"] : []),
        ]);
        for (const effect of result.effects) {
          if (effect.kind === "release" || effect.kind === "stop") expect(effect.attempt).toBe(life.attempt);
        }
      }),
      // One seed: whether the rarest target is reached must not be luck. The histories below are others each time.
      { numRuns: targets.length === 0 ? 50 : 600, seed: 1 },
    );
    // Nothing stands in the table, and so in the diagram, that cannot happen.
    expect([...reached].sort()).toEqual([...new Set(targets)].sort());
  });

  it("guarantees along any history: no step back in what callers see, sound times, one end, and an end to every loop", () => {
    fc.assert(
      fc.property(fc.boolean(), fc.array(fc.tuple(anyEvent, anyPause), { maxLength: 60 }), (idempotent, history) => {
        let life = newLife(CREATED_AT, idempotent);
        let now = CREATED_AT;
        let rank = 0;
        let settled = 0;
        let released = 0;
        for (const [event, pause] of history) {
          now += pause;
          const result = transition(life, event, now);
          if (!result.ok) continue;
          expectSound(life, result.next);
          life = result.next;
          settled += result.effects.filter((effect) => effect.kind === "settle").length;
          released += result.effects.filter((effect) => effect.kind === "release").length;
          const status = publicStatus(life.state, life.started_at);
          const next = ["starting", "processing"].indexOf(status);
          expect(next < 0 ? 2 : next).toBeGreaterThanOrEqual(rank);
          rank = next < 0 ? 2 : next;
        }
        expect(settled).toBe(isTerminal(life.state) ? 1 : 0);
        expect(released).toBe(life.attempt - 1 + settled);
        expect(life.attempt).toBeLessThanOrEqual(ATTEMPTS_MAX);
        expect(life.lost_runs).toBeLessThanOrEqual(LOST_RUNS_MAX);
        expect(life.idempotent || life.lost_runs <= 1).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it("guarantees that whatever never answers still ends: by cancel and force, and by loss after loss", () => {
    fc.assert(
      fc.property(fc.constantFrom(...PREDICTION_STATES).chain(lifeIn), fc.boolean(), (life, isCanceled) => {
        const events: LifecycleEvent[] = isCanceled
          ? [{ type: "deadline" }, { type: "forced" }]
          : Array.from({ length: ATTEMPTS_MAX }, () => ({ type: "lost", started: false, reason: "silent" }));
        let last = life;
        for (const event of events) {
          const result = transition(last, event, CREATED_AT + 5_000);
          if (result.ok) last = result.next;
        }
        expect(isTerminal(last.state)).toBe(true);
      }),
    );
  });
});

describe("meterOf", () => {
  it("counts nothing before the end, nothing that never started, and tells whose failure it was", () => {
    const life = newLife(CREATED_AT, false);
    expect(meterOf(life, "cpu")).toBeNull();
    const canceled = transition(life, { type: "cancel" }, CREATED_AT);
    expect(canceled.ok && meterOf(canceled.next, "cpu")).toEqual({
      hardware: "cpu",
      predict_time_s: 0,
      outcome: "canceled",
      platform_failure: false,
    });
    for (const [code, platform_failure] of [
      ["output.upload_failed", true],
      ["model.crashed", false],
      [undefined, false],
    ] as const) {
      const failed = transition(
        { ...life, state: "processing", attempt_started: true, started_at: CREATED_AT },
        { type: "finished", status: "failed", error: "boom", code, predict_time_s: 2 },
        CREATED_AT,
      );
      expect(failed.ok && meterOf(failed.next, "cpu")).toMatchObject({ predict_time_s: 2, platform_failure });
    }
  });
});

/** Invariants 1, 3, 4 and 5 over one step. */
function expectSound(before: PredictionLife, after: PredictionLife): void {
  expect(isTerminal(before.state)).toBe(false);
  const { created_at, started_at, completed_at } = after;
  expect(created_at).toBe(before.created_at);
  if (before.started_at !== null) expect(started_at).toBe(before.started_at);
  if (started_at !== null) expect(started_at).toBeGreaterThanOrEqual(created_at);
  expect(completed_at !== null).toBe(isTerminal(after.state));
  if (completed_at !== null) {
    expect(completed_at).toBeGreaterThanOrEqual(started_at ?? created_at);
    const ranMs = started_at === null ? 0 : completed_at - started_at;
    expect(after.predict_time_s * 1_000).toBeLessThanOrEqual(ranMs + 1);
  }
  expect(after.predict_time_s).toBeGreaterThanOrEqual(0);
  if (after.state === "succeeded") expect(started_at).not.toBeNull();
  if (after.state === "aborted") expect(started_at).toBeNull();
  if (after.state === "failed") expect(after.error).toBeTruthy();
  else expect([after.error, after.error_code]).toEqual([null, null]);
}
