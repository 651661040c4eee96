/**
 * The SQLite of one repository. Only loads and saves; each method is one step without an await. Tables are made by the first write, so asking for a guessed
 * name stores nothing. Largest values: annotations of a referrer (64 KiB, bounded by the Worker).
 */
import type { BlobBytes, Run } from "./blob-parts.ts";
import type { ManifestRow, NewManifest, ReferrerRow, SavedChunk } from "./registry-contract.ts";

const TABLES = `
CREATE TABLE IF NOT EXISTS blobs (
  digest TEXT PRIMARY KEY,
  link TEXT NOT NULL,
  key TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  runs TEXT,
  touched_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS blobs_by_touch ON blobs (touched_at);
CREATE TABLE IF NOT EXISTS manifests (
  digest TEXT PRIMARY KEY,
  media_type TEXT NOT NULL,
  size_bytes INTEGER NOT NULL,
  key TEXT NOT NULL,
  subject TEXT,
  artifact_type TEXT,
  annotations TEXT
);
CREATE INDEX IF NOT EXISTS manifests_by_subject ON manifests (subject, digest) WHERE subject IS NOT NULL;
CREATE TABLE IF NOT EXISTS manifest_blobs (
  blob TEXT NOT NULL,
  manifest TEXT NOT NULL,
  PRIMARY KEY (blob, manifest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS manifest_blobs_by_manifest ON manifest_blobs (manifest);
CREATE TABLE IF NOT EXISTS tags (
  tag TEXT PRIMARY KEY,
  digest TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS tags_by_digest ON tags (digest);
CREATE TABLE IF NOT EXISTS uploads (
  id TEXT PRIMARY KEY,
  lease INTEGER NOT NULL,
  is_leased INTEGER NOT NULL,
  size_bytes INTEGER NOT NULL,
  runs TEXT NOT NULL,
  tail_key TEXT,
  tail_bytes INTEGER,
  sha256 TEXT,
  created_at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS uploads_by_time ON uploads (created_at);
CREATE TABLE IF NOT EXISTS loose_links (
  link TEXT PRIMARY KEY,
  digest TEXT NOT NULL,
  bytes TEXT,
  due_at INTEGER NOT NULL,
  is_leaving INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS garbage (
  key TEXT PRIMARY KEY,
  due_at INTEGER NOT NULL,
  is_going INTEGER NOT NULL
);
`;

export interface HeldBlob extends BlobBytes {
  link: string;
  touched_at: number;
}

export type UploadRow = {
  id: string;
  lease: number;
  /** 1 while its newest lease has saved nothing */
  is_leased: number;
  size_bytes: number;
  /** JSON of Run[] */
  runs: string;
  tail_key: string | null;
  tail_bytes: number | null;
  sha256: string | null;
  created_at: number;
};

/** A link of this repository that is no blob of it: one that is being made, or one that goes. */
export interface LooseLink {
  link: string;
  digest: string;
  /** that came with it */
  bytes: BlobBytes | null;
}

