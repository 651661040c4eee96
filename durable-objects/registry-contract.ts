/**
 * What the registry's objects say to each other and to the Worker: plain data over native RPC, as in prediction-contract.ts. Bytes pass between the Worker and R2 alone.
 * Digests are those of OCI, `sha256:<hex>` or `sha512:<hex>`, and are checked by the Worker.
 */

import type { BlobBytes, Run } from "./blob-parts.ts";

/** Bytes of a manifest, or of an upload behind its last part, under an R2 key that is used once. */
export interface StoredBytes {
  key: string;
  size_bytes: number;
}

export interface ManifestRow extends StoredBytes {
  digest: string;
  media_type: string;
}

/** A manifest that the Worker has read and checked; its bytes lie under the key of {@link RepositoryApi.stageManifest}. */
export interface NewManifest extends ManifestRow {
  /** blobs that it names and that must be held */
  blobs: string[];
  /** blobs that it names and that lie elsewhere; they are kept where they are here all the same */
  foreign_blobs: string[];
  /** manifests that it names (an index) and that must be here */
  manifests: string[];
  tags: string[];
  /** digest of the manifest that it is about, here or not */
  subject: string | null;
  /** what `referrers` shows of it, where it has a subject */
  artifact_type: string | null;
  annotations: Record<string, string> | null;
}

/** An unfinished upload, for the one request that writes to it now. */
export interface OpenUpload {
  /** Who opens it later takes it: what an older lease saves is refused. */
  lease: number;
  /** bytes that came so far */
  size_bytes: number;
  /** below which its objects lie (blob-parts.ts) */
  key: string;
  /** parts of PART_BYTES that are there */
  runs: Run[];
  /** what came behind the last part */
  tail: StoredBytes | null;
  /** hex of everything, where it all came in one request; else it is read again at the end */
  sha256: string | null;
}

/** What a request added to an upload. */
export type SavedChunk = Pick<OpenUpload, "size_bytes" | "runs" | "tail" | "sha256">;

export type OpenUploadResult =
  | ({ kind: "open" } & OpenUpload)
  | { kind: "out_of_order"; size_bytes: number }
  | { kind: "unknown" };

export interface ReferrerRow {
  digest: string;
  media_type: string;
  size_bytes: number;
  artifact_type: string | null;
  annotations: Record<string, string> | null;
}

/** One object a repository (owner/name): its manifests, tags, referrers, unfinished uploads, and the blobs that it may read. */
export interface RepositoryApi {
  /** The manifest's bytes lie in R2 under `key`. `reference`: a tag or a digest. */
  manifest(reference: string): Promise<ManifestRow | null>;
  /** Where a blob lies that this repository holds (read it by `openBlob`); asking keeps it from being collected for a day. */
  blob(digest: string): Promise<BlobBytes | null>;

  /** Null when too many are unfinished. */
  beginUpload(): Promise<string | null>;
  /** How many bytes came; null when there is no such upload (any more). */
  uploadSize(id: string): Promise<number | null>;
  /** To write on at the byte `expected`, or wherever it ends. */
  openUpload(id: string, expected: number | null): Promise<OpenUploadResult>;
  /** False when it was aborted, or another request has taken it: then what was written is the caller's to remove. */
  saveChunk(id: string, lease: number, chunk: SavedChunk): Promise<boolean>;
  abortUpload(id: string): Promise<boolean>;
  /** The upload is the blob `digest`. False as above. */
  finishUpload(id: string, lease: number, digest: string, bytes: BlobBytes): Promise<boolean>;
  /** Holds a blob that another repository of the registry holds too; that it may be read there is the caller's to check. False when nobody has it. */
  mount(digest: string): Promise<boolean>;
  deleteBlob(digest: string): Promise<"deleted" | "unknown" | "in_use">;

  /** Before a manifest's bytes are written: where to, or what it names and is not here. What it names stays for a day. */
  stageManifest(
    wanted: Pick<NewManifest, "blobs" | "manifests">,
  ): Promise<{ kind: "staged"; key: string } | { kind: "missing"; digests: string[] }>;
  /** Known already: the same again, and its tags move. False when something that it names went since it was staged. */
  putManifest(manifest: NewManifest): Promise<boolean>;
  /** With its tags. False when it is not here. */
  deleteManifest(digest: string): Promise<boolean>;
  deleteTag(tag: string): Promise<boolean>;
  /** In the order of their bytes, after `last`. */
  tags(limit: number, last: string | null): Promise<{ tags: string[]; more: boolean }>;
  /** In the order of their digests, after `last`. */
  referrers(
    subject: string,
    query: { artifact_type: string | null; limit: number; last: string | null },
  ): Promise<{ referrers: ReferrerRow[]; more: boolean }>;

  /** Its model is gone: so is everything here. */
  empty(): Promise<void>;
}

/**
 * One object for each first character of a digest: where the bytes of a blob lie, and who holds it. A link is one holding of one repository, under an id of
 * its own: taking an old link away never touches a newer one.
 */
export interface BlobApi {
  /** Idempotent by link. The bytes that count from now on: `bytes`, or those that the registry has already. Null when it has none and `bytes` is null. */
  link(digest: string, link: string, bytes: BlobBytes | null): Promise<BlobBytes | null>;
  /** Idempotent. `bytes`: those that came with the link, if it ever was made. Bytes that nobody holds go an hour later. */
  unlink(digest: string, link: string, bytes: BlobBytes | null): Promise<void>;
}
