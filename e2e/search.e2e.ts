/**
 * Search from the description of a task: 40 sentences as people write them, over the examples and 300 made-up models of other tasks. The right model is among
 * the first three for 36 at least, by words alone and with vectors of the real embeddings model.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { type SeedModel, seedCatalog } from "./lib/seed-catalog.ts";
import { modelFolder, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";
import { distractors } from "./search/distractors.ts";
import tasks from "./search/tasks.json" with { type: "json" };

const EMBEDDINGS = "minilm-embeddings";
const FOUND_MIN = 36;
const SHOWN = 3;
/** Search looks every minute for what it was not told. */
const INDEXED_WITHIN_MS = 120_000;
/** Some 500 short texts on one core that others use too. */
const VECTORS_WITHIN_MS = 240_000;
const QUERY_WITHIN_MS = 30_000;

interface SearchBody {
  mode: string;
  is_complete: boolean;
  models: { model: { owner: string; name: string } }[];
}

const data = temporaryFolder();
let system: System;

/** The examples as their authors describe them; only the embeddings model has to run. */
function examples(): SeedModel[] {
  const root = join(modelFolder(EMBEDDINGS), "..");
  return readdirSync(root)
    .filter((name) => existsSync(join(root, name, "cogway.yaml")))
    .map((name) => {
      const about = parse(readFileSync(join(root, name, "cogway.yaml"), "utf8")) as Partial<SeedModel>;
      const readme = join(root, name, "README.md");
      return {
        owner: "cogway",
        name,
        title: about.title ?? null,
        description: about.description ?? null,
        tags: about.tags ?? [],
        readme: existsSync(readme) ? readFileSync(readme, "utf8") : "",
      };
    });
}

async function search(query: string): Promise<SearchBody> {
  const answer = await system.api.request<SearchBody>("GET", `/v1/search?query=${encodeURIComponent(query)}`);
  if (answer.status !== 200) throw new Error(`${answer.status}: ${answer.text}`);
  return answer.body;
}

/** How many sentences find their model; says which do not. */
async function found(mode: string): Promise<number> {
  let count = 0;
  for (const { task, models } of tasks) {
    const body = await waitFor(`"${task}" by ${mode}`, QUERY_WITHIN_MS, async () => {
      const answer = await search(task);
      return answer.mode === mode ? answer : null;
    });
    const names = body.models.slice(0, SHOWN).map(({ model }) => model.name);
    if (names.some((name) => models.includes(name))) count += 1;
    else console.log(`${mode}: "${task}" finds ${names.join(", ")}`);
  }
  console.log(`${mode}: ${count} of ${tasks.length} find their model among the first ${SHOWN}`);
  return count;
}

beforeAll(async () => {
  system = await System.start({ models: ["noop"], data });
  seedCatalog(data, [...examples(), ...distractors()]);
  await waitFor("the index", INDEXED_WITHIN_MS, async () => {
    const { models } = await search("molecule-pro");
    return models.some(({ model }) => model.name === "molecule-pro") || null;
  });
}, INDEXED_WITHIN_MS * 2);
afterAll(async () => {
  await system?.stop();
  rmSync(data, { recursive: true, force: true });
});

test("40 descriptions of tasks find their model by words alone, where no embeddings model runs", async () => {
  expect(tasks).toHaveLength(40);
  expect(await found("text")).toBeGreaterThanOrEqual(FOUND_MIN);
});

test(
  "and by words and meaning, with vectors of the embeddings model",
  async () => {
    await system.stop();
    system = await System.start({ models: [EMBEDDINGS], data });
    await waitFor("all vectors", VECTORS_WITHIN_MS, async () => (await search("warm up")).is_complete || null);
    expect(await found("hybrid")).toBeGreaterThanOrEqual(FOUND_MIN);
  },
  VECTORS_WITHIN_MS * 2,
);
