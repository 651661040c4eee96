/** D1: the catalog of models, their immutable versions and the hardware that origins have announced. Times are epoch milliseconds. */
import { index, integer, primaryKey, real, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type { PredictionDocument } from "../prediction-document.ts";

export const models = sqliteTable(
  "models",
  {
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    title: text("title"),
    description: text("description"),
    readme: text("readme"),
    tags: text("tags", { mode: "json" }).$type<string[]>().notNull().default([]),
    visibility: text("visibility", { enum: ["public", "private"] }).notNull(),
    /** `preparing` and `failed` say how the announcing origin fares; an earlier version stays runnable */
    state: text("state", { enum: ["preparing", "ready", "failed"] }).notNull(),
    state_reason: text("state_reason"),
    weights_license: text("weights_license"),
    latest_version_id: text("latest_version_id"),
    latest_version_at: integer("latest_version_at"),
    /** the example's prediction: read from its object while it runs, kept here once it ended */
    example_prediction_id: text("example_prediction_id"),
    /** digest of (version, input) the example was made for, so that a restart makes no second one */
    example_key: text("example_key"),
    default_example: text("default_example", { mode: "json" }).$type<PredictionDocument>(),
    created_at: integer("created_at").notNull(),
    updated_at: integer("updated_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.owner, table.name] }),
    index("models_by_created").on(table.created_at),
    index("models_by_version_at").on(table.latest_version_at),
  ],
);

export const versions = sqliteTable(
  "versions",
  {
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    /** SHA-256 of the content. A row never changes once written. */
    id: text("id").notNull(),
    openapi_schema: text("openapi_schema", { mode: "json" }).$type<Record<string, unknown>>().notNull(),
    cog_version: text("cog_version").notNull(),
    slots: integer("slots").notNull(),
    memory_bytes: integer("memory_bytes").notNull(),
    hardware: text("hardware").notNull(),
    idempotent: integer("idempotent", { mode: "boolean" }).notNull(),
    created_at: integer("created_at").notNull(),
  },
  (table) => [primaryKey({ columns: [table.owner, table.name, table.id] }), index("versions_by_id").on(table.id)],
);

export const hardware = sqliteTable("hardware", {
  sku: text("sku").primaryKey(),
  name: text("name").notNull(),
  cpus: real("cpus").notNull(),
  memory_bytes: integer("memory_bytes").notNull(),
  gpus: integer("gpus").notNull(),
  seen_at: integer("seen_at").notNull(),
});
