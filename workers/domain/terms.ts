/** What is agreed with an account about money, completed with the platform's defaults. Pure. */
import type { Discounts } from "../../durable-objects/ledger-contract.ts";
import type { AccountTerms } from "../../schema/ledger.ts";
import type { StoredTerms } from "../../schema/tables/accounts.ts";

/** What goes along with each admission. */
export function accountTerms(env: Pick<Env, "FREE_CREDITS_MICROS">, stored: StoredTerms): AccountTerms {
  return {
    billing: stored.billing ?? "postpaid",
    budget: { day_micros: stored.day_micros ?? null, month_micros: stored.month_micros ?? null },
    alert_webhook: stored.alert_webhook ?? null,
    free_credits_micros: stored.free_credits_micros ?? Number(env.FREE_CREDITS_MICROS),
  };
}

/** What an invoice takes off, and what it adds. */
export function discountsOf(stored: StoredTerms): Discounts {
  return { volume: stored.volume ?? [], commitment_micros: stored.commitment_micros ?? 0 };
}
