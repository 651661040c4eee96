/** What runs cost: before (estimates), and after (usage, invoices). */
import type { z } from "zod";
import type {
  BillingSchema,
  EstimateRequestSchema,
  EstimateSchema,
  InvoiceSchema,
  InvoiceSummarySchema,
  LedgerEntrySchema,
  UpdateBillingSchema,
  UsageSchema,
} from "../api/billing.ts";
import type { CallOptions, Http } from "./http.ts";

export type Estimate = z.infer<typeof EstimateSchema>;
export type Billing = z.infer<typeof BillingSchema>;
export type Usage = z.infer<typeof UsageSchema>;
export type LedgerEntry = z.infer<typeof LedgerEntrySchema>;
export type Invoice = z.infer<typeof InvoiceSchema>;
export type InvoiceSummary = z.infer<typeof InvoiceSummarySchema>;

/** Days such as `2026-11-25`, UTC; the last one is included. */
export interface Days {
  from?: string;
  to?: string;
}

export function estimates(http: Http) {
  return {
    /** Expected and worst cost of a prediction that is not made. */
    create: (request: z.input<typeof EstimateRequestSchema>, options: CallOptions = {}) =>
      http.json<Estimate>("POST", "/v1/estimates", { ...options, body: request }),
  };
}

export function billing(http: Http) {
  return {
    /** Balance, free credits, what is spent of each cap, alerts. */
    get: (options?: CallOptions) => http.json<Billing>("GET", "/v1/account/billing", options),
    /** Budgets and the alert webhook. */
    update: (change: z.input<typeof UpdateBillingSchema>, options: CallOptions = {}) =>
      http.json<Billing>("PATCH", "/v1/account/billing", { ...options, body: change }),
    usage: ({ group_by = [], ...days }: Days & { group_by?: Usage["group_by"] } = {}, options: CallOptions = {}) =>
      http.json<Usage>("GET", "/v1/usage", { ...options, query: { ...days, group_by: group_by.join(",") } }),
    /** Every row, in the order of booking. */
    ledger: (days: Days = {}, options: CallOptions = {}) =>
      http.pages<LedgerEntry>("/v1/ledger", { ...options, query: { ...days } }),
    invoices: (options?: CallOptions) => http.pages<InvoiceSummary>("/v1/invoices", options),
    /** `month`: such as `2026-11` */
    invoice: (month: string, options?: CallOptions) =>
      http.json<Invoice>("GET", `/v1/invoices/${encodeURIComponent(month)}`, options),
    /** Its rows for a spreadsheet, as they come. */
    invoiceCsv: (month: string, options?: CallOptions) =>
      http.open(`/v1/invoices/${encodeURIComponent(month)}.csv`, options),
  };
}
