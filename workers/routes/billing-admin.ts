/** The operator's side of money: terms of accounts, payments and credits, and the price book. */
import { createRoute, type z } from "@hono/zod-openapi";
import { accountStub } from "../../durable-objects/stubs.ts";
import {
  AccountParams,
  BalanceSchema,
  CreditRequestSchema,
  PriceListSchema,
  PriceRequestSchema,
  PriceSchema,
  TermsSchema,
  UpdateTermsSchema,
} from "../../schema/api/billing.ts";
import { bearer, problemResponses, problems } from "../../schema/api/common.ts";
import { parseModelReference } from "../../schema/ids.ts";
import type { Unit } from "../../schema/pricing.ts";
import { AppError } from "../../schema/problems.ts";
import { showBalance } from "../domain/billing.ts";
import { accountTerms } from "../domain/rates.ts";
import { discountsOf } from "../domain/terms.ts";
import { invalidInput } from "../domain/validate-input.ts";
import { type Edge, edgeOf } from "../env.ts";
import { readModel } from "../storage/models.ts";
import {
  addHardwarePrice,
  addOutputPrices,
  type HardwarePriceRow,
  listAllOutputPrices,
  listHardwarePrices,
  type PriceRow,
  unitOf,
} from "../storage/prices.ts";
import { type AccountWithTerms, readTermsOf, saveTerms } from "../storage/terms.ts";
import { requireAlertUrl } from "./billing.ts";
import { allow, json, newRouter } from "./router.ts";

export const billingAdmin = newRouter();
const tags = ["operating"];
const SECOND_US = 1_000_000;

billingAdmin.openapi(
  createRoute({
    method: "get",
    path: "/admin/v1/accounts/{username}/terms",
    tags,
    summary: "Get what is agreed with an account about money",
    security: bearer,
    middleware: allow("admin"),
    request: { params: AccountParams },
    responses: { 200: { description: "Its terms", content: json(TermsSchema) }, ...problems(404) },
  }),
  async (c) => {
    const account = await requireAccount(c.env.DB, c.req.valid("param").username);
    return c.json(showTerms(edgeOf(c), account), 200);
  },
);

