/** Builds in D1, as lists show them. Each BuildObject writes its own row; what a build is beyond that is asked of it. */
import { and, asc, count, desc, eq, inArray, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { builds } from "../../schema/tables/index.ts";
import type { Position } from "./models.ts";

export type BuildListRow = typeof builds.$inferSelect;

/** Builds of one owner that wait or run. Pushes that come together may pass it by as many. */
export const BUILDS_AT_ONCE_MAX = 10;

/** Whether the owner may begin another build now. */
export async function hasRoomForBuild(db: D1Database, owner: string): Promise<boolean> {
  const isOpen = and(eq(builds.owner, owner), inArray(builds.status, ["queued", "building"]));
  const row = await drizzle(db).select({ count: count() }).from(builds).where(isOpen).get();
  return (row?.count ?? 0) < BUILDS_AT_ONCE_MAX;
}

/** Whether the model has a build of this id. */
export async function hasBuild(db: D1Database, owner: string, name: string, id: string): Promise<boolean> {
  const isIt = and(eq(builds.id, id), eq(builds.owner, owner), eq(builds.name, name));
  return (await drizzle(db).select({ id: builds.id }).from(builds).where(isIt).get()) !== undefined;
}

/** A model's builds, newest first. */
export function listBuilds(
  db: D1Database,
  owner: string,
  name: string,
  limit: number,
  cursor: (Position & { created_at: number; id: string }) | null,
): Promise<BuildListRow[]> {
  const isBackward = cursor?.side === "before";
  const order = isBackward ? asc : desc;
  const beyond = sql`(${builds.created_at}, ${builds.id}) ${isBackward ? sql`>` : sql`<`} (${cursor?.created_at}, ${cursor?.id})`;
  return drizzle(db)
    .select()
    .from(builds)
    .where(and(eq(builds.owner, owner), eq(builds.name, name), cursor === null ? undefined : beyond))
    .orderBy(order(builds.created_at), order(builds.id))
    .limit(limit)
    .all();
}
