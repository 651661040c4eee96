/**
 * The OCI distribution API (`/v2/`), with its token flow. A repository is the `owner/name` of a model; it holds the model's images and sources. Its routes and
 * errors are those of the specification, so they are no part of the OpenAPI document: https://github.com/opencontainers/distribution-spec/blob/main/spec.md
 */
import type { Context } from "hono";
import type { RepositoryApi } from "../../durable-objects/registry-contract.ts";
import { repositoryStub } from "../../durable-objects/stubs.ts";
import { repositoryRights, unknownRepository } from "../domain/registry-access.ts";
import { answerBlob, answerManifest } from "../domain/registry-content.ts";
import { RegistryError, registryAnswer } from "../domain/registry-errors.ts";
import { deleteManifest, putManifest } from "../domain/registry-manifests.ts";
import { isDigest, isRepositoryName, isTag, ownerAndName } from "../domain/registry-names.ts";
import { MANIFEST_BYTES_MAX, OCI_INDEX } from "../domain/registry-parse-manifest.ts";
import { grants } from "../domain/registry-token.ts";
import {
  appendChunk,
  beginUpload,
  completeUpload,
  OutOfOrder,
  type UploadRequest,
  unknownUpload,
  uploadLocation,
} from "../domain/registry-uploads.ts";
import { type AppEnv, edgeOf, settingsOf } from "../env.ts";
import { renderError } from "../middleware/problems.ts";
import { challenge, guardRepository, requireLogin } from "../middleware/registry-guard.ts";
import { tokenByBasic, tokenByForm } from "./registry-token.ts";
import { newRouter } from "./router.ts";

export const registry = newRouter();
type RegistryContext = Context<AppEnv>;

/** Tags of one answer; more are behind its `Link`. */
const TAGS_MAX = 1_000;
/** Referrers of one answer: their annotations have up to 64 KiB each, and an index 4 MiB. */
const REFERRERS_MAX = 50;
/** Characters of a wrong name that its refusal repeats. */
const REFERENCE_SHOWN = 128;
/** What one request may bring: below the smallest body bound of the platform (100 MB). Clients that know it send larger blobs in chunks. */
const CHUNK_BYTES_MAX = 96 * 1024 ** 2;

registry.onError((error, c) => {
  const answer = registryAnswer(error) ?? registryAnswer(new RegistryError("UNKNOWN", "Something failed on our side."));
  // What is not ours is logged as everywhere.
  if (registryAnswer(error) === null) renderError(error, c);
  return answer ?? new Response(null, { status: 500 });
});
registry.use("/v2/*", async (c, next) => {
  const name = /^\/v2\/(.+?)\/(?:blobs|manifests|tags|referrers)\//.exec(c.req.path)?.[1];
  if (name !== undefined && ownerAndName(name) === null) {
    await requireLogin(c, async () => {
      if (!isRepositoryName(name)) throw new RegistryError("NAME_INVALID", "This is no name of a repository.");
      throw unknownRepository(name);
    });
  }
  await next();
  // Nothing else below it answers with problems: it was no address of this API.
  if (c.res.headers.get("content-type") === "application/problem+json") {
    const { status } = c.res;
    const message = `${c.req.method} is not supported at this address.`;
    c.res = registryAnswer(new RegistryError("UNSUPPORTED", message, { status })) ?? c.res;
  }
  c.res.headers.set("docker-distribution-api-version", "registry/2.0");
});

for (const path of ["/v2", "/v2/"]) registry.get(path, requireLogin, (c) => c.json({}));
registry.get("/v2/token", tokenByBasic);
registry.post("/v2/token", tokenByForm);

const AT = "/v2/:owner/:name";
registry.use(`${AT}/*`, guardRepository);

function repositoryOf(c: RegistryContext): { name: string; repository: RepositoryApi } {
  const name = `${c.req.param("owner")}/${c.req.param("name")}`;
  return { name, repository: repositoryStub(c.env, name) };
}

