/** What a prediction may cost, before it is made. Beyond Replicate's HTTP API. */
import { createRoute, type z } from "@hono/zod-openapi";
import { EstimateRequestSchema, EstimateSchema } from "../../schema/api/billing.ts";
import { bearer, problems } from "../../schema/api/common.ts";
import { estimate, PREDICTION_MAX_MS, waitEstimate } from "../../schema/estimate.ts";
import { parseModelReference } from "../../schema/ids.ts";
import { amountMicros, type Rates, usd } from "../../schema/pricing.ts";
import { parseCancelAfter } from "../domain/create-headers.ts";
import { requireRelease } from "../domain/deployments.ts";
import { readHistory } from "../domain/estimate.ts";
import { ratesFor } from "../domain/rates.ts";
import { findVersion, unknownVersion } from "../domain/resolve-version.ts";
import { deploymentSpec, sharedRunSpec } from "../domain/run-spec.ts";
import { invalidInput, validateInput } from "../domain/validate-input.ts";
import { type Caller, type Edge, edgeOf } from "../env.ts";
import { callerOf } from "../middleware/authenticate.ts";
import { CREATE_BODY_BYTES_MAX } from "../middleware/json-body.ts";
import type { ReleaseRow } from "../storage/deployments.ts";
import type { VersionRow } from "../storage/models.ts";
import { allow, json, newRouter } from "./router.ts";

export const estimates = newRouter();
const HOUR_US = 3_600_000_000;
type EstimateRequest = z.infer<typeof EstimateRequestSchema>;

estimates.openapi(
  createRoute({
    method: "post",
    path: "/v1/estimates",
    tags: ["billing"],
    summary: "Tell what a prediction may cost",
    description:
      "From what earlier runs of the version took, the prices in force and the numbers that the input names. Nothing is created. Send `Cogway-Max-Cost` with the prediction to be sure: it is refused, or stopped, at that cost.",
    security: bearer,
    middleware: allow("predictions:read", CREATE_BODY_BYTES_MAX),
    request: { body: { required: true, content: json(EstimateRequestSchema) } },
    responses: { 200: { description: "Expected and worst cost", content: json(EstimateSchema) }, ...problems(404) },
  }),
  async (c) => {
    const edge = edgeOf(c);
    const caller = callerOf(c);
    const body = c.req.valid("json");
    const cancel_after_ms = parseCancelAfter(body.cancel_after);
    const { version, release } = await target(edge, caller, body);
    const input = validateInput(version.id, version.openapi_schema, body.input, "Input");
    if (!input.ok) throw invalidInput(input.faults);
    const spec =
      release === null
        ? await sharedRunSpec(edge, version, caller.account_id)
        : await deploymentSpec(edge, version, release);
    const [rates, history] = await Promise.all([
      ratesFor(edge, version, spec, caller.terms),
      readHistory(edge, version),
    ]);
    const found = estimate({ rates, input: input.input, history, cancel_after_ms });
    const { expected_micros, worst_micros, limit_micros, lines, summary } = found;
    return c.json(
      {
        expected: expected_micros,
        expected_usd: usd(expected_micros),
        worst: worst_micros,
        worst_usd: usd(worst_micros),
        currency: "usd" as const,
        basis: {
          summary,
          billing: rates.basis,
          model: `${version.owner}/${version.name}`,
          version: version.id,
          hardware: spec.hardware,
          runs: history?.run_ms.count ?? 0,
          deadline_s: (cancel_after_ms ?? PREDICTION_MAX_MS) / 1_000,
          limit: limit_micros,
          limit_usd: usd(limit_micros),
          discount_ppm: rates.discount_ppm,
          lines,
          online: spec.online === undefined ? null : online(spec.online.rates),
        },
        wait: waitEstimate(history),
      },
      200,
    );
  },
);

/** The version that is meant, and the release where it is a deployment's. */
async function target(
  edge: Edge,
  caller: Caller,
  body: EstimateRequest,
): Promise<{ version: VersionRow; release: ReleaseRow | null }> {
  if (body.deployment !== undefined) {
    const [owner = "", name = "", ...rest] = body.deployment.split("/");
    const release = await requireRelease(edge, caller, owner, rest.length > 0 ? "" : name);
    const [modelOwner = "", modelName = ""] = release.model.split("/");
    const reference = { kind: "model_version", owner: modelOwner, name: modelName, version: release.version } as const;
    return { version: await findVersion(edge, caller, reference), release };
  }
  const reference = parseModelReference(body.model ?? body.version ?? "");
  if (reference === null || (body.model !== undefined && reference.kind !== "model")) throw unknownVersion();
  return { version: await findVersion(edge, caller, reference), release: null };
}

/** What an hour of an instance costs. */
function online(rates: Rates): { hour_micros: number; hour_usd: string } {
  const hour_micros = rates.items.reduce((sum, item) => sum + amountMicros(HOUR_US, item, rates.discount_ppm), 0);
  return { hour_micros, hour_usd: usd(hour_micros) };
}
