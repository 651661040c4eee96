/** D1: named deployments of accounts and their numbered releases. Which instances run is for their DeploymentObjects. Times are epoch milliseconds. */
import { integer, primaryKey, sqliteTable, text } from "drizzle-orm/sqlite-core";

export const deployments = sqliteTable(
  "deployments",
  {
    /** username of the account */
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    /** number of the current release */
    release: integer("release").notNull(),
    created_at: integer("created_at").notNull(),
  },
  (table) => [primaryKey({ columns: [table.owner, table.name] })],
);

/** A row never changes once written. */
export const releases = sqliteTable(
  "releases",
  {
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    /** from 1 */
    number: integer("number").notNull(),
    /** owner/name */
    model: text("model").notNull(),
    version: text("version").notNull(),
    hardware: text("hardware").notNull(),
    min_instances: integer("min_instances").notNull(),
    max_instances: integer("max_instances").notNull(),
    created_at: integer("created_at").notNull(),
    /** username of who made it */
    created_by: text("created_by").notNull(),
  },
  (table) => [primaryKey({ columns: [table.owner, table.name, table.number] })],
);
