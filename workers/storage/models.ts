/**
 * The catalog in D1: models, immutable versions, hardware. Reads on a prediction's way come through an in-isolate memory (a change is seen within 5 s);
 * lists and pages read the database. What writes it is in catalog-writes.ts, examples.ts, shares.ts and collections.ts.
 */
import { and, asc, desc, eq, getTableColumns, or, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { SQLiteColumn } from "drizzle-orm/sqlite-core";
import type { z } from "zod";
import type { HardwareSchema } from "../../schema/origin-protocol.ts";
import { usd } from "../../schema/pricing.ts";
import { accounts, hardware, models, prices, shares, versions } from "../../schema/tables/index.ts";
import type { Caller } from "../env.ts";
import { Memo } from "./memo.ts";
import { listHardwarePrices } from "./prices.ts";

export type ModelRow = Omit<typeof models.$inferSelect, "readme">;
export type VersionRow = typeof versions.$inferSelect;
export interface CatalogModel {
  model: ModelRow;
  latest: VersionRow | null;
  /** usernames of the accounts that it is shared with */
  shares: string[];
  /** what one unit of its output costs now; null where nothing was ever said */
  pricing: Pricing | null;
}
export interface Pricing {
  unit: string;
  price_micros: number;
  /** for so many units */
  per: number;
}
type Later = (work: Promise<unknown>) => void;

/** A changed model is seen everywhere within this time (design section 2). */
const CATALOG_LIFE_MS = 5_000;
/** A row holds its OpenAPI schema, some 20 KB: about 10 MB at most in either memory. */
const CATALOG_ROWS_MAX = 500;

const modelMemo = new Memo<CatalogModel | null>(CATALOG_LIFE_MS, CATALOG_ROWS_MAX);
const versionMemo = new Memo<VersionRow[]>(CATALOG_LIFE_MS, CATALOG_ROWS_MAX);

/** This isolate reads the model anew; others within 5 s. */
export function forgetModel(owner: string, name: string): void {
  modelMemo.forget(`${owner}/${name}`);
}

export function forgetVersion(id: string): void {
  versionMemo.forget(id);
}

/** All columns but the readme, which only its own route reads. */
const { readme: _readme, ...modelColumns } = getTableColumns(models);
const MODEL_COLUMNS = Object.keys(modelColumns);
const VERSION_COLUMNS = Object.keys(getTableColumns(versions));

/** Whether a row that was kept as JSON has all columns of today. */
export function isWholeRow({ model, latest }: CatalogModel): boolean {
  return (
    MODEL_COLUMNS.every((column) => column in model) &&
    (latest === null || VERSION_COLUMNS.every((column) => column in latest))
  );
}

/** Shares and price come in the same read, so that asking who may see a model costs none of its own. */
function catalogColumns() {
  const ofModel = (table: { owner: SQLiteColumn; name: SQLiteColumn }) =>
    sql`${table.owner} = ${models.owner} and ${table.name} = ${models.name}`;
  return {
    model: modelColumns,
    latest: versions,
    shares: sql<
      string[]
    >`(select json_group_array(${accounts.username}) from ${shares} join ${accounts} on ${accounts.id} = ${shares.account_id} where ${ofModel(shares)})`.mapWith(
      JSON.parse,
    ),
    pricing:
      sql<Pricing | null>`(select json_object('unit', ${prices.unit}, 'price_micros', ${prices.price_micros}, 'per', ${prices.per}) from ${prices} where ${ofModel(prices)} and ${prices.valid_from} <= ${Date.now()} order by ${prices.valid_from} desc limit 1)`.mapWith(
        JSON.parse,
      ),
  };
}

const latestVersion = and(
  eq(versions.owner, models.owner),
  eq(versions.name, models.name),
  eq(versions.id, models.latest_version_id),
);

/** Models as they are read everywhere; callers narrow and order them. */
export function selectCatalog(db: D1Database) {
  return drizzle(db).select(catalogColumns()).from(models).leftJoin(versions, latestVersion).$dynamic();
}

export function ofModel(owner: string, name: string): SQL | undefined {
  return and(eq(models.owner, owner), eq(models.name, name));
}

/** A model with its latest version, whoever may see it; null when there is none. */
export function findModel(db: D1Database, owner: string, name: string, later: Later): Promise<CatalogModel | null> {
  return modelMemo.get(`${owner}/${name}`, () => readModel(db, owner, name), later);
}

/** The same past the memory. */
export async function readModel(db: D1Database, owner: string, name: string): Promise<CatalogModel | null> {
  const row = await selectCatalog(db).where(ofModel(owner, name)).get();
  return row ?? null;
}

/** Every model's row of one version id: models made of equal content share it. */
export function findVersions(
  db: D1Database,
  id: string,
  later: Later,
  suffices?: (rows: VersionRow[]) => boolean,
): Promise<VersionRow[]> {
  return versionMemo.get(
    id,
    () => drizzle(db).select().from(versions).where(eq(versions.id, id)).orderBy(asc(versions.created_at)).all(),
    later,
    suffices,
  );
}

/** The version of this model, also where it was made a moment ago; null when there is none. */
export async function findVersion(
  db: D1Database,
  owner: string,
  name: string,
  id: string,
  later: Later,
): Promise<VersionRow | null> {
  const isOurs = (row: VersionRow): boolean => row.owner === owner && row.name === name;
  const rows = await findVersions(db, id, later, (known) => known.some(isOurs));
  return rows.find(isOurs) ?? null;
}

/** Past the memory. */
export async function hasVersion(
  db: D1Database,
  { owner, name, id }: Pick<VersionRow, "owner" | "name" | "id">,
): Promise<boolean> {
  const isIt = and(eq(versions.owner, owner), eq(versions.name, name), eq(versions.id, id));
  return (await drizzle(db).select({ id: versions.id }).from(versions).where(isIt).get()) !== undefined;
}

export async function readReadme(db: D1Database, owner: string, name: string): Promise<string | null> {
  const row = await drizzle(db).select({ readme: models.readme }).from(models).where(ofModel(owner, name)).get();
  return row?.readme ?? null;
}

/** Where a page of a list begins: beyond a row in the list's order, or before it, read away from it. */
export interface Position {
  side: "after" | "before";
}

/** A model's versions, newest first. */
export function listVersions(
  db: D1Database,
  owner: string,
  name: string,
  limit: number,
  cursor: (Position & { created_at: number; id: string }) | null,
): Promise<VersionRow[]> {
  const isBackward = cursor?.side === "before";
  const order = isBackward ? asc : desc;
  const beyond = sql`(${versions.created_at}, ${versions.id}) ${isBackward ? sql`>` : sql`<`} (${cursor?.created_at}, ${cursor?.id})`;
  return drizzle(db)
    .select()
    .from(versions)
    .where(and(eq(versions.owner, owner), eq(versions.name, name), cursor === null ? undefined : beyond))
    .orderBy(order(versions.created_at), order(versions.id))
    .limit(limit)
    .all();
}

export interface ModelPosition extends Position {
  /** of the column that sorts; null for a model without a version */
  at: number | null;
  owner: string;
  name: string;
}

export interface ModelsQuery {
  sort_by: "model_created_at" | "latest_version_created_at";
  sort_direction: "asc" | "desc";
  limit: number;
  cursor: ModelPosition | null;
  /** only this owner's, private ones that the caller may see too; null lists what is public */
  owner: string | null;
}

/** All models that the caller may see, its private ones too, or all that there are; by name, after the given one. */
export function listByName(
  db: D1Database,
  caller: Caller | "operator",
  after: { owner: string; name: string } | null,
  limit: number,
): Promise<CatalogModel[]> {
  return selectCatalog(db)
    .where(
      and(
        caller === "operator" ? undefined : isVisibleTo(caller),
        after === null ? undefined : sql`(${models.owner}, ${models.name}) > (${after.owner}, ${after.name})`,
      ),
    )
    .orderBy(asc(models.owner), asc(models.name))
    .limit(limit)
    .all();
}

/** Models that the caller may see, in the order of an index. Those without a version sort as if theirs were the oldest. */
export function listModels(db: D1Database, caller: Caller, query: ModelsQuery): Promise<CatalogModel[]> {
  const { cursor, owner } = query;
  const isAscending = (query.sort_direction === "asc") !== (cursor?.side === "before");
  const order = isAscending ? asc : desc;
  const at = sortColumn(query.sort_by);
  return selectCatalog(db)
    .where(
      and(
        owner === null ? isPublicTo(caller) : and(eq(models.owner, owner), isVisibleTo(caller)),
        cursor === null ? undefined : isBeyond(at, cursor, isAscending),
      ),
    )
    .orderBy(order(at), order(models.owner), order(models.name))
    .limit(query.limit)
    .all();
}

function sortColumn(sort_by: ModelsQuery["sort_by"]): SQLiteColumn {
  return sort_by === "model_created_at" ? models.created_at : models.latest_version_at;
}

/** The row's place in the list, for a cursor. */
export function modelPosition({ model }: CatalogModel, sort_by: ModelsQuery["sort_by"]): Omit<ModelPosition, "side"> {
  const at = sort_by === "model_created_at" ? model.created_at : model.latest_version_at;
  return { at, owner: model.owner, name: model.name };
}

/** SQLite puts null before everything, and compares nothing with it. */
function isBeyond(column: SQLiteColumn, { at, owner, name }: ModelPosition, isAscending: boolean): SQL | undefined {
  const sign = isAscending ? sql`>` : sql`<`;
  if (at !== null) {
    const rest = sql`(${column}, ${models.owner}, ${models.name}) ${sign} (${at}, ${owner}, ${name})`;
    return isAscending ? rest : or(rest, sql`${column} is null`);
  }
  const rest = sql`(${column} is null and (${models.owner}, ${models.name}) ${sign} (${owner}, ${name}))`;
  return isAscending ? or(rest, sql`${column} is not null`) : rest;
}

/** The models that the caller's token is bound to. */
function isAllowedTo(caller: Caller): SQL | undefined {
  if (caller.allowed_models === null) return undefined;
  return sql`${models.owner} || '/' || ${models.name} in (select value from json_each(${JSON.stringify(caller.allowed_models)}))`;
}

export function isPublicTo(caller: Caller): SQL | undefined {
  return and(eq(models.visibility, "public"), isAllowedTo(caller));
}

/** What `maySee` (workers/domain/model-access.ts) says of one model, for lists. */
function isVisibleTo(caller: Caller): SQL | undefined {
  const usernames = JSON.stringify([caller.username, ...caller.organizations.map(({ username }) => username)]);
  const isIn = (column: SQLiteColumn) => sql`${column} in (select value from json_each(${usernames}))`;
  return and(
    isAllowedTo(caller),
    or(
      eq(models.visibility, "public"),
      isIn(models.owner),
      sql`exists (select 1 from ${shares} join ${accounts} on ${accounts.id} = ${shares.account_id} where ${shares.owner} = ${models.owner} and ${shares.name} = ${models.name} and ${isIn(accounts.username)})`,
    ),
  );
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

/** With what a second costs now; null where the operator set no price. */
export async function listHardware(
  db: D1Database,
): Promise<{ name: string; sku: string; price_micros: number | null; price_usd: string | null }[]> {
  const [rows, book] = await Promise.all([
    drizzle(db).select({ name: hardware.name, sku: hardware.sku }).from(hardware).orderBy(asc(hardware.sku)).all(),
    listHardwarePrices(db),
  ]);
  const now = Date.now();
  return rows.map((row) => {
    // The oldest come first.
    const price = book.findLast(({ sku, valid_from }) => sku === row.sku && valid_from <= now);
    const price_micros = price?.price_micros ?? null;
    return { ...row, price_micros, price_usd: price_micros === null ? null : usd(price_micros) };
  });
}

export async function hasHardware(db: D1Database, sku: string): Promise<boolean> {
  const row = await drizzle(db).select({ sku: hardware.sku }).from(hardware).where(eq(hardware.sku, sku)).get();
  return row !== undefined;
}
