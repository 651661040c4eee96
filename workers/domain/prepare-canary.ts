/** What a canary of a version runs: the model's default example, or what the schema's defaults make where they are a whole input. */
import type { CanaryVersion, Prepared } from "../../durable-objects/canary-contract.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { AppError } from "../../schema/problems.ts";
import { REDACTED } from "../../schema/secret-inputs.ts";
import { OPERATOR_ACCOUNT_ID } from "../../schema/tables/operator-seed.ts";
import type { Edge } from "../env.ts";
import { findModel, findVersion, type VersionRow } from "../storage/models.ts";
import { resolveInput } from "./own-files.ts";
import { sharedRunSpec } from "./run-spec.ts";
import { exampleOf } from "./show-model.ts";
import { type InputResult, outputKind, validateInput } from "./validate-input.ts";

/** The largest input that goes to an object in a message (design section 9). An example that is larger is rare, and not run. */
const INPUT_CHARACTERS_MAX = 262_144 / 3;

export async function prepareCanary(edge: Edge, { owner, name, version: id }: CanaryVersion): Promise<Prepared> {
  const found = await findModel(edge.env.DB, owner, name, edge.later);
  const version = await findVersion(edge.env.DB, owner, name, id, edge.later);
  if (found === null || version === null || found.model.visibility !== "public") return { kind: "gone" };
  if (found.model.paused_reason !== null) return notRun("The operator paused the model.", false);
  const example = await exampleOf(edge, found.model);
  const checked = exampleInput(version, example);
  if (checked === null) return notRun("It has no example that fits its inputs, and its inputs have no defaults.");
  if (JSON.stringify(checked.input).includes(REDACTED)) return notRun("Its example needs a secret, which is not kept.");
  // As its maker ran it: files that are theirs are read as theirs.
  const reader = { account_id: example?.account_id ?? OPERATOR_ACCOUNT_ID, scopes: ["files:read" as const] };
  try {
    const { input, shown_input, log_lines } = await resolveInput(edge, reader, checked);
    if (JSON.stringify(input).length > INPUT_CHARACTERS_MAX) return notRun("Its example is too large to be run again.");
    const spec = await sharedRunSpec(edge, version, OPERATOR_ACCOUNT_ID);
    if (spec.online !== undefined) return notRun("It runs on instances that an account pays for.");
    const { stream_kind } = outputKind(version.openapi_schema);
    return { kind: "run", run: { spec, shown_version: id, input, shown_input, stream_kind, log_lines } };
  } catch (error) {
    if (error instanceof AppError) return notRun("A file of its example is gone.");
    throw error;
  }
}

function notRun(detail: string, is_lasting = true): Prepared {
  return { kind: "not_run", is_lasting, detail };
}

/** Null: neither the example nor the defaults are an input of this version. */
export function exampleInput(
  version: Pick<VersionRow, "id" | "openapi_schema">,
  example: Pick<PredictionDocument, "input"> | null,
): Extract<InputResult, { ok: true }> | null {
  for (const input of example === null ? [{}] : [example.input, {}]) {
    const checked = validateInput(version.id, version.openapi_schema, input);
    if (checked.ok) return checked;
  }
  return null;
}
