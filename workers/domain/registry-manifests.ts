/** The use cases that change manifests: taking one, with what an image of a model becomes by it, and deleting one. */
import { createHash } from "node:crypto";
import { repositoryStub } from "../../durable-objects/stubs.ts";
import type { Caller, Edge } from "../env.ts";
import { manifestUse } from "../storage/registry.ts";
import { imagePushed, readImage } from "./image-version.ts";
import { RegistryError } from "./registry-errors.ts";
import { digestAlgorithm, ownerAndName } from "./registry-names.ts";
import { parseManifest } from "./registry-parse-manifest.ts";

/** Digests that one answer names. */
const NAMED_MAX = 20;

export interface PutManifest {
  /** owner/name */
  name: string;
  bytes: Uint8Array;
  content_type: string | undefined;
  /** what it must be; null where only tags name it */
  digest: string | null;
  tags: string[];
}

/** `caller`: whose image may become a version; null for an origin's. */
export async function putManifest(
  edge: Edge,
  caller: Caller | null,
  { name, bytes, content_type, digest: wanted, tags }: PutManifest,
): Promise<{ digest: string; subject: string | null }> {
  const algorithm = wanted === null ? "sha256" : digestAlgorithm(wanted);
  const digest = `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;
  if (wanted !== null && wanted !== digest) {
    throw new RegistryError("DIGEST_INVALID", `What came is not ${wanted}, but ${digest}.`);
  }
  const manifest = parseManifest(new TextDecoder().decode(bytes), content_type);
  const repository = repositoryStub(edge.env, name);
  const staged = await repository.stageManifest(manifest);
  if (staged.kind === "missing") throw missing(staged.digests);
  const image =
    manifest.config === null ? null : await readImage(edge, name, digest, manifest.config.digest, tags.length > 0);
  await edge.env.FILES.put(staged.key, bytes);
  const row = { ...manifest, digest, size_bytes: bytes.length, key: staged.key, tags };
  if (!(await repository.putManifest(row))) throw missing([]);
  if (image !== null && caller !== null) await imagePushed(edge, caller, image);
  return { digest, subject: manifest.subject };
}

function missing(digests: string[]): RegistryError {
  const named = digests.slice(0, NAMED_MAX).join(", ");
  const more = digests.length > NAMED_MAX ? ` and ${digests.length - NAMED_MAX} more` : "";
  return new RegistryError(
    "MANIFEST_BLOB_UNKNOWN",
    digests.length === 0
      ? "Something that the manifest names was deleted meanwhile. Push it again."
      : `This repository does not have what the manifest names: ${named}${more}. Push that first.`,
    { detail: { digests: digests.slice(0, NAMED_MAX) } },
  );
}

/** False when there is no such manifest. One that a version is made of stays as long as the version. */
export async function deleteManifest(edge: Edge, name: string, digest: string): Promise<boolean> {
  const [owner = "", model = ""] = ownerAndName(name) ?? [];
  const use = await manifestUse(edge.env.DB, owner, model, digest);
  if (use !== null) {
    const end = use.kind === "version" ? "Delete the version first." : "Cancel the build, or wait for its end.";
    throw new RegistryError("DENIED", `The ${use.kind} ${use.id} of ${name} uses this manifest. ${end}`);
  }
  return repositoryStub(edge.env, name).deleteManifest(digest);
}
