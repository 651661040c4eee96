/** How a version runs: what the catalog says of it, what a deployment asks for, and the platform's own settings. */
import type { RunSpec } from "../../durable-objects/prediction-contract.ts";
import { OPERATOR_USERNAME } from "../../schema/tables/operator-seed.ts";
import type { Edge } from "../env.ts";
import { findPayer, mayUseEgress } from "../storage/accounts.ts";
import type { ReleaseRow } from "../storage/deployments.ts";
import { findModel, findVersions, type ModelRow, type VersionRow } from "../storage/models.ts";
import { onlineRates } from "./rates.ts";
import { outputKind } from "./validate-input.ts";

/** An idle instance is kept so long until its deployment has shown when it is needed (schema/arrivals.ts); a model that needs the room gets it before. */
const IDLE_TTL_MS = 30_000;
/** Weights are loaded from disk or fetched once; a setup that takes longer hangs. */
const SETUP_TIMEOUT_MS = 600_000;
/** Of one version; the room of the origins is the bound that counts. */
const INSTANCES_MAX = 8;
/** Instances of an official model's newest version that wait for work. */
const OFFICIAL_INSTANCES_MIN = 1;

/** What of a version's model decides how it runs. */
export type RunModel = Pick<ModelRow, "visibility" | "is_official" | "latest_version_id">;

/**
 * On shared hardware. A public model's instances serve every account; those of a private one serve `accountId` alone, whoever it is shared with: no
 * container life of a private model sees the data of two accounts. Instances of equal content are one model's where they are not trusted: what an
 * account may open for its models is not another's.
 */
export async function runSpec(edge: Edge, version: VersionRow, model: RunModel, accountId: string): Promise<RunSpec> {
  const isKeptWarm = model.is_official && model.latest_version_id === version.id;
  const key = [
    `version:${version.id}`,
    ...(model.visibility === "public" ? [] : [accountId]),
    ...(version.package === null || isTrusted(version) ? [] : [version.package.repository]),
  ];
  return {
    deployment_key: key.join(":"),
    release: 0,
    ...(await versionSpec(edge, version)),
    hardware: version.hardware,
    min_instances: isKeptWarm ? OFFICIAL_INSTANCES_MIN : 0,
    max_instances: INSTANCES_MAX,
    ...(model.visibility === "public" ? {} : await paidOnline(edge, { id: accountId }, version.hardware, null)),
  };
}

/** Instances that serve one account alone are its to pay as long as they live. */
async function paidOnline(
  edge: Edge,
  account: { id: string } | { username: string },
  hardware: string,
  deployment: string | null,
): Promise<Pick<RunSpec, "online">> {
  const payer = await findPayer(edge.env.DB, account, edge.later);
  if (payer === null) return {};
  const rates = await onlineRates(edge, hardware, payer.terms);
  return { online: { account_id: payer.account_id, deployment, rates } };
}

/** Whose code runs: the repository's owner also where it is a fine-tune of another account. Without a package it is a folder of the operator. */
function codeOwner(version: VersionRow): string {
  return version.package?.repository.split("/")[0] ?? OPERATOR_USERNAME;
}

/** Models of the operator may run where models are not kept apart. */
export function isTrusted(version: VersionRow): boolean {
  return codeOwner(version) === OPERATOR_USERNAME;
}

/** The same with the model from the catalog's memory. */
export async function sharedRunSpec(edge: Edge, version: VersionRow, accountId: string): Promise<RunSpec> {
  const base = version.fast_booting ? await baseOf(edge, version) : null;
  if (base === null) return runSpec(edge, version, await modelOf(edge, version), accountId);
  // On the warm instances of the base, just as the base's own predictions run.
  const shared = await runSpec(edge, base.version, base.model, accountId);
  return { ...shared, ...(await versionSpec(edge, version)) };
}

/** The version that a fast-booting fine-tune was trained from; of several with its content one of a public model, which serves every account. */
async function baseOf(edge: Edge, fineTune: VersionRow): Promise<{ version: VersionRow; model: RunModel } | null> {
  const versions = await findVersions(edge.env.DB, fineTune.base_version_id ?? "", edge.later);
  const bases = await Promise.all(versions.map(async (version) => ({ version, model: await modelOf(edge, version) })));
  return bases.find(({ model }) => model.visibility === "public") ?? bases[0] ?? null;
}

/** A model that went away meanwhile counts as private. */
async function modelOf(edge: Edge, { owner, name }: VersionRow): Promise<RunModel> {
  const found = await findModel(edge.env.DB, owner, name, edge.later);
  return found?.model ?? { visibility: "private", is_official: false, latest_version_id: null };
}

/** On instances of a deployment's own. They serve all who may use it: its account, or the members of its organization. */
export async function deploymentSpec(edge: Edge, version: VersionRow, release: ReleaseRow): Promise<RunSpec> {
  return {
    deployment_key: deploymentKey(release.owner, release.name),
    release: release.number,
    ...(await versionSpec(edge, version)),
    hardware: release.hardware,
    min_instances: release.min_instances,
    max_instances: release.max_instances,
    ...(await paidOnline(edge, { username: release.owner }, release.hardware, `${release.owner}/${release.name}`)),
  };
}

export function deploymentKey(owner: string, name: string): string {
  return `deployment:${owner}/${name}`;
}

async function versionSpec(edge: Edge, version: VersionRow) {
  const owner = codeOwner(version);
  const egress =
    version.egress && (owner === OPERATOR_USERNAME || (await mayUseEgress(edge.env.DB, owner, edge.later)));
  return {
    version_id: version.base_version_id ?? version.id,
    mode: "predict" as const,
    // Weights are loaded in setup, unless the model takes them with each prediction.
    weights: version.fast_booting ? null : version.weights,
    ...(version.weights === null || version.fast_booting ? {} : { shown_version: version.id }),
    ...(version.fast_booting && version.weights !== null ? { prediction_weights: version.weights } : {}),
    model: `${version.owner}/${version.name}`,
    slots: version.slots,
    memory_bytes: version.memory_bytes,
    idempotent: version.idempotent,
    output_is_iterator: outputKind(version.openapi_schema).is_iterator,
    idle_ttl_ms: IDLE_TTL_MS,
    setup_timeout_ms: SETUP_TIMEOUT_MS,
    ...(version.package === null ? {} : { package: version.package, is_trusted: isTrusted(version) }),
    ...(egress ? { egress } : {}),
    ...(version.gpus === 0 ? {} : { gpus: version.gpus }),
  };
}
