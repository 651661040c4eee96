/** The one kind of error that the client throws: a refusal of the API, or why there was no answer. */
import type { InvalidField, ProblemCode, ProblemDocument } from "../problems.ts";

/** Causes that no answer names: nothing came, nothing came in time, or something came that is not Cogway's. */
export type ClientCode = "client.unreachable" | "client.timeout" | "client.unexpected";

export class CogwayError extends Error {
  override readonly name = "CogwayError";
  /** HTTP status; 0 where there was no answer */
  readonly status: number;
  readonly code: ProblemCode | ClientCode;
  /** what happened and what to do, in a sentence */
  readonly detail: string;
  /** each fault of a refused body, by its path */
  readonly invalid_fields: InvalidField[];
  /** seconds until a retry can help; null where none is known to */
  readonly retry_after: number | null;
  /** what the server says of a retry; null where it says nothing */
  readonly should_retry: boolean | null;
  /** name it when you report a fault */
  readonly request_id: string | null;

  constructor(
    code: ProblemCode | ClientCode,
    detail: string,
    more: {
      status?: number;
      invalid_fields?: InvalidField[] | undefined;
      retry_after?: number | null;
      should_retry?: boolean | null;
      request_id?: string | null;
      cause?: unknown;
    } = {},
  ) {
    super(`${code}: ${detail}`, { cause: more.cause });
    this.code = code;
    this.detail = detail;
    this.status = more.status ?? 0;
    this.invalid_fields = more.invalid_fields ?? [];
    this.retry_after = more.retry_after ?? null;
    this.should_retry = more.should_retry ?? null;
    this.request_id = more.request_id ?? null;
  }
}

/** The error of an answer that is no success. Proxies in between answer in their own form. */
export async function errorOf(answer: Response): Promise<CogwayError> {
  const text = await answer.text().catch(() => "");
  const problem = parseProblem(text);
  const shouldRetry = answer.headers.get("x-should-retry");
  const header = answer.headers.get("retry-after");
  const seconds = problem?.retry_after ?? (header === null || !/^\d+$/.test(header) ? null : Number(header));
  return new CogwayError(problem?.code ?? "client.unexpected", problem?.detail ?? shortened(text, answer.status), {
    status: answer.status,
    invalid_fields: problem?.invalid_fields,
    retry_after: seconds,
    should_retry: shouldRetry === null ? null : shouldRetry === "true",
    request_id: answer.headers.get("x-request-id") ?? problem?.instance ?? null,
  });
}

const TEXT_SHOWN_MAX = 200;

function shortened(text: string, status: number): string {
  return `The server answered ${status} ${text.slice(0, TEXT_SHOWN_MAX)}`.trim();
}

function parseProblem(text: string): ProblemDocument | null {
  try {
    const value: unknown = JSON.parse(text);
    const isProblem = typeof value === "object" && value !== null && "code" in value && "detail" in value;
    return isProblem ? (value as ProblemDocument) : null;
  } catch {
    return null;
  }
}
