/** Tells the owner of a model that its canaries fail and nobody uses it. */
import type { CanaryVersion } from "../../durable-objects/canary-contract.ts";
import { accountStub } from "../../durable-objects/stubs.ts";
import type { Edge } from "../env.ts";
import { findPayer } from "../storage/accounts.ts";

export async function tellOwner(
  edge: Edge,
  { owner, name, version }: CanaryVersion,
  facts: { unhealthy_since: number; used_at: number; error: string | null },
): Promise<void> {
  const payer = await findPayer(edge.env.DB, { username: owner }, edge.later);
  if (payer === null) return;
  const forsaken = { model: `${owner}/${name}`, version, ...facts };
  await accountStub(edge.env, payer.account_id).modelUnhealthy(forsaken, payer.terms.alert_webhook ?? null);
}
