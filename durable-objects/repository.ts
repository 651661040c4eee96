/**
 * One repository of the registry: manifests, tags, unfinished uploads, and the blobs that it may read.
 *
 * It says that it has a blob only once the BlobObject holds a link for it, and takes the link back only after it has forgotten the blob. Each holding has a
 * link of its own, so taking an old one back never touches a push that brings the same blob again meanwhile:
 *
 * | what is lost                                       | what finds it                                                                  |
 * | -------------------------------------------------- | ------------------------------------------------------------------------------ |
 * | the answer to a link, or this object while it asks | the link was noted before: it is undone when its time is over                   |
 * | the word that a link goes                          | it stays noted until the BlobObject has heard of it                             |
 * | the Worker of an upload, with bytes in R2          | they lie below a prefix that is known; an upload ends after a day               |
 * | the Worker between a manifest's bytes and its row  | the key was noted as garbage before the bytes were written, and salvaged behind |
 */
import { DurableObject } from "cloudflare:workers";
import { newId } from "../schema/ids.ts";
import { Alarms } from "./alarms.ts";
import { type BlobBytes, leasePrefix } from "./blob-parts.ts";
import { LAST_READ_MS } from "./blobs.ts";
import type {
  ManifestRow,
  NewManifest,
  OpenUploadResult,
  ReferrerRow,
  RepositoryApi,
  SavedChunk,
} from "./registry-contract.ts";
import { parseRuns, RepositoryStore, type UploadRow } from "./repository-store.ts";
import { blobStub } from "./stubs.ts";

/** A blob that no manifest names goes when nobody asked for it, mounted or pushed it for so long: a push asks first, and names it last. */
export const UNUSED_MS = 86_400_000;
/** Times of touches are written at most this often, so that asking for what was asked for lately writes nothing. */
const TOUCH_STEP_MS = 3_600_000;
const UNUSED_AFTER_MS = UNUSED_MS + TOUCH_STEP_MS;
/** An upload that has not ended by then is given up. */
export const UPLOAD_MS = 86_400_000;
/** Unfinished uploads of a repository at a time. */
const UPLOADS_MAX = 1_000;
/** A link that is not confirmed by then is undone: a call between objects takes milliseconds. */
const LINK_MS = 600_000;
/** A manifest whose row did not follow its bytes within this time. */
const STAGED_MS = 3_600_000;
/** What one alarm takes; the rest follows in the next. R2 deletes as many keys in one call. */
const SWEEP_MAX = 1_000;
/** Calls to BlobObjects side by side. */
const CALLS_AT_ONCE = 6;

type Deadline = "unused" | "uploads" | "links" | "garbage";

export class RepositoryObject extends DurableObject<Env> implements RepositoryApi {
  readonly #store = new RepositoryStore(this.ctx.storage.sql);
  readonly #alarms = new Alarms<Deadline>(this.ctx.storage);

  // ---- reads

  async manifest(reference: string): Promise<ManifestRow | null> {
    if (!this.#store.exists) return null;
    const digest = reference.includes(":") ? reference : this.#store.tagged(reference);
    return digest === null ? null : this.#store.manifest(digest);
  }

  async blob(digest: string): Promise<BlobBytes | null> {
    const held = this.#touch(digest);
    return held === null ? null : { key: held.key, size_bytes: held.size_bytes, runs: held.runs };
  }

  #touch(digest: string): BlobBytes | null {
    const held = this.#store.exists ? this.#store.blob(digest) : null;
    const now = Date.now();
    if (held !== null && held.touched_at <= now - TOUCH_STEP_MS) this.#store.touch(digest, now);
    return held;
  }

  async tags(limit: number, last: string | null): Promise<{ tags: string[]; more: boolean }> {
    const tags = this.#store.exists ? this.#store.tags(limit + 1, last) : [];
    return { tags: tags.slice(0, limit), more: tags.length > limit };
  }

  async referrers(
    subject: string,
    query: { artifact_type: string | null; limit: number; last: string | null },
  ): Promise<{ referrers: ReferrerRow[]; more: boolean }> {
    const { artifact_type, limit, last } = query;
    const rows = this.#store.exists ? this.#store.referrers(subject, artifact_type, limit + 1, last) : [];
    return { referrers: rows.slice(0, limit), more: rows.length > limit };
  }

  // ---- uploads

