/**
 * Hostile requests against every route of the API, generated from its OpenAPI document: broken bodies, control characters, wrong types, members that nobody
 * may set, values at their bounds and one beyond. All end as problems of the caller's, none inside.
 */
import { createExecutionContext, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { app } from "./app.ts";
import { openapiDocument } from "./openapi-document.ts";
import { expectDocumented } from "./testing/documented.ts";
import { aDestination, anAccount, anAnnounce, FakeOrigin, PUBLIC_URL, problemOf, theOperator } from "./testing/edge.ts";

type Json = Record<string, unknown>;

interface Operation {
  /** such as `POST /v1/predictions` */
  name: string;
  method: string;
  path: string;
  /** the schema of its JSON body; null without one */
  body: Json | null;
  takesBody: boolean;
  parameters: { name: string; in: string; schema: Json }[];
  isOrigin: boolean;
}

const document = JSON.parse(JSON.stringify(openapiDocument(app))) as Json;
const schemas = (document["components"] as { schemas: Record<string, Json> }).schemas;

/** A schema with its reference, if it is one, put in place; of alternatives, the first that is not null. */
function resolve(schema: Json): Json {
  const name = String(schema["$ref"] ?? "").replace("#/components/schemas/", "");
  const parts = (schema["anyOf"] ?? schema["oneOf"] ?? schema["allOf"]) as Json[] | undefined;
  if (schemas[name] !== undefined) return resolve(schemas[name]);
  const first = parts?.find((part) => part["type"] !== "null");
  return first === undefined ? schema : resolve(first);
}

const operations = Object.entries(document["paths"] as Record<string, Record<string, Json>>).flatMap(([path, item]) =>
  Object.entries(item).map(([key, operation]): Operation => {
    const method = key.replace(/^x-/, "").toUpperCase();
    const content = (operation["requestBody"] as { content?: Record<string, { schema?: Json }> } | undefined)?.content;
    const schema = content?.["application/json"]?.schema;
    return {
      name: `${method} ${path}`,
      method,
      path,
      body: schema === undefined ? null : resolve(schema),
      takesBody: content !== undefined,
      parameters: (operation["parameters"] ?? []) as Operation["parameters"],
      isOrigin: JSON.stringify(operation["security"] ?? []).includes("originSignature"),
    };
  }),
);
const ofCallers = operations.filter(({ isOrigin }) => !isOrigin);
const withJson = ofCallers.flatMap((operation) =>
  operation.body === null ? [] : [{ ...operation, body: operation.body }],
);

let owner: { username: string; token: string };
let operator: string;
beforeAll(async () => {
  operator = await theOperator();
  const origin = await FakeOrigin.join();
  await origin.announce("echo", anAnnounce());
  owner = await anAccount({ creates_per_minute: 1_000_000, reads_per_minute: 1_000_000 });
});

/** Addresses of the echo model for what is in the path, so that it is not the address that is refused. */
const KNOWN: Record<string, string> = { owner: "cogway", name: "echo" };
const pathOf = (path: string, values: Record<string, string> = KNOWN): string =>
  path.replaceAll(/\{([^}]+)\}/g, (_whole, name: string) => values[name] ?? values["*"] ?? "x");

const tokenFor = (path: string): string => (path.startsWith("/admin/") ? operator : owner.token);

/** Runs a part of a test by itself: the more calls leave from one place in the runtime, the longer each takes, and here are thousands. */
function apart<T>(run: () => Promise<T>): Promise<T> {
  return runInDurableObject(env.ACCOUNTS.getByName(crypto.randomUUID()), run);
}

/** The status of an answer that must not be a fault of ours, and is a problem where it is a fault of the caller's. */
async function statusOf(answer: Response): Promise<number> {
  expect(answer.status).toBeLessThan(500);
  if (answer.status < 400) await answer.body?.cancel();
  else expect(await answer.json()).toMatchObject({ detail: expect.stringMatching(/./) });
  return answer.status;
}

