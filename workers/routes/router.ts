/** What all routes share: routers whose invalid requests become problems, and the guards that stand before a route. */
import { OpenAPIHono } from "@hono/zod-openapi";
import type { MiddlewareHandler } from "hono";
import type { ZodError } from "zod";
import { AppError } from "../../schema/problems.ts";
import type { Scope } from "../../schema/tokens.ts";
import { faultsDetail, invalidInput } from "../domain/validate-input.ts";
import type { AppEnv } from "../env.ts";
import { authenticate, requireScope } from "../middleware/authenticate.ts";
import { takeCreatePlace } from "../middleware/create-place.ts";
import { BODY_BYTES_MAX, jsonBody } from "../middleware/json-body.ts";
import { faultsOfZod } from "../middleware/problems.ts";
import { limitReads } from "../middleware/read-limit.ts";
import { refuseSpentCreates } from "../middleware/spent-creates.ts";

export function newRouter(): OpenAPIHono<AppEnv> {
  return new OpenAPIHono<AppEnv>({ defaultHook: refuseInvalid });
}

/** A body that breaks its schema is a 422; a query, path or header that does is a malformed request. */
function refuseInvalid(result: { target: string; success: boolean; error?: ZodError }): void {
  if (result.success || result.error === undefined) return;
  const faults = faultsOfZod(result.error);
  if (result.target === "json") throw invalidInput(faults);
  throw new AppError("request.malformed", faultsDetail(faults), { invalid_fields: faults });
}

/** What stands before a route of the API: a live token, whose account has requests left, with this scope; then a bounded body. */
export function allow(scope: Scope, bodyBytesMax = BODY_BYTES_MAX): MiddlewareHandler<AppEnv>[] {
  return [...allowBytes(scope), refuseSpentCreates, takeCreatePlace, jsonBody(bodyBytesMax)];
}

/** The same before a route that reads its body as a stream, and bounds it itself. */
export function allowBytes(scope: Scope): MiddlewareHandler<AppEnv>[] {
  return [authenticate, limitReads, requireScope(scope)];
}

/**
 * A ready answer of a typed route: bytes that must stay as they are (replays, streams, files). Typed routes know only answers that their own
 * helpers made, so this is the one place that steps around their types.
 */
export function verbatim(response: Response): never {
  return response as never;
}

export function json<T>(schema: T): { "application/json": { schema: T } } {
  return { "application/json": { schema } };
}
