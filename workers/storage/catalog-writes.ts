/** What changes models and versions in D1. Conditions stand in the statements themselves: what is read first may have changed by then. */
import { and, count, eq, exists, isNull, notExists, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { ModelAnnounce } from "../../schema/origin-protocol.ts";
import {
  builds,
  collectionModels,
  deployments,
  examples,
  models,
  prices,
  releases,
  shares,
  versions,
} from "../../schema/tables/index.ts";
import { joinCollection } from "./collections.ts";
import { forgetModel, forgetVersion, ofModel, type Pricing, type VersionRow } from "./models.ts";

/** Models of one account (Replicate's bound). Creates that come together may pass it by as many. */
export const MODELS_PER_OWNER_MAX = 1_000;

export type NewModel = Pick<typeof models.$inferInsert, "owner" | "name" | "visibility"> &
  Partial<typeof models.$inferInsert>;

/** Makes a model without a version. */
export async function insertModel(db: D1Database, row: NewModel, now: number): Promise<"made" | "taken" | "too_many"> {
  const orm = drizzle(db);
  const owned = await orm.select({ count: count() }).from(models).where(eq(models.owner, row.owner)).get();
  if ((owned?.count ?? 0) >= MODELS_PER_OWNER_MAX) return "too_many";
  const made = await orm
    .insert(models)
    .values({ state: "ready", created_at: now, updated_at: now, ...row })
    .onConflictDoNothing()
    .returning({ name: models.name });
  forgetModel(row.owner, row.name);
  return made.length === 0 ? "taken" : "made";
}

/** Columns that people write. What is undefined stays. */
type Written =
  | "title"
  | "description"
  | "readme"
  | "tags"
  | "visibility"
  | "github_url"
  | "paper_url"
  | "license_url"
  | "weights_url"
  | "cover_image_url"
  | "is_stable";
export type ModelChange = { [column in Written]?: (typeof models.$inferInsert)[column] | undefined };

export async function updateModel(
  db: D1Database,
  owner: string,
  name: string,
  change: ModelChange,
  now: number,
): Promise<void> {
  await drizzle(db)
    .update(models)
    .set({ ...change, updated_at: now })
    .where(ofModel(owner, name));
  forgetModel(owner, name);
}

/** Deletes a private model that has no versions, with all that belongs to it. False when it is not such a model. */
export async function deleteModel(db: D1Database, owner: string, name: string): Promise<boolean> {
  const orm = drizzle(db);
  const version = orm
    .select({ one: sql`1` })
    .from(versions)
    .where(and(eq(versions.owner, owner), eq(versions.name, name)));
  const isGone = notExists(orm.select({ one: sql`1` }).from(models).where(ofModel(owner, name)));
  const of = (table: typeof shares | typeof examples | typeof collectionModels | typeof prices | typeof builds) =>
    orm.delete(table).where(and(eq(table.owner, owner), eq(table.name, name), isGone));
  const [deleted] = await orm.batch([
    orm
      .delete(models)
      .where(and(ofModel(owner, name), eq(models.visibility, "private"), notExists(version)))
      .returning({ name: models.name }),
    of(shares),
    of(examples),
    of(collectionModels),
    of(prices),
    of(builds),
  ]);
  forgetModel(owner, name);
  return deleted.length > 0;
}

/** What refers to a version: names where there are any, null where nothing does. */
export interface VersionUses {
  /** owner/name of a deployment whose current release runs it */
  deployment: string | null;
  /** owner/name of a model that has a fine-tune of it */
  fine_tune: string | null;
  /** the prediction that is the model's default example */
  example: string | null;
  /** an account outside the owner's people has run it */
  run_by_others: boolean;
}

/** With names of their own: a statement on one table leaves the table's name out of its columns. */
function versionUses(owner: string, name: string, id: string) {
  return {
    deployment: sql<
      string | null
    >`(select d.owner || '/' || d.name from ${deployments} d join ${releases} r on r.owner = d.owner and r.name = d.name and r.number = d.release where r.version = ${id} and r.model = ${`${owner}/${name}`} limit 1)`,
    fine_tune: sql<
      string | null
    >`(select tuned.owner || '/' || tuned.name from ${versions} tuned where tuned.base_version_id = ${id} limit 1)`,
    example: sql<
      string | null
    >`(select m.example_prediction_id from ${models} m where m.owner = ${owner} and m.name = ${name} and json_extract(m.default_example, '$.version') = ${id})`,
  };
}

function ofVersion({ owner, name, id }: Pick<VersionRow, "owner" | "name" | "id">): SQL | undefined {
  return and(eq(versions.owner, owner), eq(versions.name, name), eq(versions.id, id));
}

/** The newest state; null when there is no such version (any more). */
export async function readVersionUses(
  db: D1Database,
  owner: string,
  name: string,
  id: string,
): Promise<VersionUses | null> {
  const row = await drizzle(db)
    .select({ run_by_others: versions.run_by_others, ...versionUses(owner, name, id) })
    .from(versions)
    .where(ofVersion({ owner, name, id }))
    .get();
  return row ?? null;
}

/**
 * Deletes a version that nothing refers to; the newest that is left becomes the latest. False when something refers to it after all.
 */
export async function deleteVersion(db: D1Database, { owner, name, id }: VersionRow): Promise<boolean> {
  const orm = drizzle(db);
  const uses = versionUses(owner, name, id);
  const row = ofVersion({ owner, name, id });
  const left = sql`from ${versions} where ${versions.owner} = ${owner} and ${versions.name} = ${name} order by ${versions.created_at} desc, ${versions.id} desc limit 1`;
  const [deleted] = await orm.batch([
    orm
      .delete(versions)
      .where(
        and(
          row,
          eq(versions.run_by_others, false),
          sql`exists (select 1 from ${models} m where m.owner = ${owner} and m.name = ${name} and m.visibility = 'private')`,
          ...Object.values(uses).map((use) => isNull(use)),
        ),
      )
      .returning({ id: versions.id }),
    orm
      .update(models)
      .set({
        latest_version_id: sql`(select ${versions.id} ${left})`,
        latest_version_at: sql`(select ${versions.created_at} ${left})`,
      })
      .where(
        and(ofModel(owner, name), eq(models.latest_version_id, id), notExists(orm.select().from(versions).where(row))),
      ),
  ]);
  forgetModel(owner, name);
  forgetVersion(id);
  return deleted.length > 0;
}

/**
 * Makes a pushed version the latest of its model, together with what the push says of that. `moved`: nothing was done, since the latest is not `expected`
 * any more. `known`: the version was there before.
 */
export async function savePublished(
  db: D1Database,
  version: VersionRow,
  change: Partial<typeof models.$inferInsert>,
  expected: string | null,
): Promise<"new" | "known" | "moved"> {
  const { owner, name, id, created_at } = version;
  const orm = drizzle(db);
  const row = ofVersion(version);
  const isLatest = orm
    .select({ one: sql`1` })
    .from(models)
    .where(and(ofModel(owner, name), eq(models.latest_version_id, id)));
  const [inserted, pointed] = await orm.batch([
    orm.insert(versions).values(version).onConflictDoNothing().returning({ id: versions.id }),
    orm
      .update(models)
      .set({
        ...change,
        state: "ready",
        state_reason: null,
        latest_version_id: id,
        latest_version_at: sql`(select ${versions.created_at} from ${versions} where ${row})`,
        updated_at: created_at,
      })
      .where(
        and(
          ofModel(owner, name),
          expected === null ? isNull(models.latest_version_id) : eq(models.latest_version_id, expected),
        ),
      )
      .returning({ name: models.name }),
    // One that did not become the latest was never compared with it.
    orm.delete(versions).where(and(row, eq(versions.created_at, created_at), notExists(isLatest))),
  ]);
  forgetModel(owner, name);
  forgetVersion(id);
  if (pointed.length === 0) return "moved";
  return inserted.length > 0 ? "new" : "known";
}

/** Makes a version of the model its latest. False when it has no such version. */
export async function saveLatest(
  db: D1Database,
  { owner, name, id }: Pick<VersionRow, "owner" | "name" | "id">,
): Promise<boolean> {
  const orm = drizzle(db);
  const row = ofVersion({ owner, name, id });
  const version = orm.select({ one: sql`1` }).from(versions).where(row);
  const pointed = await orm
    .update(models)
    .set({
      latest_version_id: id,
      latest_version_at: sql`(select ${versions.created_at} from ${versions} where ${row})`,
      updated_at: Date.now(),
    })
    .where(and(ofModel(owner, name), exists(version)))
    .returning({ name: models.name });
  forgetModel(owner, name);
  return pointed.length > 0;
}

/** Whether any version still uses these weights, those of the model `besides` aside. */
export async function hasWeights(
  db: D1Database,
  key: string,
  besides?: { owner: string; name: string },
): Promise<boolean> {
  const isOther =
    besides === undefined
      ? undefined
      : sql`(${versions.owner}, ${versions.name}) <> (${besides.owner}, ${besides.name})`;
  const row = await drizzle(db)
    .select({ id: versions.id })
    .from(versions)
    .where(and(sql`json_extract(${versions.weights}, '$.key') = ${key}`, isOther))
    .limit(1)
    .get();
  return row !== undefined;
}

/** Somebody outside the owner's people has run it. Memories may go on without knowing: what asks for it reads the database. */
export async function saveRunByOthers(db: D1Database, version: VersionRow): Promise<void> {
  await drizzle(db).update(versions).set({ run_by_others: true }).where(ofVersion(version));
}

/** What an announcement writes, decided by workers/domain/announce-model.ts. */
export interface Announcement {
  owner: string;
  name: string;
  /** columns of the model that change */
  model: Partial<typeof models.$inferInsert> & { state: "preparing" | "ready" | "failed" };
  version: ModelAnnounce["version"] | null;
  /** it becomes the latest: what people chose since it was announced first stays otherwise */
  movesLatest: boolean;
  /** a price that counts from now on */
  price: Pricing | null;
  collections: { joined: string[]; left: string[] };
}

/**
 * A version is inserted once and never changed; a model that is made anew keeps its latest version runnable until the new one is ready.
 * Collections that do not exist are passed over.
 */
export async function saveAnnouncement(db: D1Database, announcement: Announcement, now: number): Promise<void> {
  const { owner, name, model, version, movesLatest, price, collections } = announcement;
  const orm = drizzle(db);
  const row = { ...model, updated_at: now };
  const upsert = orm
    .insert(models)
    .values({ owner, name, visibility: "public", created_at: now, ...row })
    .onConflictDoUpdate({ target: [models.owner, models.name], set: row });
  const madeAt = sql`(select ${versions.created_at} from ${versions} where ${versions.owner} = ${owner} and ${versions.name} = ${name} and ${versions.id} = ${version?.id})`;
  await orm.batch([
    upsert,
    ...(version == null
      ? []
      : [
          orm
            .insert(versions)
            .values({ owner, name, created_at: now, ...version })
            .onConflictDoNothing(),
          // An unchanged folder that is announced again makes no newer version.
          ...(movesLatest
            ? [
                orm
                  .update(models)
                  .set({ latest_version_id: version.id, latest_version_at: madeAt })
                  .where(ofModel(owner, name)),
              ]
            : []),
        ]),
    ...(price === null ? [] : [orm.insert(prices).values({ owner, name, valid_from: now, ...price })]),
    ...collections.left.map((slug) =>
      orm
        .delete(collectionModels)
        .where(
          and(eq(collectionModels.slug, slug), eq(collectionModels.owner, owner), eq(collectionModels.name, name)),
        ),
    ),
    ...collections.joined.flatMap((slug) => joinCollection(orm, slug, owner, name, now)),
  ]);
  if (version != null) forgetVersion(version.id);
  forgetModel(owner, name);
}
