/** Money as callers see it: days and months of the account's ledger, in the wire's words. */
import type { z } from "@hono/zod-openapi";
import type { Balance, InvoiceData, UsageGroup, UsageRow } from "../../durable-objects/ledger-contract.ts";
import { accountStub } from "../../durable-objects/stubs.ts";
import type { BalanceSchema, InvoiceSchema, LedgerEntrySchema, UsageSchema } from "../../schema/api/billing.ts";
import { type LedgerEntry, monthOf, USAGE_GROUPS, type VolumeTier } from "../../schema/ledger.ts";
import { usd } from "../../schema/pricing.ts";
import { AppError } from "../../schema/problems.ts";
import type { Edge } from "../env.ts";
import { CSV_HEAD, chargeLine, closingLines, csvLine } from "./bill-csv.ts";

const DAY_MS = 86_400_000;
/** Of one answer about usage or the ledger: a year and a day. */
const DAYS_MAX = 367;
/** Rows of the ledger that are read at once for a bill. */
const LEDGER_ROWS = 1_000;

/** Whole days, UTC: from the start of the first to the end of the last. */
export interface Days {
  from: number;
  to: number;
}

/** The days that a query names; this month so far where it names none. */
export function daysOf(
  query: { day?: string | undefined; from?: string | undefined; to?: string | undefined },
  now: number,
): Days {
  const today = new Date(now).toISOString().slice(0, 10);
  const last = query.day ?? query.to ?? today;
  const first = query.day ?? query.from ?? `${last.slice(0, 7)}-01`;
  const from = Date.parse(`${first}T00:00:00Z`);
  const to = Date.parse(`${last}T00:00:00Z`) + DAY_MS;
  if (query.day !== undefined && (query.from !== undefined || query.to !== undefined)) {
    throw new AppError("request.malformed", "Give `day`, or `from` and `to`, not both.");
  }
  if (from >= to) throw new AppError("request.malformed", "`from` must not be after `to`.");
  if (to - from > DAYS_MAX * DAY_MS) {
    throw new AppError("request.malformed", `At most ${DAYS_MAX} days at once: ask for shorter times one by one.`);
  }
  return { from, to };
}

/** The groups that are asked for, comma-separated. */
export function groupsOf(text: string | undefined): UsageGroup[] {
  const names = (text ?? "").split(",").map((name) => name.trim());
  const wanted = [...new Set(names.filter((name) => name !== ""))];
  const unknown = wanted.filter((name) => !USAGE_GROUPS.some((group) => group === name));
  if (unknown.length > 0) {
    throw new AppError(
      "request.malformed",
      `group_by knows ${USAGE_GROUPS.join(", ")}, and not ${unknown.join(", ").slice(0, 100)}.`,
    );
  }
  return USAGE_GROUPS.filter((group) => wanted.includes(group));
}

export function showUsage(rows: UsageRow[], days: Days, group_by: UsageGroup[]): z.infer<typeof UsageSchema> {
  const total_micros = rows.reduce((sum, row) => sum + row.amount_micros, 0);
  return {
    currency: "usd",
    from: dateOf(days.from),
    to: dateOf(days.to - DAY_MS),
    group_by,
    total_micros,
    total_usd: usd(total_micros),
    results: rows.map(({ key, amount_micros, predictions, time_us }) => ({
      ...key,
      amount_micros,
      amount_usd: usd(amount_micros),
      predictions,
      time_s: time_us / 1_000_000,
    })),
  };
}

export function usageCsv(rows: UsageRow[], group_by: UsageGroup[]): string {
  const head = csvLine([...group_by, "amount_micros", "amount_usd", "predictions", "time_s"]);
  const lines = rows.map(({ key, amount_micros, predictions, time_us }) =>
    csvLine([
      ...group_by.map((group) => key[group]),
      amount_micros,
      usd(amount_micros),
      predictions,
      time_us / 1_000_000,
    ]),
  );
  return head + lines.join("");
}

export function showEntry({ line, at, ...entry }: LedgerEntry): z.infer<typeof LedgerEntrySchema> {
  return {
    ...entry,
    at: new Date(at).toISOString(),
    amount_usd: usd(entry.amount_micros),
    unit: line?.unit ?? null,
    quantity: line?.quantity ?? null,
    per: line?.per ?? null,
    price_micros: line?.price_micros ?? null,
    discount_ppm: line?.discount_ppm ?? null,
  };
}

/** The bill of some days, row by row, as it is read. `closing` is asked for when all charges were read. */
export function billCsv(
  edge: Edge,
  accountId: string,
  days: Days,
  closing: () => Promise<string[]>,
): ReadableStream<Uint8Array> {
  const account = accountStub(edge.env, accountId);
  const encoder = new TextEncoder();
  let after_seq: number | null = 0;
  return new ReadableStream({
    start: (controller) => controller.enqueue(encoder.encode(CSV_HEAD)),
    pull: async (controller) => {
      if (after_seq === null) {
        controller.enqueue(encoder.encode((await closing()).join("")));
        return controller.close();
      }
      const { entries, more } = await account.ledger({ after_seq, limit: LEDGER_ROWS, ...days });
      after_seq = more ? (entries.at(-1)?.seq ?? null) : null;
      controller.enqueue(encoder.encode(entries.map((entry) => chargeLine(entry) ?? "").join("")));
    },
  });
}

// ---- invoices

/** From its first to its last day. */
export function daysOfMonth(month: string): Days {
  const from = Date.parse(`${month}-01T00:00:00Z`);
  const end = new Date(from);
  end.setUTCMonth(end.getUTCMonth() + 1);
  return { from, to: end.getTime() };
}

/** There is one for each month with charges or credits, and for the running one. */
export async function requireMonth(edge: Edge, accountId: string, month: string, now: number): Promise<void> {
  const months = await accountStub(edge.env, accountId).months();
  if (month === monthOf(now) || months.includes(month)) return;
  throw new AppError(
    "invoice.not_found",
    `Nothing was charged or paid in ${month}. GET /v1/invoices lists the months that have an invoice.`,
  );
}

export function invoiceCsv(
  edge: Edge,
  accountId: string,
  invoice: InvoiceData,
  volume: readonly VolumeTier[],
): ReadableStream<Uint8Array> {
  const close = async () => closingLines(invoice, volume);
  return billCsv(edge, accountId, daysOfMonth(invoice.month), close);
}

export function showInvoice(
  invoice: InvoiceData,
  username: string,
  publicUrl: string,
  now: number,
): z.infer<typeof InvoiceSchema> {
  return {
    ...invoice,
    account: username,
    currency: "usd",
    is_final: monthOf(now) > invoice.month,
    lines: invoice.lines.map((line) => ({ ...line, amount_usd: usd(line.amount_micros) })),
    due_usd: usd(invoice.due_micros),
    csv_url: `${publicUrl}/v1/invoices/${invoice.month}.csv`,
  };
}

// ---- where the account stands

export function showBalance(balance: Balance): z.infer<typeof BalanceSchema> {
  const { balance_micros, reserved_micros, spent, credits } = balance;
  return {
    currency: "usd",
    balance_micros,
    balance_usd: usd(balance_micros),
    credits: credits.map(({ id, left_micros, expires_at }) => ({
      id,
      left_micros,
      left_usd: usd(left_micros),
      expires_at: expires_at === null ? null : new Date(expires_at).toISOString(),
    })),
    reserved_micros,
    spent: { ...spent, day_usd: usd(spent.day_micros), month_usd: usd(spent.month_micros) },
  };
}

function dateOf(ms: number): string {
  return new Date(ms).toISOString().slice(0, 10);
}
