/** What the registry's objects are asked, by the Worker: plain data over native RPC, as in contracts.ts. Written by the registry's own routes and objects. */

/** One object a repository (owner/name): its manifests, tags, referrers, unfinished uploads, and the blobs that it may read. */
export interface RepositoryApi {
  /** The manifest's bytes lie in R2 under `key`. `reference`: a tag or a digest. */
  manifest(reference: string): Promise<{ digest: string; media_type: string; size_bytes: number; key: string } | null>;
  /** R2 key of a blob that this repository holds; touching it keeps it from being collected for a day. */
  blob(digest: string): Promise<{ key: string; size_bytes: number } | null>;
}
