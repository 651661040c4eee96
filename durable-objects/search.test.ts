/** The index over real SQLite and D1, with the account and predictions around it replaced: vectors, what stands in for them, and repair. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { VECTOR_DIMENSIONS, words } from "../schema/search-ranking.ts";
import type { CreatePrediction, PredictionApi } from "./prediction-contract.ts";
import { SearchObject } from "./search.ts";
import type { Embedder, SearchAnswer } from "./search-contract.ts";
import { aSpec, envWith, freshName } from "./testing/harness.ts";

const EMBEDDER: Embedder = {
  version: "e".repeat(64),
  spec: aSpec({ model: "cogway/embeddings", idle_ttl_ms: 300_000 }),
};
/** Words that mean the same have the same direction. */
const MEANINGS = [
  ["bigger", "enlarge", "upscaler", "pixels"],
  ["hound", "dog", "puppy"],
  ["melody", "song", "tune"],
];

function vectorOf(text: string): number[] {
  const vector = Array.from({ length: VECTOR_DIMENSIONS }, () => 0);
  for (const word of words(text)) {
    const meaning = MEANINGS.findIndex((same) => same.includes(word));
    const at = meaning >= 0 ? meaning : 100 + ((word.length * 31 + word.charCodeAt(0)) % 200);
    vector[at] = (vector[at] ?? 0) + (meaning >= 0 ? 1 : 0.1);
  }
  return vector;
}

/** An embeddings model whose predictions end when `gate` opens. */
function anEmbeddingsModel() {
  const asked: string[][] = [];
  const model = { asked, gate: Promise.resolve(), state: "succeeded" };
  const predictions: Partial<PredictionApi> = {
    create: async (request: CreatePrediction) => {
      const texts = request.input?.["texts"] as string[];
      asked.push(texts);
      await model.gate;
      const embeddings = texts.map((text, index) => ({ index, embedding: vectorOf(text) }));
      return { document: { state: model.state, output: { embeddings } }, settled: true } as never;
    },
  };
  const world = envWith({
    predictions,
    account: { admit: async () => ({ kind: "admitted", remaining: 1, reset_s: 0 }) },
  });
  return { ...model, model, world };
}

async function insertModel(name: string, description: string, change: { visibility?: string; at?: number } = {}) {
  const { visibility = "public", at = Date.now() } = change;
  await env.DB.prepare(
    "INSERT OR REPLACE INTO models (owner, name, description, tags, visibility, state, created_at, updated_at) VALUES ('zoe', ?, ?, '[]', ?, 'ready', ?, ?)",
  )
    .bind(name, description, visibility, at, at)
    .run();
}

function withSearch(world: Env, test: (make: () => SearchObject) => Promise<void>): Promise<void> {
  return runInDurableObject(env.SEARCHES.getByName(freshName()), (_instance, state) =>
    test(() => new SearchObject(state, world)),
  );
}

function find(search: SearchObject, query: string, usernames: string[] = []): Promise<SearchAnswer> {
  return search.search({ query, viewer: { usernames, allowed_models: null }, scope: "all", offset: 0, limit: 20 });
}

const paths = (answer: SearchAnswer) => answer.models.map(({ path }) => path);

beforeEach(async () => {
  await env.DB.prepare("DELETE FROM models").run();
  await insertModel("enlarger", "Gives photographs more pixels");
  await insertModel("kennel", "Draws a dog");
  await insertModel("band", "Plays a song");
});
afterEach(() => {
  vi.useRealTimers();
});

/** Until all documents have vectors; the object's own alarm is left alone. */
async function withVectors(search: SearchObject): Promise<void> {
  await search.changed([]);
  await search.setEmbedder(EMBEDDER);
  await find(search, "anything");
  await vi.waitFor(
    async () => {
      await search.alarm();
      const answer = await find(search, "hound");
      expect(paths(answer)[0]).toBe("zoe/kennel");
      expect(answer.is_complete).toBe(true);
    },
    { timeout: 15_000, interval: 20 },
  );
}