const deep = (levels: number): string => `${"[".repeat(levels)}${"]".repeat(levels)}`;
const CONTROLS = "\u0000\r\n\t\u001b[31m\u2028\u2029\u202e\u2066\ufeff\ud800";

/** Bodies that no route can take. */
const BROKEN: Record<string, { body: string | Uint8Array; headers?: Record<string, string> }> = {
  "nothing at all": { body: "" },
  "half an object": { body: '{"version":' },
  "two objects": { body: "{}{}" },
  "a comment": { body: "{/**/}" },
  null: { body: "null" },
  "a list": { body: "[]" },
  text: { body: '"text"' },
  "a number": { body: "1e999" },
  "lists in lists": { body: deep(65) },
  "100,000 lists in lists": { body: deep(100_000) },
  "100,000 objects in objects": { body: '{"a":'.repeat(100_000) },
  "bytes that are no UTF-8": { body: new Uint8Array([0x7b, 0x22, 0xff, 0xfe, 0x22, 0x7d]) },
  "UTF-16": {
    body: new Uint8Array([0xff, 0xfe, 0x7b, 0, 0x7d, 0]),
    headers: { "content-type": "application/json; charset=utf-16" },
  },
  "a form": { body: "a=1", headers: { "content-type": "application/x-www-form-urlencoded" } },
  "JSON called text": { body: "{}", headers: { "content-type": "text/plain" } },
  "JSON called nothing": { body: "{}", headers: { "content-type": "" } },
  "a form of parts without a boundary": { body: "--x", headers: { "content-type": "multipart/form-data" } },
  "a form of parts that does not end": {
    body: '--b\r\ncontent-disposition: form-data; name="content"; filename="a\u0000\r\n',
    headers: { "content-type": "multipart/form-data; boundary=b" },
  },
  gzip: {
    body: new Uint8Array([0x1f, 0x8b, 8, 0, 0]),
    headers: { "content-type": "application/json", "content-encoding": "gzip" },
  },
};

/** One request, to the app itself. Every answer must be described by the document. */
async function call(
  method: string,
  path: string,
  {
    token,
    body,
    bytes,
    headers,
  }: { token?: string; body?: unknown; bytes?: Uint8Array; headers?: Record<string, string> },
): Promise<Response> {
  const text = typeof body === "string" ? body : JSON.stringify(body);
  const request = new Request(new URL(path, PUBLIC_URL), {
    method,
    headers: {
      ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
      "content-type": "application/json",
      ...headers,
    },
    ...(body === undefined ? {} : { body: text }),
    ...(bytes === undefined ? {} : { body: bytes }),
  });
  // What is done behind an answer is waited for by nobody: between the parts of a test that takes 0.2 s each time.
  const answer = await app.fetch(request, env, createExecutionContext());
  await expectDocumented(method, path, answer);
  return answer;
}

function send(
  operation: Operation,
  path: string,
  { body, headers = {} }: { body: string | Uint8Array; headers?: Record<string, string> },
): Promise<Response> {
  const hasNone = operation.method === "GET" || operation.method === "DELETE";
  return call(operation.method, path, { token: tokenFor(path), ...(hasNone ? {} : { bytes: bytesOf(body) }), headers });
}

const bytesOf = (body: string | Uint8Array): Uint8Array =>
  typeof body === "string" ? new TextEncoder().encode(body) : body;

describe("a broken body", () => {
  it.each(withJson.map(({ name }) => name))("is refused by %s, with what to do", async (name) => {
    const operation = withJson.find((each) => each.name === name) ?? expect.unreachable();
    for (const [what, broken] of Object.entries(BROKEN)) {
      const status = await statusOf(await send(operation, pathOf(operation.path), broken));
      expect([400, 413, 415, 422], `${what}: ${status}`).toContain(status);
    }
  });

  it("does no harm where another body is wanted, or none", async () => {
    const rest = operations.filter(({ method, body, isOrigin }) => method !== "GET" && (body === null || isOrigin));
    for (const operation of rest) {
      await apart(async () => {
        for (const broken of Object.values(BROKEN))
          await statusOf(await send(operation, pathOf(operation.path), broken));
      });
    }
  });
});

