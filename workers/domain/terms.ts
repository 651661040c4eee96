/** What of an account's terms an invoice rests on. Pure. */
import type { Discounts } from "../../durable-objects/ledger-contract.ts";
import type { StoredTerms } from "../../schema/tables/accounts.ts";

export function discountsOf(stored: StoredTerms): Discounts {
  return { volume: stored.volume ?? [], commitment_micros: stored.commitment_micros ?? 0 };
}
