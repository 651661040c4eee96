/**
 * Fills the catalog of a running system with made-up models, straight into its local database (the API would take minutes), and waits until search has them.
 * Words are spread as in real catalogs: few are in very many models, most in few.
 */
import { type SeedModel, seedCatalog } from "../../e2e/lib/seed-catalog.ts";
import type { System } from "../../e2e/lib/system.ts";
import { waitFor } from "../../e2e/lib/wait.ts";

const THINGS =
  "image photo picture video audio speech voice music text document portrait background face product logo scene landscape cartoon sketch song noise subtitle language code caption depth pose mask object room anime texture map avatar clip frame poster invoice table handwriting sentiment question answer summary chat protein molecule plant bird satellite".split(
    " ",
  );
const DOINGS =
  "generate remove restore upscale transcribe translate detect classify edit enhance colorize animate clone separate summarize describe extract convert compress denoise stylize blend inpaint rank match align track segment count predict".split(
    " ",
  );
const RARE_WORDS = 8_000;
const README_WORDS = 120;
/** Search looks for what it was not told every minute, then reads 50,000 models in about twenty seconds. */
const INDEXED_WITHIN_MS = 300_000;
const LAST_WORD = "lastofthemall";

/** Equal numbers each time (Park and Miller). */
function numbers(): () => number {
  let state = 42;
  return () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

function* models(count: number): Generator<SeedModel> {
  const next = numbers();
  const pick = (words: string[]) => words[Math.floor(next() * words.length)] ?? "";
  const rare = () => `w${Math.floor(next() ** 3 * RARE_WORDS).toString(36)}`;
  const word = () => (next() < 0.15 ? pick(next() < 0.6 ? THINGS : DOINGS) : rare());
  const sentence = (length: number) => Array.from({ length }, word).join(" ");
  for (let i = 0; i < count; i++) {
    const [doing, thing] = [pick(DOINGS), pick(THINGS)];
    yield {
      owner: `seed-${i % 100}`,
      name: `${doing}-${thing}-${i}`,
      title: i === count - 1 ? LAST_WORD : `${doing} ${thing} ${rare()}`,
      description: `${doing}s a ${thing}: ${sentence(10)}.`,
      readme: `# ${doing} ${thing}\n\n${sentence(README_WORDS)}`,
      tags: [pick(THINGS), `${thing} to ${pick(THINGS)}`],
    };
  }
}

export async function seedSearch(system: System, count: number): Promise<void> {
  seedCatalog(system.data, models(count));
  await waitFor("search to have all models", INDEXED_WITHIN_MS, async () => {
    const { body } = await system.api.request<{ results?: unknown[] }>("GET", `/v1/search/models?query=${LAST_WORD}`);
    return (body.results?.length ?? 0) > 0 || null;
  });
}
