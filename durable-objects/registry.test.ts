/**
 * That collecting garbage never races a push, and that nothing is left for ever: real objects over real storage and R2, with calls between them that get lost
 * before or after they are heard, restarts at any point, and alarms that ring beside whatever runs.
 */
import { abortAllDurableObjects, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import fc from "fast-check";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { newId } from "../schema/ids.ts";
import { PART_BYTES, partKey, type Run, tailKey } from "./blob-parts.ts";
import { LAST_READ_MS } from "./blobs.ts";
import type { BlobApi, RepositoryApi } from "./registry-contract.ts";
import { UNUSED_MS, UPLOAD_MS } from "./repository.ts";
import { freshName, passTime, stopClock } from "./testing/harness.ts";

const HOUR_MS = 3_600_000;
const REPOSITORIES = 2;
/** First characters of what is pushed here. */
const SHARDS = [..."abclnstu"];

/** What may happen to a call between the objects. */
type Fate = "heard" | "lost before" | "lost after";

/** Some repositories with their blobs, whose names no other test has. */
class World {
  readonly #names = Array.from({ length: REPOSITORIES }, freshName);
  readonly #run = newId(8);
  /** of the next calls to a BlobObject, in turn; heard when there are none */
  fates: Fate[] = [];
  /** calls to a BlobObject wait while this says so */
  isHeld = false;

  static async make(): Promise<World> {
    const world = new World();
    for (let n = 0; n < REPOSITORIES; n++) await world.#intercept(n);
    return world;
  }

  /** Calls of the repository to BlobObjects pass here, to the real ones. */
  async #intercept(n: number): Promise<void> {
    const call = async <T>(run: () => Promise<T>): Promise<T> => {
      const fate = this.fates.shift() ?? "heard";
      while (this.isHeld) await new Promise((resolve) => setTimeout(resolve, 1));
      if (fate === "lost before") throw new Error("lost");
      const result = await run();
      if (fate === "lost after") throw new Error("lost");
      return result;
    };
    await runInDurableObject(this.#stub(n), (instance) => {
      const getByName = (shard: string): BlobApi => {
        const blobs = env.BLOBS.getByName(shard) as unknown as BlobApi;
        return {
          link: (...args) => call(() => blobs.link(...args)),
          unlink: (...args) => call(() => blobs.unlink(...args)),
        };
      };
      const object = instance as unknown as { env: unknown };
      object.env = { ...env, BLOBS: { getByName } };
    });
  }

  #stub(n: number): DurableObjectStub {
    return (env.REPOSITORIES as unknown as DurableObjectNamespace).getByName(this.#names[n] ?? "");
  }

  repository(n: number): RepositoryApi {
    return this.#stub(n) as unknown as RepositoryApi;
  }

  /** All objects lose their memory. */
  async restart(): Promise<void> {
    await abortAllDurableObjects();
    for (let n = 0; n < REPOSITORIES; n++) await this.#intercept(n);
  }

  async alarms(): Promise<void> {
    const shards = SHARDS.map((shard) => (env.BLOBS as unknown as DurableObjectNamespace).getByName(shard));
    const repositories = this.#names.map((_, n) => this.#stub(n));
    for (const stub of [...repositories, ...shards]) {
      await runInDurableObject(stub, (instance) => (instance as unknown as { alarm(): Promise<void> }).alarm());
    }
  }

  /** The form is all that the objects look at: its first character after the colon names a BlobObject. */
  digest(content: string): string {
    return `sha256:${content}-${this.#run}`;
  }

  manifest(content: string): string {
    return `sha256:manifest-${content}-${this.#run}`;
  }

  /** As the Worker does it: bytes first, under the upload's key; then the end. False when it failed. */
  async push(n: number, content: string): Promise<boolean> {
    const repository = this.repository(n);
    const id = await repository.beginUpload();
    const upload = id === null ? null : await repository.openUpload(id, null);
    if (id === null || upload?.kind !== "open") return false;
    const key = partKey(upload.key, upload.lease, 0);
    await env.FILES.put(key, content);
    const bytes = { key, size_bytes: content.length, runs: null };
    return repository.finishUpload(id, upload.lease, this.digest(content), bytes).catch(() => false);
  }

  /** An upload that is never ended, with bytes behind its last part. */
  async abandon(n: number): Promise<void> {
    const repository = this.repository(n);
    const id = (await repository.beginUpload()) ?? "";
    const upload = await repository.openUpload(id, null);
    if (upload.kind !== "open") return;
    const tail = { key: tailKey(upload.key, upload.lease), size_bytes: 1 };
    await env.FILES.put(tail.key, "x");
    await env.FILES.put(partKey(upload.key, upload.lease + 1, 0), "lost");
    await repository.saveChunk(id, upload.lease, { size_bytes: 1, runs: [], tail, sha256: null });
    await repository.openUpload(id, 1);
  }

  /** A manifest that names the blob, if it is there. */
  async name(n: number, content: string): Promise<boolean> {
    const blobs = [this.digest(content)];
    const repository = this.repository(n);
    const staged = await repository.stageManifest({ blobs, manifests: [] });
    if (staged.kind === "missing") return false;
    await env.FILES.put(staged.key, content);
    return repository.putManifest({
      ...{ digest: this.manifest(content), media_type: "x", size_bytes: content.length, key: staged.key },
      ...{ blobs, foreign_blobs: [], manifests: [], tags: ["t"] },
      ...{ subject: null, artifact_type: null, annotations: null },
    });
  }

  /** Everything that a repository says it has can be read, and is what it says. */
  async check(contents: string[]): Promise<void> {
    for (let n = 0; n < REPOSITORIES; n++) {
      const repository = this.repository(n);
      for (const content of contents) {
        const held = await repository.blob(this.digest(content));
        if (held !== null) expect(await textOf(held.key), `the blob ${content}`).toBe(content);
        const manifest = await repository.manifest(this.manifest(content));
        if (manifest === null) continue;
        expect(held, `the blob ${content} of a manifest`).not.toBeNull();
        expect(await textOf(manifest.key), `the manifest of ${content}`).toBe(content);
      }
    }
  }

  /** Keys that something is said of. */
  async keysInUse(contents: string[]): Promise<string[]> {
    const keys = new Set<string>();
    for (let n = 0; n < REPOSITORIES; n++) {
      const repository = this.repository(n);
      for (const content of contents) {
        for (const row of [
          await repository.blob(this.digest(content)),
          await repository.manifest(this.manifest(content)),
        ]) {
          if (row !== null) keys.add(row.key);
        }
      }
    }
    return [...keys].toSorted();
  }
}

