/** Sources and images in the registry, and builds of them, for tests. */
import { env } from "cloudflare:workers";
import { repositoryStub } from "../../durable-objects/stubs.ts";
import { newId, sha256Hex } from "../../schema/ids.ts";
import { type BuiltVersion, SOURCE_ARTIFACT_TYPE, SOURCE_FILES_TYPE } from "../../schema/packages.ts";
import type { Person } from "./catalog.ts";
import { anAnnounce, call } from "./edge.ts";

const EMPTY = { mediaType: "application/vnd.oci.empty.v1+json", digest: `sha256:${sha256Hex("{}")}`, size: 2 };

/** A source manifest in the repository of a model (`path` of the API), without its blobs. Answers its digest. */
export async function aSource(path: string, artifactType = SOURCE_ARTIFACT_TYPE): Promise<string> {
  const [, , , owner, name] = path.split("/");
  const layer = { mediaType: SOURCE_FILES_TYPE, digest: `sha256:${sha256Hex(newId())}`, size: 10 };
  const media_type = "application/vnd.oci.image.manifest.v1+json";
  const manifest = JSON.stringify({
    schemaVersion: 2,
    mediaType: media_type,
    artifactType,
    config: EMPTY,
    layers: [layer],
  });
  const repository = repositoryStub(env, `${owner}/${name}`);
  const staged = await repository.stageManifest({ blobs: [], manifests: [] });
  if (staged.kind !== "staged") throw new Error("the manifest was not staged");
  const digest = `sha256:${sha256Hex(manifest)}`;
  await env.FILES.put(staged.key, manifest);
  const lists = { blobs: [], foreign_blobs: [], manifests: [], tags: [] };
  const about = { subject: null, artifact_type: artifactType, annotations: null };
  await repository.putManifest({
    ...{ digest, media_type, size_bytes: manifest.length, key: staged.key },
    ...lists,
    ...about,
  });
  return digest;
}

/** Begins the build of a new source. */
export async function aBuild(path: string, by: Person, body: Record<string, unknown> = {}): Promise<string> {
  const manifest = await aSource(path);
  const answer = await call("POST", `${path}/builds`, { token: by.token, body: { manifest, ...body } });
  if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  return (await answer.json<{ id: string }>()).id;
}

/** What a build makes. `inputs` are the properties of its input. */
export function aBuilt(inputs: Record<string, unknown> = {}, change: Partial<BuiltVersion> = {}): BuiltVersion {
  const version = anAnnounce().version;
  if (version === undefined) throw new Error("an announce without a version");
  const Input = { type: "object", properties: { text: { type: "string" }, ...inputs } };
  const openapi_schema = { openapi: "3.0.2", components: { schemas: { Input, Output: { type: "string" } } } };
  const id = sha256Hex(newId());
  return { ...version, id, openapi_schema, gpus: 0, egress: false, prepared: {}, ...change };
}