/** A value of a schema; strings are `text`. */
function sampleOf(given: Json, text: string): unknown {
  const schema = resolve(given);
  if (Array.isArray(schema["enum"])) return text;
  switch (schema["type"]) {
    case "object": {
      const members = Object.entries((schema["properties"] ?? {}) as Record<string, Json>);
      return Object.fromEntries(members.map(([name, member]) => [name, sampleOf(member, text)]));
    }
    case "array":
      return [sampleOf((schema["items"] ?? {}) as Json, text)];
    case "integer":
    case "number":
      return Number.MAX_VALUE;
    case "boolean":
      return true;
    default:
      return text;
  }
}

/** Values of each kind, in each place that the operation has: body, path and query. */
async function tryValues(operation: Operation): Promise<void> {
  const { body, path } = operation;
  for (const text of [CONTROLS, "__proto__", "'; DROP TABLE models; --", "../../../etc/passwd", "x".repeat(100_000)]) {
    if (body !== null) {
      const hostile = JSON.stringify(sampleOf(body, text));
      await statusOf(await send(operation, pathOf(path), { body: hostile }));
      const twice = `{${'"name":1,'.repeat(1_000)}${hostile.slice(1)}`;
      await statusOf(await send(operation, pathOf(path), { body: twice }));
    }
    const escaped = encodeURIComponent(text.toWellFormed())
      .slice(0, 6_000)
      .replace(/%[0-9A-F]?$/, "");
    if (path.includes("{")) await statusOf(await send(operation, pathOf(path, { "*": escaped }), { body: "{}" }));
    const query = operation.parameters.filter((parameter) => parameter.in === "query");
    for (const parameter of query) {
      await statusOf(await send(operation, `${pathOf(path)}?${parameter.name}=${escaped}`, { body: "{}" }));
    }
  }
  for (const raw of ["%", "%00", "%ff", "%0d%0aset-cookie:%20a=b", "..%2f..%2fadmin", "%E2%80%AE"]) {
    if (!path.includes("{")) continue;
    const answer = await send(operation, pathOf(path, { "*": raw }), { body: "{}" });
    expect(answer.headers.get("set-cookie")).toBeNull();
    await statusOf(answer);
  }
}

describe("hostile values", () => {
  it.each(ofCallers.map(({ name }) => name))("are no fault inside %s", async (name) => {
    const operation = ofCallers.find((each) => each.name === name) ?? expect.unreachable();
    await apart(() => tryValues(operation));
    // A hostile reason is a reason: the model takes creates again for what follows.
    if (name.endsWith("/pause")) await call("POST", "/admin/v1/models/cogway/echo/resume", { token: operator });
  });

  it("in headers are refused or ignored, of a megabyte too", async () => {
    const huge = "x".repeat(1_000_000);
    const names = [
      "idempotency-key",
      "prefer",
      "cancel-after",
      "cogway-retention",
      "user-agent",
      "range",
      "if-none-match",
      "last-event-id",
      "x-request-id",
      "accept",
      "origin",
      "cogway-signature",
    ];
    for (const name of names) {
      for (const value of [huge, "", "\u0001\u007f", "-1", "NaN", "1e9", "99999999999999999999", "bytes=-,,"]) {
        const headers = { [name]: value };
        const body = { version: "cogway/echo", input: { text: 1 } };
        await apart(async () => {
          await statusOf(await call("POST", "/v1/predictions", { token: owner.token, body, headers }));
          await statusOf(await call("GET", "/v1/account", { token: owner.token, headers }));
        });
      }
    }
    for (const token of [huge, CONTROLS.replaceAll(/[^\t]/g, ""), `${owner.token},${owner.token}`]) {
      expect(await statusOf(await call("GET", "/v1/account", { token }))).toBe(401);
    }
  });
});

