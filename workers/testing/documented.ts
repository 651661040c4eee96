/** Fails on an answer that the OpenAPI document does not describe: its route, status, type, headers, and every member of its body. */
import { Validator } from "@cfworker/json-schema";
import { app } from "../app.ts";
import { openapiDocument } from "../openapi-document.ts";

type Json = Record<string, unknown>;

/** Headers of HTTP itself, and those of CORS and security that every answer may carry. */
const COMMON_HEADERS = new Set(
  "accept-ranges allow cache-control content-disposition content-encoding content-length content-range content-security-policy content-type cross-origin-resource-policy date etag last-modified location referrer-policy strict-transport-security transfer-encoding vary www-authenticate x-content-type-options x-frame-options x-should-retry".split(
    " ",
  ),
);

let routes: { method: string; pattern: RegExp; literal: number; operation: Json }[] | null = null;
let schemas: Json = {};

/** Looks at `answer` to a request; its body stays unread. */
export async function expectDocumented(method: string, path: string, answer: Response): Promise<void> {
  const { pathname } = new URL(path, "http://localhost");
  if (!/^\/(v1|admin|origin|outputs)\//.test(pathname)) return;
  const operation = operationOf(method === "HEAD" ? "GET" : method, pathname);
  // Addresses that are none, or know no such method.
  if (operation === null || answer.status === 405) return;
  const where = `${method} ${pathname} answered ${answer.status}`;
  const responses = operation["responses"] as Record<string, Json>;
  const response = responses[String(answer.status)];
  if (answer.status === 304) return;
  if (response === undefined) throw new Error(`undocumented status: ${where} ${await answer.clone().text()}`);
  const headers = (response["headers"] ?? {}) as Json;
  for (const [name] of answer.headers) {
    const isCommon = COMMON_HEADERS.has(name) || name.startsWith("access-control-");
    if (!isCommon && !(name in headers)) throw new Error(`undocumented header: ${where} with ${name}`);
  }
  const content = (response["content"] ?? {}) as Record<string, Json>;
  const type = (answer.headers.get("content-type") ?? "").split(";")[0] ?? "";
  if (Object.keys(content).length === 0 || method === "HEAD") return;
  const described = content[type] ?? content["*/*"] ?? content["application/octet-stream"];
  if (described === undefined) throw new Error(`undocumented type: ${where} with ${type}`);
  if (!/[/+]json$/.test(type) || described["schema"] === undefined) return;
  const body: unknown = await answer.clone().json();
  const { valid, errors } = validatorOf(described["schema"] as Json).validate(body);
  if (valid) return;
  const faults = errors.map((unit) => `${unit.instanceLocation} ${unit.error}`).join("\n");
  throw new Error(`undocumented body: ${where}\n${faults}\n${JSON.stringify(body).slice(0, 2_000)}`);
}

const validators = new WeakMap<Json, Validator>();

function validatorOf(schema: Json): Validator {
  const known = validators.get(schema) ?? new Validator({ ...schema, ...schemas }, "2020-12");
  validators.set(schema, known);
  return known;
}

function operationOf(method: string, pathname: string): Json | null {
  routes ??= load();
  const fits = routes.filter((route) => route.method === method && route.pattern.test(pathname));
  const best = fits.toSorted((a, b) => b.literal - a.literal)[0];
  return best?.operation ?? null;
}

function load(): NonNullable<typeof routes> {
  const document = JSON.parse(JSON.stringify(openapiDocument(app))) as Json;
  const components = document["components"] as { schemas: Record<string, Json>; responses: Record<string, Json> };
  const closed = (value: unknown): unknown => close(value, components.schemas);
  schemas = { components: closed(components) };
  return Object.entries(document["paths"] as Record<string, Json>).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => ({
      method: method.replace(/^x-/, "").toUpperCase(),
      pattern: new RegExp(`^${path.replaceAll(".", "\\.").replaceAll(/\{[^}]+\}/g, "[^/]+")}$`),
      literal: path.replaceAll(/\{[^}]+\}/g, "").length,
      operation: closed(withAnswers(operation as Json, components.responses)) as Json,
    })),
  );
}

/** The operation with its shared answers in place of their references. */
function withAnswers(operation: Json, shared: Record<string, Json>): Json {
  const responses = Object.entries(operation["responses"] as Record<string, Json>).map(([status, response]) => {
    const name = String(response["$ref"] ?? "").replace("#/components/responses/", "");
    return [status, shared[name] ?? response];
  });
  return { ...operation, responses: Object.fromEntries(responses) };
}

/** Objects with named members hold no others, unless they say so. Several that one must fit together become one. */
function close(value: unknown, named: Record<string, Json>): unknown {
  if (Array.isArray(value)) return value.map((member) => close(member, named));
  if (!isJson(value)) return value;
  const whole = merged(value, named);
  const out = Object.fromEntries(Object.entries(whole).map(([key, member]) => [key, close(member, named)]));
  const isObject = out["type"] === "object" && out["properties"] !== undefined;
  return isObject && out["additionalProperties"] === undefined ? { ...out, additionalProperties: false } : out;
}

/** `allOf` of objects as the one object that it means. */
function merged(value: Json, named: Record<string, Json>): Json {
  const { allOf, ...rest } = value;
  if (!Array.isArray(allOf)) return value;
  const parts = [...(allOf as Json[]), rest].map((part): Json => {
    const name = String(part["$ref"] ?? "").replace("#/components/schemas/", "");
    return merged(named[name] ?? part, named);
  });
  if (!parts.some((part) => part["type"] === "object")) return value;
  const all = (key: string): Json => Object.assign({}, ...parts.map((part) => part[key] ?? {})) as Json;
  const required = parts.flatMap((part) => (part["required"] ?? []) as string[]);
  return { ...(Object.assign({}, ...parts) as Json), properties: all("properties"), required };
}

function isJson(value: unknown): value is Json {
  return typeof value === "object" && value !== null;
}
