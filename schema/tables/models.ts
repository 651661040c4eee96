/** D1: the catalog of models, their immutable versions and the hardware that origins have announced. Times are epoch milliseconds. */
import { index, integer, primaryKey, real, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type { PackageRef } from "../packages.ts";
import type { PredictionDocument } from "../prediction-document.ts";
import type { WeightsRef } from "../weights.ts";

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
    github_url: text("github_url"),
    paper_url: text("paper_url"),
    license_url: text("license_url"),
    weights_url: text("weights_url"),
    cover_image_url: text("cover_image_url"),
    /** hardware SKU that its owner chose */
    hardware: text("hardware"),
    /** the platform keeps an instance warm and its schema stable; priced per output (prices) */
    is_official: integer("is_official", { mode: "boolean" }).notNull().default(false),
    /** its owner promised its callers that a push breaks none of them unless it is forced */
    is_stable: integer("is_stable", { mode: "boolean" }).notNull().default(false),
    /** the operator lets nothing new start on it; why, for its callers */
    paused_reason: text("paused_reason"),
    /** three canaries failed in a row since then; null is well, or not known */
    unhealthy_since: integer("unhealthy_since"),
    latest_version_id: text("latest_version_id"),
    latest_version_at: integer("latest_version_at"),
    /** the default example's prediction: read from its object while it runs, kept here once it ended */
    example_prediction_id: text("example_prediction_id"),
    /** whose prediction it is, where a push made it; null is the operator's */
    example_account_id: text("example_account_id"),
    /** digest of (version, input) that an announced example was made for, so that a restart makes no second one */
    example_key: text("example_key"),
    default_example: text("default_example", { mode: "json" }).$type<PredictionDocument>(),
    /** what an origin announced last, by member: only what it then announces anew replaces what people have written since */
    announced: text("announced", { mode: "json" }).$type<Record<string, unknown>>(),
    created_at: integer("created_at").notNull(),
    updated_at: integer("updated_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.owner, table.name] }),
    index("models_by_created").on(table.created_at, table.owner, table.name),
    // the walk of search through what changed
    index("models_by_updated").on(table.updated_at, table.owner, table.name),
    index("models_by_version_at").on(table.latest_version_at, table.owner, table.name),
  ],
);

export const versions = sqliteTable(
  "versions",
  {
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    /** SHA-256 of the content. What a version is never changes once written; only `run_by_others` does. */
    id: text("id").notNull(),
    openapi_schema: text("openapi_schema", { mode: "json" }).$type<Record<string, unknown>>().notNull(),
    cog_version: text("cog_version").notNull(),
    slots: integer("slots").notNull(),
    memory_bytes: integer("memory_bytes").notNull(),
    hardware: text("hardware").notNull(),
    idempotent: integer("idempotent", { mode: "boolean" }).notNull(),
    /** of a fine-tune: the version that it was trained from, which is what origins boot */
    base_version_id: text("base_version_id"),
    /** of a fine-tune: what the training made */
    weights: text("weights", { mode: "json" }).$type<WeightsRef>(),
    training_id: text("training_id"),
    /** of a fine-tune: it runs on the warm instances of its base, which load its weights with each prediction (input `replicate_weights`) */
    fast_booting: integer("fast_booting", { mode: "boolean" }).notNull().default(false),
    /** what a training of it needs; null where it takes as much as a prediction */
    train_memory_bytes: integer("train_memory_bytes"),
    /** in the registry; null where the operator's origins have it from a folder of theirs */
    package: text("package", { mode: "json" }).$type<PackageRef>(),
    /** the build that made it */
    build_id: text("build_id"),
    gpus: integer("gpus").notNull().default(0),
    /** it asks to open connections to public addresses */
    egress: integer("egress", { mode: "boolean" }).notNull().default(false),
    /** somebody outside the owner's account or organization ran it: it stays, since they may have pinned it */
    run_by_others: integer("run_by_others", { mode: "boolean" }).notNull().default(false),
    created_at: integer("created_at").notNull(),
  },
  (table) => [primaryKey({ columns: [table.owner, table.name, table.id] }), index("versions_by_id").on(table.id)],
);

/** Builds of pushed sources, for lists; a build's state and log are in its BuildObject, which writes here what lists show. */
export const builds = sqliteTable(
  "builds",
  {
    id: text("id").primaryKey(),
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    manifest: text("manifest").notNull(),
    status: text("status", { enum: ["queued", "building", "succeeded", "failed", "canceled"] }).notNull(),
    version_id: text("version_id"),
    error: text("error"),
    created_at: integer("created_at").notNull(),
    completed_at: integer("completed_at"),
  },
  (table) => [index("builds_by_model").on(table.owner, table.name, table.created_at, table.id)],
);

/** Predictions that a model's people added as examples. The default one is with the model itself. */
export const examples = sqliteTable(
  "examples",
  {
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    prediction_id: text("prediction_id").notNull(),
    document: text("document", { mode: "json" }).$type<PredictionDocument>().notNull(),
    created_at: integer("created_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.owner, table.name, table.prediction_id] }),
    index("examples_by_created").on(table.owner, table.name, table.created_at, table.prediction_id),
  ],
);

export const hardware = sqliteTable("hardware", {
  sku: text("sku").primaryKey(),
  name: text("name").notNull(),
  cpus: real("cpus").notNull(),
  memory_bytes: integer("memory_bytes").notNull(),
  gpus: integer("gpus").notNull(),
  seen_at: integer("seen_at").notNull(),
});

/** What a second on a hardware SKU costs from a time on. Rows are added, never changed: the newest that is not in the future counts. */
export const hardwarePrices = sqliteTable(
  "hardware_prices",
  {
    sku: text("sku").notNull(),
    price_micros: integer("price_micros").notNull(),
    valid_from: integer("valid_from").notNull(),
  },
  (table) => [primaryKey({ columns: [table.sku, table.valid_from] })],
);

/** Accounts that may see and run a private model of somebody else. */
export const shares = sqliteTable(
  "shares",
  {
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    account_id: text("account_id").notNull(),
    created_at: integer("created_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.owner, table.name, table.account_id] }),
    index("shares_by_account").on(table.account_id),
  ],
);

/** What one unit of an official model's output costs from a time on; the newest row that is not in the future counts. */
export const prices = sqliteTable(
  "prices",
  {
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    /** such as `image`, `second of audio`, `prediction` */
    unit: text("unit").notNull(),
    price_micros: integer("price_micros").notNull(),
    /** for so many units, such as 1,000,000 tokens */
    per: integer("per").notNull().default(1),
    valid_from: integer("valid_from").notNull(),
  },
  (table) => [primaryKey({ columns: [table.owner, table.name, table.unit, table.valid_from] })],
);

export const collections = sqliteTable("collections", {
  slug: text("slug").primaryKey(),
  name: text("name").notNull(),
  description: text("description").notNull(),
  full_description: text("full_description"),
  created_at: integer("created_at").notNull(),
});

export const collectionModels = sqliteTable(
  "collection_models",
  {
    slug: text("slug")
      .notNull()
      .references(() => collections.slug),
    owner: text("owner").notNull(),
    name: text("name").notNull(),
    position: integer("position").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.slug, table.owner, table.name] }),
    index("collection_models_by_model").on(table.owner, table.name),
  ],
);