/** The digest in the path, or of the query. */
function digestOf(text: string | undefined): string {
  if (text !== undefined && isDigest(text)) return text;
  throw new RegistryError("DIGEST_INVALID", "A digest is `sha256:` and 64, or `sha512:` and 128, of 0-9 and a-f.");
}

function created(location: string, digest: string, headers: Record<string, string> = {}): Response {
  return new Response(null, { status: 201, headers: { location, "docker-content-digest": digest, ...headers } });
}

// ---- blobs

registry.get(`${AT}/blobs/:digest`, async (c) => {
  const { repository } = repositoryOf(c);
  const digest = digestOf(c.req.param("digest"));
  const answer = await answerBlob(c.env.FILES, c.req.raw, repository, digest);
  if (answer !== null) return answer;
  throw new RegistryError("BLOB_UNKNOWN", "This repository does not have the blob.", { detail: { digest } });
});

registry.delete(`${AT}/blobs/:digest`, async (c) => {
  const { repository } = repositoryOf(c);
  const digest = digestOf(c.req.param("digest"));
  switch (await repository.deleteBlob(digest)) {
    case "deleted":
      return c.body(null, 202);
    case "unknown":
      throw new RegistryError("BLOB_UNKNOWN", "This repository does not have the blob.", { detail: { digest } });
    case "in_use":
      throw new RegistryError("UNSUPPORTED", "A manifest of this repository names the blob. Delete that first.");
  }
});

// ---- uploads

for (const path of [`${AT}/blobs/uploads`, `${AT}/blobs/uploads/`]) {
  registry.post(path, async (c) => {
    const { name, repository } = repositoryOf(c);
    const { mount, digest } = c.req.query();
    if (mount !== undefined && (await mayMount(c, name, digestOf(mount))) && (await repository.mount(mount))) {
      return created(`/v2/${name}/blobs/${mount}`, mount);
    }
    if (digest !== undefined) digestOf(digest);
    const id = await beginUpload(repository);
    if (digest === undefined || mount !== undefined) return accepted(c, { name, id, isRelayed: true }, 0);
    await completeUpload(edgeOf(c), uploadRequest(c, repository, id), digest);
    return created(`/v2/${name}/blobs/${digest}`, digest);
  });
}

/** Whether the blob is one that the caller may read: in this repository, or in that of `from`. Where it is not, its bytes must be uploaded. */
async function mayMount(c: RegistryContext, name: string, digest: string): Promise<boolean> {
  const from = c.req.query("from") ?? name;
  const caller = c.get("caller");
  if (caller === undefined || ownerAndName(from) === null) return false;
  if (!(await repositoryRights(edgeOf(c), caller, from)).includes("pull")) return false;
  if (!grants(c.get("registryAccess") ?? [], from, "pull")) {
    throw challenge(c, [
      { name, actions: ["pull", "push"] },
      { name: from, actions: ["pull"] },
    ]);
  }
  return (await repositoryStub(c.env, from).blob(digest)) !== null;
}

function uploadRequest(c: RegistryContext, repository: RepositoryApi, id: string): UploadRequest {
  return {
    repository,
    id,
    body: c.req.raw.body,
    content_length: c.req.header("content-length"),
    content_range: c.req.header("content-range"),
  };
}

/** `isRelayed`: it goes on at the origin that relays, where there is one. */
interface UploadPlace {
  name: string;
  id: string;
  isRelayed: boolean;
}

function uploadPlace(c: RegistryContext): UploadPlace {
  const isRelayed = c.get("isUploadRelayed") ?? false;
  return { name: repositoryOf(c).name, id: c.req.param("id") ?? "", isRelayed };
}

