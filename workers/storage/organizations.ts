/** Organizations in D1: accounts whose members are people. Roles are read anew for each change; requests that only use a model take them from memory. */
import { and, count, desc, eq, inArray, isNull, notExists, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { newId } from "../../schema/ids.ts";
import { accounts, type MEMBER_ROLES, members, tokens } from "../../schema/tables/index.ts";
import { forgetCaller, insertUnlessTaken } from "./accounts.ts";

export type Role = (typeof MEMBER_ROLES)[number];

export interface Organization {
  id: string;
  username: string;
  name: string;
  created_at: number;
}

export interface Member {
  username: string;
  name: string;
  role: Role;
  created_at: number;
}

const columns = { id: accounts.id, username: accounts.username, name: accounts.name, created_at: accounts.created_at };

/** Makes an organization that this person owns. Null when the username is taken. */
export async function insertOrganization(
  db: D1Database,
  wanted: { username: string; name: string },
  ownerId: string,
  now: number,
): Promise<Organization | null> {
  const organization = { id: newId(), created_at: now, ...wanted };
  const orm = drizzle(db);
  const isMade = await insertUnlessTaken(db, wanted.username, () =>
    orm.batch([
      orm.insert(accounts).values({ ...organization, type: "organization" }),
      orm
        .insert(members)
        .values({ organization_id: organization.id, account_id: ownerId, role: "owner", created_at: now }),
    ]),
  );
  return isMade ? organization : null;
}

export async function countOwned(db: D1Database, accountId: string): Promise<number> {
  const owned = and(eq(members.account_id, accountId), eq(members.role, "owner"));
  return (await drizzle(db).select({ owned: count() }).from(members).where(owned).get())?.owned ?? 0;
}

/** Organizations that a person is in, newest first. */
export function listOrganizations(db: D1Database, accountId: string): Promise<(Organization & { role: Role })[]> {
  return drizzle(db)
    .select({ ...columns, role: members.role })
    .from(members)
    .innerJoin(accounts, eq(accounts.id, members.organization_id))
    .where(eq(members.account_id, accountId))
    .orderBy(desc(accounts.created_at), accounts.username)
    .all();
}

/** An organization, with the role of this person in it; null where it has none. */
export async function findOrganization(
  db: D1Database,
  username: string,
  accountId: string,
): Promise<(Organization & { role: Role | null }) | null> {
  const row = await drizzle(db)
    .select({ ...columns, role: members.role })
    .from(accounts)
    .leftJoin(members, and(eq(members.organization_id, accounts.id), eq(members.account_id, accountId)))
    .where(and(eq(accounts.username, username), eq(accounts.type, "organization")))
    .get();
  return row ?? null;
}

export async function renameOrganization(db: D1Database, id: string, name: string): Promise<void> {
  await drizzle(db).update(accounts).set({ name }).where(eq(accounts.id, id));
}

/** Members of an organization, newest first. */
export function listMembers(db: D1Database, organizationId: string): Promise<Member[]> {
  return selectMembers(db)
    .where(eq(members.organization_id, organizationId))
    .orderBy(desc(members.created_at), accounts.username)
    .all();
}

export async function countMembers(db: D1Database, organizationId: string): Promise<number> {
  const own = eq(members.organization_id, organizationId);
  return (await drizzle(db).select({ members: count() }).from(members).where(own).get())?.members ?? 0;
}

export async function findMember(db: D1Database, organizationId: string, username: string): Promise<Member | null> {
  const row = await selectMembers(db)
    .where(and(eq(members.organization_id, organizationId), eq(accounts.username, username)))
    .get();
  return row ?? null;
}

/** The id of the person of this username; null where there is none, or an organization. */
export async function findPerson(db: D1Database, username: string): Promise<string | null> {
  const row = await drizzle(db)
    .select({ id: accounts.id })
    .from(accounts)
    .where(and(eq(accounts.username, username), eq(accounts.type, "user")))
    .get();
  return row?.id ?? null;
}

/** Whose membership changes, and whether the change may touch an owner. */
export interface Change {
  organization_id: string;
  account_id: string;
  may_touch_owners: boolean;
}

/** Gives a person a role, and the membership where it had none. False: it would have taken the last owner, or one that must not be touched. */
export async function putMember(db: D1Database, change: Change, role: Role, now: number): Promise<boolean> {
  const { organization_id, account_id } = change;
  const put = drizzle(db)
    .insert(members)
    .values({ organization_id, account_id, role, created_at: now })
    .onConflictDoUpdate({
      target: [members.organization_id, members.account_id],
      set: { role },
      setWhere: isChangeable(change, role),
    })
    .returning({ role: members.role });
  const [changed, revoked] = await drizzle(db).batch([put, revokeMade(db, change, now)]);
  for (const { hash } of revoked) forgetCaller(hash);
  return changed.length > 0;
}

/** Ends a membership. False as with {@link putMember}, or where there was none. */
export async function deleteMember(db: D1Database, change: Change, now: number): Promise<boolean> {
  const own = and(eq(members.organization_id, change.organization_id), eq(members.account_id, change.account_id));
  const end = drizzle(db)
    .delete(members)
    .where(and(own, isChangeable(change, null)))
    .returning({ role: members.role });
  const [changed, revoked] = await drizzle(db).batch([end, revokeMade(db, change, now)]);
  for (const { hash } of revoked) forgetCaller(hash);
  return changed.length > 0;
}

/** Judged by the database in the same statement as the change: two owners who remove each other at once must not both succeed. */
function isChangeable(change: Change, role: Role | null): SQL {
  const isNoOwner = sql`${members.role} <> 'owner'`;
  if (!change.may_touch_owners) return isNoOwner;
  const owners = sql`(SELECT count(*) FROM ${members} AS o WHERE o.organization_id = ${change.organization_id} AND o.role = 'owner')`;
  return role === "owner" ? sql`TRUE` : sql`(${isNoOwner} OR ${owners} > 1)`;
}

/** Whoever manages an organization no more has no use of the tokens that it made for it: they, and those made with them, end with the change. */
function revokeMade(db: D1Database, { organization_id, account_id }: Change, now: number) {
  const stillManages = drizzle(db)
    .select({ role: members.role })
    .from(members)
    .where(
      and(
        eq(members.organization_id, organization_id),
        eq(members.account_id, account_id),
        inArray(members.role, ["owner", "admin"]),
      ),
    );
  return drizzle(db)
    .update(tokens)
    .set({ revoked_at: now })
    .where(
      and(
        eq(tokens.account_id, organization_id),
        eq(tokens.created_by, account_id),
        isNull(tokens.revoked_at),
        notExists(stillManages),
      ),
    )
    .returning({ hash: tokens.hash });
}

function selectMembers(db: D1Database) {
  return drizzle(db)
    .select({
      username: accounts.username,
      name: accounts.name,
      role: members.role,
      created_at: members.created_at,
    })
    .from(members)
    .innerJoin(accounts, eq(accounts.id, members.account_id));
}
