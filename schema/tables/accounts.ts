/** D1: accounts and their tokens. Predictions are not here: they live in objects. Times are epoch milliseconds. */
import { index, integer, primaryKey, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type { Scope } from "../tokens.ts";

/** What an account's `limits` may hold; absent members have the platform's default. */
export interface StoredLimits {
  creates_per_minute?: number;
  reads_per_minute?: number;
  /** its models may open connections to public addresses where their versions ask for it; false unless given */
  egress?: boolean;
}

/** What is agreed with an account about money, micro-dollars; absent members have the platform's default. */
export interface StoredTerms {
  billing?: "postpaid" | "prepaid";
  day_micros?: number | null;
  month_micros?: number | null;
  alert_webhook?: string | null;
  free_credits_micros?: number;
  /** committed-spend rate: taken off each price, in millionths */
  discount_ppm?: number;
  /** to be spent in a month; what is missing is a line of the invoice */
  commitment_micros?: number;
  /** graduated discounts on a month's charges */
  volume?: { from_micros: number; discount_ppm: number }[];
}

export const accounts = sqliteTable("accounts", {
  id: text("id").primaryKey(),
  type: text("type", { enum: ["user", "organization"] }).notNull(),
  /** the owner part of model names and the account part of URLs */
  username: text("username").notNull().unique(),
  name: text("name").notNull(),
  limits: text("limits", { mode: "json" }).$type<StoredLimits>().notNull().default({}),
  terms: text("terms", { mode: "json" }).$type<StoredTerms>().notNull().default({}),
  /** nothing of its predictions is kept beyond their delivery (zero retention); logs name them by id alone */
  zero_retention: integer("zero_retention", { mode: "boolean" }).notNull().default(false),
  /** an account that is being deleted, or was: its tokens are dead */
  deleted_at: integer("deleted_at"),
  created_at: integer("created_at").notNull(),
});

export const tokens = sqliteTable(
  "tokens",
  {
    /** SHA-256 of the token, lower-case hex; the token itself is shown once and stored nowhere */
    hash: text("hash").primaryKey(),
    account_id: text("account_id")
      .notNull()
      .references(() => accounts.id),
    /** what people call it */
    name: text("name").notNull().default(""),
    scopes: text("scopes", { mode: "json" }).$type<Scope[]>().notNull(),
    /** owner/name of the only models that it may see and run; null is no such bound */
    allowed_models: text("allowed_models", { mode: "json" }).$type<string[]>(),
    /** account of the person who made it; null for the first token of an account */
    created_by: text("created_by"),
    /** for people who look for a token in a list */
    last_four: text("last_four").notNull(),
    created_at: integer("created_at").notNull(),
    /** caps of its own on what is spent with it; null is none */
    budget: text("budget", { mode: "json" }).$type<{ day_micros: number | null; month_micros: number | null }>(),
    expires_at: integer("expires_at"),
    revoked_at: integer("revoked_at"),
    /** within a minute of the truth */
    last_used_at: integer("last_used_at"),
  },
  (table) => [index("tokens_by_account").on(table.account_id)],
);

/** People in an organization. `owner` may everything, `admin` manages members, tokens and models, `member` uses and pushes models. */
export const MEMBER_ROLES = ["owner", "admin", "member"] as const;
export const members = sqliteTable(
  "members",
  {
    organization_id: text("organization_id")
      .notNull()
      .references(() => accounts.id),
    account_id: text("account_id")
      .notNull()
      .references(() => accounts.id),
    role: text("role", { enum: MEMBER_ROLES }).notNull(),
    created_at: integer("created_at").notNull(),
  },
  (table) => [
    primaryKey({ columns: [table.organization_id, table.account_id] }),
    index("members_by_account").on(table.account_id),
  ],
);
