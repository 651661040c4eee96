/**
 * Which images of versions the engine keeps: within a bound of bytes and a number, what was used longest ago goes first, and nothing that somebody uses. Owns
 * the list of when each was used, which outlives the process.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import type Docker from "dockerode";
import { z } from "zod";
import { IMAGE_REPOSITORY, tagOf } from "./docker-builder-image.ts";
import { dial } from "./engine-call.ts";

/** Of what these images have to themselves: layers that others use too are not counted. A host's disk is assumed to be larger. */
const IMAGES_BYTES_MAX = 100 * 1024 ** 3;
const IMAGES_MAX = 200;
/** BuildKit's own store of steps and downloads. */
const BUILD_CACHE_BYTES_MAX = 40 * 1024 ** 3;

const UsesSchema = z.record(z.string(), z.number());
const PrunedSchema = z.object({ SpaceReclaimed: z.number().nullish() });

export interface ImageBounds {
  bytes: number;
  images: number;
}

export interface KeptImage {
  version_id: string;
  /** not shared with other images */
  own_bytes: number;
  /** milliseconds since 1970 */
  used_at: number;
  is_held: boolean;
}

/** Which images go: those that were used longest ago, until the rest is within the bounds, or is held. */
export function beyondBounds(images: KeptImage[], bounds: ImageBounds): string[] {
  let bytes = images.reduce((sum, image) => sum + image.own_bytes, 0);
  let count = images.length;
  const gone: string[] = [];
  for (const { version_id, own_bytes, is_held } of images.toSorted((a, b) => a.used_at - b.used_at)) {
    if (bytes <= bounds.bytes && count <= bounds.images) break;
    if (is_held) continue;
    bytes -= own_bytes;
    count -= 1;
    gone.push(version_id);
  }
  return gone;
}

export class VersionImages {
  readonly #docker: Docker;
  /** JSON: version id -> when it was used last */
  readonly #path: string;
  readonly #bounds: ImageBounds;
  readonly #usedAt: Map<string, number>;
  readonly #holders = new Map<string, number>();

  constructor(docker: Docker, path: string, bounds: ImageBounds = { bytes: IMAGES_BYTES_MAX, images: IMAGES_MAX }) {
    this.#docker = docker;
    this.#path = path;
    this.#bounds = bounds;
    this.#usedAt = new Map(Object.entries(readUses(path)));
  }

  /** Labels and size of a version's image; null when it is not there. */
  async get(versionId: string): Promise<{ id: string; labels: Record<string, string>; size_bytes: number } | null> {
    try {
      const image = await this.#docker.getImage(tagOf(versionId)).inspect();
      return { id: image.Id, labels: image.Config.Labels ?? {}, size_bytes: image.Size };
    } catch (error) {
      if (isNotFound(error)) return null;
      throw error;
    }
  }

  /** Keeps the image until it is called back, once. */
  hold(versionId: string): () => void {
    this.#holders.set(versionId, (this.#holders.get(versionId) ?? 0) + 1);
    this.#touch(versionId);
    let isReleased = false;
    return () => {
      if (isReleased) return;
      isReleased = true;
      const left = (this.#holders.get(versionId) ?? 1) - 1;
      if (left === 0) this.#holders.delete(versionId);
      else this.#holders.set(versionId, left);
      this.#touch(versionId);
    };
  }

  /** Removes what is beyond the bounds. After every build and pull; a failure only leaves more than there should be. */
  async sweep(): Promise<string[]> {
    const removed: string[] = [];
    const images = (await this.#list()).map((image) => ({
      ...image,
      used_at: this.#usedAt.get(image.version_id) ?? image.created_at,
      is_held: this.#holders.has(image.version_id),
    }));
    for (const id of beyondBounds(images, this.#bounds)) {
      if (await this.remove(id)) removed.push(id);
    }
    return removed;
  }

  /** All names of it; false while a container uses it. */
  async remove(versionId: string): Promise<boolean> {
    try {
      const image = await this.#docker.getImage(tagOf(versionId)).inspect();
      const users = await this.#docker.listContainers({ all: true, filters: { ancestor: [image.Id] } });
      if (users.length > 0) return false;
      const others = (image.RepoDigests ?? []).filter((name) => !name.startsWith(`${IMAGE_REPOSITORY}@`));
      const isOurs = (image.RepoTags ?? []).every((name) => name.startsWith(`${IMAGE_REPOSITORY}:`));
      await this.#docker.getImage(tagOf(versionId)).remove();
      // What was pulled has the registry's name too, and what was built a nameless image below it; what somebody else has named stays with them.
      const rest = [...(isOurs ? others : []), ...(image.Parent === "" ? [] : [image.Parent])];
      for (const name of rest)
        await this.#docker
          .getImage(name)
          .remove()
          .catch(() => {});
    } catch (error) {
      if (!isNotFound(error)) return false;
    }
    this.#usedAt.delete(versionId);
    this.#save();
    return true;
  }

  /** Keeps BuildKit's store within its bound. */
  async pruneBuildCache(): Promise<number> {
    // dockerode's own call leaves the bound out, which would remove everything.
    const answer = await dial(this.#docker, {
      method: "POST",
      path: "/build/prune?",
      options: { "keep-storage": String(BUILD_CACHE_BYTES_MAX) },
      isStream: true,
      statusCodes: { 200: true, 500: "server error" },
    });
    const chunks: Buffer[] = [];
    for await (const chunk of answer) chunks.push(Buffer.from(chunk));
    return PrunedSchema.parse(JSON.parse(Buffer.concat(chunks).toString("utf8"))).SpaceReclaimed ?? 0;
  }

  async #list(): Promise<{ version_id: string; own_bytes: number; created_at: number }[]> {
    const { Images } = DiskUseSchema.parse(await this.#docker.df());
    return (Images ?? []).flatMap(({ RepoTags, Size, SharedSize, Created }) => {
      const tag = (RepoTags ?? []).find((name) => name.startsWith(`${IMAGE_REPOSITORY}:`));
      if (tag === undefined) return [];
      const version_id = tag.slice(IMAGE_REPOSITORY.length + 1);
      return [{ version_id, own_bytes: Size - Math.max(SharedSize, 0), created_at: Created * 1000 }];
    });
  }

  #touch(versionId: string): void {
    this.#usedAt.set(versionId, Date.now());
    this.#save();
  }

  #save(): void {
    const temporary = `${this.#path}.new`;
    writeFileSync(temporary, JSON.stringify(Object.fromEntries(this.#usedAt)));
    renameSync(temporary, this.#path);
  }
}

const DiskUseSchema = z.object({
  Images: z
    .array(
      z.object({
        RepoTags: z.array(z.string()).nullish(),
        Size: z.number(),
        SharedSize: z.number(),
        Created: z.number(),
      }),
    )
    .nullish(),
});

function readUses(path: string): Record<string, number> {
  if (!existsSync(path)) return {};
  try {
    return UsesSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    // Half-written by a crash: then the dates of the images count.
    return {};
  }
}

function isNotFound(error: unknown): boolean {
  return error instanceof Error && "statusCode" in error && error.statusCode === 404;
}
