/** How numbers, times and sizes are written for a reader. */

const SECOND_MS = 1_000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** `40 ms`, `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`. Tenths only where they can be read. */
export function duration(ms: number): string {
  const positive = Math.max(0, ms);
  if (positive > 0 && positive < 95) return `${Math.max(1, Math.round(positive))} ms`;
  if (positive < 10 * SECOND_MS) return `${(positive / SECOND_MS).toFixed(1)} s`;
  if (positive < MINUTE_MS) return `${Math.round(positive / SECOND_MS)} s`;
  if (positive < HOUR_MS) {
    const seconds = Math.floor((positive % MINUTE_MS) / SECOND_MS);
    return `${Math.floor(positive / MINUTE_MS)} min${seconds === 0 ? "" : ` ${seconds} s`}`;
  }
  const minutes = Math.floor((positive % HOUR_MS) / MINUTE_MS);
  return `${Math.floor(positive / HOUR_MS)} h${minutes === 0 ? "" : ` ${minutes} min`}`;
}

/** `just now`, `5 min ago`, `3 h ago`, then a date. */
export function ago(iso: string, now: number): string {
  const then = Date.parse(iso);
  const past = now - then;
  if (past < 45 * SECOND_MS) return "just now";
  if (past < HOUR_MS) return `${Math.max(1, Math.round(past / MINUTE_MS))} min ago`;
  if (past < DAY_MS) return `${Math.round(past / HOUR_MS)} h ago`;
  return dateTime(iso);
}

export function dateTime(iso: string): string {
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** With seconds, for what comes in quick succession. */
export function dateTimeSeconds(iso: string): string {
  return new Date(iso).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

export function bytes(count: number): string {
  if (count < 1_024) return `${count} B`;
  if (count < 1_024 * 1_024) return `${(count / 1_024).toFixed(1)} KiB`;
  return `${(count / 1_024 / 1_024).toFixed(1)} MiB`;
}

/** `$0.0005`, `$12,345.00`: an amount in millionths of a dollar, with cents at least. */
export function dollars(micros: number): string {
  const exact = (micros / 1_000_000).toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 6 });
  return `$${exact}`;
}

/** Up to six digits that matter, so that 0.30000000000000004 does not widen a table. */
export function number(value: number): string {
  if (Number.isInteger(value)) return value.toLocaleString("en-US");
  const magnitude = Math.abs(value);
  if (magnitude !== 0 && (magnitude < 1e-4 || magnitude >= 1e9)) return value.toExponential(3);
  return String(Number(value.toPrecision(6)));
}

export const count = (n: number, one: string, many: string) => `${n.toLocaleString("en-US")} ${n === 1 ? one : many}`;

/** `max_new_tokens` becomes `Max new tokens`. */
export function words(name: string): string {
  const spaced = name.replace(/[_-]+/g, " ").trim();
  return spaced === "" ? name : spaced.charAt(0).toUpperCase() + spaced.slice(1);
}
