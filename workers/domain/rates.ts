/**
 * What a prediction is paid by, resolved when it is created and never again: the rates travel with it, so a price that changes later changes nothing of it.
 *
 * | runs                                                             | pays                                                     |
 * | ---------------------------------------------------------------- | -------------------------------------------------------- |
 * | on instances of a deployment, or of a private model              | `online`: nothing here; their account pays for each second of an instance, setup and idle included |
 * | an official model                                                | `output`: what it made, by the model's prices, else by the standard tier of the operator's list |
 * | a public model, a fast-booting fine-tune of one, a training       | `active`: the seconds that the model worked, by its hardware |
 * | the operator's own examples                                      | `free`                                                   |
 *
 * Hardware without a price is free until the operator sets one; its rates have no items, and estimates say so.
 */
import type { RunSpec } from "../../durable-objects/prediction-contract.ts";
import type { AccountTerms } from "../../schema/ledger.ts";
import type { Rates } from "../../schema/pricing.ts";
import type { StoredTerms } from "../../schema/tables/accounts.ts";
import { STANDARD_TIER } from "../../schema/tables/operator-seed.ts";
import type { Edge, Settings } from "../env.ts";
import { findModel, type VersionRow } from "../storage/models.ts";
import { hardwarePrice, listTier, outputPrices } from "../storage/prices.ts";

/** The rates of a prediction (or a training) of `version` that runs as `spec` says, for an account with these terms. */
export async function ratesFor(
  edge: Edge,
  version: VersionRow,
  spec: Pick<RunSpec, "hardware" | "online" | "mode">,
  terms: StoredTerms,
): Promise<Rates> {
  if (spec.online !== undefined) return { ...spec.online.rates, items: [] };
  const { hardware } = spec;
  const discount_ppm = terms.discount_ppm ?? 0;
  if (spec.mode === "predict") {
    const items = await officialPrices(edge, version);
    if (items.length > 0) return { basis: "output", hardware, items, discount_ppm };
  }
  return timeRates(edge, "active", hardware, discount_ppm);
}

/** A second of an instance's life, for whoever pays for all of it. */
export function onlineRates(edge: Edge, hardware: string, terms: StoredTerms): Promise<Rates> {
  return timeRates(edge, "online", hardware, terms.discount_ppm ?? 0);
}

async function timeRates(
  edge: Edge,
  basis: "active" | "online",
  hardware: string,
  discount_ppm: number,
): Promise<Rates> {
  const price = await hardwarePrice(edge.env.DB, hardware, Date.now(), edge.later);
  return { basis, hardware, items: price === null ? [] : [price], discount_ppm };
}

/** None for models that are not official. */
async function officialPrices(edge: Edge, { owner, name }: VersionRow): Promise<Rates["items"]> {
  const { env, later } = edge;
  const found = await findModel(env.DB, owner, name, later);
  if (found?.model.is_official !== true) return [];
  const now = Date.now();
  const own = await outputPrices(env.DB, owner, name, now, later);
  return own.length > 0 ? own : listTier(env.DB, STANDARD_TIER, now, later);
}

/** What an account's row says about money, with the platform's defaults for the rest. */
export function accountTerms(settings: Settings, terms: StoredTerms): AccountTerms {
  return {
    billing: terms.billing ?? "postpaid",
    budget: { day_micros: terms.day_micros ?? null, month_micros: terms.month_micros ?? null },
    alert_webhook: terms.alert_webhook ?? null,
    free_credits_micros: terms.free_credits_micros ?? settings.freeCreditsMicros,
  };
}
