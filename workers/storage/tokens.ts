/** API tokens in D1, as their owners manage them. How a request's token is found is in accounts.ts. A token's id is the start of its hash. */
import { and, count, desc, eq, gt, gte, inArray, isNull, lt, or, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { alias } from "drizzle-orm/sqlite-core";
import type { Budget } from "../../schema/ledger.ts";
import { accounts, members, tokens } from "../../schema/tables/index.ts";
import { hashToken, newToken, type Scope, TOKEN_ID_LENGTH, tokenId } from "../../schema/tokens.ts";
import { forgetCaller } from "./accounts.ts";

export interface TokenRow {
  token: typeof tokens.$inferSelect;
  /** username of the account that it acts for */
  account: string;
  /** username of who made it */
  created_by: string | null;
}

/** What a new token may do. */
export interface TokenBounds {
  scopes: Scope[];
  allowed_models: string[] | null;
  expires_at: number | null;
}

/** The organization of this name, where the account owns or administers it. Read anew: nobody manages on memory. */
export async function findManaged(
  db: D1Database,
  accountId: string,
  username: string,
): Promise<{ id: string; username: string } | null> {
  const row = await drizzle(db)
    .select({ id: accounts.id, username: accounts.username })
    .from(accounts)
    .where(and(eq(accounts.username, username), inArray(accounts.id, managedBy(db, accountId))))
    .get();
  return row ?? null;
}

/** Ids of the organizations that an account owns or administers. */
function managedBy(db: D1Database, accountId: string) {
  return drizzle(db)
    .select({ id: members.organization_id })
    .from(members)
    .where(and(eq(members.account_id, accountId), inArray(members.role, ["owner", "admin"])));
}

/** Whether a token that was in memory still lives. */
export async function isTokenLive(db: D1Database, hash: string): Promise<boolean> {
  const row = await drizzle(db)
    .select({ hash: tokens.hash })
    .from(tokens)
    .where(and(eq(tokens.hash, hash), isNull(tokens.revoked_at)))
    .get();
  return row !== undefined;
}

/** How many tokens of an account are neither revoked nor expired. */
export async function countLiveTokens(db: D1Database, accountId: string, now: number): Promise<number> {
  const row = await drizzle(db)
    .select({ live: count() })
    .from(tokens)
    .where(
      and(
        eq(tokens.account_id, accountId),
        isNull(tokens.revoked_at),
        or(isNull(tokens.expires_at), gt(tokens.expires_at, now)),
      ),
    )
    .get();
  return row?.live ?? 0;
}

/** Makes a token. Its text is answered this once and stored nowhere. */
export async function insertToken(
  db: D1Database,
  wanted: TokenBounds & { account_id: string; name: string; created_by: string; budget: Budget | null },
  now: number,
): Promise<{ id: string; token: string }> {
  const token = newToken();
  const hash = hashToken(token);
  await drizzle(db)
    .insert(tokens)
    .values({ ...wanted, hash, last_four: token.slice(-4), created_at: now });
  return { id: tokenId(hash), token };
}

/** A token that this account manages: its own, or one of an organization that it owns or administers. */
export async function findToken(db: D1Database, managerId: string, id: string): Promise<TokenRow | null> {
  return (
    (await select(db)
      .where(isManaged(db, managerId, id))
      .get()) ?? null
  );
}

export interface TokenPosition {
  /** `after`: further down the list, which are older ones */
  side: "after" | "before";
  created_at: number;
  id: string;
}

/** Tokens of an account, newest first: up to `limit` of them on that side of the position, read away from it. */
export function listTokens(
  db: D1Database,
  accountId: string,
  position: TokenPosition | null,
  limit: number,
): Promise<TokenRow[]> {
  const key = sql`(${tokens.created_at}, substr(${tokens.hash}, 1, ${TOKEN_ID_LENGTH}))`;
  const at = sql`(${position?.created_at}, ${position?.id})`;
  const isBefore = position?.side === "before";
  const range = position === null ? undefined : isBefore ? sql`${key} > ${at}` : sql`${key} < ${at}`;
  const order = isBefore ? [tokens.created_at, tokens.hash] : [desc(tokens.created_at), desc(tokens.hash)];
  return select(db)
    .where(and(eq(tokens.account_id, accountId), range))
    .orderBy(...order)
    .limit(limit)
    .all();
}

/** Changes a token that this account manages. False where there is none. */
export async function updateToken(
  db: D1Database,
  managerId: string,
  id: string,
  change: { name?: string; budget?: Budget | null },
): Promise<boolean> {
  const isIt = isManaged(db, managerId, id);
  const found = await drizzle(db).select({ hash: tokens.hash }).from(tokens).where(isIt).all();
  if (found.length > 0 && Object.keys(change).length > 0) await drizzle(db).update(tokens).set(change).where(isIt);
  for (const { hash } of found) forgetCaller(hash);
  return found.length > 0;
}

/** Revokes a token that this account manages. Revoking again changes nothing. False where there is none. */
export async function revokeToken(db: D1Database, managerId: string, id: string, now: number): Promise<boolean> {
  const revoked = await drizzle(db)
    .update(tokens)
    .set({ revoked_at: sql`coalesce(${tokens.revoked_at}, ${now})` })
    .where(isManaged(db, managerId, id))
    .returning({ hash: tokens.hash });
  for (const { hash } of revoked) forgetCaller(hash);
  return revoked.length > 0;
}

function select(db: D1Database) {
  const makers = alias(accounts, "makers");
  return drizzle(db)
    .select({ token: tokens, account: accounts.username, created_by: makers.username })
    .from(tokens)
    .innerJoin(accounts, eq(accounts.id, tokens.account_id))
    .leftJoin(makers, eq(makers.id, tokens.created_by));
}

function isManaged(db: D1Database, managerId: string, id: string): SQL | undefined {
  const account = or(eq(tokens.account_id, managerId), inArray(tokens.account_id, managedBy(db, managerId)));
  // A range of the primary key: `g` follows every hexadecimal digit. Text that is no id has an empty range, or one of no whole hash.
  return and(sql`length(${id}) = ${TOKEN_ID_LENGTH}`, gte(tokens.hash, id), lt(tokens.hash, `${id}g`), account);
}
