/**
 * What a chaos run is judged by: how predictions ended, what was booked for them, what webhooks told, what readers of streams put together. Each check
 * compares two sides that came by different ways, and answers its faults in words, none where all is right. Pure: planted faults are each found
 * (checks.e2e.ts). The order of what callers saw is history.ts's.
 */
import type { Prediction } from "../lib/api.ts";
import type { WebhookCall } from "../lib/receiver.ts";
import { isEnd } from "./history.ts";
import type { Planned } from "./plan.ts";
import { outputsOf } from "./resumed-stream.ts";

/** Clocks of one machine, and microseconds that become milliseconds. */
const CLOCK_MS = 50;

/** One prediction when all is over. */
export interface Life {
  plan: Planned;
  id: string;
  /** as it is stored now */
  document: Prediction & { cost: number | null };
  /** the webhook calls that named it, in the order they came */
  told: WebhookCall[];
  /** what its reader put together, and the stream as one reads it now; null: nobody read it */
  stream: { read: string[]; whole: string[] } | null;
  /** of a training: the versions of its destination; null: none was asked for */
  published: string[] | null;
}

/** Ends that nothing excuses: what may run again must succeed, and what fails may only have lost its origin. */
export function checkEnds(lives: readonly Life[]): string[] {
  return lives.flatMap((life) => endFaults(life).map((fault) => `${named(life)}: ${fault}`));
}

function endFaults({ plan, document, published }: Life): string[] {
  const { status, output, error_code, error } = document;
  const faults: string[] = [];
  if (!isEnd(document)) faults.push(`has not ended: ${status}`);
  else if (status === "succeeded") {
    const isExpected = plan.expected === null || JSON.stringify(output) === JSON.stringify(plan.expected);
    if (!isExpected) faults.push(`its output is ${JSON.stringify(output)}`);
  } else if (status === "failed") {
    if (plan.idempotent || error_code !== "origin.lost") faults.push(`failed: ${error_code} ${error}`);
  } else if (plan.cancel_after_ms === null) faults.push(`${status}, and nobody asked for it`);
  if (published !== null) {
    const made = status === "succeeded" ? [(output as { version: string }).version.split(":")[1]] : [];
    if (published.join() !== made.join()) faults.push(`made versions ${made}, its destination has ${published}`);
  }
  return faults;
}

/** What the account's list shows, as `id status`: everything that was made, in its last status, and nothing that callers never heard of. */
export function checkListed(lives: readonly Life[], listed: readonly string[]): string[] {
  const made = lives.map(({ id, document }) => `${id} ${document.status}`);
  const [have, want] = [new Set(listed), new Set(made)];
  return [
    ...made.filter((each) => !have.has(each)).map((each) => `${each} is not in the list`),
    ...listed.filter((each) => !want.has(each)).map((each) => `the list has ${each}`),
    ...(have.size === listed.length ? [] : ["the list has a row twice"]),
  ];
}

export interface LedgerRow {
  subject: string;
  kind: string;
  debit: string;
  credit: string;
  amount_micros: number;
}

export interface Books {
  rows: readonly LedgerRow[];
  /** what the account has spent by its caps' counters, by `GET /v1/usage`, and what is still held */
  spent_micros: number;
  used_micros: number;
  reserved_micros: number;
}

/** What a prediction costs by its document alone: its time at the price of a second, nothing where the platform failed. */
export function costOf({ status, metrics }: Prediction, second_micros: number): number {
  const time_us = Math.round(Number(metrics["predict_time"] ?? 0) * 1_000_000);
  return status === "failed" ? 0 : Math.round((time_us * second_micros) / 1_000_000);
}

