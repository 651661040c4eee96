/**
 * The catalogue of problems: one row per code, RFC 9457 on the wire. Below the HTTP edge there are codes, no statuses.
 * Replicate's clients read `detail` (a string) and `title`, so both stand on their own. Adding a code means adding its page in docs/problems.md.
 */
export const PROBLEMS = {
  "request.malformed": { status: 400, title: "Malformed request", retry: false },
  "request.unsupported_media_type": { status: 415, title: "Unsupported media type", retry: false },
  "request.too_large": { status: 413, title: "Request body too large", retry: false },
  "request.method_not_allowed": { status: 405, title: "Method not allowed", retry: false },
  "request.header_invalid": { status: 400, title: "Invalid request header", retry: false },
  "auth.unauthenticated": { status: 401, title: "Unauthenticated", retry: false },
  "auth.forbidden": { status: 403, title: "Not permitted", retry: false },
  "route.not_found": { status: 404, title: "Not found", retry: false },
  "prediction.not_found": { status: 404, title: "Prediction not found", retry: false },
  "model.not_found": { status: 404, title: "Model not found", retry: false },
  "version.not_found": { status: 404, title: "Version not found", retry: false },
  "output.not_found": { status: 404, title: "Output not found", retry: false },
  "attempt.fenced": { status: 409, title: "Attempt is over", retry: false },
  "upload.unknown": { status: 404, title: "No such upload", retry: false },
  "stream.not_found": { status: 404, title: "Stream not found", retry: false },
  "stream.expired": { status: 410, title: "Stream expired", retry: false },
  "file.not_found": { status: 404, title: "File not found", retry: false },
  "file.too_large": { status: 413, title: "File too large", retry: false },
  "file.invalid": { status: 422, title: "File is invalid", retry: false },
  "upload.incomplete": { status: 409, title: "Upload is incomplete", retry: false },
  "upload.too_many": { status: 429, title: "Too many unfinished uploads", retry: true },
  "training.not_found": { status: 404, title: "Training not found", retry: false },
  "batch.not_found": { status: 404, title: "Batch not found", retry: false },
  "deployment.not_found": { status: 404, title: "Deployment not found", retry: false },
  "build.not_found": { status: 404, title: "Build not found", retry: false },
  "build.refused": { status: 409, title: "Build is not possible here", retry: false },
  "build.too_many": { status: 429, title: "Too many builds at once", retry: true },
  "version.breaking": { status: 409, title: "Version would break callers", retry: false },
  "package.not_found": { status: 404, title: "Package not found", retry: false },
  "package.invalid": { status: 422, title: "Package is invalid", retry: false },
  "collection.not_found": { status: 404, title: "Collection not found", retry: false },
  "token.not_found": { status: 404, title: "Token not found", retry: false },
  "account.not_found": { status: 404, title: "Account not found", retry: false },
  "account.limit_reached": { status: 409, title: "Account has as many as it can", retry: false },
  "organization.last_owner": { status: 409, title: "Organization needs an owner", retry: false },
  "webhook.not_found": { status: 404, title: "Webhook not found", retry: false },
  "model.name_taken": { status: 409, title: "Model name is taken", retry: false },
  "model.not_empty": { status: 409, title: "Model is in use", retry: false },
  "version.in_use": { status: 409, title: "Version is in use", retry: false },
  "deployment.name_taken": { status: 409, title: "Deployment name is taken", retry: false },
  "deployment.in_use": { status: 409, title: "Deployment is in use", retry: false },
  "deployment.disabled": { status: 409, title: "Deployment is disabled", retry: false },
  "batch.unfinished": { status: 409, title: "Batch has not ended", retry: true },
  "batch.invalid": { status: 422, title: "Batch input is invalid", retry: false },
  "account.name_taken": { status: 409, title: "Name is taken", retry: false },
  "idempotency.in_flight": { status: 409, title: "Request with this key is in flight", retry: true },
  "idempotency.key_reused": { status: 422, title: "Idempotency key reused with another body", retry: false },
  "input.invalid": { status: 422, title: "Input validation failed", retry: false },
  "version.invalid": { status: 422, title: "Invalid version or not permitted", retry: false },
  "range.not_satisfiable": { status: 416, title: "Range not satisfiable", retry: false },
  "billing.budget_exceeded": { status: 402, title: "Budget is spent", retry: false },
  "billing.balance_exhausted": { status: 402, title: "Balance is spent", retry: false },
  "billing.max_cost": { status: 402, title: "It would cost more than Cogway-Max-Cost", retry: false },
  "invoice.not_found": { status: 404, title: "Invoice not found", retry: false },
  "origin.in_use": { status: 409, title: "Origin runs instances", retry: false },
  "origin.not_found": { status: 404, title: "Origin not found", retry: false },
  "model.paused": { status: 503, title: "Model is paused by the operator", retry: true },
  "rate.limited": { status: 429, title: "Too many requests", retry: true },
  "reader.too_many": { status: 429, title: "Too many readers of this stream", retry: true },
  "model.preparing": { status: 503, title: "Model is being prepared", retry: true },
  "deployment.queue_full": { status: 503, title: "Queue is full", retry: true },
  "origin.unavailable": { status: 503, title: "No origin is available", retry: true },
  "origin.unauthenticated": { status: 401, title: "Origin signature refused", retry: false },
  "edge.busy": { status: 503, title: "Too many large requests at once", retry: true },
  "internal.error": { status: 500, title: "Internal error", retry: true },
} as const satisfies Record<string, { status: number; title: string; retry: boolean }>;

