/**
 * The catalog in D1: models, immutable versions, hardware. Reads on a prediction's way come through an in-isolate memory (a change is seen within 5 s);
 * lists and pages read the database.
 */
import { and, asc, desc, eq, getTableColumns, isNull, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { z } from "zod";
import type { HardwareSchema, ModelAnnounce } from "../../schema/origin-protocol.ts";
import type { PredictionDocument } from "../../schema/prediction-document.ts";
import { accounts, hardware, models, shares, versions } from "../../schema/tables/index.ts";
import { Memo } from "./memo.ts";

export type ModelRow = Omit<typeof models.$inferSelect, "readme">;
export type VersionRow = typeof versions.$inferSelect;
export interface CatalogModel {
  model: ModelRow;
  latest: VersionRow | null;
  /** usernames of the accounts that it is shared with */
  shares: string[];
}
type Later = (work: Promise<unknown>) => void;

/** A changed model is seen everywhere within this time (design section 2). */
const CATALOG_LIFE_MS = 5_000;
/** A row holds its OpenAPI schema, some 20 KB: about 10 MB at most in either memory. */
const CATALOG_ROWS_MAX = 500;

const modelMemo = new Memo<CatalogModel | null>(CATALOG_LIFE_MS, CATALOG_ROWS_MAX);
const versionMemo = new Memo<VersionRow[]>(CATALOG_LIFE_MS, CATALOG_ROWS_MAX);

/** All columns but the readme, which only its own route reads. */
const { readme: _readme, ...modelColumns } = getTableColumns(models);
/** In the same read, so that asking who may see a model costs none of its own. */
const sharedWith =
  sql<string>`(select json_group_array(${accounts.username}) from ${shares} join ${accounts} on ${accounts.id} = ${shares.account_id} where ${shares.owner} = ${models.owner} and ${shares.name} = ${models.name})`.mapWith(
    (usernames: string): string[] => JSON.parse(usernames),
  );
const catalogColumns = { model: modelColumns, latest: versions, shares: sharedWith };
const latestVersion = and(
  eq(versions.owner, models.owner),
  eq(versions.name, models.name),
  eq(versions.id, models.latest_version_id),
);

/** A model with its latest version, whoever may see it; null when there is none. */
export function findModel(db: D1Database, owner: string, name: string, later: Later): Promise<CatalogModel | null> {
  return modelMemo.get(`${owner}/${name}`, () => readModel(db, owner, name), later);
}

/** The same past the memory. */
export async function readModel(db: D1Database, owner: string, name: string): Promise<CatalogModel | null> {
  const row = await drizzle(db)
    .select(catalogColumns)
    .from(models)
    .leftJoin(versions, latestVersion)
    .where(and(eq(models.owner, owner), eq(models.name, name)))
    .get();
  return row ?? null;
}

/** Every model's row of one version id: models made of equal content share it. */
export function findVersions(db: D1Database, id: string, later: Later): Promise<VersionRow[]> {
  return versionMemo.get(
    id,
    () => drizzle(db).select().from(versions).where(eq(versions.id, id)).orderBy(asc(versions.created_at)).all(),
    later,
  );
}

export async function readReadme(db: D1Database, owner: string, name: string): Promise<string | null> {
  const row = await drizzle(db)
    .select({ readme: models.readme })
    .from(models)
    .where(and(eq(models.owner, owner), eq(models.name, name)))
    .get();
  return row?.readme ?? null;
}

/** A model's versions, newest first. */
export function listVersions(
  db: D1Database,
  owner: string,
  name: string,
  limit: number,
  offset: number,
): Promise<VersionRow[]> {
  return drizzle(db)
    .select()
    .from(versions)
    .where(and(eq(versions.owner, owner), eq(versions.name, name)))
    .orderBy(desc(versions.created_at), desc(versions.id))
    .limit(limit)
    .offset(offset)
    .all();
}

export interface ModelsQuery {
  sort_by: "model_created_at" | "latest_version_created_at";
  sort_direction: "asc" | "desc";
  limit: number;
  offset: number;
}

/** Public models. Those without a version sort as if theirs were the oldest. */
export function listModels(db: D1Database, query: ModelsQuery): Promise<CatalogModel[]> {
  const direction = query.sort_direction === "asc" ? asc : desc;
  const key: SQL =
    query.sort_by === "model_created_at" ? sql`${models.created_at}` : sql`coalesce(${models.latest_version_at}, 0)`;
  return drizzle(db)
    .select(catalogColumns)
    .from(models)
    .leftJoin(versions, latestVersion)
    .where(eq(models.visibility, "public"))
    .orderBy(direction(key), direction(models.created_at), asc(models.owner), asc(models.name))
    .limit(query.limit)
    .offset(query.offset)
    .all();
}

/** Whether any model can run. */
export async function hasRunnableModel(db: D1Database): Promise<boolean> {
  const row = await drizzle(db)
    .select({ name: models.name })
    .from(models)
    .where(sql`${models.latest_version_id} is not null`)
    .limit(1)
    .get();
  return row !== undefined;
}

/**
 * Writes what an origin announces of a model. A version is inserted once and never changed; a model that is made anew keeps its latest version
 * runnable until the new one is ready. `example` is the prediction that becomes the model's example; an earlier one's snapshot goes.
 */
export async function saveAnnouncement(
  db: D1Database,
  owner: string,
  name: string,
  announced: ModelAnnounce,
  example: { key: string; prediction_id: string } | null,
  now: number,
): Promise<void> {
  const orm = drizzle(db);
  const version = announced.version;
  const row = {
    title: announced.title ?? null,
    description: announced.description ?? null,
    readme: announced.readme ?? null,
    tags: announced.tags ?? [],
    visibility: announced.visibility,
    state: announced.state,
    state_reason: announced.reason ?? null,
    weights_license: announced.weights_license ?? null,
    updated_at: now,
    ...(example === null
      ? {}
      : { example_key: example.key, example_prediction_id: example.prediction_id, default_example: null }),
  };
  const upsert = orm
    .insert(models)
    .values({ owner, name, created_at: now, ...row })
    .onConflictDoUpdate({ target: [models.owner, models.name], set: row });
  if (version === undefined) {
    await upsert;
  } else {
    await orm.batch([
      upsert,
      orm
        .insert(versions)
        .values({ owner, name, created_at: now, ...version })
        .onConflictDoNothing(),
      // An unchanged folder that is announced again makes no newer version.
      orm
        .update(models)
        .set({
          latest_version_id: version.id,
          latest_version_at: sql`(select ${versions.created_at} from ${versions} where ${versions.owner} = ${owner} and ${versions.name} = ${name} and ${versions.id} = ${version.id})`,
        })
        .where(and(eq(models.owner, owner), eq(models.name, name))),
    ]);
    versionMemo.forget(version.id);
  }
  modelMemo.forget(`${owner}/${name}`);
}

/** Keeps the ended example's document; only the first snapshot of a prediction counts. */
export async function saveExampleSnapshot(
  db: D1Database,
  owner: string,
  name: string,
  document: PredictionDocument,
): Promise<void> {
  await drizzle(db)
    .update(models)
    .set({ default_example: document })
    .where(
      and(
        eq(models.owner, owner),
        eq(models.name, name),
        eq(models.example_prediction_id, document.id),
        isNull(models.default_example),
      ),
    );
  modelMemo.forget(`${owner}/${name}`);
}

/** Remembers the hardware that an origin has, for the list of SKUs. */
export async function saveHardware(db: D1Database, seen: z.infer<typeof HardwareSchema>[], now: number): Promise<void> {
  const orm = drizzle(db);
  for (const row of seen) {
    const set = { name: row.name, cpus: row.cpus, memory_bytes: row.memory_bytes, gpus: row.gpus, seen_at: now };
    await orm
      .insert(hardware)
      .values({ sku: row.sku, ...set })
      .onConflictDoUpdate({ target: hardware.sku, set });
  }
}

export function listHardware(db: D1Database): Promise<{ name: string; sku: string }[]> {
  return drizzle(db).select({ name: hardware.name, sku: hardware.sku }).from(hardware).orderBy(asc(hardware.sku)).all();
}
