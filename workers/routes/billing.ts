/** Money of the caller's account: where it stands, its own terms, usage, the ledger and invoices. Beyond Replicate's HTTP API. */
import { createRoute, z } from "@hono/zod-openapi";
import type { Context } from "hono";
import { accountStub } from "../../durable-objects/stubs.ts";
import {
  BillingSchema,
  InvoicePageSchema,
  InvoiceParams,
  InvoiceSchema,
  LedgerPageSchema,
  LedgerQuery,
  UpdateBillingSchema,
  UsageQuery,
  UsageSchema,
} from "../../schema/api/billing.ts";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import { monthOf } from "../../schema/ledger.ts";
import { usd } from "../../schema/pricing.ts";
import { AppError } from "../../schema/problems.ts";
import { userUrlFault } from "../../schema/public-url.ts";
import {
  billCsv,
  daysOf,
  groupsOf,
  invoiceCsv,
  requireMonth,
  showBalance,
  showEntry,
  showInvoice,
  showUsage,
  usageCsv,
} from "../domain/billing.ts";
import { decodeCursor, pageUrl } from "../domain/cursors.ts";
import { accountTerms } from "../domain/rates.ts";
import { discountsOf } from "../domain/terms.ts";
import { invalidInput } from "../domain/validate-input.ts";
import { type AppEnv, type Caller, type Edge, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { type AccountWithTerms, readTerms, saveTerms } from "../storage/terms.ts";
import { allow, json, newRouter, verbatim } from "./router.ts";

export const billing = newRouter();
const tags = ["billing"];
/** Rows of a page of the ledger. */
const PAGE_ROWS = 100;
const LedgerCursor = z.object({ after_seq: z.number().int().min(0) });

const csv = { "text/csv": { schema: z.string() } };

billing.openapi(
  createRoute({
    method: "get",
    path: "/v1/account/billing",
    tags,
    summary: "Get where your account stands",
    description:
      "Balance, free credits, what is spent of each cap, alerts, and deployments that cost money and run nothing.",
    security: bearer,
    middleware: allow("billing:read"),
    responses: { 200: { description: "The account's money", content: json(BillingSchema) }, ...problemResponses },
  }),
  async (c) => c.json(await showBilling(edgeOf(c), await requireAccount(c)), 200),
);

billing.openapi(
  createRoute({
    method: "patch",
    path: "/v1/account/billing",
    tags,
    summary: "Change your account's budgets and alert webhook",
    description:
      "Seen everywhere within five seconds. Caps hold for what starts from then on; the rest of the terms is the operator's.",
    security: bearer,
    middleware: allow("billing:write"),
    request: { body: { required: true, content: json(UpdateBillingSchema) } },
    responses: { 200: { description: "The account's money", content: json(BillingSchema) }, ...problemResponses },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const { budget, alert_webhook } = c.req.valid("json");
    requireAlertUrl(edge, alert_webhook);
    const change = { ...budget, ...(alert_webhook === undefined ? {} : { alert_webhook }) };
    const account = await saveTerms(c.env.DB, payerOf(c).account_id, change);
    await accountStub(c.env, account.id).setTerms(accountTerms(edge.settings, account.terms));
    return c.json(await showBilling(edge, account), 200);
  },
);

billing.openapi(
  createRoute({
    method: "get",
    path: "/v1/usage",
    tags,
    summary: "Sum up what was spent",
    description:
      "By day, model, token, deployment, hardware or unit, and by several of them together. `Accept: text/csv` gives a table.",
    security: bearer,
    middleware: allow("billing:read"),
    request: { query: UsageQuery },
    responses: {
      200: {
        description: "Sums, the days in order, within them the dearest first",
        content: { ...json(UsageSchema), ...csv },
      },
      ...problemResponses,
    },
  }),
  async (c) => {
    const query = c.req.valid("query");
    const days = daysOf(query, Date.now());
    const group_by = groupsOf(query.group_by);
    const rows = await accountStub(c.env, payerOf(c).account_id).usage({ ...days, group_by });
    if (wantsCsv(c)) return verbatim(csvAnswer(usageCsv(rows, group_by), "usage.csv"));
    return c.json(showUsage(rows, days, group_by), 200);
  },
);

billing.openapi(
  createRoute({
    method: "get",
    path: "/v1/ledger",
    tags,
    summary: "List the rows of your account's ledger",
    description:
      "In the order of booking. `Accept: text/csv` gives all charges of these days as a bill that a spreadsheet computes again: docs/billing.",
    security: bearer,
    middleware: allow("billing:read"),
    request: { query: LedgerQuery },
    responses: {
      200: { description: "A page of rows; as CSV all of them", content: { ...json(LedgerPageSchema), ...csv } },
      ...problemResponses,
    },
  }),
  async (c) => {
    const query = c.req.valid("query");
    const days = daysOf(query, Date.now());
    const { account_id } = payerOf(c);
    if (wantsCsv(c))
      return verbatim(
        csvAnswer(
          billCsv(edgeOf(c), account_id, days, async () => []),
          "ledger.csv",
        ),
      );
    const { after_seq } = decodeCursor(query.cursor, LedgerCursor) ?? { after_seq: 0 };
    const { entries, more } = await accountStub(c.env, account_id).ledger({ after_seq, limit: PAGE_ROWS, ...days });
    const position = more ? { after_seq: entries.at(-1)?.seq ?? after_seq } : null;
    const next = pageUrl(edgeOf(c).settings.publicUrl, "/v1/ledger", c.req.query(), position);
    return c.json({ previous: null, next, results: entries.map(showEntry) }, 200);
  },
);

billing.openapi(
  createRoute({
    method: "get",
    path: "/v1/invoices",
    tags,
    summary: "List your account's invoices, newest first",
    description: "One for each month with charges or credits, and the running month's so far.",
    security: bearer,
    middleware: allow("billing:read"),
    responses: { 200: { description: "All of them", content: json(InvoicePageSchema) }, ...problemResponses },
  }),
  async (c) => {
    const { publicUrl } = edgeOf(c).settings;
    const running = monthOf(Date.now());
    const months = await accountStub(c.env, payerOf(c).account_id).months();
    const results = [...new Set([running, ...months])].map((month) => {
      const url = `${publicUrl}/v1/invoices/${month}`;
      return { month, url, csv_url: `${url}.csv`, is_final: month < running };
    });
    return c.json({ previous: null, next: null, results }, 200);
  },
);

billing.openapi(
  createRoute({
    method: "get",
    path: "/v1/invoices/{month}",
    tags,
    summary: "Get an invoice",
    description:
      "Equal charges are one line. With `.csv` behind the month, or `Accept: text/csv`, every charge is a row that a spreadsheet computes again, and the sum of rows is what is due: docs/billing.",
    security: bearer,
    middleware: allow("billing:read"),
    request: { params: InvoiceParams },
    responses: { 200: { description: "The invoice", content: { ...json(InvoiceSchema), ...csv } }, ...problems(404) },
  }),
  async (c) => {
    const [month = "", extension] = c.req.valid("param").month.split(".");
    const edge = edgeOf(c);
    const now = Date.now();
    const account = await requireAccount(c);
    await requireMonth(edge, account.id, month, now);
    const discounts = discountsOf(account.terms);
    const invoice = await accountStub(c.env, account.id).invoice(month, discounts);
    if (extension === "csv" || wantsCsv(c)) {
      return verbatim(csvAnswer(invoiceCsv(edge, account.id, invoice, discounts.volume), `invoice-${month}.csv`));
    }
    return c.json(showInvoice(invoice, account.username, edge.settings.publicUrl, now), 200);
  },
);

/** The caller. A token that is bound to models knows only what ran on them, and a bill tells of everything. */
function payerOf(c: Context<AppEnv>): Caller {
  const caller = callerOf(c);
  if (caller.allowed_models === null) return caller;
  throw new AppError(
    "auth.forbidden",
    "This token is bound to models, and bills tell of all: use a token without such a bound.",
  );
}

async function requireAccount(c: Context<AppEnv>): Promise<AccountWithTerms> {
  const account = await readTerms(c.env.DB, payerOf(c).account_id);
  if (account === null) throw new AppError("account.not_found", "Your account is gone.");
  return account;
}

async function showBilling(edge: Edge, { id, terms }: AccountWithTerms): Promise<z.infer<typeof BillingSchema>> {
  const { billing, budget, alert_webhook, ...rest } = accountTerms(edge.settings, terms);
  const account = accountStub(edge.env, id);
  const [balance, { alerts, idle }] = await Promise.all([
    account.balance({ billing, budget, alert_webhook, ...rest }),
    account.alerts(),
  ]);
  return {
    ...showBalance(balance),
    billing,
    budget,
    alert_webhook,
    discount_ppm: terms.discount_ppm ?? 0,
    ...discountsOf(terms),
    alerts: alerts.map(({ data, created_at, ...alert }) => ({ ...data, ...alert, created_at: time(created_at) })),
    idle_deployments: idle.map(({ idle_since, ...deployment }) => ({
      ...deployment,
      idle_since: time(idle_since),
      hour_usd: usd(deployment.hour_micros),
    })),
  };
}

/** Only the text is judged here, as of every webhook: where a name leads is judged where the call is made. */
export function requireAlertUrl(edge: Edge, url: string | null | undefined): void {
  const reason = url == null ? null : userUrlFault(url, edge.settings.allowPrivateCidrs);
  if (reason === null) return;
  const description = `Does not match format 'uri': ${reason}`;
  throw invalidInput([{ type: "format", field: "alert_webhook", description }]);
}

function wantsCsv(c: Context<AppEnv>): boolean {
  return (c.req.header("accept") ?? "").toLowerCase().includes("text/csv");
}

function csvAnswer(body: string | ReadableStream<Uint8Array>, name: string): Response {
  return new Response(body, {
    headers: {
      "content-type": "text/csv; charset=utf-8",
      "content-disposition": `attachment; filename="${name}"`,
      vary: "Accept",
    },
  });
}

function time(ms: number): string {
  return new Date(ms).toISOString();
}
