/**
 * Accounts that have used up their creates for the moment, as their objects said: whoever asks on all the same is refused by this isolate's memory, before
 * the body is read and without a call, so a flood costs others little. It only ever repeats what the object answered, and for a second at most: a limit
 * that the operator raised counts by then.
 */
const BELIEVED_MAX_MS = 1_000;
/** About 100 bytes each; the one that was refused longest ago is forgotten first, and asks its object again. */
const ACCOUNTS_MAX = 10_000;

/** When the next create is admitted, and when that was said; epoch milliseconds. */
const spent = new Map<string, { until: number; said_at: number }>();

export function noteSpent(account: string, retryAfterMs: number, now = Date.now()): void {
  spent.delete(account);
  if (spent.size >= ACCOUNTS_MAX) spent.delete(spent.keys().next().value ?? "");
  spent.set(account, { until: now + retryAfterMs, said_at: now });
}

/** Milliseconds until the account's next create is admitted; null where only its object knows. */
export function spentFor(account: string, now = Date.now()): number | null {
  const known = spent.get(account);
  if (known === undefined) return null;
  const isBelieved = now >= known.said_at && now < known.said_at + BELIEVED_MAX_MS && now < known.until;
  if (!isBelieved) spent.delete(account);
  return isBelieved ? known.until - now : null;
}