/** Members that only Cogway sets. */
const READ_ONLY: Json = {
  id: "x",
  account_id: "someone",
  account: "someone",
  status: "succeeded",
  state: "ready",
  created_at: "2020-01-01T00:00:00Z",
  completed_at: "2020-01-01T00:00:00Z",
  created_by: { username: "someone" },
  metrics: { predict_time: 0 },
  run_count: 1_000_000,
  is_official: true,
  number: 99,
  current_release: { number: 99 },
  output: "forged",
  logs: "forged",
  error: null,
  source: "web",
  data_removed: false,
  hash: "x",
  last_four: "xxxx",
  revoked: false,
  role_of: "owner",
  is_admin: true,
  urls: { get: "https://evil.example/" },
  constructor: { prototype: { is_admin: true } },
};

describe("members that nobody may set", () => {
  it.each(withJson.map(({ name }) => name))("are refused by %s, each by its name", async (name) => {
    const operation = withJson.find((each) => each.name === name) ?? expect.unreachable();
    const own = new Set(Object.keys((operation.body["properties"] ?? {}) as Json));
    const forged = Object.entries(READ_ONLY).filter(([member]) => !own.has(member));
    const answer = await send(operation, pathOf(operation.path), { body: JSON.stringify(Object.fromEntries(forged)) });
    expect(answer.status).toBe(422);
    const { invalid_fields = [] } = await problemOf(answer);
    const named = invalid_fields.map(
      ({ description }) => /^Additional property (.*) is not allowed$/.exec(description)?.[1],
    );
    expect(named).toEqual(expect.arrayContaining(forged.map(([member]) => member)));
  });

  it("are refused inside of bodies too", () => {
    const open: string[] = [];
    const look = (given: Json, where: string): void => {
      const schema = resolve(given);
      const members = Object.entries((schema["properties"] ?? {}) as Record<string, Json>);
      if (members.length > 0 && schema["additionalProperties"] !== false) open.push(where);
      for (const [name, member] of members) look(member, `${where}.${name}`);
      if (typeof schema["items"] === "object") look(schema["items"] as Json, `${where}[]`);
    };
    for (const { name, body } of withJson) look(body, name);
    expect(open).toEqual([]);
  });

  it("leave what is stored as it was", async () => {
    const { token } = owner;
    const path = `/v1/models/${await aDestination(owner)}`;
    const before = await (await call("GET", path, { token })).json();
    for (const [member, value] of Object.entries({ ...READ_ONLY, owner: "cogway", name: "stolen" })) {
      const answer = await call("PATCH", path, { token, body: { description: "changed", [member]: value } });
      expect(await statusOf(answer), member).toBe(422);
    }
    expect(await (await call("GET", path, { token })).json()).toEqual(before);
    expect(await (await call("GET", "/v1/account", { token })).json()).toMatchObject({ username: owner.username });
  });
});

/** Each bound of a schema: a value at it, and one beyond. */
function boundsOf(given: Json): { bound: string; at: unknown; beyond: unknown }[] {
  const schema = resolve(given);
  const { maxLength, maxItems, minimum, maximum } = schema as Record<string, number | undefined>;
  const items = (count: number): unknown[] =>
    Array.from({ length: count }, () => sampleOf((schema["items"] ?? {}) as Json, "a/b"));
  const isText = schema["type"] === "string";
  return [
    ...(isText && maxLength !== undefined
      ? [{ bound: `${maxLength} characters`, at: "a".repeat(maxLength), beyond: "a".repeat(maxLength + 1) }]
      : []),
    ...(maxItems !== undefined
      ? [{ bound: `${maxItems} items`, at: items(maxItems), beyond: items(maxItems + 1) }]
      : []),
    // Those of the language's own integers are no bounds.
    ...(minimum !== undefined && Number.isSafeInteger(minimum - 1)
      ? [{ bound: `at least ${minimum}`, at: minimum, beyond: minimum - 1 }]
      : []),
    ...(maximum !== undefined && Number.isSafeInteger(maximum + 1)
      ? [{ bound: `at most ${maximum}`, at: maximum, beyond: maximum + 1 }]
      : []),
  ];
}