  async beginUpload(): Promise<string | null> {
    this.#store.createTables();
    if (this.#store.countUploads() >= UPLOADS_MAX) return null;
    const id = newId();
    const now = Date.now();
    this.#store.addUpload(id, now);
    this.#alarms.setNoLaterThan("uploads", now + UPLOAD_MS);
    return id;
  }

  #upload(id: string): UploadRow | null {
    return this.#store.exists ? this.#store.upload(id) : null;
  }

  async uploadSize(id: string): Promise<number | null> {
    return this.#upload(id)?.size_bytes ?? null;
  }

  async openUpload(id: string, expected: number | null): Promise<OpenUploadResult> {
    const row = this.#upload(id);
    if (row === null) return { kind: "unknown" };
    const { size_bytes, sha256 } = row;
    if (expected !== null && expected !== size_bytes) return { kind: "out_of_order", size_bytes };
    const key = uploadKey(id);
    if (row.is_leased === 1) this.#discard(leasePrefix(key, row.lease), LAST_READ_MS);
    const lease = row.lease + 1;
    this.#store.lease(id, lease);
    const tail = row.tail_key === null ? null : { key: row.tail_key, size_bytes: row.tail_bytes ?? 0 };
    return { kind: "open", lease, size_bytes, key, runs: parseRuns(row.runs) ?? [], tail, sha256 };
  }

  async saveChunk(id: string, lease: number, chunk: SavedChunk): Promise<boolean> {
    const row = this.#upload(id);
    if (row === null || row.lease !== lease) return false;
    if (row.tail_key !== null && row.tail_key !== chunk.tail?.key) this.#discard(row.tail_key);
    this.#store.saveChunk(id, chunk);
    return true;
  }

  async abortUpload(id: string): Promise<boolean> {
    const row = this.#upload(id);
    if (row !== null) this.#abandon(row);
    return row !== null;
  }

