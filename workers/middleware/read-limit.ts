/**
 * The limit of everything but creates, counted per account in this isolate's memory: it costs no call, and a restart or another isolate begins anew,
 * which is what a guard against floods may do. Creates are counted by the account's object instead, which forgets nothing.
 */
import type { Context, MiddlewareHandler } from "hono";
import { rateLimitFields, takeOne } from "../../schema/rate-limit.ts";
import { throttled } from "../domain/throttled.ts";
import type { AppEnv } from "../env.ts";
import { callerOf } from "./authenticate.ts";

/** About 100 bytes each. The account that was quiet for longest is forgotten first, which gives it a full bucket. */
const ACCOUNTS_MAX = 10_000;
/** Predictions (by version, model and deployment), trainings and batches. */
const CREATE_PATH = /^\/v1\/(?:.+\/)?(?:predictions|trainings|batches)$/;

/** When each account's bucket is full again; the one used last comes last. */
const fullAt = new Map<string, number>();

/** Requires that the account of {@link authenticate} has not used up its minute; tells what is left. Creates pass: they report their own limit. */
export const limitReads: MiddlewareHandler<AppEnv> = async (c, next) => {
  if (isCreate(c)) return next();
  const { account_id, reads_per_minute } = callerOf(c);
  const taken = takeOne(fullAt.get(account_id) ?? 0, reads_per_minute, Date.now());
  if (taken.kind === "limited") throw throttled("default", reads_per_minute, taken.retry_after_ms);
  fullAt.delete(account_id);
  if (fullAt.size >= ACCOUNTS_MAX) fullAt.delete(fullAt.keys().next().value ?? "");
  fullAt.set(account_id, taken.fullAt);
  await next();
  const fields = rateLimitFields("default", { per_minute: reads_per_minute, ...taken });
  for (const [name, value] of fields) c.res.headers.set(name, value);
};

function isCreate(c: Context<AppEnv>): boolean {
  return c.req.method === "POST" && CREATE_PATH.test(c.req.path);
}
