/**
 * The ledger against an independent computation: what each prediction costs follows from the time that its end says, and from nothing that was booked. Sums are
 * of integers, and a difference of one micro-dollar is one.
 */
import type { LedgerEntry } from "../../schema/ledger.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { SECOND_MICROS } from "./scenario.ts";

type Violation = (rule: string, detail: string) => void;

/** What the end of a prediction costs before any limit: the model's time at its price, rounded half up; nothing where the platform failed. */
function costOf({ meter }: PredictionDocument): number {
  if (meter === null || meter.platform_failure) return 0;
  const micros = Math.round(meter.predict_time_s * 1_000_000);
  return Math.floor((micros * SECOND_MICROS * 2 + 1_000_000) / 2_000_000);
}

/** `limits`: of Cogway-Max-Cost, by prediction. `isCapped`: a budget or balance may have cut what is paid. */
export function checkBooks(
  account: {
    id: string;
    isCapped: boolean;
    entries: LedgerEntry[];
    documents: PredictionDocument[];
    limits: Map<string, number>;
  },
  violation: Violation,
): void {
  const { id, isCapped, entries, documents, limits } = account;
  const names = new Set<string>();
  const booked = new Map<string, number>();
  for (const { subject, kind, amount_micros, debit, credit, seq } of entries) {
    const name = `${subject} ${kind}`;
    if (names.has(name)) violation("one bill for each prediction and kind", `${id}: ${name}`);
    names.add(name);
    if (!Number.isSafeInteger(amount_micros))
      violation("the ledger adds up", `${id}: entry ${seq} of ${amount_micros}`);
    if (debit === credit) violation("the ledger adds up", `${id}: entry ${seq} from ${debit} to itself`);
    if (subject.startsWith("prediction:")) booked.set(subject, (booked.get(subject) ?? 0) + amount_micros);
  }
  for (const document of documents) {
    const subject = `prediction:${document.id}`;
    const amount = booked.get(subject) ?? 0;
    booked.delete(subject);
    const full = costOf(document);
    const limit = limits.get(document.id) ?? Number.POSITIVE_INFINITY;
    if (amount > full || amount > limit || (!isCapped && amount !== Math.min(full, limit))) {
      violation(
        "the ledger is the independent sum",
        `${document.id}: ${amount} is booked, and ${full} (at most ${limit}) is right`,
      );
    }
    if ((document.cost_micros ?? 0) !== amount) {
      violation("the document says what was booked", `${document.id}: ${document.cost_micros}, and ${amount}`);
    }
  }
  for (const [subject, amount] of booked) violation("no event, no bill", `${id}: ${amount} for ${subject}`);
}
