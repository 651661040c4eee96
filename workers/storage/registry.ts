/** What of the catalog rests on a manifest of the registry. */
import { and, eq, inArray, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { builds, versions } from "../../schema/tables/index.ts";

/** A version that is made of the manifest, or a build that reads it; null when nothing is. */
export async function manifestUse(
  db: D1Database,
  owner: string,
  name: string,
  digest: string,
): Promise<{ kind: "version" | "build"; id: string } | null> {
  const orm = drizzle(db);
  const ofModel = (table: typeof versions | typeof builds) => and(eq(table.owner, owner), eq(table.name, name));
  const version = await orm
    .select({ id: versions.id })
    .from(versions)
    .where(and(ofModel(versions), sql`json_extract(${versions.package}, '$.manifest') = ${digest}`))
    .limit(1)
    .get();
  if (version !== undefined) return { kind: "version", id: version.id };
  const build = await orm
    .select({ id: builds.id })
    .from(builds)
    .where(and(ofModel(builds), eq(builds.manifest, digest), inArray(builds.status, ["queued", "building"])))
    .limit(1)
    .get();
  return build === undefined ? null : { kind: "build", id: build.id };
}
