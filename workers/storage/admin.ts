/** What the operator changes in D1 of other accounts, and reads of them for an export. */
import { and, asc, eq, gt, gte, isNull, lt, or, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import {
  accounts,
  builds,
  collectionModels,
  deployments,
  examples,
  members,
  models,
  prices,
  shares,
  tokens,
  versions,
} from "../../schema/tables/index.ts";
import { forgetCaller } from "./accounts.ts";
import { forgetModel, forgetVersion, ofModel, type VersionRow } from "./models.ts";

export type AccountRow = typeof accounts.$inferSelect;

export async function readAccount(db: D1Database, username: string): Promise<AccountRow | null> {
  return (await drizzle(db).select().from(accounts).where(eq(accounts.username, username)).get()) ?? null;
}

/** `reason` null lets it run again. False where there is no such model. */
export async function setPaused(db: D1Database, owner: string, name: string, reason: string | null): Promise<boolean> {
  const changed = await drizzle(db)
    .update(models)
    .set({ paused_reason: reason, updated_at: Date.now() })
    .where(ofModel(owner, name))
    .returning({ name: models.name });
  forgetModel(owner, name);
  return changed.length > 0;
}

/** Revokes a token of any account; again changes nothing. False where there is none. */
export async function banToken(db: D1Database, id: string, now: number): Promise<boolean> {
  const revoked = await drizzle(db)
    .update(tokens)
    .set({ revoked_at: sql`coalesce(${tokens.revoked_at}, ${now})` })
    // A range of the primary key: `g` follows every hexadecimal digit.
    .where(and(gte(tokens.hash, id), lt(tokens.hash, `${id}g`)))
    .returning({ hash: tokens.hash });
  for (const { hash } of revoked) forgetCaller(hash);
  return revoked.length > 0;
}

export async function setZeroRetention(db: D1Database, accountId: string, on: boolean): Promise<void> {
  await drizzle(db).update(accounts).set({ zero_retention: on }).where(eq(accounts.id, accountId));
}

/** From now on the account is being deleted: all its tokens are dead, also those that it made for organizations. Idempotent. */
export async function beginDeletion(db: D1Database, accountId: string, now: number): Promise<void> {
  const orm = drizzle(db);
  const [, revoked] = await orm.batch([
    orm
      .update(accounts)
      .set({ deleted_at: sql`coalesce(${accounts.deleted_at}, ${now})` })
      .where(eq(accounts.id, accountId)),
    orm
      .update(tokens)
      .set({ revoked_at: now })
      .where(and(or(eq(tokens.account_id, accountId), eq(tokens.created_by, accountId)), isNull(tokens.revoked_at)))
      .returning({ hash: tokens.hash }),
  ]);
  for (const { hash } of revoked) forgetCaller(hash);
}

/** An organization of which the account is the only owner; null when there is none. */
export async function soleOwnership(db: D1Database, accountId: string): Promise<string | null> {
  const row = await drizzle(db)
    .select({ username: accounts.username })
    .from(members)
    .innerJoin(accounts, eq(accounts.id, members.organization_id))
    .where(
      and(
        eq(members.account_id, accountId),
        eq(members.role, "owner"),
        isNull(accounts.deleted_at),
        sql`not exists (select 1 from members others where others.organization_id = ${members.organization_id} and others.role = 'owner' and others.account_id <> ${accountId})`,
      ),
    )
    .limit(1)
    .get();
  return row?.username ?? null;
}

/** The last step: what names a person goes. The row stays with its id and username, so that nobody takes the name and the ledger keeps its account. */
export async function finishDeletion(db: D1Database, accountId: string): Promise<void> {
  const orm = drizzle(db);
  await orm.batch([
    orm.delete(members).where(or(eq(members.account_id, accountId), eq(members.organization_id, accountId))),
    orm.delete(shares).where(eq(shares.account_id, accountId)),
    orm.delete(tokens).where(eq(tokens.account_id, accountId)),
    orm.update(accounts).set({ name: "", limits: {} }).where(eq(accounts.id, accountId)),
  ]);
}

export function firstModels(db: D1Database, owner: string, limit: number): Promise<{ name: string }[]> {
  const named = eq(models.owner, owner);
  return drizzle(db)
    .select({ name: models.name })
    .from(models)
    .where(named)
    .orderBy(asc(models.name))
    .limit(limit)
    .all();
}

export function versionsOf(db: D1Database, owner: string, name: string): Promise<VersionRow[]> {
  return drizzle(db)
    .select()
    .from(versions)
    .where(and(eq(versions.owner, owner), eq(versions.name, name)))
    .all();
}

/** A model with everything that belongs to it, whoever has used it. */
export async function eraseModel(db: D1Database, owner: string, name: string): Promise<void> {
  const gone = await versionsOf(db, owner, name);
  const orm = drizzle(db);
  const of = (
    table: typeof shares | typeof examples | typeof collectionModels | typeof prices | typeof builds | typeof versions,
  ) => orm.delete(table).where(and(eq(table.owner, owner), eq(table.name, name)));
  await orm.batch([
    of(versions),
    of(shares),
    of(examples),
    of(collectionModels),
    of(prices),
    of(builds),
    orm.delete(models).where(ofModel(owner, name)),
  ]);
  forgetModel(owner, name);
  for (const { id } of gone) forgetVersion(id);
}

export function firstDeployments(db: D1Database, owner: string, limit: number): Promise<{ name: string }[]> {
  const named = eq(deployments.owner, owner);
  return drizzle(db).select({ name: deployments.name }).from(deployments).where(named).limit(limit).all();
}

// ---- for an export: rows as they are, a page at a time

export function tokensOf(db: D1Database, accountId: string, afterHash: string, limit: number) {
  return drizzle(db)
    .select()
    .from(tokens)
    .where(and(eq(tokens.account_id, accountId), gt(tokens.hash, afterHash)))
    .orderBy(asc(tokens.hash))
    .limit(limit)
    .all();
}

export function membershipsOf(db: D1Database, accountId: string) {
  return drizzle(db)
    .select({ organization: accounts.username, role: members.role, created_at: members.created_at })
    .from(members)
    .innerJoin(accounts, eq(accounts.id, members.organization_id))
    .where(eq(members.account_id, accountId))
    .all();
}

export function modelsOf(db: D1Database, owner: string, afterName: string, limit: number) {
  return drizzle(db)
    .select()
    .from(models)
    .where(and(eq(models.owner, owner), gt(models.name, afterName)))
    .orderBy(asc(models.name))
    .limit(limit)
    .all();
}

export function deploymentsOf(db: D1Database, owner: string, afterName: string, limit: number) {
  return drizzle(db)
    .select()
    .from(deployments)
    .where(and(eq(deployments.owner, owner), gt(deployments.name, afterName)))
    .orderBy(asc(deployments.name))
    .limit(limit)
    .all();
}
