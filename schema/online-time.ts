/**
 * The paid life of an instance in pieces, one for each hour that it touches. Pure. A life begins with the boot and ends with the instance; pieces follow one another
 * without a gap, and each is named by its beginning, so that telling one again changes nothing.
 */

const HOUR_MS = 3_600_000;

export interface OnlineSpan {
  instance_id: string;
  /** epoch milliseconds: where the next piece begins */
  billed_until: number;
  /** null while it lives */
  ended_at: number | null;
}

export interface OnlinePiece {
  /** `instance:<id>:2026-11-25T04:00:00.000Z` */
  subject: string;
  from: number;
  to: number;
}

/** The next piece that is over by `now`; null where there is none yet, or no more. */
export function nextPiece({ instance_id, billed_until, ended_at }: OnlineSpan, now: number): OnlinePiece | null {
  const hourEnd = nextHour(billed_until);
  const to = Math.min(hourEnd, ended_at ?? hourEnd);
  if (to > now || to <= billed_until) return null;
  const subject = `instance:${instance_id}:${new Date(billed_until).toISOString()}`;
  return { subject, from: billed_until, to };
}

/** When its next piece is over; it may end earlier. */
export function nextHour(at: number): number {
  return (Math.floor(at / HOUR_MS) + 1) * HOUR_MS;
}
