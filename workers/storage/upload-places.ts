/**
 * How many large bodies this isolate holds parts of at once: it has 128 MB, and a part is held twice for a moment. Who comes later waits with its body
 * unread, which costs nothing.
 */
import { AppError } from "../../schema/problems.ts";

const PLACES = 5;
/** More would wait for longer than their senders do. */
const WAITING_MAX = 50;

let taken = 0;
const waiting: (() => void)[] = [];

/** Resolves with what gives the place back; calling that again does nothing. */
export async function takeUploadPlace(): Promise<() => void> {
  if (taken < PLACES) taken += 1;
  else if (waiting.length >= WAITING_MAX) throw new AppError("edge.busy", "Too many uploads come at once. Try again.");
  else await new Promise<void>((resolve) => waiting.push(resolve));
  let isHeld = true;
  return () => {
    if (!isHeld) return;
    isHeld = false;
    const next = waiting.shift();
    // The place goes on to who has waited for longest.
    if (next === undefined) taken -= 1;
    else next();
  };
}