const bodyBounds = withJson.flatMap((operation) =>
  Object.entries((operation.body["properties"] ?? {}) as Record<string, Json>).flatMap(([member, schema]) =>
    boundsOf(schema).map((bound) => ({
      operation,
      member,
      ...bound,
      title: `${operation.name} ${member}: ${bound.bound}`,
    })),
  ),
);
// GET /v1/search tells faults as Replicate's does, in a `detail` alone: workers/search.test.ts has its bounds.
const withQuery = ofCallers.filter(({ name }) => name !== "GET /v1/search");
const queryBounds = withQuery.flatMap((operation) =>
  operation.parameters
    .filter((parameter) => parameter.in === "query")
    .flatMap(({ name, schema }) =>
      boundsOf(schema).map((bound) => ({
        operation,
        member: name,
        ...bound,
        title: `${operation.name} ?${name}: ${bound.bound}`,
      })),
    ),
);

describe("a bound", () => {
  it("is in the document for many members", () => {
    expect(bodyBounds.length).toBeGreaterThan(20);
    expect(queryBounds.length).toBeGreaterThan(5);
  });

  const SIZES = /_lte|_gte|too_/;
  const faultOf = async (answer: Response, member: string): Promise<string | null> => {
    if (answer.ok) {
      await answer.body?.cancel();
      return null;
    }
    const { invalid_fields = [] } = await problemOf(answer);
    const faults = invalid_fields.filter(({ field, type }) => field === member && SIZES.test(type));
    return faults[0]?.description ?? null;
  };

  it.each(bodyBounds)("of $title", async ({ operation, member, at, beyond }) => {
    const sent = (value: unknown) =>
      send(operation, pathOf(operation.path), { body: JSON.stringify({ [member]: value, unknown_member: 1 }) });
    expect(await faultOf(await sent(at), member)).toBeNull();
    expect(await faultOf(await sent(beyond), member)).not.toBeNull();
  });

  it.each(queryBounds)("of $title", async ({ operation, member, at, beyond }) => {
    const sent = (value: unknown) =>
      send(operation, `${pathOf(operation.path)}?${new URLSearchParams({ [member]: String(value) })}`, { body: "{}" });
    expect(await faultOf(await sent(at), member)).toBeNull();
    expect(await faultOf(await sent(beyond), member)).not.toBeNull();
  });

  it.each<[string, Record<string, string>, Record<string, string>]>([
    ["Idempotency-Key, 255 characters", { "idempotency-key": "k".repeat(255) }, { "idempotency-key": "k".repeat(256) }],
    ["Cancel-After, 5 s", { "cancel-after": "5s" }, { "cancel-after": "4s" }],
    ["Cancel-After, 24 h", { "cancel-after": "24h" }, { "cancel-after": "24h1s" }],
    ["Cogway-Retention, 366 days", { "cogway-retention": "366d" }, { "cogway-retention": "367d" }],
  ])("of the header %s", async (_title, at, beyond) => {
    const create = (headers: Record<string, string>) =>
      call("POST", "/v1/predictions", {
        token: owner.token,
        body: { version: "cogway/echo", input: { text: "x" } },
        headers,
      });
    expect(await statusOf(await create(at))).toBe(201);
    expect(await statusOf(await create(beyond))).toBe(400);
  });

  it("of JSON: 64 levels", async () => {
    const create = async (levels: number): Promise<number> => {
      const body = `{"version":"cogway/echo","input":{"text":"x","extra":${deep(levels - 2)}}}`;
      return statusOf(await call("POST", "/v1/predictions", { token: owner.token, body }));
    };
    expect([await create(64), await create(65)]).toEqual([201, 400]);
  });

  it.each([
    ["POST", "/v1/tokens", 1_048_576],
    ["POST", "/v1/predictions", 16_777_216],
  ])("of a body: %s %s takes %i bytes", async (method, path, bytesMax) => {
    const sent = async (bytes: number): Promise<number> => {
      const body = `{"name":${" ".repeat(bytes - 11)}""}`;
      expect(body.length).toBe(bytes);
      return statusOf(await call(method, path, { token: owner.token, body }));
    };
    expect([await sent(bytesMax), await sent(bytesMax + 1)]).toEqual([422, 413]);
  });
});
