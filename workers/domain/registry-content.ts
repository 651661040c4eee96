/** Answers with bytes of the registry: conditions, ranges and HEAD, as of any stored file. They are named by their digest and never change. */
import { openBlob } from "../../durable-objects/blob-parts.ts";
import type { RepositoryApi } from "../../durable-objects/registry-contract.ts";
import { answerStored, type StoredContent } from "./stored-file.ts";

/** Null where the repository does not hold the blob. */
export async function answerBlob(
  files: R2Bucket,
  request: Request,
  repository: RepositoryApi,
  digest: string,
): Promise<Response | null> {
  const held = await repository.blob(digest);
  if (held === null) return null;
  return answerStored(request, contentOf("application/octet-stream", held.size_bytes, digest), async (range) =>
    openBlob(files, held, range.kind === "part" ? range : undefined),
  );
}

/** Null where the repository has no such manifest. `reference`: a tag, which may move, or a digest. */
export async function answerManifest(
  files: R2Bucket,
  request: Request,
  repository: RepositoryApi,
  reference: string,
): Promise<Response | null> {
  const found = await repository.manifest(reference);
  if (found === null) return null;
  const content = contentOf(found.media_type, found.size_bytes, found.digest);
  if (reference !== found.digest) content.headers["cache-control"] = "no-cache";
  return answerStored(request, content, async () => (await files.get(found.key))?.body ?? null);
}

function contentOf(content_type: string, size_bytes: number, digest: string): StoredContent {
  const headers = { "docker-content-digest": digest, "cache-control": "private, max-age=31536000, immutable" };
  return { content_type, size_bytes, etag: `"${digest}"`, headers, name: null };
}
