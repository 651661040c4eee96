/** A model as the catalog shows it: with its latest version, its example and how often it ran. */
import type { z } from "@hono/zod-openapi";
import { predictionStub, runCounter } from "../../durable-objects/stubs.ts";
import type { ModelSchema, VersionSchema } from "../../schema/api/models.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { isTerminal } from "../../schema/prediction-lifecycle.ts";
import { asFileRef, renderOutput } from "../../schema/render-prediction.ts";
import { OPERATOR_ACCOUNT_ID } from "../../schema/tables/operator-seed.ts";
import type { Edge } from "../env.ts";
import { EXAMPLE_CHARACTERS_MAX, saveExampleSnapshot } from "../storage/examples.ts";
import { Memo } from "../storage/memo.ts";
import type { CatalogModel, ModelRow, VersionRow } from "../storage/models.ts";
import { showPrediction } from "./show-prediction.ts";

type ModelWire = z.infer<typeof ModelSchema>;

/** Counters are fed every 10 s, so a younger answer tells nothing new. */
const RUN_COUNT_LIFE_MS = 10_000;
const RUN_COUNTS_MAX = 10_000;

const runCounts = new Memo<number>(RUN_COUNT_LIFE_MS, RUN_COUNTS_MAX);

/** `runs`: how often it ran, where the caller knows that already. */
export async function showModel(
  edge: Edge,
  { model, latest, pricing }: CatalogModel,
  userAgent?: string,
  runs?: number,
): Promise<ModelWire> {
  const { env, later, settings } = edge;
  const path = `${model.owner}/${model.name}`;
  const [example, run_count] = await Promise.all([
    exampleOf(edge, model),
    runs ?? runCounts.get(path, () => runCounter(env, path).total(), later),
  ]);
  return {
    url: `${settings.publicUrl}/${path}`,
    owner: model.owner,
    name: model.name,
    title: model.title,
    description: model.description,
    tags: model.tags,
    visibility: model.visibility,
    is_official: model.is_official,
    stable: model.is_stable,
    github_url: model.github_url,
    paper_url: model.paper_url,
    license_url: model.license_url,
    weights_url: model.weights_url,
    weights_license: model.weights_license,
    pricing: model.is_official ? pricing : null,
    run_count,
    unhealthy_since: isUnhealthy(model) ? new Date(model.unhealthy_since).toISOString() : null,
    cover_image_url: model.cover_image_url ?? (example === null ? null : coverImage(edge, example)),
    default_example: example === null ? null : showPrediction(edge, example, { userAgent }),
    latest_version: latest === null ? null : showVersion(latest),
    created_at: new Date(model.created_at).toISOString(),
    ...(latest === null && model.state !== "ready" ? { state: model.state } : {}),
    ...(model.state_reason !== null ? { state_reason: model.state_reason } : {}),
  };
}

/** No canary runs what is private: what was known of it before counts no more. */
function isUnhealthy(model: ModelRow): model is ModelRow & { unhealthy_since: number } {
  return model.visibility === "public" && model.unhealthy_since !== null;
}

export function showVersion(version: VersionRow): z.infer<typeof VersionSchema> {
  return {
    id: version.id,
    created_at: new Date(version.created_at).toISOString(),
    cog_version: version.cog_version,
    openapi_schema: version.openapi_schema,
    kind: version.package?.kind ?? null,
    build: version.build_id,
  };
}

/** The example's prediction: from its object until it has succeeded, then from the catalog. */
export async function exampleOf(edge: Edge, model: ModelRow): Promise<PredictionDocument | null> {
  if (model.default_example !== null || model.example_prediction_id === null) return model.default_example;
  const id = model.example_prediction_id;
  const document = await predictionStub(edge.env, id).get(id, model.example_account_id ?? OPERATOR_ACCOUNT_ID);
  const isKept = document?.state === "succeeded" && JSON.stringify(document).length <= EXAMPLE_CHARACTERS_MAX;
  if (isKept) edge.later(saveExampleSnapshot(edge.env.DB, model.owner, model.name, document));
  return document;
}

/** Whether an example will never be one. */
export function isExampleLost(example: PredictionDocument | null): boolean {
  return example === null || (isTerminal(example.state) && example.state !== "succeeded");
}

/** The first picture of an example's output, else the first that its input names. */
function coverImage(edge: Edge, example: PredictionDocument): string | null {
  const values: unknown[] = [example.output];
  for (let value = values.shift(); value !== undefined; value = values.shift()) {
    const file = asFileRef(value);
    if (file?.$cogway_file.content_type.startsWith("image/"))
      return String(renderOutput(file, example.id, edge.settings));
    if (Array.isArray(value)) values.push(...value);
    else if (typeof value === "object" && value !== null && file === null) values.push(...Object.values(value));
  }
  return Object.values(example.input).find(isImageUrl) ?? null;
}

function isImageUrl(value: unknown): value is string {
  return typeof value === "string" && /^https?:\/\/[^\s?#]+\.(?:png|jpe?g|webp|gif|avif)(?:[?#]\S*)?$/i.test(value);
}
