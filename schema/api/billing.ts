/** Money on the wire. Amounts are whole micro-dollars (`…_micros`), with the same in dollars as text (`…_usd`, six decimals) beside them. Beyond Replicate's HTTP API. */
import { z } from "@hono/zod-openapi";
import { USAGE_GROUPS } from "../ledger.ts";
import { UNITS } from "../pricing.ts";
import { CURSOR_CHARACTERS_MAX, pageOf } from "./common.ts";

/** A billion dollars; sums of such stay exact. */
const AMOUNT_MICROS_MAX = 1_000_000_000_000_000;
const ALERT_URL_CHARACTERS_MAX = 2_048;
const VOLUME_TIERS_MAX = 20;
const PPM = 1_000_000;
const ID_CHARACTERS_MAX = 128;
const NOTE_CHARACTERS_MAX = 500;

const micros = z.number().int();
const amount = z.number().int().min(0).max(AMOUNT_MICROS_MAX);
const usdText = z.string().openapi({ example: "0.001234" });
const currency = z.literal("usd");
const unit = z.enum(UNITS);

// ---- estimates

export const EstimateRequestSchema = z
  .strictObject({
    version: z.string().optional().describe("a version id, owner/name, or owner/name:version"),
    model: z.string().optional().describe("owner/name: its latest version"),
    deployment: z.string().optional().describe("owner/name: its current release"),
    input: z.record(z.string(), z.unknown()).describe("as a prediction would have it"),
    cancel_after: z
      .string()
      .optional()
      .openapi({ example: "90s" })
      .describe("the deadline, as the header Cancel-After gives it: nothing runs longer"),
  })
  .refine(
    ({ version, model, deployment }) => [version, model, deployment].filter((v) => v !== undefined).length === 1,
    {
      path: ["version"],
      message: "give exactly one of version, model and deployment",
    },
  )
  .openapi("EstimateRequest");

export const EstimateSchema = z
  .object({
    expected: micros.describe("micro-dollars: the mean of what such runs cost"),
    expected_usd: usdText,
    worst: micros.describe("micro-dollars to plan with: twice the longest known run, or what the deadline allows"),
    worst_usd: usdText,
    currency,
    basis: z.object({
      summary: z.string().describe("in words: what the numbers rest on"),
      billing: z
        .enum(["active", "output", "online", "free"])
        .describe(
          "what is paid for: the time that the model works, what it makes, or the time that instances are online",
        ),
      model: z.string(),
      version: z.string(),
      hardware: z.string(),
      runs: z.number().int().describe("recent successful runs that the times rest on; 0 where none is known"),
      deadline_s: z.number(),
      limit: micros.describe("micro-dollars: what it may cost should it run until the deadline"),
      limit_usd: usdText,
      discount_ppm: z.number().int().describe("the account's own, in millionths of the price"),
      lines: z.array(
        z.object({
          unit,
          price_micros: micros,
          per: z.number().int(),
          expected: z.number().int().describe("units; microseconds of time"),
          worst: z.number().int(),
          source: z.enum(["history", "input", "deadline", "assumption"]),
          member: z.string().nullable().describe("the input's member that names the number"),
        }),
      ),
      online: z
        .object({ hour_micros: micros, hour_usd: usdText })
        .nullable()
        .describe("what an hour of one instance costs, where its account pays for all of it"),
    }),
    wait: z
      .object({
        queue_ms: z.object({ p50: z.number(), p99: z.number() }).nullable(),
        boot_ms: z.number().nullable(),
        setup_ms: z.number().nullable(),
      })
      .describe("how long it may take before it runs, from earlier ones; null where nothing is known"),
  })
  .openapi("Estimate");

// ---- the account's own terms

const cap = amount.nullable();
export const BudgetSchema = z
  .object({
    day_micros: cap.describe("of a calendar day, UTC; null is no cap"),
    month_micros: cap.describe("of a calendar month, UTC; null is no cap"),
  })
  .openapi("Budget");

export const AlertSchema = z
  .object({
    id: z.string().describe("the header `webhook-id` of its calls"),
    type: z.enum(["budget.threshold", "deployment.idle", "model.unhealthy"]),
    created_at: z.string(),
    detail: z.string(),
    state: z.enum(["pending", "delivered", "failed", "shown"]).describe("shown: there was no webhook to call"),
    attempts: z.number().int(),
  })
  .catchall(z.unknown())
  .openapi("BillingAlert");