export type ProblemCode = keyof typeof PROBLEMS;

/** One fault of a request, in the shape of Replicate's `invalid_fields`. */
export interface InvalidField {
  /** gojsonschema family: `required`, `enum`, `number_lte`, `number_gte`, `invalid_type`, `additional_property_not_allowed` … */
  type: string;
  /** path such as `input.prompt`; the parent's path for `required`, empty for the body itself */
  field: string;
  description: string;
}

/** The wire form. `type` ends in the code; `instance` is the request id. */
export interface ProblemDocument {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: ProblemCode;
  instance?: string;
  invalid_fields?: InvalidField[];
  /** whole seconds, equal to the Retry-After header */
  retry_after?: number;
}

/** Thrown only to leave a request early at the edge; never crosses RPC. `detail` is safe for users; `cause` is logged. */
export class AppError extends Error {
  readonly code: ProblemCode;
  readonly detail: string;
  readonly extra: { invalid_fields?: InvalidField[]; retry_after?: number; headers?: Record<string, string> };
  constructor(
    code: ProblemCode,
    detail: string,
    extra: {
      invalid_fields?: InvalidField[];
      retry_after?: number;
      headers?: Record<string, string>;
      cause?: unknown;
    } = {},
  ) {
    super(`${code}: ${detail}`, { cause: extra.cause });
    this.code = code;
    this.detail = detail;
    this.extra = extra;
  }
}

/** Renders a problem document. `publicUrl` makes `type` a page that exists (docs/problems.md is served at /docs/problems). */
export function problemDocument(
  code: ProblemCode,
  detail: string,
  options: { publicUrl: string; requestId?: string; invalid_fields?: InvalidField[]; retry_after?: number },
): ProblemDocument {
  const row = PROBLEMS[code];
  return {
    type: `${options.publicUrl}/docs/problems#${code}`,
    title: row.title,
    status: row.status,
    detail,
    code,
    ...(options.requestId === undefined ? {} : { instance: options.requestId }),
    ...(options.invalid_fields === undefined ? {} : { invalid_fields: options.invalid_fields }),
    ...(options.retry_after === undefined ? {} : { retry_after: options.retry_after }),
  };
}