/** The books of an account that has only run these, against what each document says by itself. */
export function checkMoney(lives: readonly Life[], books: Books, second_micros: number): string[] {
  const faults: string[] = [];
  const owed = new Map<string, number>();
  for (const life of lives) {
    const { id, document } = life;
    const micros = costOf(document, second_micros);
    if (micros > 0) owed.set(`prediction:${id}`, micros);
    if ((document.cost ?? 0) !== micros) faults.push(`${named(life)}: costs ${document.cost}, by its time ${micros}`);
    const lived_ms = Date.parse(document.completed_at ?? "") - Date.parse(document.created_at);
    const paid_ms = (micros / second_micros) * 1_000;
    if (paid_ms > lived_ms + CLOCK_MS) faults.push(`${named(life)}: pays for ${paid_ms} ms, and lived ${lived_ms}`);
  }
  const charges = books.rows.filter(({ subject }) => !subject.startsWith("credit:"));
  const names = charges.map(({ subject, kind }) => `${subject} ${kind}`);
  for (const twice of names.filter((name, at) => names.indexOf(name) !== at)) faults.push(`${twice} is booked twice`);
  const booked = new Map<string, number>();
  for (const { subject, debit, credit, amount_micros } of charges) {
    booked.set(subject, (booked.get(subject) ?? 0) + amount_micros);
    if (debit !== "customer" || credit !== "revenue:active") faults.push(`${subject}: from ${debit} to ${credit}`);
  }
  for (const subject of new Set([...owed.keys(), ...booked.keys()])) {
    const [ours, theirs] = [owed.get(subject) ?? 0, booked.get(subject) ?? 0];
    if (ours !== theirs) faults.push(`${subject}: booked ${theirs}, by its document ${ours}`);
  }
  const total = [...owed.values()].reduce((sum, micros) => sum + micros, 0);
  if (books.spent_micros !== total) faults.push(`the account has spent ${books.spent_micros}, by documents ${total}`);
  if (books.used_micros !== total) faults.push(`usage is ${books.used_micros}, by documents ${total}`);
  if (books.reserved_micros !== 0) faults.push(`${books.reserved_micros} are still held`);
  return faults;
}

function isCompleted({ headers }: WebhookCall): boolean {
  return headers["cogway-event"] === "completed";
}

/** Its end was told, and the receiver took it. */
export function isTold({ told }: Pick<Life, "told">): boolean {
  return told.some((call) => isCompleted(call) && call.taken);
}

/** Every end is told until it is taken, as one event and as it is stored, and nothing follows it. `verify` throws where a signature is not right. */
export function checkWebhooks(lives: readonly Life[], verify: (call: WebhookCall) => void): string[] {
  const faults: string[] = [];
  for (const life of lives) {
    const { told, document } = life;
    const ends = told.filter(isCompleted);
    if (!isTold(life)) faults.push(`${named(life)}: its end was told ${ends.length} times, and never taken`);
    if (new Set(ends.map(({ id }) => id)).size > 1) faults.push(`${named(life)}: its end has several webhook ids`);
    for (const { body } of ends) {
      const [a, b] = [toldOf(body), toldOf(document)];
      if (a !== b) faults.push(`${named(life)}: told ${a}, stored ${b}`);
    }
    const first = told.findIndex(isCompleted);
    const late = first < 0 ? [] : told.slice(first).filter((call) => !isCompleted(call));
    if (late.length > 0) faults.push(`${named(life)}: ${late.length} events after its end`);
    for (const call of told) {
      try {
        verify(call);
      } catch (error) {
        faults.push(`${named(life)}: ${error}`);
      }
    }
  }
  return faults;
}

function toldOf({ id, status, output, error, logs, metrics }: Prediction): string {
  return JSON.stringify({ id, status, output, error, logs, metrics });
}

/** What a reader put together from its connections is the stream, byte for byte, each event once, and its outputs are the prediction's. */
export function checkStreams(lives: readonly Life[]): string[] {
  const faults: string[] = [];
  for (const life of lives) {
    const { stream, document } = life;
    if (stream === null) continue;
    const { read, whole } = stream;
    if (read.join("\n") !== whole.join("\n")) {
      const at = read.findIndex((block, n) => block !== whole[n]);
      const between = `${read[at]} and ${whole[at]}`;
      faults.push(
        `${named(life)}: read ${read.length} events, the stream has ${whole.length}; they part at ${between}`,
      );
    }
    if (JSON.stringify(outputsOf(read)) !== JSON.stringify(document.output ?? []))
      faults.push(`${named(life)}: what was streamed is not its output`);
    const ids = read.map((block) => /^id: ?(.*)$/m.exec(block)?.[1]);
    if (new Set(ids).size !== ids.length) faults.push(`${named(life)}: an event came twice`);
  }
  return faults;
}

function named({ plan, id }: Life): string {
  return `${plan.key} (${plan.kind}, ${id})`;
}