const textOf = async (key: string): Promise<string | undefined> => (await env.FILES.get(key))?.text();

async function keysInR2(): Promise<string[]> {
  const { objects } = await env.FILES.list({ prefix: "registry/" });
  return objects.map(({ key }) => key).toSorted();
}

async function inWorld(test: (world: World) => Promise<void>): Promise<void> {
  try {
    await test(await World.make());
  } finally {
    const left = await keysInR2();
    if (left.length > 0) await env.FILES.delete(left);
  }
}

/** Long enough for everything that is not in use to go, whatever was lost on the way. */
async function settle(world: World): Promise<void> {
  world.fates = [];
  for (let i = 0; i < 6; i++) {
    passTime(UNUSED_MS + 2 * HOUR_MS);
    await world.alarms();
  }
}

beforeEach(() => {
  stopClock();
  // Lost calls are told to the log.
  vi.spyOn(console, "error").mockImplementation(() => undefined);
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

it("guarantees that a blob stays while a manifest names it, and a day beyond its last touch where none does", () =>
  inWorld(async (world) => {
    await world.push(0, "named");
    await world.push(0, "touched");
    await world.push(0, "unused");
    await world.name(0, "named");
    passTime(UNUSED_MS - HOUR_MS);
    await world.alarms();
    await world.repository(0).blob(world.digest("touched"));
    passTime(2 * HOUR_MS + 1);
    await world.alarms();
    const has = async (content: string) => (await world.repository(0).blob(world.digest(content))) !== null;
    expect([await has("named"), await has("touched"), await has("unused")]).toEqual([true, true, false]);
    // Its bytes stay for those who were told of them a moment ago.
    await world.alarms();
    expect(await keysInR2()).toHaveLength(4);
    passTime(LAST_READ_MS);
    await world.alarms();
    expect(await keysInR2()).toHaveLength(3);
    await world.repository(0).deleteManifest(world.manifest("named"));
    await settle(world);
    expect(await keysInR2()).toEqual([]);
  }));

it("guarantees that a push which comes while an old holding of the same blob goes keeps its bytes", () =>
  inWorld(async (world) => {
    await world.push(0, "same");
    world.isHeld = true;
    expect(await world.repository(0).deleteBlob(world.digest("same"))).toBe("deleted");
    const going = world.alarms();
    const coming = world.push(0, "same");
    world.isHeld = false;
    expect(await coming).toBe(true);
    await going;
    await settleLinks(world);
    expect(await textOf((await world.repository(0).blob(world.digest("same")))?.key ?? "")).toBe("same");
  }));

async function settleLinks(world: World): Promise<void> {
  passTime(2 * HOUR_MS);
  await world.alarms();
}

it("guarantees that of two that push the same at once both have it, and its bytes are stored once", () =>
  inWorld(async (world) => {
    const made = await Promise.all([world.push(0, "same"), world.push(0, "same"), world.push(1, "same")]);
    expect(made).toEqual([true, true, true]);
    await settleLinks(world);
    expect(await keysInR2()).toHaveLength(1);
    await world.check(["same"]);
    expect(await world.repository(1).deleteBlob(world.digest("same"))).toBe("deleted");
    await settleLinks(world);
    await world.check(["same"]);
    expect(await world.repository(0).blob(world.digest("same"))).not.toBeNull();
  }));

it("guarantees that a manifest is taken only while all that it names is there", () =>
  inWorld(async (world) => {
    await world.push(0, "layer");
    const blobs = [world.digest("layer")];
    const staged = await world.repository(0).stageManifest({ blobs, manifests: [] });
    if (staged.kind !== "staged") throw new Error("not staged");
    await world.repository(0).deleteBlob(world.digest("layer"));
    const row = {
      ...{ digest: world.manifest("layer"), media_type: "x", size_bytes: 1, key: staged.key, blobs },
      ...{ foreign_blobs: [], manifests: [], tags: [], subject: null, artifact_type: null, annotations: null },
    };
    expect(await world.repository(0).putManifest(row)).toBe(false);
    // Bytes whose row comes too late are going already.
    await world.push(0, "layer");
    passTime(HOUR_MS);
    await world.alarms();
    expect(await world.repository(0).putManifest(row)).toBe(false);
  }));

it("guarantees that an upload ends after a day, with everything that it left", () =>
  inWorld(async (world) => {
    await world.abandon(0);
    const id = (await world.repository(0).beginUpload()) ?? "";
    const upload = await world.repository(0).openUpload(id, 0);
    if (upload.kind !== "open") throw new Error("not open");
    await env.FILES.put(partKey(upload.key, upload.lease, 0), "x");
    const chunk = { size_bytes: PART_BYTES, runs: [[upload.lease, 1] as Run], tail: null, sha256: null };
    await world.repository(0).saveChunk(id, upload.lease, chunk);
    passTime(UPLOAD_MS - 1);
    await world.alarms();
    expect(await world.repository(0).uploadSize(id)).toBe(PART_BYTES);
    passTime(1);
    await world.restart();
    await world.alarms();
    expect(await world.repository(0).uploadSize(id)).toBeNull();
    passTime(LAST_READ_MS);
    await world.alarms();
    expect(await keysInR2()).toEqual([]);
  }));

type Step =
  | { kind: "push" | "name" | "mount" | "delete" | "unname" | "touch"; n: number; content: string }
  | { kind: "abandon"; n: number }
  | { kind: "time"; hours: number }
  | { kind: "alarms" | "restart" };

/** As many histories as fit into the time, and no more than these. */
const RUNS = 40;
const RUNS_MAX_MS = 10_000;
const CONTENTS = ["a", "b", "c"];
const n = fc.nat(REPOSITORIES - 1);
const content = fc.constantFrom(...CONTENTS);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 10, arbitrary: fc.record({ kind: fc.constantFrom("push", "name", "mount"), n, content }) },
  { weight: 6, arbitrary: fc.record({ kind: fc.constantFrom("delete", "unname", "touch"), n, content }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("abandon"), n }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("time"), hours: fc.constantFrom(1, 12, 26) }) },
  { weight: 4, arbitrary: fc.constant({ kind: "alarms" } as const) },
) as fc.Arbitrary<Step>;
/** Steps that are taken at once; an object loses its memory between them, as a crash in the middle is a call that is lost. */
const round = fc.oneof(
  { weight: 8, arbitrary: fc.array(step, { minLength: 1, maxLength: 4 }) },
  { weight: 1, arbitrary: fc.constant<Step[]>([{ kind: "restart" }]) },
);
const fate = fc.constantFrom<Fate>("heard", "heard", "heard", "lost before", "lost after");