describe("vectors", () => {
  it("guarantee that words of equal meaning find each other, once they are made", async () => {
    const { world } = anEmbeddingsModel();
    await withSearch(world, async (make) => {
      const search = make();
      const before = await find(search, "hound");
      expect(before).toMatchObject({ mode: "text", models: [] });
      await withVectors(search);
      expect(await find(search, "hound")).toMatchObject({ mode: "hybrid" });
      expect(paths(await find(search, "tune"))[0]).toBe("zoe/band");
    });
  });

  it("outlive the object's memory, and are made again for another version alone", async () => {
    const { world, asked } = anEmbeddingsModel();
    await withSearch(world, async (make) => {
      await withVectors(make());
      const made = asked.length;
      const again = make();
      await again.alarm();
      expect((await again.state()).vectors).toBeGreaterThan(3);
      await vi.waitFor(async () => expect((await find(again, "hound")).mode).toBe("hybrid"));
      expect(asked.slice(made).flat()).toEqual(["hound"]);
      await again.setEmbedder({ ...EMBEDDER, version: "f".repeat(64) });
      expect((await again.state()).vectors).toBe(0);
    });
  });

  it("never hold up a search: without an instance it answers by words at once, and boots one every ten seconds at most", async () => {
    const { world, model, asked } = anEmbeddingsModel();
    await withSearch(world, async (make) => {
      const search = make();
      let open = () => {};
      model.gate = new Promise((resolve) => (open = resolve));
      await search.setEmbedder(EMBEDDER);
      for (const query of ["one", "two", "three"]) expect((await find(search, query)).mode).toBe("text");
      expect(asked).toEqual([["one"]]);
      open();
      await vi.waitFor(async () => expect((await find(search, "one")).mode).toBe("hybrid"));
    });
  });

  it("are waited for a moment where an instance is up; what comes later serves the next search", async () => {
    const { world, model } = anEmbeddingsModel();
    await withSearch(world, async (make) => {
      const search = make();
      await withVectors(search);
      let open = () => {};
      model.gate = new Promise((resolve) => (open = resolve));
      expect((await find(search, "puppy")).mode).toBe("text");
      open();
      await vi.waitFor(async () => expect(paths(await find(search, "puppy"))[0]).toBe("zoe/kennel"));
    });
  });

  it("are done without when the model fails", async () => {
    const { world, model } = anEmbeddingsModel();
    model.state = "failed";
    await withSearch(world, async (make) => {
      const search = make();
      await search.setEmbedder(EMBEDDER);
      await search.alarm();
      expect(await find(search, "dog")).toMatchObject({ mode: "text", models: [{ path: "zoe/kennel" }] });
    });
  });
});

describe("the catalog", () => {
  it("is read whole by the first search, and again where nobody told of a change", async () => {
    const { world } = anEmbeddingsModel();
    await withSearch(world, async (make) => {
      const search = make();
      expect(await find(search, "dog")).toMatchObject({ is_complete: true, models: [{ path: "zoe/kennel" }] });
      const walk = async () => {
        vi.setSystemTime(Date.now() + 61_000);
        await search.alarm();
      };
      vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
      await insertModel("kennel", "Draws a cat");
      await env.DB.prepare("DELETE FROM models WHERE name = 'band'").run();
      await walk();
      expect(paths(await find(search, "cat"))).toEqual(["zoe/kennel"]);
      expect(paths(await find(search, "dog"))).toEqual([]);
      expect(paths(await find(search, "song"))).toEqual([]);
      await insertModel("late", "Draws a giraffe", { at: 1 });
      await walk();
      await walk();
      expect(paths(await find(search, "giraffe"))).toEqual(["zoe/late"]);
    });
  });

  it("guarantees that what private models say moves nothing of what others find", async () => {
    const { world } = anEmbeddingsModel();
    await withSearch(world, async (make) => {
      const search = make();
      const before = await find(search, "draws a dgo", ["alice"]);
      for (let i = 0; i < 30; i++)
        await insertModel(`hidden-${i}`, "Draws a dgo, a dog and a dugong", { visibility: "private" });
      await search.changed(Array.from({ length: 30 }, (_, i) => `zoe/hidden-${i}`));
      const after = await find(search, "draws a dgo", ["alice"]);
      expect({ ...after, wants_embedder: false }).toEqual({ ...before, wants_embedder: false });
      expect(paths(await find(search, "dugong", ["zoe"]))).toHaveLength(20);
      await insertModel("hidden-0", "Draws a dugong");
      await search.changed(["zoe/hidden-0"]);
      expect(paths(await find(search, "dugong", ["alice"]))).toEqual(["zoe/hidden-0"]);
    });
  });

  it("ranks what runs more before what is equal otherwise", async () => {
    const { world } = anEmbeddingsModel();
    await withSearch(world, async (make) => {
      const search = make();
      await insertModel("kennel-two", "Draws a dog");
      await find(search, "dog");
      await search.counted("zoe/kennel-two", 5_000);
      const answer = await find(search, "dog");
      expect(paths(answer)[0]).toBe("zoe/kennel-two");
      expect(answer.models[0]?.runs).toBe(5_000);
    });
  });
});
