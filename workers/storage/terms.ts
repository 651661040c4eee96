/** The terms of accounts in D1, as pages and the operator read and change them. Requests that only spend have them from memory, five seconds old at most. */
import { eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { StoredTerms } from "../../schema/tables/accounts.ts";
import { accounts, tokens } from "../../schema/tables/index.ts";
import { forgetCaller } from "./accounts.ts";

export interface AccountWithTerms {
  id: string;
  username: string;
  terms: StoredTerms;
}

const columns = { id: accounts.id, username: accounts.username, terms: accounts.terms };

export async function readTerms(db: D1Database, accountId: string): Promise<AccountWithTerms | null> {
  return (await drizzle(db).select(columns).from(accounts).where(eq(accounts.id, accountId)).get()) ?? null;
}

export async function readTermsOf(db: D1Database, username: string): Promise<AccountWithTerms | null> {
  return (await drizzle(db).select(columns).from(accounts).where(eq(accounts.username, username)).get()) ?? null;
}

/** Members of `change` replace what is there, null is the default again; others stay, also where another change comes at the same time. */
export async function saveTerms(
  db: D1Database,
  accountId: string,
  change: { [Member in keyof StoredTerms]?: StoredTerms[Member] | undefined },
): Promise<AccountWithTerms> {
  const orm = drizzle(db);
  const terms = sql`json_patch(${accounts.terms}, ${JSON.stringify(change)})`;
  const [saved] = await orm.update(accounts).set({ terms }).where(eq(accounts.id, accountId)).returning(columns);
  if (saved === undefined) throw new Error("the account that was just read is gone");
  const live = await orm.select({ hash: tokens.hash }).from(tokens).where(eq(tokens.account_id, accountId)).all();
  for (const { hash } of live) forgetCaller(hash);
  return saved;
}
