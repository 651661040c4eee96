/**
 * The API's OpenAPI document, made from the routes themselves. schema/openapi.json is its committed copy; a test holds them equal, and the tests of routes fail on
 * an answer that it does not describe (workers/testing/documented.ts).
 *
 * Routes say what is their own: answers, and problems of more statuses than these. What every route of a kind can answer is added here, from what stands before it.
 */
import type { OpenAPIHono } from "@hono/zod-openapi";
import { problemResponse } from "../schema/api/common.ts";
import type { AppEnv } from "./env.ts";
import { queryModelsOperation } from "./routes/search.ts";

type Document = ReturnType<OpenAPIHono<AppEnv>["getOpenAPI31Document"]>;
type Header = { description: string; schema: { type: "string" | "integer" } };
type Answer = {
  description: string;
  headers?: Record<string, Header | { $ref: string }>;
  content?: Record<string, { schema?: { $ref: string } }>;
};
interface Operation {
  security?: Record<string, string[]>[];
  requestBody?: unknown;
  parameters?: unknown[];
  responses: Record<string, Answer | { $ref: string }>;
}

const HEADERS: Record<string, Header> = {
  "x-request-id": { description: "the request's id: name it when you report a fault", schema: { type: "string" } },
  traceparent: {
    description: "W3C trace context of the request: in the trace that its own `traceparent` names, else in a new one",
    schema: { type: "string" },
  },
  // What is left of the account's minute (IETF draft, and Replicate's own two).
  ratelimit: { description: "what is left, and seconds until all is back", schema: { type: "string" } },
  "ratelimit-policy": { description: "the limit: requests and seconds", schema: { type: "string" } },
  "ratelimit-remaining": { description: "requests left right now", schema: { type: "integer" } },
  "ratelimit-reset": { description: "seconds until all are back", schema: { type: "integer" } },
  "retry-after": { description: "seconds until a retry can help", schema: { type: "integer" } },
  "www-authenticate": { description: "the scheme that is wanted", schema: { type: "string" } },
};
const EVERY_ANSWER = ["x-request-id", "traceparent"];
/** Of a caller with a token. */
const RATE_LIMIT = ["ratelimit", "ratelimit-policy", "ratelimit-remaining", "ratelimit-reset"];
/** The routes' own problems have put the schema among the components. */
const PROBLEM_CONTENT = { "application/problem+json": { schema: { $ref: "#/components/schemas/Problem" } } };
/** Statuses that a later try can turn into another. */
const RETRIED = new Set(["409", "429", "503"]);

const METHODS = ["get", "put", "post", "delete", "patch"] as const;

export function openapiDocument(app: OpenAPIHono<AppEnv>): Document {
  const document = app.getOpenAPI31Document({
    openapi: "3.1.0",
    info: {
      title: "Cogway",
      version: "1.0.0",
      description: "Runs Cog models behind Replicate's HTTP API.",
      license: { name: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
  });
  const schemes = {
    bearerAuth: { type: "http", scheme: "bearer", description: "An API token. The scheme `Token` works too." },
    originSignature: {
      type: "apiKey",
      in: "header",
      name: "cogway-signature",
      description: "HMAC-SHA256 under an origin's key, with the other cogway-* headers",
    },
  } as const;
  const shared: Record<string, Answer> = {};
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const method of METHODS) {
      const operation = item?.[method] as Operation | undefined;
      if (operation !== undefined) complete(path, operation, method, shared);
    }
  }
  const query: Operation = structuredClone(queryModelsOperation);
  complete("/v1/models", query, "query", shared);
  // 3.1 has no operation of the method QUERY (3.2 has).
  Object.assign(document.paths?.["/v1/models"] ?? {}, { "x-query": query });
  const components = { ...document.components, headers: HEADERS, responses: shared, securitySchemes: schemes };
  return { ...document, components };
}

/** Adds the problems that stand before a route, and the headers of all its answers. Problems of one kind of route are one component in `shared`. */
function complete(path: string, operation: Operation, method: string, shared: Record<string, Answer>): void {
  const isBearer = (operation.security ?? []).some((scheme) => "bearerAuth" in scheme);
  const isOrigin = (operation.security ?? []).some((scheme) => "originSignature" in scheme);
  const { default: _any, ...own } = operation.responses;
  const statuses = [
    ...(isBearer ? [401, 403, 429] : []),
    ...(isOrigin ? [401] : []),
    ...(operation.requestBody === undefined ? [] : [400, 413, 415, 422, 503]),
    // A body that nobody asked for is read within the same bounds.
    ...((isBearer || isOrigin) && method !== "get" ? [400, 413, 503] : []),
    ...((operation.parameters ?? []).length > 0 ? [400] : []),
    ...(path.includes("{") ? [404] : []),
    500,
  ];
  // The routes' own answers have no references.
  const responses = { ...own } as Record<string, Answer>;
  for (const status of statuses) responses[status] ??= { ...problemResponse(status), content: PROBLEM_CONTENT };
  operation.responses = Object.fromEntries(
    Object.entries(responses).map(([status, response]) => {
      const names = [
        ...EVERY_ANSWER,
        ...(isBearer ? RATE_LIMIT : []),
        ...(RETRIED.has(status) ? ["retry-after"] : []),
        ...(status === "401" ? ["www-authenticate"] : []),
      ];
      const headers = Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]));
      if (response.description !== problemResponse(Number(status)).description) {
        return [status, { ...response, headers: { ...headers, ...response.headers } }];
      }
      const name = `${isBearer ? "Caller" : ""}Problem${status}`;
      shared[name] = { description: response.description, headers, content: PROBLEM_CONTENT };
      return [status, { $ref: `#/components/responses/${name}` }];
    }),
  );
}
