/** Who calls. A token whose checksum is wrong is refused without a look-up; routes then ask for the scope they need. */
import type { Context, MiddlewareHandler } from "hono";
import { AppError } from "../../schema/problems.ts";
import { isTokenWellFormed, type Scope } from "../../schema/tokens.ts";
import type { AppEnv, Caller } from "../env.ts";
import { findCaller } from "../storage/accounts.ts";

/** Requires a live token: `Authorization: Bearer <token>`, or `Token <token>` as older clients of Replicate send it. */
export const authenticate: MiddlewareHandler<AppEnv> = async (c, next) => {
  const match = /^(?:bearer|token) +(\S+) *$/i.exec(c.req.header("authorization") ?? "");
  const token = match?.[1] ?? "";
  const caller = isTokenWellFormed(token)
    ? await findCaller(c.env.DB, token, (work) => c.executionCtx.waitUntil(work))
    : null;
  if (caller === null) {
    throw new AppError("auth.unauthenticated", "You did not pass a valid authentication token.");
  }
  c.set("caller", caller);
  await next();
};

/** Requires a scope of the token that {@link authenticate} has found. */
export function requireScope(scope: Scope): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    if (!callerOf(c).scopes.includes(scope)) {
      throw new AppError("auth.forbidden", `This token lacks the scope ${scope}.`);
    }
    await next();
  };
}

/** The caller of an authenticated route. */
export function callerOf(c: Context<AppEnv>): Caller {
  const caller = c.get("caller");
  if (caller === undefined) throw new Error("this route is not behind authenticate");
  return caller;
}
