/**
 * Deployments of accounts and their numbered releases in D1. The prediction path reads through an in-isolate memory (a change is seen within 5 s);
 * everything else reads the database. Which instances run is for their DeploymentObjects.
 */
import { and, asc, desc, eq, getTableColumns, gt, inArray, lt, or, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { accounts, deployments, releases } from "../../schema/tables/index.ts";
import { Memo } from "./memo.ts";

/** A changed deployment is seen everywhere within this time (design section 2). */
const DEPLOYMENT_LIFE_MS = 5_000;
/** About 500 bytes each. */
const DEPLOYMENTS_MAX = 2_000;
/** Times that an update is tried again because another one came between its read and its write. */
const UPDATE_TRIES_MAX = 5;

export type ReleaseRow = typeof releases.$inferSelect;
export interface ReleaseConfiguration {
  version: string;
  hardware: string;
  min_instances: number;
  max_instances: number;
}
/** Members that are absent stay as they are. */
export type ReleaseChange = { [member in keyof ReleaseConfiguration]?: ReleaseConfiguration[member] | undefined };
/** A release with who made it. */
export interface ShownRelease {
  release: ReleaseRow;
  author: { type: "user" | "organization"; username: string; name: string } | null;
}
export interface DeploymentRow extends ShownRelease {
  created_at: number;
}
/** Where a page of deployments begins or ends. */
export interface DeploymentPosition {
  created_at: number;
  owner: string;
  name: string;
}
type Later = (work: Promise<unknown>) => void;

const memo = new Memo<ReleaseRow | null>(DEPLOYMENT_LIFE_MS, DEPLOYMENTS_MAX);
const author = { type: accounts.type, username: accounts.username, name: accounts.name };
const currentRelease = and(
  eq(releases.owner, deployments.owner),
  eq(releases.name, deployments.name),
  eq(releases.number, deployments.release),
);

function named(owner: string, name: string): SQL | undefined {
  return and(eq(deployments.owner, owner), eq(deployments.name, name));
}

/** The current release, for the path of predictions; null when there is no such deployment. */
export function findRelease(db: D1Database, owner: string, name: string, later: Later): Promise<ReleaseRow | null> {
  const read = async () => (await readDeployment(db, owner, name))?.release ?? null;
  return memo.get(`${owner}/${name}`, read, later);
}

/** A deployment with its current release, past the memory. */
export async function readDeployment(db: D1Database, owner: string, name: string): Promise<DeploymentRow | null> {
  const row = await selectDeployments(db).where(named(owner, name)).get();
  return row ?? null;
}

function selectDeployments(db: D1Database) {
  return drizzle(db)
    .select({ created_at: deployments.created_at, release: releases, author })
    .from(deployments)
    .innerJoin(releases, currentRelease)
    .leftJoin(accounts, eq(accounts.username, releases.created_by));
}

/** Deployments of these owners (and models alone), newest first, beyond a position: older ones `before` it, or the nearest newer ones `after` it. */
export async function listDeployments(
  db: D1Database,
  of: { owners: string[]; models: string[] | null },
  at: { before?: DeploymentPosition; after?: DeploymentPosition },
  limit: number,
): Promise<DeploymentRow[]> {
  const key = [deployments.created_at, deployments.owner, deployments.name] as const;
  const beyond = (compare: typeof gt, { created_at, owner, name }: DeploymentPosition) =>
    or(
      compare(key[0], created_at),
      and(eq(key[0], created_at), compare(key[1], owner)),
      and(eq(key[0], created_at), eq(key[1], owner), compare(key[2], name)),
    );
  const own = and(
    inArray(deployments.owner, of.owners),
    of.models === null ? undefined : inArray(releases.model, of.models),
  );
  if (at.after !== undefined) {
    const rows = await selectDeployments(db)
      .where(and(own, beyond(gt, at.after)))
      .orderBy(...key.map((column) => asc(column)))
      .limit(limit)
      .all();
    return rows.reverse();
  }
  return selectDeployments(db)
    .where(and(own, at.before === undefined ? undefined : beyond(lt, at.before)))
    .orderBy(...key.map((column) => desc(column)))
    .limit(limit)
    .all();
}

/** Releases of a deployment, newest first, with numbers below `before`, or the nearest ones above `after`. */
export function listReleases(
  db: D1Database,
  owner: string,
  name: string,
  range: { before?: number; after?: number },
  limit: number,
): Promise<ShownRelease[]> {
  const { before, after } = range;
  const query = drizzle(db)
    .select({ release: releases, author })
    .from(releases)
    .leftJoin(accounts, eq(accounts.username, releases.created_by))
    .where(
      and(
        eq(releases.owner, owner),
        eq(releases.name, name),
        before === undefined ? undefined : lt(releases.number, before),
        after === undefined ? undefined : gt(releases.number, after),
      ),
    );
  return after === undefined
    ? query.orderBy(desc(releases.number)).limit(limit).all()
    : query
        .orderBy(asc(releases.number))
        .limit(limit)
        .all()
        .then((rows) => rows.reverse());
}

/** Makes a deployment with release 1. Null when the owner has one of this name. */
export async function insertDeployment(
  db: D1Database,
  wanted: Omit<ReleaseRow, "number" | "created_at">,
  now: number,
): Promise<ReleaseRow | null> {
  const { owner, name } = wanted;
  const orm = drizzle(db);
  const release: ReleaseRow = { ...wanted, number: 1, created_at: now };
  const isTaken = async () =>
    (await orm.select({ name: deployments.name }).from(deployments).where(named(owner, name)).get()) !== undefined;
  if (await isTaken()) return null;
  try {
    await orm.batch([
      orm.insert(deployments).values({ owner, name, release: 1, created_at: now }),
      orm.insert(releases).values(release),
    ]);
  } catch (error) {
    // Two requests for one name pass the look-up together; the primary key decides.
    if (await isTaken()) return null;
    throw error;
  }
  memo.forget(`${owner}/${name}`);
  return release;
}

/**
 * Makes the next release with what `change` asks for, or none when nothing differs. `check` judges the whole of it against the newest one and throws.
 * Null when the deployment is gone.
 */
export async function insertRelease(
  db: D1Database,
  owner: string,
  name: string,
  change: ReleaseChange,
  by: { username: string; now: number },
  check: (next: ReleaseRow) => Promise<void>,
): Promise<ReleaseRow | null> {
  for (let tries = 0; tries < UPDATE_TRIES_MAX; tries++) {
    const current = (await readDeployment(db, owner, name))?.release;
    if (current === undefined) return null;
    const next: ReleaseRow = {
      ...current,
      version: change.version ?? current.version,
      hardware: change.hardware ?? current.hardware,
      min_instances: change.min_instances ?? current.min_instances,
      max_instances: change.max_instances ?? current.max_instances,
    };
    await check(next);
    if (JSON.stringify(next) === JSON.stringify(current)) return current;
    const created: ReleaseRow = { ...next, number: current.number + 1, created_at: by.now, created_by: by.username };
    if (await writeRelease(db, created)) {
      memo.forget(`${owner}/${name}`);
      return created;
    }
  }
  throw new Error("a deployment was changed again and again while one update was made");
}

/** In one transaction, where the release before it is still the current one. */
async function writeRelease(db: D1Database, row: ReleaseRow): Promise<boolean> {
  const orm = drizzle(db);
  const isCurrent = and(named(row.owner, row.name), eq(deployments.release, row.number - 1));
  const values = Object.fromEntries(
    Object.keys(getTableColumns(releases)).map((column) => [
      column,
      sql`${row[column as keyof ReleaseRow]}`.as(column),
    ]),
  ) as Record<keyof ReleaseRow, SQL.Aliased>;
  const [, updated] = await orm.batch([
    orm.insert(releases).select(orm.select(values).from(deployments).where(isCurrent)),
    orm.update(deployments).set({ release: row.number }).where(isCurrent),
  ]);
  return updated.meta.changes > 0;
}

export async function deleteDeployment(db: D1Database, owner: string, name: string): Promise<void> {
  const orm = drizzle(db);
  await orm.batch([
    orm.delete(deployments).where(named(owner, name)),
    orm.delete(releases).where(and(eq(releases.owner, owner), eq(releases.name, name))),
  ]);
  memo.forget(`${owner}/${name}`);
}
