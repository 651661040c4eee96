/** Collections of models in D1. Everybody sees them, and in them only models that are public and can run. */
import { and, asc, desc, eq, exists, isNotNull, type SQL, sql } from "drizzle-orm";
import { type DrizzleD1Database, drizzle } from "drizzle-orm/d1";
import { STANDARD_COLLECTIONS } from "../../schema/collections.ts";
import { collectionModels, collections, models } from "../../schema/tables/index.ts";
import type { Caller } from "../env.ts";
import { type CatalogModel, isPublicTo, type Position, selectCatalog } from "./models.ts";

export type CollectionRow = typeof collections.$inferSelect;

const isInCollection = and(eq(collectionModels.owner, models.owner), eq(collectionModels.name, models.name));

function isShownTo(caller: Caller): SQL | undefined {
  return and(isPublicTo(caller), isNotNull(models.latest_version_id));
}

/** By slug; those in which the caller would find nothing are left out. */
export function listCollections(
  db: D1Database,
  caller: Caller,
  limit: number,
  cursor: (Position & { slug: string }) | null,
): Promise<CollectionRow[]> {
  const orm = drizzle(db);
  const isBackward = cursor?.side === "before";
  const shown = orm
    .select({ one: sql`1` })
    .from(collectionModels)
    .innerJoin(models, isInCollection)
    .where(and(eq(collectionModels.slug, collections.slug), isShownTo(caller)));
  return orm
    .select()
    .from(collections)
    .where(
      and(
        exists(shown),
        cursor === null ? undefined : sql`${collections.slug} ${isBackward ? sql`<` : sql`>`} ${cursor.slug}`,
      ),
    )
    .orderBy((isBackward ? desc : asc)(collections.slug))
    .limit(limit)
    .all();
}

export async function readCollection(db: D1Database, slug: string): Promise<CollectionRow | null> {
  return (await drizzle(db).select().from(collections).where(eq(collections.slug, slug)).get()) ?? null;
}

/** In the collection's own order. */
export function listCollectionModels(db: D1Database, caller: Caller, slug: string): Promise<CatalogModel[]> {
  return selectCatalog(db)
    .innerJoin(collectionModels, isInCollection)
    .where(and(eq(collectionModels.slug, slug), isShownTo(caller)))
    .orderBy(asc(collectionModels.position), asc(models.owner), asc(models.name))
    .all();
}

/** Which of these (owner/name) are in the catalog. */
export async function knownModels(db: D1Database, names: string[]): Promise<Set<string>> {
  const rows = await drizzle(db)
    .select({ owner: models.owner, name: models.name })
    .from(models)
    .where(
      sql`(${models.owner}, ${models.name}) in (select substr(value, 1, instr(value, '/') - 1), substr(value, instr(value, '/') + 1) from json_each(${JSON.stringify(names)}))`,
    )
    .all();
  return new Set(rows.map(({ owner, name }) => `${owner}/${name}`));
}

/** Makes a collection or replaces all of it. `members` are owner/name, in order. */
export async function saveCollection(
  db: D1Database,
  row: Omit<CollectionRow, "created_at">,
  members: { owner: string; name: string }[],
  now: number,
): Promise<void> {
  const orm = drizzle(db);
  const { slug, ...set } = row;
  await orm.batch([
    orm
      .insert(collections)
      .values({ ...row, created_at: now })
      .onConflictDoUpdate({ target: collections.slug, set }),
    orm.delete(collectionModels).where(eq(collectionModels.slug, slug)),
    ...members.map((member, position) => orm.insert(collectionModels).values({ slug, ...member, position })),
  ]);
}

/** False when there was none. */
export async function deleteCollection(db: D1Database, slug: string): Promise<boolean> {
  const orm = drizzle(db);
  const [, deleted] = await orm.batch([
    orm.delete(collectionModels).where(eq(collectionModels.slug, slug)),
    orm.delete(collections).where(eq(collections.slug, slug)).returning({ slug: collections.slug }),
  ]);
  return deleted.length > 0;
}

/** Statements that put a model at the end of a collection: a standard one is made when its first model comes, an unknown one is passed over. */
export function joinCollection(orm: DrizzleD1Database, slug: string, owner: string, name: string, now: number) {
  const standard = STANDARD_COLLECTIONS.find((collection) => collection.slug === slug);
  const position = sql`(select coalesce(max(${collectionModels.position}), -1) + 1 from ${collectionModels} where ${collectionModels.slug} = ${slug})`;
  return [
    ...(standard === undefined
      ? []
      : [
          orm
            .insert(collections)
            .values({ ...standard, created_at: now })
            .onConflictDoNothing(),
        ]),
    orm
      .insert(collectionModels)
      .select(
        sql`select ${slug}, ${owner}, ${name}, ${position} where exists (select 1 from ${collections} where ${collections.slug} = ${slug})`,
      )
      .onConflictDoNothing(),
  ];
}
