/**
 * The price book in D1: dated rows that are added and never changed. A price counts from its `valid_from` on for what is created then; what was created
 * before keeps its own. Read through an in-isolate memory, so that the warm path reads no database: a new row is seen within 5 s.
 */
import { and, asc, eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { type PriceItem, UNITS, type Unit } from "../../schema/pricing.ts";
import { hardwarePrices, prices } from "../../schema/tables/index.ts";
import { LIST_PRICE_OWNER } from "../../schema/tables/operator-seed.ts";
import { Memo } from "./memo.ts";

/** A new price is seen everywhere within this time (design section 2). */
const PRICE_LIFE_MS = 5_000;
/** A few rows each. */
const PRICED_MAX = 2_000;

type Later = (work: Promise<unknown>) => void;
export type HardwarePriceRow = typeof hardwarePrices.$inferSelect;
export type PriceRow = typeof prices.$inferSelect;

const bySku = new Memo<HardwarePriceRow[]>(PRICE_LIFE_MS, PRICED_MAX);
const byModel = new Memo<PriceRow[]>(PRICE_LIFE_MS, PRICED_MAX);

/** What a second of this hardware costs at `now`; null where no row says so: then it is free until the operator sets a price. */
export async function hardwarePrice(db: D1Database, sku: string, now: number, later: Later): Promise<PriceItem | null> {
  const read = () => drizzle(db).select().from(hardwarePrices).where(eq(hardwarePrices.sku, sku)).all();
  const row = newest(await bySku.get(sku, read, later), now);
  return row === null ? null : { unit: "second", price_micros: row.price_micros, per: SECOND_US };
}

/** A second is counted in microseconds. */
const SECOND_US = 1_000_000;

/**
 * What the outputs of a model cost at `now`, a price for each unit; none where no row says so. `owner` may be {@link LIST_PRICE_OWNER}: then `name` is a tier
 * of the operator's list.
 */
export async function outputPrices(
  db: D1Database,
  owner: string,
  name: string,
  now: number,
  later: Later,
): Promise<PriceItem[]> {
  const read = () => drizzle(db).select().from(prices).where(priced(owner, name)).all();
  const rows = await byModel.get(`${owner}/${name}`, read, later);
  const units = Map.groupBy(rows, (row) => unitOf(row.unit));
  return UNITS.flatMap((unit) => {
    const row = newest(units.get(unit) ?? [], now);
    return row === null ? [] : [{ unit, price_micros: row.price_micros, per: row.per }];
  });
}

function priced(owner: string, name: string) {
  return and(eq(prices.owner, owner), eq(prices.name, name));
}

function newest<Row extends { valid_from: number }>(rows: readonly Row[], now: number): Row | null {
  return rows.reduce<Row | null>(
    (best, row) => (row.valid_from <= now && row.valid_from >= (best?.valid_from ?? 0) ? row : best),
    null,
  );
}

/** As people write them in cogway.yaml; null is counted by nobody. */
export function unitOf(text: string): Unit | null {
  const words = text
    .toLowerCase()
    .replaceAll(/[\s_-]+/g, " ")
    .trim()
    .replace(/s$/, "");
  const [, of] = /^seconds? of (video|audio)/.exec(words) ?? [];
  const name = of === undefined ? words.replaceAll(" ", "_") : `${of}_second`;
  return UNITS.find((unit) => unit === name) ?? null;
}

// ---- the operator's

/** Adds a row. False when there is one of this SKU and time: rows never change. */
export async function addHardwarePrice(db: D1Database, row: HardwarePriceRow): Promise<boolean> {
  const added = await drizzle(db).insert(hardwarePrices).values(row).onConflictDoNothing().returning();
  bySku.forget(row.sku);
  return added.length > 0;
}

/** The same of a model's output; several units together. False when one of them is there already: then none is added. */
export async function addOutputPrices(db: D1Database, rows: PriceRow[]): Promise<boolean> {
  const [first, ...rest] = rows;
  if (first === undefined) return true;
  const orm = drizzle(db);
  const insert = (row: PriceRow) => orm.insert(prices).values(row);
  try {
    await orm.batch([insert(first), ...rest.map(insert)]);
  } catch (error) {
    const known = await orm.select().from(prices).where(priced(first.owner, first.name)).all();
    const isTaken = rows.some((row) => known.some((old) => old.unit === row.unit && old.valid_from === row.valid_from));
    if (!isTaken) throw error;
    return false;
  }
  for (const { owner, name } of rows) byModel.forget(`${owner}/${name}`);
  return true;
}

export function listHardwarePrices(db: D1Database): Promise<HardwarePriceRow[]> {
  return drizzle(db)
    .select()
    .from(hardwarePrices)
    .orderBy(asc(hardwarePrices.sku), asc(hardwarePrices.valid_from))
    .all();
}

export function listAllOutputPrices(db: D1Database): Promise<PriceRow[]> {
  const { owner, name, unit, valid_from } = prices;
  return drizzle(db).select().from(prices).orderBy(asc(owner), asc(name), asc(unit), asc(valid_from)).all();
}

/** The operator's list, which official models without prices of their own have: `standard`, and tiers that a model's prices can be taken from. */
export async function listTier(db: D1Database, tier: string, now: number, later: Later): Promise<PriceItem[]> {
  return outputPrices(db, LIST_PRICE_OWNER, tier, now, later);
}
