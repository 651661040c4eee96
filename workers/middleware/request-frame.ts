/**
 * What surrounds every request: a loop turn where the runtime needs it, an id, the headers that each answer carries, and one line of log.
 * The log never holds inputs, tokens or queries (a query may carry a signature).
 */
import type { MiddlewareHandler } from "hono";
import { routePath } from "hono/route";
import { isTracing, recordSpan } from "../../durable-objects/telemetry.ts";
import { newId, PREDICTION_ID_LENGTH } from "../../schema/ids.ts";
import { childOf, parseTraceparent, traceparent } from "../../schema/tracing.ts";
import { type AppEnv, settingsOf } from "../env.ts";
import { countRequest } from "./http-metrics.ts";
import { logRequest } from "./request-log.ts";

/** Characters of a request id: 100 random bits. */
const REQUEST_ID_LENGTH = 20;
/** What comes by the second whether or not anybody does anything: it would bury the rest. */
const UNTRACED = /^\/(?:origin\/|healthz$|metrics$)/;

export const requestFrame: MiddlewareHandler<AppEnv> = async (c, next) => {
  const settings = settingsOf(c.env);
  // Local workerd polls its sockets only when it has nothing to do: without this turn a few quick clients keep all others out.
  if (settings.loopTurn) await new Promise((resolve) => setTimeout(resolve, 0));
  const started_at = Date.now();
  const requestId = newId(REQUEST_ID_LENGTH);
  c.set("requestId", requestId);
  const caller = parseTraceparent(c.req.header("traceparent"));
  const trace = childOf(caller);
  c.set("trace", trace);
  await next();
  const headers = c.res.headers;
  headers.set("x-request-id", requestId);
  headers.set("traceparent", traceparent(trace));
  headers.set("x-content-type-options", "nosniff");
  headers.set("referrer-policy", "no-referrer");
  if (settings.publicUrl.startsWith("https:")) headers.set("strict-transport-security", "max-age=31536000");
  // Answers of the API belong to one caller; what may be shared says so itself.
  if (!headers.has("cache-control")) headers.set("cache-control", "no-store");
  const route = routePath(c, -1);
  const later = (work: Promise<unknown>): void => c.executionCtx.waitUntil(work);
  const named = c.get("predictionId") ?? c.req.param("prediction_id") ?? c.req.param("training_id");
  // An address may hold anything, of any length.
  const prediction_id = named?.slice(0, PREDICTION_ID_LENGTH);
  const ended_at = Date.now();
  countRequest(c.req.method, route, c.res.status, ended_at - started_at);
  logRequest(
    {
      method: c.req.method,
      route,
      status: c.res.status,
      ms: ended_at - started_at,
      account: c.get("caller")?.account_id ?? null,
      request_id: requestId,
      trace_id: trace.trace_id,
      ...(prediction_id === undefined ? {} : { prediction_id }),
    },
    later,
  );
  if (!trace.sampled || !isTracing(c.env) || UNTRACED.test(c.req.path)) return;
  recordSpan(c.env, later, {
    trace_id: trace.trace_id,
    span_id: trace.span_id,
    parent_span_id: caller?.span_id ?? null,
    name: `${c.req.method} ${route}`,
    kind: "server",
    start_ms: started_at,
    end_ms: ended_at,
    attributes: {
      "http.request.method": c.req.method,
      "http.route": route,
      "http.response.status_code": c.res.status,
      "cogway.request.id": requestId,
      ...(prediction_id === undefined ? {} : { "cogway.prediction.id": prediction_id }),
    },
    error: c.res.status >= 500 ? String(c.res.status) : null,
  });
};
