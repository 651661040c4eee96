/** The use case of both create routes: which version, is the input right, may the account, then start it. */
import { accountStub, predictionStub } from "../../durable-objects/stubs.ts";
import type { ModelReference } from "../../schema/ids.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import type { InvalidField } from "../../schema/problems.ts";
import { AppError } from "../../schema/problems.ts";
import { userUrlFault } from "../../schema/public-url.ts";
import { tokenId } from "../../schema/tokens.ts";
import type { Caller, Edge } from "../env.ts";
import type { ReleaseRow } from "../storage/deployments.ts";
import { refused } from "./admission.ts";
import { prepareTraining } from "./prepare-training.ts";
import { resolveVersion } from "./resolve-version.ts";
import { deploymentSpec } from "./run-spec.ts";
import { startPrediction } from "./start-prediction.ts";
import { invalidInput, validateInput } from "./validate-input.ts";

export interface CreateCommand {
  caller: Caller;
  reference: ModelReference;
  /** where it runs, when that is a deployment's current release */
  release?: ReleaseRow;
  input: unknown;
  webhook: string | null;
  webhook_events_filter: string[] | null;
  source: "api" | "web";
  wait_ms: number;
  cancel_after_ms: number | null;
  /** 0 is until the end was delivered, null is for ever */
  retention_ms: number | null;
  idempotency: { key: string; body_sha256: string } | null;
  /** micro-dollars (Cogway-Max-Cost) */
  max_cost_micros: number | null;
  /** 0 before 1 */
  priority: 0 | 1;
  /** owner/name: run the version's trainer, and make its weights a version of this model */
  destination?: string;
}

/** An answer that is kept with an idempotency key. */
export interface KeptResponse {
  status: number;
  headers: [string, string][];
  body: string;
}

export type CreateResult =
  | { kind: "created"; document: PredictionDocument; settled: boolean; remaining: number; reset_s: number }
  /** an earlier answer; `document` is given where its body must be rendered again */
  | { kind: "replayed"; response: KeptResponse; document: PredictionDocument | null };

export async function createPrediction(edge: Edge, command: CreateCommand): Promise<CreateResult> {
  const { caller, release } = command;
  const version = await resolveVersion(edge, caller, command.reference);
  const training =
    command.destination === undefined ? null : await prepareTraining(edge, caller, version, command.destination);
  const component = training === null ? "Input" : "TrainingInput";
  const input = validateInput(version.id, version.openapi_schema, command.input, component);
  const faults = [...(input.ok ? [] : input.faults), ...webhookFaults(edge, command.webhook)];
  if (!input.ok || faults.length > 0) throw invalidInput(faults);
  const { caller: _caller, reference: _reference, release: _release, input: _input, ...rest } = command;
  const result = await startPrediction(edge, {
    ...rest,
    ...(training ?? { kind: "prediction" }),
    account_id: caller.account_id,
    scopes: caller.scopes,
    ...(caller.zero_retention ? { keeps_nothing: true, retention_ms: 0 } : {}),
    limits: { creates_per_minute: caller.creates_per_minute },
    terms: caller.terms,
    token: { id: tokenId(caller.token.hash), budget: caller.token.budget },
    version,
    ...(release === undefined
      ? {}
      : { spec: () => deploymentSpec(edge, version, release), deployment: `${release.owner}/${release.name}` }),
    input,
  });
  switch (result.kind) {
    case "started":
      return { ...result, kind: "created" };
    case "limited":
    case "over_budget":
    case "key_reused":
    case "in_flight":
      throw refused(caller.account_id, result);
    case "replay": {
      if (result.render === undefined) return { kind: "replayed", response: result.response, document: null };
      const document =
        result.render.document ??
        (await predictionStub(edge.env, result.prediction_id).get(result.prediction_id, caller.account_id));
      if (document === null)
        throw new AppError("prediction.not_found", "The prediction of this Idempotency-Key is gone.");
      return { kind: "replayed", response: result.response, document };
    }
  }
}

/** Keeps the answer of a create for replays of its key. */
export function keepAnswer(edge: Edge, caller: Caller, key: string, response: KeptResponse): Promise<void> {
  return accountStub(edge.env, caller.account_id).answered(key, response);
}

/** Only the text is judged here: where a name leads is judged where the call is made. */
export function webhookFaults(edge: Edge, webhook: string | null): InvalidField[] {
  const reason = webhook === null ? null : userUrlFault(webhook, edge.settings.allowPrivateCidrs);
  if (reason === null) return [];
  return [{ type: "format", field: "webhook", description: `Does not match format 'uri': ${reason}` }];
}