export const BillingSchema = z
  .object({
    currency,
    billing: z.enum(["postpaid", "prepaid"]),
    balance_micros: micros.describe("payments less what was charged beyond free credits; negative is owed"),
    balance_usd: usdText,
    credits: z.array(
      z.object({ id: z.string(), left_micros: micros, left_usd: usdText, expires_at: z.string().nullable() }),
    ),
    reserved_micros: micros.describe("held for what runs, until its real cost is booked"),
    spent: z.object({ day_micros: micros, day_usd: usdText, month_micros: micros, month_usd: usdText }),
    budget: BudgetSchema,
    alert_webhook: z.string().nullable(),
    discount_ppm: z.number().int().describe("taken off each price, in millionths"),
    commitment_micros: micros.describe("to be spent in a month; what is missing is a line of its invoice"),
    volume: z.array(z.object({ from_micros: micros, discount_ppm: z.number().int() })),
    alerts: z.array(AlertSchema).describe("the newest ones"),
    idle_deployments: z
      .array(
        z.object({
          deployment: z.string(),
          idle_since: z.string(),
          instances: z.number().int(),
          hour_micros: micros.describe("what an hour of its instances costs"),
          hour_usd: usdText,
        }),
      )
      .describe("deployments that are paid for and have run nothing for two days"),
  })
  .openapi("Billing");

const alertWebhook = z.string().max(ALERT_URL_CHARACTERS_MAX).nullable();
const BudgetChangeSchema = z.strictObject({ day_micros: cap.optional(), month_micros: cap.optional() });

export const UpdateBillingSchema = z
  .strictObject({
    budget: BudgetChangeSchema.optional().describe("caps that are left out stay"),
    alert_webhook: alertWebhook.optional().describe("called at 50, 80 and 100 % of each cap; null for none"),
  })
  .openapi("BillingChange");

/** Of a token that is made. */
export const NewBudgetSchema = z.strictObject({
  day_micros: cap.default(null).describe("of a calendar day, UTC"),
  month_micros: cap.default(null).describe("of a calendar month, UTC"),
});

// ---- usage and the ledger

const day = z.iso.date();
const dayQuery = { from: day.optional(), to: day.optional() };

export const UsageQuery = z.object({
  from: dayQuery.from.describe("the first day, UTC; the first of this month when absent"),
  to: dayQuery.to.describe("the last day, inclusive; today when absent"),
  group_by: z
    .string()
    .optional()
    .openapi({ example: "day,model" })
    .describe(`comma-separated: any of ${USAGE_GROUPS.join(", ")}`),
});

const group = z.string().nullable().optional();
export const UsageSchema = z
  .object({
    currency,
    from: day,
    to: day,
    group_by: z.array(z.enum(USAGE_GROUPS)),
    total_micros: micros,
    total_usd: usdText,
    results: z.array(
      z.object({
        ...{ day: group, model: group, token: group, deployment: group, hardware: group, unit: group },
        amount_micros: micros,
        amount_usd: usdText,
        predictions: z.number().int().describe("that were charged"),
        time_s: z.number().describe("seconds that were paid for"),
      }),
    ),
  })
  .openapi("Usage");

export const LedgerQuery = z.object({
  day: day.optional().describe("one day, UTC; instead of `from` and `to`"),
  ...dayQuery,
  cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional(),
});

export const LedgerEntrySchema = z
  .object({
    seq: z.number().int(),
    at: z.string(),
    subject: z.string().openapi({ example: "prediction:<id>" }),
    kind: z.string(),
    debit: z.string(),
    credit: z.string(),
    amount_micros: micros,
    amount_usd: usdText,
    unit: unit.nullable(),
    quantity: z.number().int().nullable().describe("units; microseconds of time"),
    per: z.number().int().nullable(),
    price_micros: micros.nullable(),
    discount_ppm: z.number().int().nullable(),
    model: z.string().nullable(),
    version: z.string().nullable(),
    hardware: z.string().nullable(),
    deployment: z.string().nullable(),
    token_id: z.string().nullable(),
  })
  .openapi("LedgerEntry");
export const LedgerPageSchema = pageOf(LedgerEntrySchema, "LedgerPage");

// ---- invoices

export const InvoiceSummarySchema = z
  .object({
    month: z.string().openapi({ example: "2026-11" }),
    url: z.string(),
    csv_url: z.string(),
    is_final: z.boolean(),
  })
  .openapi("InvoiceSummary");
export const InvoicePageSchema = pageOf(InvoiceSummarySchema, "InvoicePage");