  /** A request that still writes loses what it writes: all of it goes when that is surely over. */
  #abandon({ id, is_leased }: UploadRow): void {
    this.#store.removeUpload(id);
    this.#discard(`${uploadKey(id)}/`, is_leased === 1 ? LAST_READ_MS : 0);
  }

  async finishUpload(id: string, lease: number, digest: string, bytes: BlobBytes): Promise<boolean> {
    const row = this.#upload(id);
    if (row === null || row.lease !== lease) return false;
    this.#store.removeUpload(id);
    if (row.tail_key !== null && row.tail_key !== bytes.key) this.#discard(row.tail_key);
    return this.#hold(digest, bytes);
  }

  // ---- blobs

  async mount(digest: string): Promise<boolean> {
    if (this.#touch(digest) !== null) return true;
    return this.#hold(digest, null);
  }

  /** Links the blob, and then says that it is here. False when there are no such bytes. */
  async #hold(digest: string, bytes: BlobBytes | null): Promise<boolean> {
    this.#store.createTables();
    const link = newId();
    const due_at = Date.now() + LINK_MS;
    this.#store.addLink({ link, digest, bytes }, due_at);
    this.#alarms.setNoLaterThan("links", due_at);
    const stored = await blobStub(this.env, digest).link(digest, link, bytes);
    const now = Date.now();
    if (this.#store.blob(digest) !== null) {
      // Another request was quicker: its link is the one that counts.
      this.#store.dropLink(link, now);
      this.#alarms.setNoLaterThan("links", now);
      this.#store.touch(digest, now);
      return true;
    }
    if (!this.#store.takeLink(link) || stored === null) return false;
    this.#store.hold(digest, link, stored, now);
    this.#alarms.setNoLaterThan("unused", now + UNUSED_AFTER_MS);
    return true;
  }

  async deleteBlob(digest: string): Promise<"deleted" | "unknown" | "in_use"> {
    if (!this.#store.exists || this.#store.blob(digest) === null) return "unknown";
    if (this.#store.isReferenced(digest)) return "in_use";
    this.#release(digest);
    return "deleted";
  }

  #release(digest: string): void {
    const now = Date.now();
    this.#store.release(digest, now);
    this.#alarms.setNoLaterThan("links", now);
  }

  // ---- manifests

  async stageManifest({
    blobs,
    manifests,
  }: Pick<NewManifest, "blobs" | "manifests">): Promise<
    { kind: "staged"; key: string } | { kind: "missing"; digests: string[] }
  > {
    this.#store.createTables();
    const missing = this.#missing({ blobs, manifests });
    if (missing.length > 0) return { kind: "missing", digests: missing };
    for (const digest of blobs) this.#touch(digest);
    const key = `registry/manifests/${newId()}`;
    this.#discard(key, STAGED_MS);
    return { kind: "staged", key };
  }

  #missing({ blobs, manifests }: Pick<NewManifest, "blobs" | "manifests">): string[] {
    return [
      ...blobs.filter((digest) => this.#store.blob(digest) === null),
      ...manifests.filter((digest) => this.#store.manifest(digest) === null),
    ];
  }

  async putManifest(manifest: NewManifest): Promise<boolean> {
    this.#store.createTables();
    if (this.#store.manifest(manifest.digest) === null) {
      if (this.#missing(manifest).length > 0 || !this.#store.salvage(manifest.key)) return false;
      this.#store.addManifest(manifest);
    }
    for (const tag of manifest.tags) this.#store.setTag(tag, manifest.digest);
    return true;
  }

  async deleteManifest(digest: string): Promise<boolean> {
    const manifest = this.#store.exists ? this.#store.manifest(digest) : null;
    if (manifest === null) return false;
    this.#store.removeManifest(digest);
    this.#discard(manifest.key, LAST_READ_MS);
    this.#alarms.setNoLaterThan("unused", Date.now() + UNUSED_AFTER_MS);
    return true;
  }

  async deleteTag(tag: string): Promise<boolean> {
    return this.#store.exists && this.#store.removeTag(tag);
  }

  // ---- what goes

  async empty(): Promise<void> {
    if (!this.#store.exists) return;
    const now = Date.now();
    for (const row of this.#store.uploadsBegunBefore(now)) this.#abandon(row);
    this.#store.empty(now, now + LAST_READ_MS);
    this.#alarms.setNoLaterThan("links", now);
    this.#alarms.setNoLaterThan("garbage", now + LAST_READ_MS);
  }

  #discard(key: string, after_ms = 0): void {
    const due_at = Date.now() + after_ms;
    this.#store.discard(key, due_at);
    this.#alarms.setNoLaterThan("garbage", due_at);
  }

  override async alarm(): Promise<void> {
    await this.#alarms.run(async (name) => {
      if (!this.#store.exists) return;
      if (name === "unused") this.#sweepUnused();
      else if (name === "uploads") this.#sweepUploads();
      else if (name === "links") await this.#sweepLinks();
      else await this.#sweepGarbage();
    });
  }

  #sweepUnused(): void {
    for (const digest of this.#store.unused(Date.now() - UNUSED_AFTER_MS, SWEEP_MAX)) this.#release(digest);
    const oldest = this.#store.oldestUnused();
    if (oldest !== null) this.#alarms.setNoLaterThan("unused", oldest + UNUSED_AFTER_MS);
  }

  #sweepUploads(): void {
    for (const row of this.#store.uploadsBegunBefore(Date.now() - UPLOAD_MS)) this.#abandon(row);
    const oldest = this.#store.oldestUpload();
    if (oldest !== null) this.#alarms.setNoLaterThan("uploads", oldest + UPLOAD_MS);
  }

  async #sweepLinks(): Promise<void> {
    const links = this.#store.leavingLinks(Date.now(), SWEEP_MAX);
    for (let i = 0; i < links.length; i += CALLS_AT_ONCE) {
      await Promise.all(
        links.slice(i, i + CALLS_AT_ONCE).map(async ({ link, digest, bytes }) => {
          await blobStub(this.env, digest).unlink(digest, link, bytes);
          this.#store.forgetLink(link);
        }),
      );
    }
    const next = this.#store.nextLink();
    if (next !== null) this.#alarms.setNoLaterThan("links", next);
  }

  async #sweepGarbage(): Promise<void> {
    const garbage = this.#store.takeGarbage(Date.now(), SWEEP_MAX);
    await this.env.FILES.delete(garbage.filter((key) => !key.endsWith("/")));
    for (const key of garbage) {
      if (key.endsWith("/")) await this.#deleteBelow(key);
      this.#store.forgetGarbage(key);
    }
    const next = this.#store.nextGarbage();
    if (next !== null) this.#alarms.setNoLaterThan("garbage", next);
  }

  async #deleteBelow(prefix: string): Promise<void> {
    for (;;) {
      const { objects, truncated } = await this.env.FILES.list({ prefix, limit: SWEEP_MAX });
      await this.env.FILES.delete(objects.map(({ key }) => key));
      if (!truncated) return;
    }
  }
}

/** What the objects of an upload lie below. They stay there when it has become a blob. */
function uploadKey(upload: string): string {
  return `registry/blobs/${upload}`;
}
