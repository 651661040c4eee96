/** What a run of a version may cost: the catalog's prices and its history come together here, the judgement is schema/estimate.ts. */
import { type CostEstimate, estimate, type RunTimes } from "../../schema/estimate.ts";
import type { Rates } from "../../schema/pricing.ts";
import type { Edge } from "../env.ts";
import type { VersionRow } from "../storage/models.ts";

/**
 * `input` is validated, with defaults filled in; `cancelAfterMs` is null where the caller gave no deadline. History comes from this isolate's memory:
 * on the way of a create nothing is asked for it.
 */
export function estimateCost(
  edge: Edge,
  version: VersionRow,
  rates: Rates,
  input: Record<string, unknown>,
  cancelAfterMs: number | null,
): CostEstimate {
  return estimate({ rates, input, history: runTimes(edge, version), cancel_after_ms: cancelAfterMs });
}

/** Active times of the version's earlier runs, as far as this isolate knows them. */
export function runTimes(_edge: Edge, _version: VersionRow): RunTimes | null {
  return null;
}
