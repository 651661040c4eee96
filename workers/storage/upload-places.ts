/**
 * How many large bodies this isolate holds parts of at once: it has 128 MB, and a part is held twice for a moment. Who comes later waits with its body
 * unread, which costs nothing.
 */
import { AppError } from "../../schema/problems.ts";

const PLACES = 5;
/** More would wait for longer than their senders do. */
const WAITING_MAX = 50;

/**
 * How often each who waits looks: a promise that another request resolves would leave it without I/O of its own, and the platform ends such a request as hung.
 */
const LOOK_MS = 25;
/** Who has not looked for so long was given up by its sender. */
const GONE_MS = 2_000;

let taken = 0;
/** When each who waits last looked, by who has waited for longest. */
const waiting = new Map<object, number>();

/** Resolves with what gives the place back; calling that again does nothing. */
export async function takeUploadPlace(): Promise<() => void> {
  const ticket = {};
  while (!isTurnOf(ticket)) {
    if (waiting.size >= WAITING_MAX && !waiting.has(ticket)) {
      throw new AppError("edge.busy", "Too many uploads come at once. Try again.");
    }
    waiting.set(ticket, Date.now());
    await scheduler.wait(LOOK_MS);
  }
  waiting.delete(ticket);
  taken += 1;
  let isHeld = true;
  return () => {
    if (isHeld) taken -= 1;
    isHeld = false;
  };
}

function isTurnOf(ticket: object): boolean {
  const gone = Date.now() - GONE_MS;
  for (const [other, looked_at] of waiting) if (looked_at < gone && other !== ticket) waiting.delete(other);
  const [first] = waiting.keys();
  return taken < PLACES && (first === undefined || first === ticket);
}
