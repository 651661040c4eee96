/** The one place where errors become answers: problem documents (RFC 9457), with `detail` as Replicate's clients read it. */
import type { Context } from "hono";
import { HTTPException } from "hono/http-exception";
import type { ZodError } from "zod";
import { AppError, type InvalidField, PROBLEMS, type ProblemCode, problemDocument } from "../../schema/problems.ts";
import { type AppEnv, settingsOf } from "../env.ts";

/** Renders anything that was thrown. What is not ours becomes `internal.error`: its cause is logged under the request id and never shown. */
export function renderError(error: unknown, c: Context<AppEnv>): Response {
  if (error instanceof AppError) return problemResponse(c, error.code, error.detail, error.extra);
  if (error instanceof HTTPException) {
    const code = codeOfStatus(error.status);
    const isTyped = code !== "request.unsupported_media_type";
    return problemResponse(
      c,
      code,
      isTyped ? error.message : "Send the body as JSON, with Content-Type: application/json.",
    );
  }
  console.error(
    JSON.stringify({
      level: "error",
      request_id: c.get("requestId"),
      error: error instanceof Error ? (error.stack ?? error.message) : String(error),
    }),
  );
  return problemResponse(c, "internal.error", `Something failed on our side. Request id: ${c.get("requestId")}`);
}

/** A problem as an answer, with `Retry-After` where a retry can help, and `x-should-retry`, which some clients obey. */
export function problemResponse(
  c: Context<AppEnv>,
  code: ProblemCode,
  detail: string,
  extra: { invalid_fields?: InvalidField[]; retry_after?: number; headers?: Record<string, string> } = {},
): Response {
  const row = PROBLEMS[code];
  const retry_after = extra.retry_after ?? (row.retry && row.status !== 500 ? RETRY_AFTER_DEFAULT_S : undefined);
  const document = problemDocument(code, detail, {
    publicUrl: settingsOf(c.env).publicUrl,
    requestId: c.get("requestId"),
    ...(extra.invalid_fields === undefined ? {} : { invalid_fields: extra.invalid_fields }),
    ...(retry_after === undefined ? {} : { retry_after }),
  });
  return new Response(JSON.stringify(document), {
    status: row.status,
    headers: {
      "content-type": "application/problem+json",
      ...(retry_after === undefined ? {} : { "retry-after": String(retry_after) }),
      ...(isRetried(row.status) ? { "x-should-retry": String(row.retry) } : {}),
      ...(row.status === 401 ? { "www-authenticate": 'Bearer realm="cogway"' } : {}),
      ...extra.headers,
    },
  });
}

/** Statuses that clients try again by themselves, unless they are told not to. */
const isRetried = (status: number): boolean => status === 409 || status === 429 || status >= 500;
/** Seconds until a retry may help, where nothing better is known. */
const RETRY_AFTER_DEFAULT_S = 1;

function codeOfStatus(status: number): ProblemCode {
  if (status === 415) return "request.unsupported_media_type";
  if (status === 413) return "request.too_large";
  if (status === 404) return "route.not_found";
  return status >= 500 ? "internal.error" : "request.malformed";
}

/** Faults of a parsed request in the shape of `invalid_fields`. */
export function faultsOfZod(error: ZodError): InvalidField[] {
  return error.issues.flatMap((issue): InvalidField[] => {
    const field = issue.path.map(String).join(".");
    const name = String(issue.path.at(-1) ?? "");
    switch (issue.code) {
      case "unrecognized_keys":
        return issue.keys.map((key) => ({
          type: "additional_property_not_allowed",
          field,
          description: `Additional property ${key} is not allowed`,
        }));
      case "invalid_type":
        if (issue.message.includes("received undefined")) {
          const parent = issue.path.slice(0, -1).map(String).join(".");
          return [{ type: "required", field: parent, description: `${name} is required` }];
        }
        return [
          { type: "invalid_type", field, description: issue.message.replace("Invalid input: ", "Invalid type. ") },
        ];
      case "too_small":
        return [{ type: issue.origin === "string" ? "string_gte" : "number_gte", field, description: issue.message }];
      case "too_big":
        return [{ type: issue.origin === "string" ? "string_lte" : "number_lte", field, description: issue.message }];
      case "invalid_value":
        return [{ type: "enum", field, description: issue.message }];
      default:
        return [{ type: "format", field, description: issue.message }];
    }
  });
}
