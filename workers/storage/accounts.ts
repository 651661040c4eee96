/** Accounts and tokens in D1. A token is found by its SHA-256; reads come through an in-isolate memory, so a revocation is seen within 5 s. */
import { and, eq, gt, isNull, or } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { newId } from "../../schema/ids.ts";
import { accounts, members, tokens } from "../../schema/tables/index.ts";
import { hashToken, newToken, SCOPES, type Scope } from "../../schema/tokens.ts";
import type { Caller } from "../env.ts";
import { Memo } from "./memo.ts";

/** A revoked token or a raised limit is seen everywhere within this time (design section 2). */
const CALLER_LIFE_MS = 5_000;
/** About 500 bytes each. */
const CALLERS_MAX = 10_000;
/** Creates a minute of an account that has no other limit, with an equal burst. */
export const DEFAULT_CREATES_PER_MINUTE = 600;
/** What a token of a new account may do: everything but operate. */
const USER_SCOPES: Scope[] = SCOPES.filter((scope) => scope !== "admin");

const callers = new Memo<(Caller & { expires_at: number | null }) | null>(CALLER_LIFE_MS, CALLERS_MAX);

/** Whose token it is; null when nobody's, revoked or expired. The token must be well-formed. */
export async function findCaller(
  db: D1Database,
  token: string,
  later: (work: Promise<unknown>) => void,
): Promise<Caller | null> {
  const hash = hashToken(token);
  const caller = await callers.get(hash, () => readCaller(db, hash), later);
  return caller === null || (caller.expires_at !== null && caller.expires_at <= Date.now()) ? null : caller;
}

async function readCaller(db: D1Database, hash: string): Promise<(Caller & { expires_at: number | null }) | null> {
  const row = await drizzle(db)
    .select({
      account: accounts,
      scopes: tokens.scopes,
      allowed_models: tokens.allowed_models,
      expires_at: tokens.expires_at,
    })
    .from(tokens)
    .innerJoin(accounts, eq(accounts.id, tokens.account_id))
    .where(
      and(
        eq(tokens.hash, hash),
        isNull(tokens.revoked_at),
        or(isNull(tokens.expires_at), gt(tokens.expires_at, Date.now())),
      ),
    )
    .get();
  if (row === undefined) return null;
  return {
    account_id: row.account.id,
    type: row.account.type,
    username: row.account.username,
    name: row.account.name,
    scopes: row.scopes,
    allowed_models: row.allowed_models,
    organizations: await readOrganizations(db, row.account.id),
    creates_per_minute: row.account.limits.creates_per_minute ?? DEFAULT_CREATES_PER_MINUTE,
    expires_at: row.expires_at,
  };
}

function readOrganizations(db: D1Database, accountId: string): Promise<Caller["organizations"]> {
  return drizzle(db)
    .select({ username: accounts.username, role: members.role })
    .from(members)
    .innerJoin(accounts, eq(accounts.id, members.organization_id))
    .where(eq(members.account_id, accountId))
    .all();
}

/** Makes an account with its first token, in one transaction. Null when the username is taken. */
export async function insertAccount(
  db: D1Database,
  wanted: { type: "user" | "organization"; username: string; name: string; limits: { creates_per_minute?: number } },
): Promise<{ account: typeof accounts.$inferSelect; token: string } | null> {
  const now = Date.now();
  const account = { id: newId(), created_at: now, ...wanted };
  const token = newToken();
  const orm = drizzle(db);
  const taken = await orm
    .select({ id: accounts.id })
    .from(accounts)
    .where(eq(accounts.username, wanted.username))
    .get();
  if (taken !== undefined) return null;
  try {
    await orm.batch([
      orm.insert(accounts).values(account),
      orm.insert(tokens).values({
        hash: hashToken(token),
        account_id: account.id,
        scopes: USER_SCOPES,
        last_four: token.slice(-4),
        created_at: now,
      }),
    ]);
  } catch (error) {
    // Two requests for one name pass the look-up together; the unique index decides, and the loser reads who won.
    const winner = await orm
      .select({ id: accounts.id })
      .from(accounts)
      .where(eq(accounts.username, wanted.username))
      .get();
    if (winner !== undefined) return null;
    throw error;
  }
  return { account, token };
}
