/** A stored file as its account sees it. */
import type { z } from "@hono/zod-openapi";
import type { FileSchema } from "../../schema/api/files.ts";
import { downloadPath, FILE_RETENTION_MS, type StoredFile } from "../../schema/files.ts";
import type { Edge } from "../env.ts";

/** Replicate's object, with an address of its bytes. */
export function showFile({ settings }: Edge, accountId: string, file: StoredFile): z.infer<typeof FileSchema> {
  const { publicUrl, signingSecret } = settings;
  const downloadUntil = Math.min(file.expires_at ?? Number.POSITIVE_INFINITY, Date.now() + FILE_RETENTION_MS);
  return {
    id: file.id,
    name: file.name,
    content_type: file.content_type,
    size: file.size_bytes,
    etag: file.md5,
    checksums: { sha256: file.sha256, md5: file.md5 },
    metadata: file.metadata,
    created_at: new Date(file.created_at).toISOString(),
    expires_at: file.expires_at === null ? null : new Date(file.expires_at).toISOString(),
    urls: {
      get: `${publicUrl}/v1/files/${file.id}`,
      download: publicUrl + downloadPath(signingSecret, accountId, file.id, downloadUntil),
    },
  };
}
