/** What a run of a version may cost: the catalog's prices and its history come together here, the judgement is schema/estimate.ts. */
import { type CostEstimate, estimate, RUNS_MIN } from "../../schema/estimate.ts";
import type { Rates } from "../../schema/pricing.ts";
import type { RunHistory } from "../../schema/run-history.ts";
import type { Edge } from "../env.ts";
import type { VersionRow } from "../storage/models.ts";
import { versionHistory } from "./version-history.ts";

/** Histories that this isolate remembers for reservations. Some 3 KB each. */
const REMEMBERED_MAX = 2_000;
/** A reservation may rest on a history of this age: mean and maximum move slowly. That of a version that has hardly run does not. */
const RENEW_AFTER_MS = 60_000;
const RENEW_NEW_AFTER_MS = 5_000;

const remembered = new Map<string, { history: RunHistory | null; read_at: number }>();

/**
 * `input` is validated, with defaults filled in; `cancelAfterMs` is null where the caller gave no deadline. Nothing is waited for: this stands on the way of
 * every create, so what this isolate does not remember is read behind the answer, for the next one.
 */
export function estimateCost(
  edge: Edge,
  version: VersionRow,
  rates: Rates,
  input: Record<string, unknown>,
  cancelAfterMs: number | null,
): CostEstimate {
  return estimate({ rates, input, history: rememberedHistory(edge, version), cancel_after_ms: cancelAfterMs });
}

function rememberedHistory(edge: Edge, version: VersionRow): RunHistory | null {
  const key = `${version.owner}/${version.name}:${version.id}`;
  const known = remembered.get(key);
  const isNew = (known?.history?.run_ms.count ?? 0) < RUNS_MIN;
  if (known === undefined || known.read_at <= Date.now() - (isNew ? RENEW_NEW_AFTER_MS : RENEW_AFTER_MS)) {
    // Said first, so that creates that come together ask once.
    remember(key, known?.history ?? null);
    edge.later(readHistory(edge, version).catch(() => undefined));
  }
  return known?.history ?? null;
}

/** The newest, for who asks for it; remembered for the creates that follow. */
export async function readHistory(edge: Edge, version: VersionRow): Promise<RunHistory | null> {
  const { owner, name, id } = version;
  const history = await versionHistory(edge, owner, name, id);
  remember(`${owner}/${name}:${id}`, history);
  return history;
}

/** The one that was read longest ago makes room. */
function remember(key: string, history: RunHistory | null): void {
  remembered.delete(key);
  if (remembered.size >= REMEMBERED_MAX) remembered.delete(remembered.keys().next().value ?? "");
  remembered.set(key, { history, read_at: Date.now() });
}
