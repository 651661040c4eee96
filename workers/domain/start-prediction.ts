/**
 * Makes one prediction, in the order that loses nothing: the account admits it (limit, idempotency key, list row), a large input goes to R2, and the
 * PredictionObject takes it over. What fails after admission is taken back. Warm, these are the only two calls of a create.
 */
import type { AccountLimits, AdmitResult } from "../../durable-objects/account-contract.ts";
import type { CreatePrediction, RunSpec } from "../../durable-objects/prediction-contract.ts";
import { accountStub, predictionStub } from "../../durable-objects/stubs.ts";
import { isCapped, type SpendRequest } from "../../schema/budgets.ts";
import { newPredictionId } from "../../schema/ids.ts";
import type { Budget } from "../../schema/ledger.ts";
import { firstHold } from "../../schema/prediction-cost.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { FREE, type Rates, usd } from "../../schema/pricing.ts";
import { AppError } from "../../schema/problems.ts";
import { seal } from "../../schema/sealed.ts";
import type { StoredTerms } from "../../schema/tables/accounts.ts";
import type { Scope } from "../../schema/tokens.ts";
import { traceparent } from "../../schema/tracing.ts";
import type { Edge } from "../env.ts";
import type { VersionRow } from "../storage/models.ts";
import { estimateCost } from "./estimate.ts";
import { resolveInput } from "./own-files.ts";
import { accountTerms, ratesFor } from "./rates.ts";
import { sharedRunSpec } from "./run-spec.ts";
import { traced } from "./traced.ts";
import { type InputResult, outputKind } from "./validate-input.ts";

/** A stored value above this is an R2 object (design section 9). */
const INPUT_BYTES_MAX = 262_144;

export interface StartPrediction {
  kind: "prediction" | "training";
  account_id: string;
  /** of the caller's token: own files among the inputs need `files:read` */
  scopes?: Scope[];
  limits: AccountLimits;
  /** not counted against the create limit */
  exempt?: boolean;
  version: VersionRow;
  /** how to run it where that is not the version on shared hardware; given the new prediction's id */
  spec?: (id: string) => RunSpec | Promise<RunSpec>;
  destination?: string;
  deployment?: string;
  input: Extract<InputResult, { ok: true }>;
  source: "api" | "web";
  idempotency: { key: string; body_sha256: string } | null;
  /** milliseconds from now */
  cancel_after_ms: number | null;
  /** milliseconds after the end; null is forever */
  retention_ms: number | null;
  /** its account is one of zero retention */
  keeps_nothing?: boolean;
  webhook: string | null;
  webhook_events_filter: string[] | null;
  wait_ms: number;
  /** what is agreed with the account about money */
  terms: StoredTerms;
  /** whose cap of its own counts too; null for what no token asked for */
  token: { id: string; budget: Budget | null } | null;
  /** micro-dollars; null for any */
  max_cost_micros: number | null;
  /** 0 before 1; absent is 0 */
  priority?: 0 | 1;
  /** the operator pays for it */
  is_free?: boolean;
}

export type StartResult =
  | { kind: "started"; document: PredictionDocument; settled: boolean; remaining: number; reset_s: number }
  | Exclude<AdmitResult, { kind: "admitted" }>;

