/**
 * Makes a batch: one create for the account's limit, then its inputs are read, validated and handed over, and only then it begins. A batch with a fault
 * leaves nothing. What dies on the way has told nobody an id, and is dropped by its object.
 */
import type { AdmitResult } from "../../durable-objects/account-contract.ts";
import type { BatchInput } from "../../durable-objects/batch-contract.ts";
import { accountStub, batchStub } from "../../durable-objects/stubs.ts";
import { BATCH_MAX_MS, type BatchDocument, type BatchLine, parseBatchLine } from "../../schema/batches.ts";
import { isCapped, type SpendRequest } from "../../schema/budgets.ts";
import type { ModelReference } from "../../schema/ids.ts";
import { newPredictionId } from "../../schema/ids.ts";
import { firstHold } from "../../schema/prediction-cost.ts";
import type { Rates } from "../../schema/pricing.ts";
import { AppError } from "../../schema/problems.ts";
import { tokenId } from "../../schema/tokens.ts";
import { traceparent } from "../../schema/tracing.ts";
import type { Caller, Edge } from "../env.ts";
import type { VersionRow } from "../storage/models.ts";
import { refused } from "./admission.ts";
import { batchInputs, readLines } from "./batch-inputs.ts";
import type { KeptResponse } from "./create-prediction.ts";
import { estimateCost } from "./estimate.ts";
import { resolveOwnFiles } from "./own-files.ts";
import { accountTerms, ratesFor } from "./rates.ts";
import { resolveVersion } from "./resolve-version.ts";
import { sharedRunSpec } from "./run-spec.ts";
import { faultsDetail, outputKind } from "./validate-input.ts";

export type BatchSource =
  | { kind: "inputs"; inputs: Record<string, unknown>[] }
  | { kind: "stream"; open: () => Promise<ReadableStream<Uint8Array>> };

export interface CreateBatchCommand {
  caller: Caller;
  reference: ModelReference;
  source: BatchSource;
  max_concurrency: number;
  retention_ms: number | null;
  made_by: "api" | "web";
  idempotency: { key: string; body_sha256: string } | null;
}

export type CreateBatchResult =
  | { kind: "created"; document: BatchDocument; remaining: number; reset_s: number }
  /** an earlier answer; `document` is given where its body must be rendered again */
  | { kind: "replayed"; response: KeptResponse; document: BatchDocument | null };

export async function createBatch(edge: Edge, command: CreateBatchCommand): Promise<CreateBatchResult> {
  const { caller } = command;
  const version = await resolveVersion(edge, caller, command.reference);
  const id = newPredictionId(edge.settings.signingSecret, edge.settings.predictionPoolSize);
  const created_at = Date.now();
  const account = accountStub(edge.env, caller.account_id);
  const spec = await sharedRunSpec(edge, version, caller.account_id);
  const rates = await ratesFor(edge, version, spec, caller.terms);
  const spend = spendOf(edge, caller, version, rates);
  const admitted = await account.admit({
    kind: "batch",
    prediction_id: id,
    created_at,
    model: `${version.owner}/${version.name}`,
    version: version.id,
    source: command.made_by,
    idempotency: command.idempotency,
    limits: { creates_per_minute: caller.creates_per_minute },
    // Its inputs are held one by one, as they start.
    ...(spend === null ? {} : { spend: { ...spend, reserve_micros: 0 } }),
  });
  if (admitted.kind === "replay") return replayed(edge, caller, admitted);
  if (admitted.kind !== "admitted") throw refused(caller.account_id, admitted);
  const batch = batchStub(edge.env, id);
  try {
    await batch.create({
      id,
      account_id: caller.account_id,
      spec,
      shown_version: version.id,
      stream_kind: outputKind(version.openapi_schema).stream_kind,
      source: command.made_by,
      max_concurrency: command.max_concurrency,
      retention_ms: command.retention_ms,
      created_at,
      rates,
      ...(spend === null || spend.reserve_micros === 0 ? {} : { spend }),
      token_id: tokenId(caller.token.hash),
      traceparent: edge.trace === undefined ? null : traceparent(edge.trace),
    });
    for await (const inputs of batchInputs(await linesOf(command.source), version)) {
      await batch.append(await withOwnFiles(edge, caller, inputs));
    }
    const document = await batch.seal();
    return { kind: "created", document, remaining: admitted.remaining, reset_s: admitted.reset_s };
  } catch (error) {
    await Promise.all([batch.drop(), account.unadmit(id)]);
    throw error;
  }
}

/** What each input must be allowed; null where they can cost nothing, and nothing is reserved where nothing bounds what is spent. */
function spendOf(edge: Edge, caller: Caller, version: VersionRow, rates: Rates): SpendRequest | null {
  if (rates.basis !== "online" && rates.items.length === 0) return null;
  const terms = accountTerms(edge.settings, caller.terms);
  const { budget } = caller.token;
  const token = { id: tokenId(caller.token.hash), budget };
  const isHeld = rates.basis !== "online" && isCapped(terms, budget);
  // All inputs of a batch hold the same to begin with: those that cost more ask for it.
  const reserve_micros = isHeld ? firstHold(rates, estimateCost(edge, version, rates, {}, null), null) : 0;
  return { reserve_micros, terms, token, model: `${version.owner}/${version.name}`, deployment: null };
}

/** The first request may have died before it answered: then its batch is shown as it is now, if it ever began. */
async function replayed(
  edge: Edge,
  caller: Caller,
  replay: Extract<AdmitResult, { kind: "replay" }>,
): Promise<CreateBatchResult> {
  if (replay.render === undefined) return { kind: "replayed", response: replay.response, document: null };
  const document = await batchStub(edge.env, replay.prediction_id).get(caller.account_id);
  if (document === null) throw new AppError("batch.not_found", "The batch of this Idempotency-Key is gone.");
  return { kind: "replayed", response: replay.response, document };
}

/** With addresses of the caller's files that work until the batch is through. Throws `batch.invalid` with every file that is not there. */
async function withOwnFiles(edge: Edge, caller: Caller, inputs: BatchInput[]): Promise<BatchInput[]> {
  const resolved = await resolveOwnFiles(edge, caller, inputs, BATCH_MAX_MS);
  const faults = resolved.flatMap((input, i) => {
    const place = `line ${(inputs[i]?.index ?? 0) + 1}`;
    return "faults" in input ? input.faults.map((fault) => ({ ...fault, field: `${place}: ${fault.field}` })) : [];
  });
  if (faults.length > 0) throw new AppError("batch.invalid", faultsDetail(faults), { invalid_fields: faults });
  return resolved.flatMap((input) => ("faults" in input ? [] : [input]));
}

async function linesOf(source: BatchSource): Promise<AsyncIterable<BatchLine | string>> {
  if (source.kind === "stream") return readLines(await source.open());
  return inlineLines(source.inputs);
}

async function* inlineLines(inputs: Record<string, unknown>[]): AsyncGenerator<BatchLine | string> {
  for (const input of inputs) yield parseBatchLine(JSON.stringify(input));
}
