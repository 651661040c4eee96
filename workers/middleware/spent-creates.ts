/** Refuses the creates of an account that has none left for the moment (domain/spent-creates.ts). One with a key may be a repeat: its object knows. */
import type { MiddlewareHandler } from "hono";
import { spentFor } from "../domain/spent-creates.ts";
import { throttled } from "../domain/throttled.ts";
import type { AppEnv } from "../env.ts";
import { callerOf } from "./authenticate.ts";
import { isCreate } from "./read-limit.ts";

export const refuseSpentCreates: MiddlewareHandler<AppEnv> = async (c, next) => {
  if (isCreate(c) && c.req.header("idempotency-key") === undefined) {
    const { account_id, creates_per_minute } = callerOf(c);
    const retryAfterMs = spentFor(account_id);
    if (retryAfterMs !== null) throw throttled("creates", creates_per_minute, retryAfterMs);
  }
  await next();
};
