/** The terms of accounts in D1, as pages and the operator read and change them. Requests that only spend have them from memory, five seconds old at most. */
import { eq, or } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { StoredTerms } from "../../schema/tables/accounts.ts";
import { accounts, tokens } from "../../schema/tables/index.ts";
import { forgetCaller } from "./accounts.ts";

export interface AccountWithTerms {
  id: string;
  username: string;
  terms: StoredTerms;
}

/** `key`: its id or its username. Null when there is none. */
export async function readTerms(db: D1Database, key: string): Promise<AccountWithTerms | null> {
  const row = await drizzle(db)
    .select({ id: accounts.id, username: accounts.username, terms: accounts.terms })
    .from(accounts)
    .where(or(eq(accounts.id, key), eq(accounts.username, key)))
    .get();
  return row ?? null;
}

/** Members of `change` replace what is there; others stay. */
export async function saveTerms(db: D1Database, account: AccountWithTerms, change: StoredTerms): Promise<StoredTerms> {
  const terms = { ...account.terms, ...change };
  const orm = drizzle(db);
  await orm.update(accounts).set({ terms }).where(eq(accounts.id, account.id));
  const live = await orm.select({ hash: tokens.hash }).from(tokens).where(eq(tokens.account_id, account.id)).all();
  for (const { hash } of live) forgetCaller(hash);
  return terms;
}