async function uploadHeaders(
  c: RegistryContext,
  place: UploadPlace,
  size_bytes: number,
): Promise<Record<string, string>> {
  return {
    location: await uploadLocation(settingsOf(c.env), c.get("caller"), place),
    // As other registries have it: nothing has come is `0-0` too. The next header tells it from one byte.
    range: `0-${Math.max(size_bytes - 1, 0)}`,
    "upload-offset": String(size_bytes),
    "docker-upload-uuid": place.id,
    "oci-chunk-max-length": String(CHUNK_BYTES_MAX),
  };
}

async function accepted(c: RegistryContext, place: UploadPlace, size_bytes: number): Promise<Response> {
  return new Response(null, { status: 202, headers: await uploadHeaders(c, place, size_bytes) });
}

const UPLOAD = `${AT}/blobs/uploads/:id`;

registry.get(UPLOAD, async (c) => {
  const { repository } = repositoryOf(c);
  const size_bytes = await repository.uploadSize(c.req.param("id"));
  if (size_bytes === null) throw unknownUpload();
  return new Response(null, { status: 204, headers: await uploadHeaders(c, uploadPlace(c), size_bytes) });
});

registry.patch(UPLOAD, async (c) => {
  const request = uploadRequest(c, repositoryOf(c).repository, c.req.param("id"));
  return orOutOfOrder(c, async () => accepted(c, uploadPlace(c), await appendChunk(edgeOf(c), request)));
});

registry.put(UPLOAD, async (c) => {
  const { name, repository } = repositoryOf(c);
  const id = c.req.param("id");
  const digest = digestOf(c.req.query("digest"));
  return orOutOfOrder(c, async () => {
    try {
      await completeUpload(edgeOf(c), uploadRequest(c, repository, id), digest);
    } catch (error) {
      // The answer of the first time was lost: what was asked for is done.
      const isRepeat = error instanceof RegistryError && error.code === "BLOB_UPLOAD_UNKNOWN";
      if (!isRepeat || (await repository.blob(digest)) === null) throw error;
    }
    // An address without a host would be the relay's.
    const host = c.get("isUploadRelayed") ? settingsOf(c.env).publicUrl : "";
    return created(`${host}/v2/${name}/blobs/${digest}`, digest);
  });
});

async function orOutOfOrder(c: RegistryContext, write: () => Promise<Response>): Promise<Response> {
  try {
    return await write();
  } catch (error) {
    if (!(error instanceof OutOfOrder)) throw error;
    throw new RegistryError("BLOB_UPLOAD_INVALID", `The next byte of this upload is ${error.size_bytes}.`, {
      status: 416,
      headers: await uploadHeaders(c, uploadPlace(c), error.size_bytes),
    });
  }
}

registry.delete(UPLOAD, async (c) => {
  const { repository } = repositoryOf(c);
  if (!(await repository.abortUpload(c.req.param("id")))) throw unknownUpload();
  return c.body(null, 204);
});

// ---- manifests

/** A tag or a digest; nothing else can name a manifest. */
function referenceOf(c: RegistryContext): string {
  const reference = c.req.param("reference") ?? "";
  if (isTag(reference) || isDigest(reference)) return reference;
  throw unknownManifest(reference);
}

function unknownManifest(reference: string): RegistryError {
  const detail = { reference: reference.slice(0, REFERENCE_SHOWN) };
  return new RegistryError("MANIFEST_UNKNOWN", "This repository has no such manifest.", { detail });
}

const MANIFEST = `${AT}/manifests/:reference`;

registry.get(MANIFEST, async (c) => {
  const { repository } = repositoryOf(c);
  const reference = referenceOf(c);
  const answer = await answerManifest(c.env.FILES, c.req.raw, repository, reference);
  if (answer !== null) return answer;
  throw unknownManifest(reference);
});

/** What a manifest is to be called by. */
function newReferenceOf(c: RegistryContext): string {
  const reference = c.req.param("reference") ?? "";
  if (reference.includes(":")) return digestOf(reference);
  if (isTag(reference)) return reference;
  const rule = "1 to 128 of A-Z, a-z, 0-9, '_', '.' and '-', and begins with none of the last two";
  throw new RegistryError("TAG_INVALID", `A tag has ${rule}.`);
}

