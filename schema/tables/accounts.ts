/** D1: accounts and their tokens. Predictions are not here: they live in objects. Times are epoch milliseconds. */
import { index, integer, sqliteTable, text } from "drizzle-orm/sqlite-core";
import type { Scope } from "../tokens.ts";

/** What an account's `limits` may hold; absent members have the platform's default. */
export interface StoredLimits {
  creates_per_minute?: number;
}

export const accounts = sqliteTable("accounts", {
  id: text("id").primaryKey(),
  type: text("type", { enum: ["user", "organization"] }).notNull(),
  /** the owner part of model names and the account part of URLs */
  username: text("username").notNull().unique(),
  name: text("name").notNull(),
  limits: text("limits", { mode: "json" }).$type<StoredLimits>().notNull().default({}),
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
    scopes: text("scopes", { mode: "json" }).$type<Scope[]>().notNull(),
    /** for people who look for a token in a list */
    last_four: text("last_four").notNull(),
    created_at: integer("created_at").notNull(),
    expires_at: integer("expires_at"),
    revoked_at: integer("revoked_at"),
  },
  (table) => [index("tokens_by_account").on(table.account_id)],
);
