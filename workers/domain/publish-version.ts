/**
 * Makes a version of what was pushed: of a source that was built, or of an image. All of it may be repeated, since the end of a build comes again until it is
 * stored: the version's row is inserted once, its package lies under its id, and its example is known by version and input.
 */
import type { BuildPublication } from "../../schema/build-document.ts";
import { sha256Hex } from "../../schema/ids.ts";
import type { BuiltVersion, ModelDescription, Package, PackageRef } from "../../schema/packages.ts";
import { type SchemaDiff, schemaDiff } from "../../schema/schema-compatibility.ts";
import type { Edge } from "../env.ts";
import { savePublished } from "../storage/catalog-writes.ts";
import { type CatalogModel, hasVersion, readModel, readReadme, type VersionRow } from "../storage/models.ts";
import { exampleColumns, keepWarm } from "./announce-model.ts";
import { catalogChanged } from "./catalog-changed.ts";
import { startExample } from "./example-prediction.ts";

/** Another push that came first is compared with anew, so often. */
const TRIES_MAX = 5;

export interface PublishRequest {
  owner: string;
  name: string;
  package: PackageRef;
  version: BuiltVersion;
  /** what its folder says of the model; null for images */
  description: ModelDescription | null;
  build_id: string | null;
  /** whose push it was: the first prediction is this account's */
  account_id: string;
  is_forced: boolean;
}

export async function publishVersion(edge: Edge, request: PublishRequest): Promise<BuildPublication> {
  const { owner, name } = request;
  for (let tries = 1; tries <= TRIES_MAX; tries++) {
    const known = await readModel(edge.env.DB, owner, name);
    if (known === null) {
      const detail = `The model ${owner}/${name} was deleted meanwhile. Create it, then push again.`;
      return { kind: "refused", code: "model.not_found", detail, schema_diff: null };
    }
    const made = await publishOnto(edge, request, known);
    if (made !== null) return made;
  }
  throw new Error(`other versions of ${owner}/${name} were published again and again`);
}

/** What is different from the latest version; null where there is none, or it is this one. */
export function diffFrom(
  latest: VersionRow | null,
  version: Pick<BuiltVersion, "id" | "openapi_schema">,
): SchemaDiff | null {
  return latest === null || latest.id === version.id ? null : schemaDiff(latest, version);
}

/** Why callers of the model must not get this version; null when they may. */
export function breakingRefusal({ model }: CatalogModel, diff: SchemaDiff | null): string | null {
  const promise = model.is_official ? "official" : model.is_stable ? "stable" : null;
  if (promise === null || diff === null || diff.breaking.length === 0) return null;
  return `It would break callers of this ${promise} model: ${diff.breaking.join("; ")}. Change it so that they need not.`;
}

/** Null where the latest version is another one by now. */
async function publishOnto(
  edge: Edge,
  { owner, name, version, description, build_id, account_id, is_forced, ...request }: PublishRequest,
  known: CatalogModel,
): Promise<BuildPublication | null> {
  const { DB, FILES } = edge.env;
  const schema_diff = diffFrom(known.latest, version);
  const refusal = is_forced ? null : breakingRefusal(known, schema_diff);
  if (refusal !== null) return { kind: "refused", code: "version.breaking", detail: refusal, schema_diff };

  const { prepared: _, ...built } = version;
  const row: VersionRow = {
    ...{ owner, name, build_id, package: request.package, created_at: Date.now() },
    ...{ base_version_id: null, weights: null, training_id: null, fast_booting: false, run_by_others: false },
    ...built,
    train_memory_bytes: version.train_memory_bytes ?? null,
  };
  // Before anything boots it. One that is there already keeps its package, which its row names.
  if (!(await hasVersion(DB, row))) {
    const document: Package = { package: request.package, version };
    await FILES.put(packageKey(owner, name, version.id), JSON.stringify(document), {
      httpMetadata: { contentType: "application/json" },
    });
  }
  const run = { ...known.model, latest_version_id: version.id };
  const input = description?.example_input ?? null;
  const example = input === null ? null : await startExample(edge, { version: row, input, known, run, account_id });
  const described = description === null ? {} : describe(known, await readReadme(DB, owner, name), description);
  const change = { ...described, ...exampleColumns(example, account_id) };
  const saved = await savePublished(DB, row, change, known.model.latest_version_id);
  if (saved === "moved") return null;
  catalogChanged(edge, [`${owner}/${name}`]);
  if (known.model.is_official) {
    const now = await readModel(DB, owner, name);
    if (now !== null) edge.later(keepWarm(edge, known, now));
  }
  return {
    kind: "published",
    version_id: version.id,
    is_new: saved === "new",
    schema_diff,
    test_prediction_id: example?.prediction_id ?? null,
  };
}

export function packageKey(owner: string, name: string, versionId: string): string {
  return `packages/${owner}/${name}/${versionId}.json`;
}

/** Columns that a push fills: only where nobody wrote anything else than an earlier push. Pure. */
export function describe(
  { model }: Pick<CatalogModel, "model">,
  readme: string | null,
  said: ModelDescription,
): Record<string, unknown> {
  const before = model.announced ?? {};
  const after: Record<string, unknown> = { ...before };
  const markOf = (member: string, value: unknown): unknown =>
    member === "readme" && typeof value === "string" ? sha256Hex(value) : value;
  const now = { ...model, readme };
  const columns: Record<string, unknown> = {};
  for (const member of ["title", "description", "readme", "weights_license", "tags"] as const) {
    const value = said[member];
    if (value === null || value.length === 0) continue;
    const current = now[member];
    const isUnwritten = current === null || current.length === 0;
    if (!isUnwritten && JSON.stringify(markOf(member, current)) !== JSON.stringify(before[member])) continue;
    columns[member] = value;
    after[member] = markOf(member, value);
  }
  if (said.stable !== undefined && said.stable !== before["stable"]) {
    columns["is_stable"] = said.stable;
    after["stable"] = said.stable;
  }
  return { ...columns, announced: after };
}
