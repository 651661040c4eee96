/** Begins the build of a source whose manifest and blobs lie in the registry. */
import { buildStub, repositoryStub } from "../../durable-objects/stubs.ts";
import type { BuildDocument } from "../../schema/build-document.ts";
import { newId } from "../../schema/ids.ts";
import { SOURCE_ARTIFACT_TYPE, SourceManifestSchema } from "../../schema/packages.ts";
import { AppError } from "../../schema/problems.ts";
import { OPERATOR_USERNAME } from "../../schema/tables/operator-seed.ts";
import type { Caller, Edge } from "../env.ts";
import { BUILDS_AT_ONCE_MAX, hasRoomForBuild } from "../storage/builds.ts";

/** The registry takes no larger manifests. */
const MANIFEST_BYTES_MAX = 4_194_304;
/** Builds end within minutes. */
const TOO_MANY_RETRY_S = 30;

export async function createBuild(
  { env }: Edge,
  caller: Caller,
  wanted: { owner: string; name: string; manifest: string; is_forced: boolean },
): Promise<BuildDocument> {
  const { owner, name, manifest } = wanted;
  await requireSource(env, `${owner}/${name}`, manifest);
  if (!(await hasRoomForBuild(env.DB, owner))) {
    const detail = `${owner} has ${BUILDS_AT_ONCE_MAX} builds that wait or run, which is the limit. Wait for one, or cancel it.`;
    throw new AppError("build.too_many", detail, { retry_after: TOO_MANY_RETRY_S });
  }
  const id = newId();
  return buildStub(env, id).create({
    id,
    account_id: caller.account_id,
    ...wanted,
    is_trusted: owner === OPERATOR_USERNAME,
    created_at: Date.now(),
  });
}

/** The origin reads it again, and more strictly: this is for whoever named another manifest by mistake. */
async function requireSource(env: Env, repository: string, digest: string): Promise<void> {
  const row = await repositoryStub(env, repository).manifest(digest);
  if (row === null) {
    const detail = `The repository ${repository} has no manifest ${digest}. Push it first: PUT /v2/${repository}/manifests/….`;
    throw new AppError("package.invalid", detail);
  }
  const stored = row.size_bytes > MANIFEST_BYTES_MAX ? null : await env.FILES.get(row.key);
  const parsed = SourceManifestSchema.safeParse(stored === null ? null : parseJson(await stored.text()));
  if (parsed.success) return;
  const detail = `The manifest ${digest} is none of a source: its artifactType must be ${SOURCE_ARTIFACT_TYPE}. An image needs no build.`;
  throw new AppError("package.invalid", detail);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
