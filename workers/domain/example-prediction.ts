/**
 * A model's example is one real prediction of the operator, made when a version is announced with an example input, and kept for ever. Starting it
 * before the version shows in the catalog means that whoever sees the version sees its example.
 */
import { sha256Hex } from "../../schema/ids.ts";
import type { ModelAnnounce } from "../../schema/origin-protocol.ts";
import { OPERATOR_ACCOUNT_ID } from "../../schema/tables/operator-seed.ts";
import type { Edge } from "../env.ts";
import { DEFAULT_CREATES_PER_MINUTE } from "../storage/accounts.ts";
import type { CatalogModel, VersionRow } from "../storage/models.ts";
import { type RunModel, runSpec } from "./run-spec.ts";
import { exampleOf, isExampleLost } from "./show-model.ts";
import { startPrediction } from "./start-prediction.ts";
import { validateInput } from "./validate-input.ts";

/** The new example of an announced version; null where there is none to make: no input, or the example of this version and input exists. */
export async function startExample(
  edge: Edge,
  owner: string,
  name: string,
  announced: ModelAnnounce,
  known: CatalogModel | null,
  run: RunModel,
): Promise<{ key: string; prediction_id: string } | null> {
  const { version, example_input } = announced;
  if (version === undefined || example_input === undefined) return null;
  const key = sha256Hex(JSON.stringify([version.id, example_input]));
  if (known?.model.example_key === key) {
    const isTakenAway = known.model.example_prediction_id === null;
    if (isTakenAway || !isExampleLost(await exampleOf(edge, known.model))) return null;
  }
  const input = validateInput(version.id, version.openapi_schema, example_input);
  if (!input.ok) {
    console.warn(
      JSON.stringify({ level: "warn", model: `${owner}/${name}`, message: "example.json does not fit the schema" }),
    );
    return null;
  }
  const row: VersionRow = {
    owner,
    name,
    created_at: Date.now(),
    base_version_id: null,
    weights: null,
    training_id: null,
    fast_booting: false,
    run_by_others: false,
    package: null,
    build_id: null,
    gpus: 0,
    egress: false,
    ...version,
    train_memory_bytes: version.train_memory_bytes ?? null,
  };
  const result = await startPrediction(edge, {
    kind: "prediction",
    account_id: OPERATOR_ACCOUNT_ID,
    limits: { creates_per_minute: DEFAULT_CREATES_PER_MINUTE },
    exempt: true,
    version: row,
    // The catalog does not have it yet.
    spec: () => runSpec(row, run, OPERATOR_ACCOUNT_ID),
    input,
    source: "api",
    idempotency: null,
    cancel_after_ms: null,
    retention_ms: null,
    webhook: null,
    webhook_events_filter: null,
    wait_ms: 0,
  });
  if (result.kind !== "started") throw new Error(`the example was not admitted: ${result.kind}`);
  return { key, prediction_id: result.document.id };
}
