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
/** What was counted later than now by more than this was counted before the clock went back, and says nothing any more. */
const CLOCK_STEP_MS = 1_000;
/** Predictions (by version, model and deployment), trainings and batches. */
const CREATE_PATH = /^\/v1\/(?:.+\/)?(?:predictions|trainings|batches)$/;

/** When each account's bucket is full again, and when that was counted; the one used last comes last. */
const buckets = new Map<string, { fullAt: number; counted_at: number }>();

/** Requires that the account of {@link authenticate} has not used up its minute; tells what is left. Creates pass: they report their own limit. */
export const limitReads: MiddlewareHandler<AppEnv> = async (c, next) => {
  if (isCreate(c)) return next();
  const { account_id, reads_per_minute } = callerOf(c);
  const now = Date.now();
  const bucket = buckets.get(account_id);
  const isKnown = bucket !== undefined && bucket.counted_at <= now + CLOCK_STEP_MS;
  const taken = takeOne(isKnown ? bucket.fullAt : 0, reads_per_minute, now);
  if (taken.kind === "limited") throw throttled("default", reads_per_minute, taken.retry_after_ms);
  buckets.delete(account_id);
  if (buckets.size >= ACCOUNTS_MAX) buckets.delete(buckets.keys().next().value ?? "");
  buckets.set(account_id, { fullAt: taken.fullAt, counted_at: now });
  await next();
  const fields = rateLimitFields("default", { per_minute: reads_per_minute, ...taken });
  for (const [name, value] of fields) c.res.headers.set(name, value);
};

export function isCreate(c: Context<AppEnv>): boolean {
  return c.req.method === "POST" && CREATE_PATH.test(c.req.path);
}
