import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { nextHour, nextPiece } from "./online-time.ts";

const HOUR_MS = 3_600_000;
const NOON = Date.UTC(2026, 10, 25, 12);

describe("the paid life of an instance", () => {
  it("is cut at each full hour, and what is not over has no piece yet", () => {
    const span = { instance_id: "i", billed_until: NOON + 60_000, ended_at: null };
    expect(nextHour(NOON + 60_000)).toBe(NOON + HOUR_MS);
    expect(nextHour(NOON)).toBe(NOON + HOUR_MS);
    expect(nextPiece(span, NOON + HOUR_MS - 1)).toBeNull();
    expect(nextPiece(span, NOON + HOUR_MS)).toEqual({
      subject: "instance:i:2026-11-25T12:01:00.000Z",
      from: NOON + 60_000,
      to: NOON + HOUR_MS,
    });
  });

  it("ends with the instance, and an end on the stroke of the hour leaves no empty piece", () => {
    const span = { instance_id: "i", billed_until: NOON, ended_at: NOON + 5_000 };
    expect(nextPiece(span, NOON + HOUR_MS)).toMatchObject({ from: NOON, to: NOON + 5_000 });
    expect(nextPiece({ ...span, billed_until: NOON + 5_000 }, NOON + HOUR_MS)).toBeNull();
    expect(
      nextPiece({ ...span, billed_until: NOON + HOUR_MS, ended_at: NOON + HOUR_MS }, NOON + 9 * HOUR_MS),
    ).toBeNull();
  });

  it("adds up to the life, without a gap and each piece within one hour, whenever it is looked at", () => {
    fc.assert(
      fc.property(fc.nat(5 * HOUR_MS), fc.nat(5 * HOUR_MS), fc.array(fc.nat(11 * HOUR_MS)), (begin, life, looks) => {
        const [from, ended_at] = [NOON + begin, NOON + begin + life];
        let billed_until = from;
        for (const look of [...looks.sort((a, b) => a - b), 12 * HOUR_MS]) {
          const now = NOON + look;
          for (;;) {
            const span = { instance_id: "i", billed_until, ended_at: ended_at <= now ? ended_at : null };
            const piece = nextPiece(span, now);
            if (piece === null) break;
            expect(piece.from).toBe(billed_until);
            expect(piece.to).toBeGreaterThan(piece.from);
            expect(piece.to).toBeLessThanOrEqual(Math.min(now, ended_at));
            expect(Math.floor((piece.to - 1) / HOUR_MS)).toBe(Math.floor(piece.from / HOUR_MS));
            billed_until = piece.to;
          }
        }
        expect(billed_until).toBe(ended_at);
      }),
    );
  });
});
