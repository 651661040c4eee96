/** Who else may see a private model, in D1. */
import { and, asc, count, eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { accounts, shares } from "../../schema/tables/index.ts";
import { forgetModel } from "./models.ts";

/** Accounts that one model is shared with: their names are in memory with it. More people are an organization. */
export const SHARES_PER_MODEL_MAX = 500;

export interface ShareRow {
  account: Pick<typeof accounts.$inferSelect, "type" | "username" | "name">;
  created_at: number;
}

const shareColumns = {
  account: { type: accounts.type, username: accounts.username, name: accounts.name },
  created_at: shares.created_at,
};

/** By username; all of them. */
export function listShares(db: D1Database, owner: string, name: string): Promise<ShareRow[]> {
  return drizzle(db)
    .select(shareColumns)
    .from(shares)
    .innerJoin(accounts, eq(accounts.id, shares.account_id))
    .where(and(eq(shares.owner, owner), eq(shares.name, name)))
    .orderBy(asc(accounts.username))
    .all();
}

export async function findAccount(
  db: D1Database,
  username: string,
): Promise<(ShareRow["account"] & { id: string }) | null> {
  const row = await drizzle(db)
    .select({ id: accounts.id, ...shareColumns.account })
    .from(accounts)
    .where(eq(accounts.username, username))
    .get();
  return row ?? null;
}

/** When it was shared: now, or the first time. Null when it is shared with as many as it can be. */
export async function saveShare(
  db: D1Database,
  owner: string,
  name: string,
  account_id: string,
  now: number,
): Promise<number | null> {
  const orm = drizzle(db);
  const [{ shared } = { shared: 0 }] = await orm
    .select({ shared: count() })
    .from(shares)
    .where(and(eq(shares.owner, owner), eq(shares.name, name)));
  const isFull = shared >= SHARES_PER_MODEL_MAX;
  if (!isFull) await orm.insert(shares).values({ owner, name, account_id, created_at: now }).onConflictDoNothing();
  forgetModel(owner, name);
  const row = await orm
    .select({ created_at: shares.created_at })
    .from(shares)
    .where(and(eq(shares.owner, owner), eq(shares.name, name), eq(shares.account_id, account_id)))
    .get();
  return row?.created_at ?? null;
}

export async function deleteShare(db: D1Database, owner: string, name: string, username: string): Promise<void> {
  await drizzle(db)
    .delete(shares)
    .where(
      and(
        eq(shares.owner, owner),
        eq(shares.name, name),
        sql`${shares.account_id} = (select ${accounts.id} from ${accounts} where ${accounts.username} = ${username})`,
      ),
    );
  forgetModel(owner, name);
}
