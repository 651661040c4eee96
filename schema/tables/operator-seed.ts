/**
 * The rows that a fresh installation starts from: the operator's account with its first token, and the price book. Whoever applies the migrations
 * (the launcher, or an operator through `wrangler d1 execute`) runs these statements after them; running them again only gives the operator's token the scopes that are new.
 */
import { hashToken, SCOPES } from "../tokens.ts";

/** The first account. It is the operator, and owns the models that the operator's origins announce. */
export const OPERATOR_USERNAME = "cogway";
export const OPERATOR_ACCOUNT_ID = "cogway";

/** No account has this name: rows of `prices` with it are the operator's list, and their `name` is the tier. */
export const LIST_PRICE_OWNER = "*";
/** The tier of official models that have no price of their own. */
export const STANDARD_TIER = "standard";

/** Micro-dollars for a second. */
const HARDWARE_PRICES: Record<string, number> = {
  "cpu-small": 25,
  cpu: 100,
  "gpu-t4": 225,
  "gpu-l40s": 975,
  "gpu-a100-80gb": 1_400,
  "gpu-h100": 1_525,
  "gpu-h100-8x": 12_200,
};
/** Micro-dollars for an image and a second of video, by tier. */
const TIERS: Record<string, { image: number; video_second: number }> = {
  high: { image: 40_000, video_second: 250_000 },
  [STANDARD_TIER]: { image: 25_000, video_second: 170_000 },
  fast: { image: 3_000, video_second: 90_000 },
};
/** Micro-dollars for a million tokens, in every tier. */
const TOKEN_PRICES = { input_token: 3_000_000, output_token: 3_750_000 };
const MILLION = 1_000_000;

type Statement = { sql: string; params: (string | number)[] };

/** SQL with positional parameters; `now` is epoch milliseconds. The token is stored as its hash alone. */
export function operatorSeed(token: string, now: number): Statement[] {
  return [
    {
      sql: "INSERT INTO accounts (id, type, username, name, limits, created_at) VALUES (?, 'user', ?, ?, '{}', ?) ON CONFLICT DO NOTHING",
      params: [OPERATOR_ACCOUNT_ID, OPERATOR_USERNAME, "Cogway", now],
    },
    {
      sql: "INSERT INTO tokens (hash, account_id, scopes, last_four, created_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET scopes = excluded.scopes",
      params: [hashToken(token), OPERATOR_ACCOUNT_ID, JSON.stringify(SCOPES), token.slice(-4), now],
    },
    ...priceBook(),
  ];
}

/** Valid from the beginning of time, so that a row of the operator's is always newer. */
function priceBook(): Statement[] {
  const hardware = Object.entries(HARDWARE_PRICES).map(([sku, micros]) => ({
    sql: "INSERT INTO hardware_prices (sku, price_micros, valid_from) VALUES (?, ?, 0) ON CONFLICT DO NOTHING",
    params: [sku, micros],
  }));
  const list = Object.entries(TIERS).flatMap(([tier, { image, video_second }]) =>
    [
      ["image", image, 1],
      ["video_second", video_second, 1],
      ["input_token", TOKEN_PRICES.input_token, MILLION],
      ["output_token", TOKEN_PRICES.output_token, MILLION],
    ].map(([unit = "", micros = 0, per = 1]) => ({
      sql: "INSERT INTO prices (owner, name, unit, price_micros, per, valid_from) VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
      params: [LIST_PRICE_OWNER, tier, unit, micros, per],
    })),
  );
  return [...hardware, ...list];
}
