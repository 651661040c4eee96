/** What canaries read of the catalog in D1, and the one column that they write there. */
import { and, asc, desc, eq, isNotNull, ne, or, type SQL, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import type { CanaryVersion, ListedVersion } from "../../durable-objects/canary-contract.ts";
import { models, versions } from "../../schema/tables/index.ts";
import { forgetModel, ofModel } from "./models.ts";

/** A statement takes 100 parameters, a model two. */
const MODELS_PER_READ = 40;

function selectPublic(db: D1Database) {
  const { owner, name, id: version } = versions;
  return drizzle(db)
    .select({
      ...{ owner, name, version, unhealthy_since: models.unhealthy_since },
      is_latest: sql<boolean>`${models.latest_version_id} = ${versions.id}`.mapWith(Boolean),
    })
    .from(versions)
    .innerJoin(models, and(eq(models.owner, versions.owner), eq(models.name, versions.name)))
    .$dynamic();
}

const isPublic = eq(models.visibility, "public");

/** By name, behind `after`. */
export function listPublicVersions(
  db: D1Database,
  after: CanaryVersion | null,
  limit: number,
): Promise<ListedVersion[]> {
  const beyond =
    after === null
      ? undefined
      : sql`(${versions.owner}, ${versions.name}, ${versions.id}) > (${after.owner}, ${after.name}, ${after.version})`;
  return selectPublic(db)
    .where(and(isPublic, beyond))
    .orderBy(asc(versions.owner), asc(versions.name), asc(versions.id))
    .limit(limit)
    .all();
}

/** Of these models (owner/name), newest first. */
export async function publicVersionsOf(db: D1Database, paths: string[], limit: number): Promise<ListedVersion[]> {
  const found: ListedVersion[] = [];
  for (let at = 0; at < paths.length && found.length < limit; at += MODELS_PER_READ) {
    const wanted = paths.slice(at, at + MODELS_PER_READ).flatMap((path): (SQL | undefined)[] => {
      const [owner, name] = path.split("/");
      return owner === undefined || name === undefined ? [] : [ofModel(owner, name)];
    });
    const rows = await selectPublic(db)
      .where(and(isPublic, or(...wanted)))
      .orderBy(desc(versions.created_at))
      .limit(limit - found.length)
      .all();
    found.push(...rows);
  }
  return found;
}

/** True where the model's health is another one now. Of an older version nothing is written: the latest is what runs. */
export async function markHealth(
  db: D1Database,
  { owner, name, version }: CanaryVersion,
  unhealthy_since: number | null,
  now: number,
): Promise<boolean> {
  const isOther =
    unhealthy_since === null
      ? isNotNull(models.unhealthy_since)
      : or(sql`${models.unhealthy_since} is null`, ne(models.unhealthy_since, unhealthy_since));
  const marked = await drizzle(db)
    .update(models)
    .set({ unhealthy_since, updated_at: now })
    .where(and(ofModel(owner, name), eq(models.latest_version_id, version), isOther))
    .returning({ name: models.name });
  if (marked.length > 0) forgetModel(owner, name);
  return marked.length > 0;
}