export class RepositoryStore {
  readonly #sql: SqlStorage;
  #ready = false;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
  }

  createTables(): void {
    if (this.#ready) return;
    this.#sql.exec(TABLES);
    this.#ready = true;
  }

  /** False while nothing was ever pushed. */
  get exists(): boolean {
    this.#ready ||= this.#sql.exec("SELECT 1 FROM sqlite_master WHERE name = 'garbage'").toArray().length > 0;
    return this.#ready;
  }

  #first<T extends Record<string, SqlStorageValue>>(query: string, ...values: SqlStorageValue[]): T | null {
    return this.#sql.exec<T>(query, ...values).toArray()[0] ?? null;
  }

  // ---- blobs

  blob(digest: string): HeldBlob | null {
    const query = "SELECT link, key, size_bytes, runs, touched_at FROM blobs WHERE digest = ?";
    const row = this.#first<Omit<HeldBlob, "runs"> & { runs: string | null }>(query, digest);
    return row === null ? null : { ...row, runs: parseRuns(row.runs) };
  }

  hold(digest: string, link: string, { key, size_bytes, runs }: BlobBytes, now: number): void {
    const text = runs === null ? null : JSON.stringify(runs);
    this.#sql.exec("INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?)", digest, link, key, size_bytes, text, now);
  }

  touch(digest: string, now: number): void {
    this.#sql.exec("UPDATE blobs SET touched_at = ? WHERE digest = ?", now, digest);
  }

  isReferenced(digest: string): boolean {
    return this.#first("SELECT 1 AS one FROM manifest_blobs WHERE blob = ? LIMIT 1", digest) !== null;
  }

  /** Blobs that nothing names and nobody touched since. */
  unused(touchedBefore: number, limit: number): string[] {
    return this.#sql
      .exec<{ digest: string }>(
        `SELECT digest FROM blobs WHERE touched_at <= ?
         AND NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob = blobs.digest) LIMIT ?`,
        touchedBefore,
        limit,
      )
      .toArray()
      .map(({ digest }) => digest);
  }

  /** When the one that nobody touched for longest was touched; null where there is none. */
  oldestUnused(): number | null {
    const query =
      "SELECT min(touched_at) AS at FROM blobs WHERE NOT EXISTS (SELECT 1 FROM manifest_blobs WHERE blob = blobs.digest)";
    return this.#sql.exec<{ at: number | null }>(query).one().at;
  }

  /** Nobody finds it here from now on; its link is to go. */
  release(digest: string, now: number): void {
    this.#sql.exec("INSERT INTO loose_links SELECT link, digest, NULL, ?, 1 FROM blobs WHERE digest = ?", now, digest);
    this.#sql.exec("DELETE FROM blobs WHERE digest = ?", digest);
  }

  // ---- links

  /** A link that is undone at `due_at`, unless it has become a blob's by then. */
  addLink({ link, digest, bytes }: LooseLink, due_at: number): void {
    const text = bytes === null ? null : JSON.stringify(bytes);
    this.#sql.exec("INSERT INTO loose_links VALUES (?, ?, ?, ?, 0)", link, digest, text, due_at);
  }

  /** False when it is being undone. */
  takeLink(link: string): boolean {
    return this.#sql.exec("DELETE FROM loose_links WHERE link = ? AND is_leaving = 0", link).rowsWritten > 0;
  }

  /** The link is not needed after all, and its bytes are accounted for. */
  dropLink(link: string, now: number): void {
    this.#sql.exec("UPDATE loose_links SET bytes = NULL, due_at = ?, is_leaving = 1 WHERE link = ?", now, link);
  }

  /** Links whose time is over: from now on they cannot become a blob's. */
  leavingLinks(now: number, limit: number): LooseLink[] {
    const links = this.#sql
      .exec<Omit<LooseLink, "bytes"> & { bytes: string | null }>(
        "SELECT link, digest, bytes FROM loose_links WHERE due_at <= ? LIMIT ?",
        now,
        limit,
      )
      .toArray();
    for (const { link } of links) this.#sql.exec("UPDATE loose_links SET is_leaving = 1 WHERE link = ?", link);
    return links.map((row) => ({ ...row, bytes: row.bytes === null ? null : JSON.parse(row.bytes) }));
  }

  forgetLink(link: string): void {
    this.#sql.exec("DELETE FROM loose_links WHERE link = ?", link);
  }

  nextLink(): number | null {
    return this.#sql.exec<{ due_at: number | null }>("SELECT min(due_at) AS due_at FROM loose_links").one().due_at;
  }

  // ---- bytes in R2 that nothing needs

  /** One that ends in a slash is all that lies below it. */
  discard(key: string, due_at: number): void {
    this.#sql.exec("INSERT OR REPLACE INTO garbage VALUES (?, ?, 0)", key, due_at);
  }

  /** The key is in use after all. False when its bytes are going, or gone. */
  salvage(key: string): boolean {
    return this.#sql.exec("DELETE FROM garbage WHERE key = ? AND is_going = 0", key).rowsWritten > 0;
  }

  /** What is to be removed now, and can be salvaged no more. */
  takeGarbage(now: number, limit: number): string[] {
    const garbage = this.#sql
      .exec<{ key: string }>("SELECT key FROM garbage WHERE due_at <= ? LIMIT ?", now, limit)
      .toArray();
    for (const { key } of garbage) this.#sql.exec("UPDATE garbage SET is_going = 1 WHERE key = ?", key);
    return garbage.map(({ key }) => key);
  }

  forgetGarbage(key: string): void {
    this.#sql.exec("DELETE FROM garbage WHERE key = ?", key);
  }

  nextGarbage(): number | null {
    return this.#sql.exec<{ due_at: number | null }>("SELECT min(due_at) AS due_at FROM garbage").one().due_at;
  }

  // ---- uploads

  countUploads(): number {
    return this.#sql.exec<{ n: number }>("SELECT count(*) AS n FROM uploads").one().n;
  }

  addUpload(id: string, now: number): void {
    this.#sql.exec("INSERT INTO uploads VALUES (?, 0, 0, 0, '[]', NULL, NULL, NULL, ?)", id, now);
  }

  upload(id: string): UploadRow | null {
    return this.#first<UploadRow>("SELECT * FROM uploads WHERE id = ?", id);
  }

  lease(id: string, lease: number): void {
    this.#sql.exec("UPDATE uploads SET lease = ?, is_leased = 1 WHERE id = ?", lease, id);
  }

  saveChunk(id: string, { size_bytes, runs, tail, sha256 }: SavedChunk): void {
    this.#sql.exec(
      "UPDATE uploads SET is_leased = 0, size_bytes = ?, runs = ?, tail_key = ?, tail_bytes = ?, sha256 = ? WHERE id = ?",
      size_bytes,
      JSON.stringify(runs),
      tail?.key ?? null,
      tail?.size_bytes ?? null,
      sha256,
      id,
    );
  }

  removeUpload(id: string): void {
    this.#sql.exec("DELETE FROM uploads WHERE id = ?", id);
  }

  uploadsBegunBefore(time: number): UploadRow[] {
    return this.#sql.exec<UploadRow>("SELECT * FROM uploads WHERE created_at <= ?", time).toArray();
  }

  oldestUpload(): number | null {
    const query = "SELECT min(created_at) AS created_at FROM uploads";
    return this.#sql.exec<{ created_at: number | null }>(query).one().created_at;
  }

  // ---- manifests

  manifest(digest: string): ManifestRow | null {
    const query = "SELECT digest, media_type, size_bytes, key FROM manifests WHERE digest = ?";
    return this.#first<ManifestRow & Record<string, SqlStorageValue>>(query, digest);
  }

  tagged(tag: string): string | null {
    return this.#first<{ digest: string }>("SELECT digest FROM tags WHERE tag = ?", tag)?.digest ?? null;
  }

  addManifest(manifest: NewManifest): void {
    const { digest, media_type, size_bytes, key, subject, artifact_type, annotations } = manifest;
    this.#sql.exec(
      "INSERT INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?)",
      digest,
      media_type,
      size_bytes,
      key,
      subject,
      artifact_type,
      annotations === null ? null : JSON.stringify(annotations),
    );
    for (const blob of [...manifest.blobs, ...manifest.foreign_blobs]) {
      this.#sql.exec("INSERT OR IGNORE INTO manifest_blobs VALUES (?, ?)", blob, digest);
    }
  }

  removeManifest(digest: string): void {
    this.#sql.exec("DELETE FROM tags WHERE digest = ?", digest);
    this.#sql.exec("DELETE FROM manifest_blobs WHERE manifest = ?", digest);
    this.#sql.exec("DELETE FROM manifests WHERE digest = ?", digest);
  }

  setTag(tag: string, digest: string): void {
    this.#sql.exec("INSERT OR REPLACE INTO tags VALUES (?, ?)", tag, digest);
  }

  removeTag(tag: string): boolean {
    return this.#sql.exec("DELETE FROM tags WHERE tag = ?", tag).rowsWritten > 0;
  }

  tags(limit: number, last: string | null): string[] {
    return this.#sql
      .exec<{ tag: string }>("SELECT tag FROM tags WHERE tag > ? ORDER BY tag LIMIT ?", last ?? "", limit)
      .toArray()
      .map(({ tag }) => tag);
  }

  referrers(subject: string, artifactType: string | null, limit: number, last: string | null): ReferrerRow[] {
    return this.#sql
      .exec<Omit<ReferrerRow, "annotations"> & { annotations: string | null }>(
        `SELECT digest, media_type, size_bytes, artifact_type, annotations FROM manifests
         WHERE subject = ? AND digest > ? ${artifactType === null ? "" : "AND artifact_type = ?"} ORDER BY digest LIMIT ?`,
        subject,
        last ?? "",
        ...(artifactType === null ? [] : [artifactType]),
        limit,
      )
      .toArray()
      .map((row) => ({ ...row, annotations: row.annotations === null ? null : JSON.parse(row.annotations) }));
  }

  /** Forgets everything; what lies elsewhere goes as if it had been removed one by one. */
  empty(now: number, keysDueAt: number): void {
    this.#sql.exec("INSERT INTO loose_links SELECT link, digest, NULL, ?, 1 FROM blobs", now);
    this.#sql.exec("INSERT OR REPLACE INTO garbage SELECT key, ?, 0 FROM manifests", keysDueAt);
    for (const table of ["blobs", "manifests", "manifest_blobs", "tags"]) this.#sql.exec(`DELETE FROM ${table}`);
  }
}

export function parseRuns(text: string | null): Run[] | null {
  return text === null ? null : JSON.parse(text);
}
