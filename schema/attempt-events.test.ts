/** A prediction's guarantees over random histories, and that the test would see it if one were broken. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Applied, applyAttemptEvents, applyLifecycle, type Progress } from "./attempt-events.ts";
import type { AttemptBatch } from "./origin-protocol.ts";
import { isTerminal } from "./prediction-lifecycle.ts";
import { encodeStored } from "./stream-events.ts";
import { anyHistory, type Core, checkHistory, REAL } from "./testing/histories.ts";

// ---- faults, each a small change of the real functions

type Stored = Pick<Applied, "progress" | "stored" | "effects">;

/** Changes what each step and each batch does. */
function after(change: (before: Progress, result: Stored) => Partial<Stored>): Partial<Core> {
  return {
    applyLifecycle(progress, ...rest) {
      const result = applyLifecycle(progress, ...rest);
      return result === null ? null : { ...result, ...change(progress, result) };
    },
    applyAttemptEvents(progress, ...rest) {
      const result = applyAttemptEvents(progress, ...rest);
      return { ...result, ...change(progress, result) };
    },
  };
}

/** Changes what is taken for the prediction's progress, or for the batch, before a batch is applied. */
function before(
  change: (progress: Progress, batch: AttemptBatch) => { progress?: Progress; batch?: AttemptBatch },
): Partial<Core> {
  return {
    applyAttemptEvents(progress, batch, ...rest) {
      const real = applyAttemptEvents(progress, batch, ...rest);
      const changed = change(progress, batch);
      const result = applyAttemptEvents(changed.progress ?? progress, changed.batch ?? batch, ...rest);
      // What has no effect is no fault.
      return result.stored.length + result.effects.length === 0 ? real : result;
    },
  };
}

function withLife(progress: Progress, change: Partial<Progress["life"]>): Progress {
  return { ...progress, life: { ...progress.life, ...change } };
}

const FAULTS: Record<string, Partial<Core>> = {
  "repeats are stored again": before((progress, { events }) => ({
    progress: (events[0]?.i ?? 0) <= progress.last_i ? { ...progress, last_i: (events[0]?.i ?? 0) - 1 } : progress,
  })),
  "gaps are jumped over": before((progress, { events }) => ({
    progress: { ...progress, last_i: Math.max(progress.last_i, (events[0]?.i ?? 0) - 1) },
  })),
  "no fence before older attempts": before((progress, batch) => ({
    batch: { ...batch, attempt: progress.life.attempt },
  })),
  "output after the end": before((progress) => ({
    progress: progress.life.state === "canceled" ? withLife(progress, { state: "processing" }) : progress,
  })),
  "a second run is streamed again": after((_, { progress }) => ({ progress: { ...progress, repeated: null } })),
  "the first output after the repeated ones is lost": before((progress) => ({
    progress:
      progress.repeated !== null && progress.repeated + 1 === progress.output_count
        ? { ...progress, output_count: progress.output_count + 1 }
        : progress,
  })),
  "a second run may end early": before((progress, { events }) => ({
    progress: events.some(({ type }) => type === "finished") ? { ...progress, repeated: null } : progress,
  })),
  "settled again by a repeat": after(({ life }, { effects }) => ({
    effects: isTerminal(life.state) ? [...effects, { kind: "settle" }] : effects,
  })),
  "the lost attempt's slot is not freed": after(({ life }, { effects }) => ({
    effects: effects.filter(
      (effect) => effect.kind !== "release" || effect.attempt !== life.attempt || life.attempt > 1,
    ),
  })),
  "no other attempt is asked for": after((_, { effects }) => ({
    effects: effects.filter(({ kind }) => kind !== "enqueue"),
  })),
  "started_at is the last attempt's": after((old, { progress }) => ({
    progress: progress.life.attempt !== old.life.attempt ? withLife(progress, { started_at: null }) : progress,
  })),
  "a cancel overtakes the end": {
    applyLifecycle: (progress, event, ...rest) =>
      event.type === "cancel" && progress.life.state === "succeeded"
        ? { progress: withLife(progress, { state: "canceled" }), stored: [], effects: [] }
        : applyLifecycle(progress, event, ...rest),
  },
  "a clock that went back ends it before it started": after((_, { progress }) => ({
    progress: isTerminal(progress.life.state)
      ? withLife(progress, { completed_at: Math.min(progress.life.completed_at ?? 0, progress.life.created_at) })
      : progress,
  })),
  "an entry without a place": after((_, { progress }) => ({
    progress: { ...progress, next_seq: progress.next_seq - (progress.life.state === "canceling" ? 1 : 0) },
  })),
  "done without error": {
    encodeStored: (id, seq, event, view) => encodeStored(id, seq, event, view, true),
  },
  "error twice": {
    encodeStored: (id, seq, event, view) => encodeStored(id, seq, event, view, false),
  },
  "carriage returns end no line": {
    encodeStored: (id, seq, event, view, skip) =>
      encodeStored(id, seq, event, view, skip).replaceAll("\ndata: \n\n", "\n\n"),
  },
};

describe("a prediction's history", () => {
  it("keeps invariants 1 to 11 whatever comes, twice, late or in another order", () => {
    const ends = new Map<string, number>();
    fc.assert(
      fc.property(anyHistory, (history) => {
        const end = checkHistory(REAL, history);
        ends.set(end, (ends.get(end) ?? 0) + 1);
      }),
      { numRuns: 1_500 },
    );
    // The histories go where faults could be.
    expect([...ends.keys()]).toEqual(
      expect.arrayContaining([
        "succeeded",
        "failed",
        "canceled",
        "aborted",
        "succeeded after repeating",
        "canceled after repeating",
        "failed after repeating differently",
      ]),
    );
  });

  it.each(Object.entries(FAULTS))("would be found broken by this fault: %s", (_name, fault) => {
    const found = fc.check(
      fc.property(anyHistory, (history) => void checkHistory({ ...REAL, ...fault }, history)),
      { seed: 1, numRuns: 3_000, endOnFailure: true },
    );
    expect(found.failed).toBe(true);
  });
});
