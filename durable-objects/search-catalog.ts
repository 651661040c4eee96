/** What the index reads of D1, the truth about models and collections, and of the built pages of documentation. It writes nothing there. */
import { and, asc, count, eq, getTableColumns, gt, or, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { z } from "zod";
import { sha256Hex } from "../schema/ids.ts";
import { accounts, collectionModels, collections, models, shares, versions } from "../schema/tables/index.ts";
import type { SearchDocument } from "./search-index.ts";

export interface Loaded {
  document: SearchDocument;
  /** changes with everything that the index holds of it */
  digest: string;
}

/** Where a walk through all models by their last change stands. */
export interface CatalogCursor {
  updated_at: number;
  owner: string;
  name: string;
}

/** A statement of D1 takes 100 parameters, a model two. */
const MODELS_PER_READ = 40;
/** An example's output may be 256 KiB. */
const CARD_CHARACTERS_MAX = 65_536;
const MODEL_PATH = /^([^/]+)\/([^/]+)$/;

const sharedWith =
  sql<string>`(select json_group_array(${accounts.username}) from ${shares} join ${accounts} on ${accounts.id} = ${shares.account_id} where ${shares.owner} = ${models.owner} and ${shares.name} = ${models.name})`.mapWith(
    (usernames: string): string[] => JSON.parse(usernames),
  );

function readModels(db: D1Database, where: SQL | undefined, limit: number) {
  return drizzle(db)
    .select({ model: getTableColumns(models), latest: versions, shares: sharedWith })
    .from(models)
    .leftJoin(
      versions,
      and(eq(versions.owner, models.owner), eq(versions.name, models.name), eq(versions.id, models.latest_version_id)),
    )
    .where(where)
    .orderBy(asc(models.updated_at), asc(models.owner), asc(models.name))
    .limit(limit)
    .all();
}

/** These models as they are now, by owner/name; null where there is none. */
export async function loadModels(db: D1Database, paths: string[]): Promise<Map<string, Loaded | null>> {
  const found = new Map<string, Loaded | null>(paths.map((path) => [path, null]));
  for (let at = 0; at < paths.length; at += MODELS_PER_READ) {
    const wanted = paths.slice(at, at + MODELS_PER_READ).flatMap((path) => {
      const [, owner, name] = MODEL_PATH.exec(path) ?? [];
      return owner === undefined || name === undefined ? [] : [and(eq(models.owner, owner), eq(models.name, name))];
    });
    if (wanted.length === 0) continue;
    for (const row of await readModels(db, or(...wanted), wanted.length)) {
      found.set(`${row.model.owner}/${row.model.name}`, documentOf(row));
    }
  }
  return found;
}

/** The next models in the order of their last change, and where to go on; null at the end. */
export async function loadModelsAfter(
  db: D1Database,
  cursor: CatalogCursor,
  limit: number,
): Promise<{ loaded: Loaded[]; cursor: CatalogCursor; isEnd: boolean }> {
  const after = gt(
    sql`(${models.updated_at}, ${models.owner}, ${models.name})`,
    sql`(${cursor.updated_at}, ${cursor.owner}, ${cursor.name})`,
  );
  const rows = await readModels(db, after, limit);
  const last = rows.at(-1)?.model;
  return {
    loaded: rows.map(documentOf),
    cursor: last === undefined ? cursor : { updated_at: last.updated_at, owner: last.owner, name: last.name },
    isEnd: rows.length < limit,
  };
}

export async function countModels(db: D1Database): Promise<number> {
  const row = await drizzle(db).select({ n: count() }).from(models).get();
  return row?.n ?? 0;
}

/** Every owner/name there is. */
export async function modelPaths(db: D1Database): Promise<Set<string>> {
  const rows = await drizzle(db).select({ owner: models.owner, name: models.name }).from(models).all();
  return new Set(rows.map(({ owner, name }) => `${owner}/${name}`));
}

type CatalogRow = Awaited<ReturnType<typeof readModels>>[number];

/**
 * The card is what the Worker shows a model from: a row of its catalog, as JSON, without what is shown nowhere. Some have none and are read from the catalog
 * when they are shown: prices of official models begin at a time, an example that still runs will end, and very large examples are few.
 */
function documentOf({ model, latest, shares }: CatalogRow): Loaded {
  const { readme, announced: _announced, ...shown } = model;
  const card = JSON.stringify({ model: { ...shown, announced: null }, latest, shares, pricing: null });
  const awaitsExample = model.example_prediction_id !== null && model.default_example === null;
  const isKept = !model.is_official && !awaitsExample && card.length <= CARD_CHARACTERS_MAX;
  return withDigest({
    kind: "model",
    path: `${model.owner}/${model.name}`,
    readers: model.visibility === "public" ? null : [model.owner, ...shares],
    title: model.title,
    description: model.description,
    tags: model.tags,
    text: readme,
    card: isKept ? card : "",
    has_version: latest !== null,
    is_failing: model.state === "failed" || (model.visibility === "public" && model.unhealthy_since !== null),
    is_official: model.is_official,
    updated_at: model.updated_at,
  });
}

/** What is shown of a collection. Its models are those that everybody may see. */
export interface CollectionCard {
  name: string;
  slug: string;
  description: string;
  models: string[];
}

export async function loadCollections(db: D1Database): Promise<Loaded[]> {
  const orm = drizzle(db);
  const rows = await orm.select().from(collections).all();
  const members = await orm
    .select({ slug: collectionModels.slug, owner: models.owner, name: models.name })
    .from(collectionModels)
    .innerJoin(models, and(eq(models.owner, collectionModels.owner), eq(models.name, collectionModels.name)))
    .where(eq(models.visibility, "public"))
    .orderBy(asc(collectionModels.slug), asc(collectionModels.position))
    .all();
  const bySlug = Map.groupBy(members, ({ slug }) => slug);
  return rows.map(({ slug, name, description, full_description }) => {
    const card: CollectionCard = {
      name,
      slug,
      description,
      models: (bySlug.get(slug) ?? []).map((model) => `${model.owner}/${model.name}`),
    };
    return withDigest({
      ...PUBLIC,
      kind: "collection",
      path: slug,
      title: name,
      description,
      text: full_description,
      card: JSON.stringify(card),
    });
  });
}

/** What is shown of a page. */
export interface PageCard {
  name: string;
  href: string;
}

/** Made by the build out of docs/ (workers/web/vite.config.ts). */
const PagesSchema = z.array(z.object({ name: z.string(), href: z.string(), text: z.string() }));

/** The pages of the documentation; none where the build has none. `href` is a path of this site. */
export async function loadPages(assets: Fetcher): Promise<Loaded[]> {
  const answer = await assets.fetch("https://assets/docs-assets/pages.json");
  const parsed = PagesSchema.safeParse(answer.ok ? await answer.json().catch(() => null) : null);
  return (parsed.data ?? []).map(({ name, href, text }) => {
    const card: PageCard = { name, href };
    return withDigest({
      ...PUBLIC,
      kind: "page",
      path: href,
      title: name,
      description: null,
      text,
      card: JSON.stringify(card),
    });
  });
}

/** What collections and pages have in common. Their content decides whether they changed, not a time. */
const PUBLIC = {
  readers: null,
  tags: [],
  has_version: true,
  is_failing: false,
  is_official: false,
  updated_at: 0,
};

function withDigest(document: SearchDocument): Loaded {
  return { document, digest: sha256Hex(JSON.stringify(document)) };
}
