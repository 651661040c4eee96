/**
 * Bills for spreadsheets. Each row stands for itself: its amount is
 *
 *     =ROUND(quantity * price_micros * (1000000 - discount_ppm) / (per * 1000000), 0)
 *
 * in micro-dollars, and the bill is the sum of its rows. A row of an invoice that is no charge (a volume discount, used credits) has the same form. Pure.
 */
import type { InvoiceData } from "../../durable-objects/ledger-contract.ts";
import { type LedgerEntry, type VolumeTier, volumeParts } from "../../schema/ledger.ts";
import { usd } from "../../schema/pricing.ts";

const COLUMNS = [
  ...["date", "subject", "kind", "model", "version", "hardware", "deployment", "token", "unit"],
  ...["quantity", "per", "price_micros", "discount_ppm", "amount_micros", "amount_usd"],
];
/** A part of a million: discounts are counted so. */
const MILLION = 1_000_000;

export const CSV_HEAD = csvLine(COLUMNS);

/** A row of the ledger that is a charge; null for others, which an invoice sums up. */
export function chargeLine(entry: LedgerEntry): string | null {
  const { line } = entry;
  if (line === null) return null;
  return csvLine([
    new Date(entry.at).toISOString(),
    ...[entry.subject, "charge", entry.model, entry.version, entry.hardware, entry.deployment, entry.token_id],
    ...[line.unit, line.quantity, line.per, line.price_micros, line.discount_ppm, line.amount_micros],
    usd(line.amount_micros),
  ]);
}

/** What an invoice adds to its charges, and takes off. */
export function closingLines(invoice: InvoiceData, volume: readonly VolumeTier[]): string[] {
  const last = `${invoice.month}-01`;
  const row = (kind: string, quantity: number, per: number, price: number, amount: number) =>
    csvLine([
      ...[last, `invoice:${invoice.month}`, kind, null, null, null, null, null, "usd_micros"],
      ...[quantity, per, price, 0, amount, usd(amount)],
    ]);
  const parts = volumeParts(invoice.charges_micros, volume);
  const amounts: [string, number][] = [
    ["commitment_shortfall", invoice.commitment_shortfall_micros],
    ["free_credits", -invoice.credits_used_micros],
    ["payment", -invoice.payments_micros],
    ["adjustment", -invoice.adjustments_micros],
  ];
  return [
    ...parts.map(({ part_micros, discount_ppm, discount_micros }) =>
      row("volume_discount", part_micros, MILLION, -discount_ppm, -discount_micros),
    ),
    ...amounts.flatMap(([kind, amount]) =>
      amount === 0 ? [] : [row(kind, Math.abs(amount), 1, Math.sign(amount), amount)],
    ),
  ];
}

/** Values with a comma, a quote or a line break are quoted (RFC 4180). */
export function csvLine(values: readonly (string | number | null | undefined)[]): string {
  const cells = values.map((value) => {
    const text = String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  });
  return `${cells.join(",")}\r\n`;
}