async function take(world: World, step: Step): Promise<unknown> {
  switch (step.kind) {
    case "push":
      return world.push(step.n, step.content);
    case "name":
      return world.name(step.n, step.content);
    case "mount":
      return world
        .repository(step.n)
        .mount(world.digest(step.content))
        .catch(() => false);
    case "delete":
      return world.repository(step.n).deleteBlob(world.digest(step.content));
    case "unname":
      return world.repository(step.n).deleteManifest(world.manifest(step.content));
    case "touch":
      return world.repository(step.n).blob(world.digest(step.content));
    case "abandon":
      return world.abandon(step.n);
    case "restart":
      return world.restart();
    case "time":
      return passTime(step.hours * HOUR_MS);
    case "alarms":
      return world.alarms();
  }
}

it("guarantees in any order of steps, some at once, that what is said to be there is there, and that what nothing needs goes", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(round, { minLength: 1, maxLength: 12 }),
      fc.array(fate, { maxLength: 30 }),
      async (rounds, fates) => {
        await inWorld(async (world) => {
          world.fates = [...fates];
          for (const together of rounds) {
            const taken = await Promise.allSettled(together.map((each) => take(world, each)));
            expect(taken.filter(({ status }) => status === "rejected")).toEqual([]);
            await world.check(CONTENTS);
          }
          // The check touches all that is there: without it, only what a manifest names stays.
          await settle(world);
          await world.check(CONTENTS);
          expect(await keysInR2()).toEqual(await world.keysInUse(CONTENTS));
          await Promise.all([0, 1].map((each) => world.repository(each).empty()));
          await settle(world);
          expect(await keysInR2()).toEqual([]);
        });
      },
    ),
    { numRuns: RUNS, interruptAfterTimeLimit: RUNS_MAX_MS },
  );
});
