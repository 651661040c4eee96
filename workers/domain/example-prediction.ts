/**
 * A model's example is one real prediction, of the operator or of who pushed the version, made when a version comes with an example input, and kept for
 * ever. Starting it before the version shows in the catalog means that whoever sees the version sees its example.
 */
import { sha256Hex } from "../../schema/ids.ts";
import { OPERATOR_ACCOUNT_ID } from "../../schema/tables/operator-seed.ts";
import type { Edge } from "../env.ts";
import { DEFAULT_CREATES_PER_MINUTE, findPayer } from "../storage/accounts.ts";
import type { CatalogModel, VersionRow } from "../storage/models.ts";
import { type RunModel, runSpec } from "./run-spec.ts";
import { exampleOf, isExampleLost } from "./show-model.ts";
import { startPrediction } from "./start-prediction.ts";
import { validateInput } from "./validate-input.ts";

export interface ExampleRequest {
  /** as it will be in the catalog */
  version: VersionRow;
  input: Record<string, unknown>;
  known: CatalogModel | null;
  run: RunModel;
  /** whose prediction it is */
  account_id: string;
}

/**
 * The example of a new version. Null where none is to be made: the example of this version and input was taken away, or does not fit the schema, or its
 * account may spend nothing more, which keeps no version from coming out.
 * `is_new`: it was started just now.
 */
export async function startExample(
  edge: Edge,
  { version, input: exampleInput, known, run, account_id }: ExampleRequest,
): Promise<{ key: string; prediction_id: string; is_new: boolean } | null> {
  const key = sha256Hex(JSON.stringify([version.id, exampleInput]));
  if (known?.model.example_key === key) {
    const { example_prediction_id: prediction_id } = known.model;
    if (prediction_id === null) return null;
    if (!isExampleLost(await exampleOf(edge, known.model))) return { key, prediction_id, is_new: false };
  }
  const input = validateInput(version.id, version.openapi_schema, exampleInput);
  if (!input.ok) {
    const model = `${version.owner}/${version.name}`;
    console.warn(JSON.stringify({ level: "warn", model, message: "example.json does not fit the schema" }));
    return null;
  }
  const result = await startPrediction(edge, {
    kind: "prediction",
    account_id,
    limits: { creates_per_minute: DEFAULT_CREATES_PER_MINUTE },
    exempt: true,
    version,
    // The catalog does not have it yet.
    spec: () => runSpec(edge, version, run, account_id),
    input,
    source: "api",
    idempotency: null,
    cancel_after_ms: null,
    retention_ms: null,
    webhook: null,
    webhook_events_filter: null,
    wait_ms: 0,
    terms: (await findPayer(edge.env.DB, { id: account_id }, edge.later))?.terms ?? {},
    token: null,
    max_cost_micros: null,
    is_free: account_id === OPERATOR_ACCOUNT_ID,
  });
  if (result.kind === "over_budget") {
    const model = `${version.owner}/${version.name}`;
    console.warn(JSON.stringify({ level: "warn", model, message: "example not run", error: result.detail }));
    return null;
  }
  if (result.kind !== "started") throw new Error(`the example was not admitted: ${result.kind}`);
  return { key, prediction_id: result.document.id, is_new: true };
}