export async function startPrediction(edge: Edge, start: StartPrediction): Promise<StartResult> {
  const { env, settings } = edge;
  const { version } = start;
  const id = newPredictionId(settings.signingSecret, settings.predictionPoolSize);
  const created_at = Date.now();
  const account = accountStub(env, start.account_id);
  const spec = await (start.spec?.(id) ?? sharedRunSpec(edge, version, start.account_id));
  const rates = start.is_free === true ? FREE : await ratesFor(edge, version, spec, start.terms);
  const { spend, tooDear } = spendOf(edge, start, rates);
  const admitted = await traced(edge, "admission", () =>
    account.admit({
      kind: start.kind,
      prediction_id: id,
      created_at,
      model: `${version.owner}/${version.name}`,
      version: version.id,
      source: start.source,
      idempotency: start.idempotency,
      limits: start.limits,
      ...(start.exempt === undefined ? {} : { exempt: start.exempt }),
      ...(spend === null ? {} : { spend }),
    }),
  );
  edge.admitted?.();
  if (admitted.kind !== "admitted") return admitted;
  let input_ref: string | null = null;
  let isSent = false;
  try {
    // Behind the admission: a repeat with its key is answered as before, whatever became of prices, history and files.
    if (tooDear !== null) throw new AppError("billing.max_cost", tooDear);
    const input = await resolveInput(edge, { account_id: start.account_id, scopes: start.scopes ?? [] }, start.input);
    const sealedUnder = input.shown_input === null ? null : settings.signingSecret;
    input_ref = await putLargeInput(env, id, input.input, sealedUnder);
    isSent = true;
    const { document, settled } = await createOnce(env, {
      id,
      account_id: start.account_id,
      kind: start.kind,
      spec,
      shown_version: version.id,
      destination: start.destination ?? null,
      deployment: start.deployment ?? null,
      batch: null,
      is_listed: true,
      input: input_ref === null ? input.input : null,
      input_ref,
      shown_input: input.shown_input,
      created_at,
      deadline_at: start.cancel_after_ms === null ? null : created_at + start.cancel_after_ms,
      retention_ms: start.retention_ms,
      source: start.source,
      webhook: start.webhook,
      webhook_events_filter: start.webhook_events_filter,
      stream_kind: outputKind(version.openapi_schema).stream_kind,
      log_lines: input.log_lines,
      wait_ms: start.wait_ms,
      rates,
      max_cost_micros: start.max_cost_micros,
      priority: start.priority ?? 0,
      reserved_micros: spend !== null && spend.reserve_micros > 0 ? spend.reserve_micros : null,
      token_id: start.token?.id ?? null,
      ...(start.keeps_nothing === true ? { keeps_nothing: true } : {}),
      traceparent: edge.trace === undefined ? null : traceparent(edge.trace),
    });
    return { kind: "started", document, settled, remaining: admitted.remaining, reset_s: admitted.reset_s };
  } catch (error) {
    // Where the call broke, the object may have it all the same: then its key, and what is held for it, must stay. The account asks it in a moment.
    const mayExist = isSent && (error as { overloaded?: boolean }).overloaded !== true;
    if (!mayExist) {
      await account.unadmit(id);
      if (input_ref !== null) edge.later(env.FILES.delete(input_ref));
    }
    throw error;
  }
}

/**
 * What the account must allow; null for what can cost nothing. Reserved is what it is likely to cost at most, where anything bounds what is spent: longer
 * runs ask for more (prediction-spending.ts). `tooDear` says why it is expected to cost more than its caller allows.
 */
function spendOf(
  edge: Edge,
  start: StartPrediction,
  rates: Rates,
): { spend: SpendRequest | null; tooDear: string | null } {
  const { version, terms: stored, token, max_cost_micros: max } = start;
  if (rates.basis === "free" || (rates.basis !== "online" && rates.items.length === 0)) {
    return { spend: null, tooDear: null };
  }
  const terms = accountTerms(edge.settings, stored);
  const model = `${version.owner}/${version.name}`;
  const spend = { reserve_micros: 0, terms, token, model, deployment: start.deployment ?? null };
  const isHeld = isCapped(terms, token?.budget ?? null);
  if (rates.basis === "online" || (max === null && !isHeld)) return { spend, tooDear: null };
  const estimate = estimateCost(edge, version, rates, start.input.input, start.cancel_after_ms);
  const { known_micros, summary } = estimate;
  // An assumption refuses nobody: a run that turns out too dear is stopped.
  const tooDear = `It is expected to cost $${usd(known_micros)}, more than the $${usd(max ?? 0)} of Cogway-Max-Cost. ${summary}`;
  return {
    spend: isHeld ? { ...spend, reserve_micros: firstHold(rates, estimate, max) } : spend,
    tooDear: max !== null && known_micros > max ? tooDear : null,
  };
}

/** Creating is idempotent by id, so a call that broke is made once more: the object may have moved or restarted. */
async function createOnce(
  env: Env,
  request: CreatePrediction,
): ReturnType<ReturnType<typeof predictionStub>["create"]> {
  try {
    return await predictionStub(env, request.id).create(request);
  } catch (error) {
    const { retryable, overloaded } = error as { retryable?: boolean; overloaded?: boolean };
    if (retryable !== true || overloaded === true) throw error;
    return predictionStub(env, request.id).create(request);
  }
}

/** The R2 key of an input that is too large for a row, sealed under `secret` where it holds secrets; null for others. */
async function putLargeInput(
  env: Env,
  id: string,
  input: Record<string, unknown>,
  secret: string | null,
): Promise<string | null> {
  const text = JSON.stringify(input);
  // A character takes 1 to 3 bytes of UTF-8 and most inputs are far from the bound: only those near it are counted.
  if (text.length * 3 <= INPUT_BYTES_MAX) return null;
  const bytes = new TextEncoder().encode(text);
  if (bytes.byteLength <= INPUT_BYTES_MAX) return null;
  const key = `predictions/${id}/input`;
  await env.FILES.put(key, secret === null ? bytes : seal(secret, text));
  return key;
}
