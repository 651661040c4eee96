/** Search as the API has it: the index finds and ranks, here its cards become models, and private ones are checked once more against the catalog. */
import type { z } from "@hono/zod-openapi";
import type { SearchAnswer } from "../../durable-objects/search-contract.ts";
import { searchStub } from "../../durable-objects/stubs.ts";
import type { ModelSchema } from "../../schema/api/models.ts";
import { OPERATOR_ACCOUNT_ID, OPERATOR_USERNAME } from "../../schema/tables/operator-seed.ts";
import type { Caller, Edge } from "../env.ts";
import { type CatalogModel, findModel, isWholeRow, readModel } from "../storage/models.ts";
import { maySee } from "./model-access.ts";
import { sharedRunSpec } from "./run-spec.ts";
import { showModel } from "./show-model.ts";

/** The model that makes vectors for search; without it search goes by words alone. */
const EMBEDDINGS_NAME = "minilm-embeddings";
export const EMBEDDINGS_MODEL = `${OPERATOR_USERNAME}/${EMBEDDINGS_NAME}`;

export interface SearchQuery {
  query: string;
  scope: "models" | "all";
  offset: number;
  limit: number;
}

export interface SearchedModel {
  model: z.infer<typeof ModelSchema>;
  tags: string[];
  score: number;
}

/** `models` of scope `models` are public ones; of scope `all` the caller's own and those shared with it too. */
export async function searchCatalog(
  edge: Edge,
  caller: Caller,
  query: SearchQuery,
  userAgent: string | undefined,
): Promise<Omit<SearchAnswer, "models"> & { models: SearchedModel[] }> {
  const seesPrivate = query.scope === "all";
  const usernames = seesPrivate ? [caller.username, ...caller.organizations.map(({ username }) => username)] : [];
  const viewer = { usernames, allowed_models: caller.allowed_models };
  const answer = await searchStub(edge.env).search({ ...query, viewer });
  if (answer.wants_embedder) edge.later(tellEmbedder(edge));
  const models = await Promise.all(
    answer.models.map(async (found): Promise<SearchedModel | null> => {
      const row = await rowOf(edge, found);
      if (row === null || !maySee(caller, row)) return null;
      const model = await showModel(edge, row, userAgent, found.runs ?? 0);
      return { model, tags: found.tags, score: found.score };
    }),
  );
  return { ...answer, models: models.filter((model) => model !== null) };
}

/**
 * Public ones as the index has them, a moment old at most; of private ones the catalog says who may see them now. A card that an earlier release wrote lacks
 * what tables have gained since, until its model changes: the catalog has that too.
 */
async function rowOf(edge: Edge, found: SearchAnswer["models"][number]): Promise<CatalogModel | null> {
  const card = found.is_public && found.card !== "" ? (JSON.parse(found.card) as CatalogModel) : null;
  if (card !== null && isWholeRow(card)) return card;
  const [owner = "", name = ""] = found.path.split("/");
  return findModel(edge.env.DB, owner, name, edge.later);
}

/** Tells the index which version makes vectors now. */
export async function tellEmbedder(edge: Edge): Promise<void> {
  const found = await readModel(edge.env.DB, OPERATOR_USERNAME, EMBEDDINGS_NAME);
  const version = found?.latest ?? null;
  const spec = version === null ? null : await sharedRunSpec(edge, version, OPERATOR_ACCOUNT_ID);
  await searchStub(edge.env).setEmbedder(version === null || spec === null ? null : { version: version.id, spec });
}
