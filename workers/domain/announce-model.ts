/**
 * An origin announces a model of the operator. What people have changed since the last announcement stays, unless the announcement itself changed.
 * An official model keeps its callers' schema and at least one warm instance.
 */
import { deploymentStub } from "../../durable-objects/stubs.ts";
import { sha256Hex } from "../../schema/ids.ts";
import type { ModelAnnounce } from "../../schema/origin-protocol.ts";
import { breakingChanges } from "../../schema/schema-compatibility.ts";
import { OPERATOR_ACCOUNT_ID } from "../../schema/tables/operator-seed.ts";
import type { Edge } from "../env.ts";
import { type Announcement, saveAnnouncement } from "../storage/catalog-writes.ts";
import { type CatalogModel, readModel, type VersionRow } from "../storage/models.ts";
import { catalogChanged } from "./catalog-changed.ts";
import { startExample } from "./example-prediction.ts";
import { type RunModel, runSpec } from "./run-spec.ts";

/** Members of an announcement that are columns of the model. */
const COLUMNS = ["title", "description", "readme", "tags", "visibility", "weights_license"] as const;

export async function announceModel(edge: Edge, owner: string, name: string, announced: ModelAnnounce): Promise<void> {
  const { DB } = edge.env;
  const known = await readModel(DB, owner, name);
  const accepted = refuseBreaking(known, announced);
  const { model, ...others } = announcementOf(known, accepted);
  const run: RunModel = {
    visibility: model.visibility ?? known?.model.visibility ?? "public",
    is_official: model.is_official ?? known?.model.is_official ?? false,
    latest_version_id: accepted.version?.id ?? null,
  };
  // Begun before the version shows in the catalog: whoever sees the version sees its example.
  const { version, example_input: input } = accepted;
  const example =
    version === undefined || input === undefined
      ? null
      : await startExample(edge, {
          version: announcedVersion(owner, name, version),
          ...{ input, known, run, account_id: OPERATOR_ACCOUNT_ID },
        });
  await saveAnnouncement(
    DB,
    { owner, name, model: { ...model, ...exampleColumns(example, null) }, ...others },
    Date.now(),
  );
  catalogChanged(edge, [`${owner}/${name}`]);
  if (known?.model.is_official === true || run.is_official) {
    const now = await readModel(DB, owner, name);
    if (now !== null) edge.later(keepWarm(edge, known, now));
  }
}

/** The columns of a model that name a new default example. `accountId`: whose it is, null is the operator's. */
export function exampleColumns(example: Awaited<ReturnType<typeof startExample>>, accountId: string | null) {
  if (example === null || !example.is_new) return {};
  return {
    example_key: example.key,
    example_prediction_id: example.prediction_id,
    example_account_id: accountId,
    default_example: null,
  };
}

function announcedVersion(owner: string, name: string, version: NonNullable<ModelAnnounce["version"]>): VersionRow {
  return {
    ...{ owner, name, created_at: Date.now() },
    ...{ base_version_id: null, weights: null, training_id: null, fast_booting: false, run_by_others: false },
    ...{ package: null, build_id: null },
    ...version,
    ...{ gpus: version.gpus ?? 0, egress: version.egress ?? false },
    train_memory_bytes: version.train_memory_bytes ?? null,
  };
}

/** The announcement as it counts: a version that would break callers of an official or stable model is none, and says why. Pure. */
export function refuseBreaking(known: CatalogModel | null, announced: ModelAnnounce): ModelAnnounce {
  const { version, ...others } = announced;
  const latest = known?.latest ?? null;
  if (known === null || (!known.model.is_official && !known.model.is_stable) || announced.official === null)
    return announced;
  if (version === undefined || latest === null || version.id === latest.id) return announced;
  const faults = breakingChanges(latest.openapi_schema, version.openapi_schema);
  if (faults.length === 0) return announced;
  const reason = `Version ${version.id.slice(0, 12)} would break callers of this ${known.model.is_official ? "official" : "stable"} model: ${faults.join("; ")}. The version before it stays.`;
  return { ...others, state: "failed", reason };
}

/** What an announcement changes of a model that is known like this. Pure. */
export function announcementOf(
  known: CatalogModel | null,
  announced: ModelAnnounce,
): Omit<Announcement, "owner" | "name"> {
  const before = known?.model.announced ?? {};
  const after: Record<string, unknown> = { ...before };
  /** Whether it says of a member what it did not say the last time. */
  const isNews = (member: string, value: unknown): boolean => {
    if (value === undefined || JSON.stringify(before[member]) === JSON.stringify(value)) return false;
    after[member] = value;
    return true;
  };
  const columns = COLUMNS.filter((member) => {
    const value = announced[member];
    return isNews(member, member === "readme" && typeof value === "string" ? sha256Hex(value) : value);
  }).map((member) => [member, announced[member]]);
  const { official, collections = [], version } = announced;
  const joined = isNews("collections", announced.collections) ? collections : null;
  const isVersionNew = isNews("version", version?.id) || known?.latest == null;
  // A price that the operator added since stays.
  const isPriceNew =
    isNews("official", official) &&
    official != null &&
    (official.unit !== known?.pricing?.unit || official.price_micros !== known.pricing.price_micros);
  return {
    model: {
      ...Object.fromEntries(columns),
      ...(official === undefined ? {} : { is_official: official !== null }),
      ...(isNews("stable", announced.stable) ? { is_stable: announced.stable } : {}),
      state: announced.state,
      state_reason: announced.reason ?? null,
      announced: after,
    },
    version: version ?? null,
    movesLatest: isVersionNew,
    price: isPriceNew ? { ...official, per: 1 } : null,
    collections: {
      joined: joined ?? [],
      left: joined === null || !Array.isArray(before["collections"]) ? [] : before["collections"].map(String),
    },
  };
}

/** The latest version of an official model is warm, and no other is kept so. */
export async function keepWarm(edge: Edge, before: CatalogModel | null, now: CatalogModel): Promise<void> {
  try {
    const versions = [before?.latest ?? null, now.latest].filter((version) => version !== null);
    for (const version of new Map(versions.map((version) => [version.id, version])).values()) {
      const spec = await runSpec(edge, version, now.model, OPERATOR_ACCOUNT_ID);
      await deploymentStub(edge.env, spec.deployment_key).configure(spec);
    }
  } catch (error) {
    // The origin announces again at its next start.
    const message = "an official model is not kept warm";
    console.error(JSON.stringify({ level: "error", message, error: String(error) }));
  }
}