billingAdmin.openapi(
  createRoute({
    method: "patch",
    path: "/admin/v1/accounts/{username}/terms",
    tags,
    summary: "Change what is agreed with an account about money",
    description: "Members that are left out stay. A discount counts for what is created from then on.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: AccountParams, body: { required: true, content: json(UpdateTermsSchema) } },
    responses: { 200: { description: "Its terms", content: json(TermsSchema) }, ...problems(404) },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const account = await requireAccount(c.env.DB, c.req.valid("param").username);
    const change = c.req.valid("json");
    requireAlertUrl(edge, change.alert_webhook);
    const changed = await saveTerms(c.env.DB, account.id, change);
    await accountStub(c.env, account.id).setTerms(accountTerms(edge.settings, changed.terms));
    return c.json(showTerms(edge, changed), 200);
  },
);

billingAdmin.openapi(
  createRoute({
    method: "post",
    path: "/admin/v1/accounts/{username}/credits",
    tags,
    summary: "Book a payment, free credits or a correction",
    description: "Once for each id, however often it is sent.",
    security: bearer,
    middleware: allow("admin"),
    request: { params: AccountParams, body: { required: true, content: json(CreditRequestSchema) } },
    responses: { 200: { description: "The account's balance", content: json(BalanceSchema) }, ...problems(404) },
  }),
  async (c) => {
    const account = await requireAccount(c.env.DB, c.req.valid("param").username);
    const { expires_at, ...entry } = c.req.valid("json");
    const expires = expires_at === undefined ? null : Date.parse(expires_at);
    if (expires !== null && expires <= Date.now()) throw past("expires_at");
    const terms = accountTerms(edgeOf(c).settings, account.terms);
    const balance = await accountStub(c.env, account.id).credit({ ...entry, expires_at: expires }, terms);
    return c.json(showBalance(balance), 200);
  },
);

billingAdmin.openapi(
  createRoute({
    method: "get",
    path: "/admin/v1/prices",
    tags,
    summary: "List the price book",
    description: "Every dated row: the newest that is not in the future counts for what is created.",
    security: bearer,
    middleware: allow("admin"),
    responses: { 200: { description: "All rows", content: json(PriceListSchema) }, ...problemResponses },
  }),
  async (c) => {
    const [hardware, outputs] = await Promise.all([listHardwarePrices(c.env.DB), listAllOutputPrices(c.env.DB)]);
    return c.json({ results: [...hardware.map(showHardwarePrice), ...outputs.flatMap(showOutputPrice)] }, 200);
  },
);

billingAdmin.openapi(
  createRoute({
    method: "post",
    path: "/admin/v1/prices",
    tags,
    summary: "Add a dated price",
    description: "It counts for what is created from its time on. Rows never change, and none is in the past.",
    security: bearer,
    middleware: allow("admin"),
    request: { body: { required: true, content: json(PriceRequestSchema) } },
    responses: { 201: { description: "The row", content: json(PriceSchema) }, ...problems(404) },
  }),
  async (c) => {
    const { sku, model, unit, price_micros, per, valid_from } = c.req.valid("json");
    const now = Date.now();
    const at = valid_from === undefined ? now : Date.parse(valid_from);
    if (at < now - CLOCK_SKEW_MS) throw past("valid_from");
    if (sku !== undefined) {
      const row = { sku, price_micros, valid_from: at };
      if (!(await addHardwarePrice(c.env.DB, row))) throw taken();
      return c.json(showHardwarePrice(row), 201);
    }
    const [owner = "", name = ""] = (model ?? "").split("/");
    const isModel = parseModelReference(model ?? "")?.kind === "model";
    if (!isModel || (await readModel(c.env.DB, owner, name)) === null) {
      throw new AppError("model.not_found", `There is no model ${(model ?? "").slice(0, 130)}.`);
    }
    if (unit === undefined) throw invalidInput([{ type: "required", field: "unit", description: "goes with model" }]);
    const row = { owner, name, unit, price_micros, per, valid_from: at };
    if (!(await addOutputPrices(c.env.DB, [row]))) throw taken();
    return c.json(outputPrice(row, unit), 201);
  },
);

/** A row that says "now" by another clock is not in the past. */
const CLOCK_SKEW_MS = 5_000;

function past(field: string): AppError {
  return invalidInput([
    { type: "format", field, description: "must not be in the past: prices and credits are never retroactive" },
  ]);
}

function taken(): AppError {
  return invalidInput([
    { type: "enum", field: "valid_from", description: "There is a row of this time already, and rows never change." },
  ]);
}

async function requireAccount(db: D1Database, username: string): Promise<AccountWithTerms> {
  const account = await readTermsOf(db, username);
  if (account === null) throw new AppError("account.not_found", `There is no account ${username.slice(0, 64)}.`);
  return account;
}

function showTerms(edge: Edge, { terms }: AccountWithTerms): z.infer<typeof TermsSchema> {
  const { billing, budget, alert_webhook, free_credits_micros } = accountTerms(edge.settings, terms);
  const { discount_ppm = 0 } = terms;
  return { billing, ...budget, alert_webhook, free_credits_micros, discount_ppm, ...discountsOf(terms) };
}

function showHardwarePrice({ sku, price_micros, valid_from }: HardwarePriceRow): z.infer<typeof PriceSchema> {
  const at = new Date(valid_from).toISOString();
  return { sku, model: null, unit: "second", price_micros, per: SECOND_US, valid_from: at };
}

function outputPrice(
  { owner, name, price_micros, per, valid_from }: PriceRow,
  unit: Unit,
): z.infer<typeof PriceSchema> {
  const at = new Date(valid_from).toISOString();
  return { sku: null, model: `${owner}/${name}`, unit, price_micros, per, valid_from: at };
}

/** Rows whose unit nobody counts cost nothing, and are left out. */
function showOutputPrice(row: PriceRow): z.infer<typeof PriceSchema>[] {
  const unit = unitOf(row.unit);
  return unit === null ? [] : [outputPrice(row, unit)];
}
