/** Accounts and tokens in D1. A token is found by its SHA-256; reads come through an in-isolate memory, so a revocation is seen within 5 s. */
import { and, eq, gt, isNull, lte, or } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { alias } from "drizzle-orm/sqlite-core";
import { newId } from "../../schema/ids.ts";
import type { StoredLimits, StoredTerms } from "../../schema/tables/accounts.ts";
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
/** The same of everything else. */
export const DEFAULT_READS_PER_MINUTE = 3_000;
/** What a token of a new account may do: everything but operate. */
const USER_SCOPES: Scope[] = SCOPES.filter((scope) => scope !== "admin" && scope !== "metrics:read");

/** The time that a token was last used is written at most this often. */
const LAST_USED_STEP_MS = 60_000;

/** Owners whose models ask to open connections: few. */
const EGRESS_OWNERS_MAX = 1_000;

const egress = new Memo<boolean>(CALLER_LIFE_MS, EGRESS_OWNERS_MAX);

/** Whether models of `username` may open connections to public addresses. */
export function mayUseEgress(
  db: D1Database,
  username: string,
  later: (work: Promise<unknown>) => void,
): Promise<boolean> {
  return egress.get(
    username,
    async () => {
      const owner = eq(accounts.username, username);
      const row = await drizzle(db).select({ limits: accounts.limits }).from(accounts).where(owner).get();
      return row?.limits.egress === true;
    },
    later,
  );
}

/** Who pays, and what is agreed with it. */
export interface Payer {
  account_id: string;
  terms: StoredTerms;
}

const payers = new Memo<Payer | null>(CALLER_LIFE_MS, CALLERS_MAX);

/** Null when there is no such account. */
export function findPayer(
  db: D1Database,
  by: { id: string } | { username: string },
  later: (work: Promise<unknown>) => void,
): Promise<Payer | null> {
  const [key, is] =
    "id" in by ? [`id ${by.id}`, eq(accounts.id, by.id)] : [`name ${by.username}`, eq(accounts.username, by.username)];
  const columns = { account_id: accounts.id, terms: accounts.terms };
  const read = async () => (await drizzle(db).select(columns).from(accounts).where(is).get()) ?? null;
  return payers.get(key, read, later);
}

const callers = new Memo<Caller | null>(CALLER_LIFE_MS, CALLERS_MAX);

/** Whose token it is; null when nobody's, revoked or expired. The token must be well-formed. */
export async function findCaller(
  db: D1Database,
  token: string,
  later: (work: Promise<unknown>) => void,
): Promise<Caller | null> {
  return findCallerByHash(db, hashToken(token), later);
}

/** The same by the SHA-256 of the token, which tickets that stand for it carry. */
export async function findCallerByHash(
  db: D1Database,
  hash: string,
  later: (work: Promise<unknown>) => void,
): Promise<Caller | null> {
  const caller = await callers.get(hash, () => readCaller(db, hash, later), later);
  return caller === null || (caller.token.expires_at !== null && caller.token.expires_at <= Date.now()) ? null : caller;
}

/** After a revocation or a change of members: this isolate sees it at once, the others within the memory's life. */
export function forgetCaller(hash: string): void {
  callers.forget(hash);
}

/** Reads a token with its account and the organizations of that account: one row for each of these, or one with none. */
async function readCaller(
  db: D1Database,
  hash: string,
  later: (work: Promise<unknown>) => void,
): Promise<Caller | null> {
  const now = Date.now();
  const organizations = alias(accounts, "organizations");
  const rows = await drizzle(db)
    .select({ account: accounts, token: tokens, organization: organizations.username, role: members.role })
    .from(tokens)
    .innerJoin(accounts, eq(accounts.id, tokens.account_id))
    .leftJoin(members, eq(members.account_id, accounts.id))
    .leftJoin(organizations, eq(organizations.id, members.organization_id))
    .where(
      and(
        eq(tokens.hash, hash),
        isNull(accounts.deleted_at),
        isNull(tokens.revoked_at),
        or(isNull(tokens.expires_at), gt(tokens.expires_at, now)),
      ),
    )
    .all();
  const first = rows[0];
  if (first === undefined) return null;
  const { account, token } = first;
  // Told here and not at each use: a token in use is read again every few seconds, and the warm path stays free of writes.
  if ((token.last_used_at ?? 0) <= now - LAST_USED_STEP_MS) later(writeLastUsed(db, hash, now).catch(() => undefined));
  return {
    account_id: account.id,
    type: account.type,
    username: account.username,
    name: account.name,
    scopes: token.scopes,
    allowed_models: token.allowed_models,
    organizations: rows.flatMap(({ organization, role }) =>
      organization === null || role === null ? [] : [{ username: organization, role }],
    ),
    creates_per_minute: account.limits.creates_per_minute ?? DEFAULT_CREATES_PER_MINUTE,
    reads_per_minute: account.limits.reads_per_minute ?? DEFAULT_READS_PER_MINUTE,
    zero_retention: account.zero_retention,
    terms: account.terms,
    token: { hash, expires_at: token.expires_at, created_by: token.created_by, budget: token.budget },
  };
}

/** Isolates that read the token together write once. */
function writeLastUsed(db: D1Database, hash: string, now: number): Promise<unknown> {
  return drizzle(db)
    .update(tokens)
    .set({ last_used_at: now })
    .where(
      and(eq(tokens.hash, hash), or(isNull(tokens.last_used_at), lte(tokens.last_used_at, now - LAST_USED_STEP_MS))),
    );
}

/** Makes an account with its first token, in one transaction. Null when the username is taken. */
export async function insertAccount(
  db: D1Database,
  wanted: { type: "user" | "organization"; username: string; name: string; limits: StoredLimits },
): Promise<{ account: typeof accounts.$inferSelect; token: string } | null> {
  const now = Date.now();
  const account = { id: newId(), created_at: now, terms: {}, zero_retention: false, deleted_at: null, ...wanted };
  const token = newToken();
  const orm = drizzle(db);
  const first = orm.insert(tokens).values({
    hash: hashToken(token),
    account_id: account.id,
    scopes: USER_SCOPES,
    last_four: token.slice(-4),
    created_at: now,
  });
  const isMade = await insertUnlessTaken(db, account.username, () =>
    orm.batch([orm.insert(accounts).values(account), first]),
  );
  return isMade ? { account, token } : null;
}

/** Null when there is no account of this name. */
export async function findAccountId(db: D1Database, username: string): Promise<string | null> {
  const named = eq(accounts.username, username);
  return (await drizzle(db).select({ id: accounts.id }).from(accounts).where(named).get())?.id ?? null;
}

/** Inserts an account of this username with what belongs to it. False when the name is taken: nothing is inserted then. */
export async function insertUnlessTaken(
  db: D1Database,
  username: string,
  insert: () => Promise<unknown>,
): Promise<boolean> {
  const named = drizzle(db).select({ id: accounts.id }).from(accounts).where(eq(accounts.username, username));
  if ((await named.get()) !== undefined) return false;
  try {
    await insert();
    return true;
  } catch (error) {
    // Two requests for one name pass the look-up together; the unique index decides, and the loser reads who won.
    if ((await named.get()) !== undefined) return false;
    throw error;
  }
}
