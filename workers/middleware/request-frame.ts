/**
 * What surrounds every request: a loop turn where the runtime needs it, an id, the headers that each answer carries, and one line of log.
 * The log never holds inputs, tokens or queries (a query may carry a signature).
 */
import type { MiddlewareHandler } from "hono";
import { routePath } from "hono/route";
import { newId } from "../../schema/ids.ts";
import { type AppEnv, settingsOf } from "../env.ts";
import { logRequest } from "./request-log.ts";

/** Characters of a request id: 100 random bits. */
const REQUEST_ID_LENGTH = 20;

export const requestFrame: MiddlewareHandler<AppEnv> = async (c, next) => {
  const settings = settingsOf(c.env);
  // Local workerd polls its sockets only when it has nothing to do: without this turn a few quick clients keep all others out.
  if (settings.loopTurn) await new Promise((resolve) => setTimeout(resolve, 0));
  const started_at = Date.now();
  const requestId = newId(REQUEST_ID_LENGTH);
  c.set("requestId", requestId);
  await next();
  const headers = c.res.headers;
  headers.set("x-request-id", requestId);
  headers.set("x-content-type-options", "nosniff");
  headers.set("referrer-policy", "no-referrer");
  if (settings.publicUrl.startsWith("https:")) headers.set("strict-transport-security", "max-age=31536000");
  // Answers of the API belong to one caller; what may be shared says so itself.
  if (!headers.has("cache-control")) headers.set("cache-control", "no-store");
  logRequest(
    {
      method: c.req.method,
      route: routePath(c, -1),
      status: c.res.status,
      ms: Date.now() - started_at,
      account: c.get("caller")?.account_id ?? null,
      request_id: requestId,
    },
    (work) => c.executionCtx.waitUntil(work),
  );
};