export const InvoiceSchema = z
  .object({
    month: z.string(),
    account: z.string().describe("username"),
    currency,
    is_final: z.boolean().describe("the month is over; until then it grows"),
    lines: z
      .array(
        z.object({
          model: z.string().nullable(),
          hardware: z.string().nullable(),
          deployment: z.string().nullable(),
          unit,
          quantity: z.number().int().describe("units; microseconds of time"),
          per: z.number().int(),
          price_micros: micros,
          discount_ppm: z.number().int(),
          predictions: z.number().int(),
          amount_micros: micros,
          amount_usd: usdText,
        }),
      )
      .describe("equal lines are one: each amount is the sum of ledger rows, which the CSV lists"),
    charges_micros: micros,
    volume_discount_micros: micros,
    commitment_shortfall_micros: micros.describe("what is missing to the commitment, once the month is over"),
    credits_used_micros: micros,
    payments_micros: micros,
    adjustments_micros: micros.describe("corrections by the operator; positive is in the account's favour"),
    due_micros: micros,
    due_usd: usdText,
    csv_url: z.string(),
  })
  .openapi("Invoice");
export const InvoiceParams = z.object({
  month: z
    .string()
    .regex(
      /^\d{4}-(?:0[1-9]|1[0-2])(?:\.csv)?$/,
      "must be a month such as 2026-11, with .csv behind it for a spreadsheet",
    ),
});

// ---- the operator's side

const ppm = z.number().int().min(0).max(PPM);
export const TermsSchema = z
  .object({
    billing: z.enum(["postpaid", "prepaid"]).describe("prepaid: nothing runs that credits and payments do not cover"),
    ...BudgetSchema.shape,
    alert_webhook: z.string().nullable(),
    free_credits_micros: micros,
    discount_ppm: ppm,
    commitment_micros: micros,
    volume: z.array(z.object({ from_micros: amount, discount_ppm: ppm })),
  })
  .openapi("Terms");
export const UpdateTermsSchema = z
  .strictObject({
    billing: z.enum(["postpaid", "prepaid"]).optional(),
    day_micros: cap.optional(),
    month_micros: cap.optional(),
    alert_webhook: alertWebhook.optional(),
    free_credits_micros: amount.optional().describe("given once, with the account's first prediction"),
    discount_ppm: ppm.optional().describe("committed-spend rate: taken off each price, in millionths"),
    commitment_micros: amount.optional().describe("to be spent in a month"),
    volume: z
      .array(z.strictObject({ from_micros: amount, discount_ppm: ppm }))
      .max(VOLUME_TIERS_MAX)
      .optional()
      .describe("graduated: the part of a month's charges above `from_micros` is cheaper by `discount_ppm`"),
  })
  .openapi("TermsChange");

export const CreditRequestSchema = z
  .strictObject({
    id: z
      .string()
      .min(1)
      .max(ID_CHARACTERS_MAX)
      .regex(/^[A-Za-z0-9._:-]+$/, "must be letters, digits, '.', '_', ':' and '-'")
      .describe("your own: the same id again books nothing"),
    kind: z.enum(["free", "payment", "adjustment"]),
    amount_micros: z.number().int().min(-AMOUNT_MICROS_MAX).max(AMOUNT_MICROS_MAX),
    expires_at: z.iso.datetime({ offset: true }).optional().describe("of free credits"),
    note: z.string().max(NOTE_CHARACTERS_MAX).default(""),
  })
  .refine((body) => body.kind === "adjustment" || body.amount_micros > 0, {
    path: ["amount_micros"],
    message: "must be above 0, but for an adjustment",
  })
  .refine((body) => body.kind === "free" || body.expires_at === undefined, {
    path: ["expires_at"],
    message: "only free credits expire",
  })
  .openapi("CreditRequest");
export const BalanceSchema = BillingSchema.pick({
  currency: true,
  balance_micros: true,
  balance_usd: true,
  credits: true,
  reserved_micros: true,
  spent: true,
}).openapi("Balance");

export const PriceSchema = z
  .object({
    sku: z.string().nullable().describe("of a second on this hardware"),
    model: z.string().nullable().describe("owner/name, of one unit that an official model makes or reads"),
    unit,
    price_micros: micros,
    per: z.number().int(),
    valid_from: z.string(),
  })
  .openapi("Price");
export const PriceListSchema = z.object({ results: z.array(PriceSchema) }).openapi("PriceList");
export const PriceRequestSchema = z
  .strictObject({
    sku: z.string().min(1).max(64).optional(),
    model: z.string().optional().describe("owner/name"),
    unit: unit.exclude(["second"]).optional().describe("of a model's price; hardware is priced by the second"),
    price_micros: amount,
    per: z.number().int().min(1).max(PPM).default(1).describe("for so many units, such as 1,000,000 tokens"),
    valid_from: z.iso.datetime({ offset: true }).optional().describe("now when absent; never in the past"),
  })
  .refine((body) => (body.sku === undefined) !== (body.model === undefined), {
    path: ["sku"],
    message: "give exactly one of sku and model",
  })
  .refine((body) => (body.model === undefined) === (body.unit === undefined), {
    path: ["unit"],
    message: "goes with model",
  })
  .openapi("PriceRequest");
export const AccountParams = z.object({ username: z.string() });