registry.put(MANIFEST, async (c) => {
  const { name } = repositoryOf(c);
  const reference = newReferenceOf(c);
  const tags = [...(isTag(reference) ? [reference] : []), ...(c.req.queries("tag") ?? [])];
  if (!tags.every(isTag)) throw new RegistryError("TAG_INVALID", "One of the tags is none.");
  const length = Number(c.req.header("content-length") ?? 0);
  if (length > MANIFEST_BYTES_MAX) throw manifestTooLarge();
  const bytes = await readBounded(c.req.raw.body);
  const { digest, subject } = await putManifest(edgeOf(c), c.get("caller") ?? null, {
    name,
    bytes,
    content_type: c.req.header("content-type"),
    digest: isDigest(reference) ? reference : null,
    tags,
  });
  return created(`/v2/${name}/manifests/${digest}`, digest, {
    ...(subject === null ? {} : { "oci-subject": subject }),
    ...(c.req.queries("tag") === undefined ? {} : { "oci-tag": tags.join(", ") }),
  });
});

async function readBounded(body: ReadableStream<Uint8Array> | null): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of body ?? []) {
    size += chunk.length;
    if (size > MANIFEST_BYTES_MAX) throw manifestTooLarge();
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

function manifestTooLarge(): RegistryError {
  return new RegistryError("SIZE_INVALID", `A manifest may have ${MANIFEST_BYTES_MAX} bytes.`, { status: 413 });
}

registry.delete(MANIFEST, async (c) => {
  const { name, repository } = repositoryOf(c);
  const reference = referenceOf(c);
  const isGone = isTag(reference)
    ? await repository.deleteTag(reference)
    : await deleteManifest(edgeOf(c), name, reference);
  if (!isGone) throw unknownManifest(reference);
  return c.body(null, 202);
});

// ---- lists

registry.get(`${AT}/tags/list`, async (c) => {
  const { name, repository } = repositoryOf(c);
  const { n, last = null } = c.req.query();
  if (n !== undefined && !/^\d{1,9}$/.test(n)) {
    throw new RegistryError("PAGINATION_NUMBER_INVALID", "n is to be a number, from 0 on.");
  }
  const limit = Math.min(Number(n ?? TAGS_MAX), TAGS_MAX);
  const { tags, more } = limit === 0 ? { tags: [], more: false } : await repository.tags(limit, last);
  const next = new URLSearchParams({ n: String(limit), last: tags.at(-1) ?? "" });
  const headers = more ? { link: `</v2/${name}/tags/list?${next}>; rel="next"` } : {};
  return Response.json({ name, tags }, { headers });
});

registry.get(`${AT}/referrers/:digest`, async (c) => {
  const { name, repository } = repositoryOf(c);
  const subject = digestOf(c.req.param("digest"));
  const { artifactType, last = null } = c.req.query();
  const query = { artifact_type: artifactType ?? null, limit: REFERRERS_MAX, last };
  const { referrers, more } = await repository.referrers(subject, query);
  const manifests = referrers.map(({ digest, media_type, size_bytes, artifact_type, annotations }) => ({
    mediaType: media_type,
    digest,
    size: size_bytes,
    ...(artifact_type === null ? {} : { artifactType: artifact_type }),
    ...(annotations === null ? {} : { annotations }),
  }));
  const next = new URLSearchParams({
    ...(artifactType === undefined ? {} : { artifactType }),
    last: referrers.at(-1)?.digest ?? "",
  });
  return new Response(JSON.stringify({ schemaVersion: 2, mediaType: OCI_INDEX, manifests }), {
    headers: {
      "content-type": OCI_INDEX,
      ...(artifactType === undefined ? {} : { "oci-filters-applied": "artifactType" }),
      ...(more ? { link: `</v2/${name}/referrers/${subject}?${next}>; rel="next"` } : {}),
    },
  });
});
