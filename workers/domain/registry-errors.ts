/** Errors of the OCI distribution API: `{"errors":[{code, message, detail}]}`. Clients show `message`, so each says what to do. */
import { AppError, PROBLEMS } from "../../schema/problems.ts";

const STATUS = {
  BLOB_UNKNOWN: 404,
  BLOB_UPLOAD_INVALID: 400,
  BLOB_UPLOAD_UNKNOWN: 404,
  DENIED: 403,
  DIGEST_INVALID: 400,
  MANIFEST_BLOB_UNKNOWN: 400,
  MANIFEST_INVALID: 400,
  MANIFEST_UNKNOWN: 404,
  NAME_INVALID: 400,
  NAME_UNKNOWN: 404,
  PAGINATION_NUMBER_INVALID: 400,
  SIZE_INVALID: 400,
  TAG_INVALID: 400,
  TOOMANYREQUESTS: 429,
  UNAUTHORIZED: 401,
  UNAVAILABLE: 503,
  UNKNOWN: 500,
  UNSUPPORTED: 405,
} as const;
export type RegistryCode = keyof typeof STATUS;

interface Extra {
  status?: number;
  headers?: Record<string, string>;
  detail?: unknown;
}

/** Thrown only to leave a request early at the edge. */
export class RegistryError extends Error {
  readonly code: RegistryCode;
  readonly extra: Extra;

  constructor(code: RegistryCode, message: string, extra: Extra = {}) {
    super(message);
    this.code = code;
    this.extra = extra;
  }
}

/** Anything that was thrown, in this API's form. Null for what is not ours: a fault of the program. */
export function registryAnswer(error: unknown): Response | null {
  if (error instanceof RegistryError) return answer(error.code, error.message, error.extra);
  if (!(error instanceof AppError)) return null;
  const { status } = PROBLEMS[error.code];
  const { headers = {}, retry_after } = error.extra;
  return answer(codeOf(status), error.detail, {
    status,
    headers: { ...headers, ...(retry_after === undefined ? {} : { "retry-after": String(retry_after) }) },
  });
}

function answer(code: RegistryCode, message: string, { status = STATUS[code], headers = {}, detail }: Extra): Response {
  const error = { code, message, ...(detail === undefined ? {} : { detail }) };
  return Response.json({ errors: [error] }, { status, headers });
}

/** Of problems that the rest of the edge throws: the limiter's, and those of an image that is refused. */
function codeOf(status: number): RegistryCode {
  if (status === 401) return "UNAUTHORIZED";
  if (status === 403) return "DENIED";
  if (status === 404) return "NAME_UNKNOWN";
  if (status === 429) return "TOOMANYREQUESTS";
  if (status === 503) return "UNAVAILABLE";
  return status >= 500 ? "UNKNOWN" : "MANIFEST_INVALID";
}
