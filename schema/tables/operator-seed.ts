/**
 * The rows that a fresh installation starts from: the operator's account and its first token. Whoever applies the migrations
 * (the launcher, or an operator through `wrangler d1 execute`) runs these statements after them; running them again only gives the operator's token the scopes that are new.
 */
import { hashToken, SCOPES } from "../tokens.ts";

/** The first account. It is the operator, and owns the models that the operator's origins announce. */
export const OPERATOR_USERNAME = "cogway";
export const OPERATOR_ACCOUNT_ID = "cogway";

/** SQL with positional parameters; `now` is epoch milliseconds. The token is stored as its hash alone. */
export function operatorSeed(token: string, now: number): { sql: string; params: (string | number)[] }[] {
  return [
    {
      sql: "INSERT INTO accounts (id, type, username, name, limits, created_at) VALUES (?, 'user', ?, ?, '{}', ?) ON CONFLICT DO NOTHING",
      params: [OPERATOR_ACCOUNT_ID, OPERATOR_USERNAME, "Cogway", now],
    },
    {
      sql: "INSERT INTO tokens (hash, account_id, scopes, last_four, created_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET scopes = excluded.scopes",
      params: [hashToken(token), OPERATOR_ACCOUNT_ID, JSON.stringify(SCOPES), token.slice(-4), now],
    },
  ];
}
