/** What all of the API's messages share: problems, pages, security. Zod types with notes for the OpenAPI document. */
import { z } from "@hono/zod-openapi";
import { PROBLEMS, type ProblemCode } from "../problems.ts";

export const InvalidFieldSchema = z.object({ type: z.string(), field: z.string(), description: z.string() });

export const ProblemSchema = z
  .object({
    type: z.string().describe("a page that explains the code"),
    title: z.string(),
    status: z.number().int(),
    detail: z.string(),
    code: z.enum(Object.keys(PROBLEMS) as [ProblemCode, ...ProblemCode[]]),
    instance: z.string().optional().describe("the request's id"),
    invalid_fields: z.array(InvalidFieldSchema).optional(),
    retry_after: z.number().int().optional().describe("seconds, equal to the Retry-After header"),
  })
  .openapi("Problem");

const problemContent = { "application/problem+json": { schema: ProblemSchema } };

/** For a route's `responses`: it may answer problems. Those that stand before every route of its kind are added to the document (workers/openapi-document.ts). */
export const problemResponses = {
  default: { description: "A problem (RFC 9457)", content: problemContent },
} as const;

/** The same, with problems of the route's own: `problems(409, 503)`. */
export function problems<S extends number>(
  ...statuses: S[]
): typeof problemResponses & { [status in S]: ReturnType<typeof problemResponse> } {
  const own = Object.fromEntries(statuses.map((status) => [status, problemResponse(status)]));
  return { ...problemResponses, ...own } as ReturnType<typeof problems<S>>;
}

/** One status of a problem: its description names the codes that have it. */
export function problemResponse(status: number) {
  const codes = Object.entries(PROBLEMS).flatMap(([code, row]) => (row.status === status ? [code] : []));
  return { description: `A problem (RFC 9457) of a code such as ${codes.join(", ")}`, content: problemContent };
}

/** A page of `item`: newest first, `next` and `previous` are absolute URLs or null. */
export function pageOf<T extends z.ZodType>(item: T, name: string) {
  return z
    .object({ previous: z.string().nullable(), next: z.string().nullable(), results: z.array(item) })
    .openapi(name);
}

export const CURSOR_CHARACTERS_MAX = 4_096;
export const CursorQuerySchema = z.object({ cursor: z.string().max(CURSOR_CHARACTERS_MAX).optional() });
export const OwnerNameParams = z.object({ owner: z.string(), name: z.string() });
export const bearer = [{ bearerAuth: [] as string[] }];
