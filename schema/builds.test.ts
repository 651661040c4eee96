import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  applyBuildEvents,
  BUILD_TIME_LIMIT_MS,
  BUILD_TRIES_MAX,
  BUILD_WAIT_MAX_MS,
  type BuildHappening,
  type BuildRecord,
  isSilent,
  lookAgainAt,
  newBuild,
  nextBuild,
  overdue,
} from "./builds.ts";
import { LEASE_TTL_MS } from "./origin-protocol.ts";
import type { BuildEvent } from "./packages.ts";

/** The record after these, those that change nothing passed over. */
function having(happenings: BuildHappening[], record = newBuild(0), now = 0): BuildRecord {
  return happenings.reduce((known, happening) => nextBuild(known, happening, now) ?? known, record);
}
const PLACED: BuildHappening[] = [
  { type: "placed", origin_id: "o1" },
  { type: "accepted", is_queued: false, last_event_i: -1 },
];
const FINISHED: BuildEvent = { type: "finished", i: 0, t_ms: 0, status: "succeeded" };
const PUBLISHED = {
  kind: "published" as const,
  version_id: "a".repeat(64),
  is_new: true,
  schema_diff: null,
  test_prediction_id: null,
};

describe("a build's record", () => {
  it("waits with a reason until an origin takes it", () => {
    const waiting = having([{ type: "not_placed", reason: "No origin is connected." }]);
    expect(waiting).toMatchObject({ status: "queued", waiting_for: "No origin is connected.", origin: null });
    const refused = having([
      { type: "placed", origin_id: "o1" },
      { type: "not_accepted", reason: "full" },
    ]);
    expect(refused).toMatchObject({ status: "queued", waiting_for: "full", origin: null, except: ["o1"], tries: 0 });
    expect(having([...PLACED], refused)).toMatchObject({ status: "building", waiting_for: null, tries: 1 });
    expect(
      having([
        { type: "placed", origin_id: "o1" },
        { type: "accepted", is_queued: true, last_event_i: -1 },
      ]).waiting_for,
    ).toContain("others first");
  });

  it("begins anew where its origin is lost, so often and no more", () => {
    let record = newBuild(0);
    for (let k = 1; k < BUILD_TRIES_MAX; k++) {
      record = having([...PLACED, { type: "lost", is_away: false }], record);
      expect(record).toMatchObject({ status: "queued", origin: null, tries: k });
    }
    record = having([...PLACED, { type: "lost", is_away: false }], record);
    expect(record.end).toMatchObject({ status: "failed", code: "build.origin_lost" });
  });

  it("goes on where it was, should its origin come back with what it had, and anew where that began anew", () => {
    const begun = applyBuildEvents(having(PLACED), [{ type: "log", i: 0, t_ms: 0, data: "x" }], null, 0).record;
    const back: BuildHappening[] = [
      { type: "lost", is_away: true },
      { type: "placed", origin_id: "o1" },
    ];
    const accepted = (last_event_i: number): BuildHappening => ({ type: "accepted", is_queued: false, last_event_i });
    expect(having([...back, accepted(3)], begun).origin?.next_i).toBe(1);
    expect(having([...back, accepted(-1)], begun).origin?.next_i).toBe(0);
    const elsewhere: BuildHappening[] = [
      { type: "lost", is_away: true },
      { type: "placed", origin_id: "o2" },
    ];
    expect(having([...elsewhere, accepted(3)], begun).origin?.next_i).toBe(0);
  });

  it("counts a good end once its version was made, and is not canceled meanwhile", () => {
    const building = having(PLACED);
    expect(applyBuildEvents(building, [FINISHED], null, 1).record).toMatchObject({ end: null, origin: { next_i: 0 } });
    const publishing = having([{ type: "publishing" }], building);
    expect(nextBuild(publishing, { type: "canceled" }, 1)).toBeNull();
    const { record } = applyBuildEvents(publishing, [FINISHED], PUBLISHED, 2);
    expect(record).toMatchObject({ status: "succeeded", completed_at: 2, end: { version_id: PUBLISHED.version_id } });
    const lost = nextBuild(publishing, { type: "canceled" }, 10 * 60_000);
    expect(lost?.end?.status).toBe("canceled");
  });

  it("ends for want of an origin, and for taking too long there, by time alone", () => {
    const waiting = having([{ type: "not_placed", reason: "No origin is connected." }]);
    expect(overdue(waiting, BUILD_WAIT_MAX_MS - 1)).toBeNull();
    expect(overdue(waiting, BUILD_WAIT_MAX_MS)).toMatchObject({ code: "build.refused" });
    expect(overdue(waiting, BUILD_WAIT_MAX_MS)?.error).toContain("No origin is connected.");
    const begun = applyBuildEvents(having(PLACED), [{ type: "stage", i: 0, t_ms: 0, stage: "fetch" }], null, 0).record;
    expect(overdue(begun, BUILD_TIME_LIMIT_MS)).toBeNull();
    expect(overdue(begun, 2 * BUILD_TIME_LIMIT_MS)).toMatchObject({ code: "build.timeout" });
    expect([isSilent(begun, LEASE_TTL_MS - 1), isSilent(begun, LEASE_TTL_MS)]).toEqual([false, true]);
  });

  it("never changes after its end, has one way on at any time, and takes each event once, whatever comes in which order", () => {
    const events = fc.array(
      fc
        .record({ i: fc.integer({ min: 0, max: 6 }), isEnd: fc.boolean() })
        .map(
          ({ i, isEnd }): BuildEvent =>
            isEnd && i === 6
              ? { type: "finished", i, t_ms: 0, status: "failed" }
              : { type: "log", i, t_ms: 0, data: `${i};` },
        ),
      { maxLength: 8 },
    );
    const happening = fc.oneof(
      fc.constantFrom<BuildHappening>(
        { type: "placed", origin_id: "o1" },
        { type: "not_placed", reason: "none" },
        { type: "accepted", is_queued: false, last_event_i: -1 },
        { type: "not_accepted", reason: "full" },
        { type: "lost", is_away: false },
        { type: "publishing" },
        { type: "canceled" },
      ),
      events,
    );
    fc.assert(
      fc.property(fc.array(happening, { maxLength: 30 }), (steps) => {
        let record = newBuild(0);
        let log = "";
        steps.forEach((step, now) => {
          const before = record;
          if (!Array.isArray(step)) record = nextBuild(record, step, now) ?? record;
          else if (record.end === null) {
            const next = applyBuildEvents(record, step, null, now);
            const expected = Array.from(
              { length: (next.record.origin?.next_i ?? 0) - (record.origin?.next_i ?? 0) },
              (_, k) => (record.origin?.next_i ?? 0) + k,
            ).filter((i) => i !== 6 || next.record.end === null);
            log = next.log.join("");
            expect(log).toBe(expected.map((i) => `${i};`).join(""));
            record = next.record;
          }
          if (before.end !== null) expect(record).toEqual(before);
          expect(record.end === null).toBe(lookAgainAt(record, now) !== null);
          expect(["queued", "building"].includes(record.status)).toBe(record.end === null);
          expect(record.status === "queued" || record.origin !== null || record.end !== null).toBe(true);
          expect(record.tries).toBeLessThanOrEqual(BUILD_TRIES_MAX);
        });
      }),
      { numRuns: 500 },
    );
  });
});
