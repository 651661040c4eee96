import { beforeAll, expect, test } from "vitest";
import { Api, type Page, type Prediction, type Problem } from "./lib/api.ts";
import { newCaller } from "./lib/shared-system.ts";

let caller: Api;
beforeAll(async () => {
  caller = await newCaller("refused");
});

async function listed(api: Api): Promise<string[]> {
  const { body } = await api.request<Page<Prediction>>("GET", "/v1/predictions");
  return body.results.map(({ id }) => id);
}

test("bad input: every fault at once, and nothing is run", async () => {
  const answer = await caller.tryCreate<Problem>("tokens", { count: -1, delay_ms: "fast", stamp: 3 });
  expect(answer.status).toBe(422);
  expect(answer.headers.get("content-type")).toContain("application/problem+json");
  const { invalid_fields, detail, title, status } = answer.body;
  expect({ title, status }).toEqual({ title: "Input validation failed", status: 422 });
  const fields = (invalid_fields ?? []).map(({ field }) => field).sort();
  expect(fields).toEqual(["input.count", "input.delay_ms", "input.stamp"]);
  for (const field of fields) expect(detail).toContain(`- ${field}: `);
  expect(await listed(caller)).toEqual([]);
});

test("a body that is no JSON, and a member that nobody knows", async () => {
  const malformed = await caller.request<Problem>("POST", "/v1/models/cogway/noop/predictions", { rawBody: "{" });
  expect(malformed.status).toBe(400);
  const unknown = await caller.request<Problem>("POST", "/v1/models/cogway/noop/predictions", {
    body: { input: {}, imput: {} },
  });
  expect(unknown.status).toBe(422);
  expect(unknown.body.detail).toContain("imput");
  expect(await listed(caller)).toEqual([]);
});

test("an unknown model is 404, an unknown version 422", async () => {
  expect((await caller.tryCreate("no-such-model", {})).status).toBe(404);
  expect((await caller.request("GET", "/v1/models/cogway/no-such-model")).status).toBe(404);
  const answer = await caller.request<Problem>("POST", "/v1/predictions", {
    body: { version: "0".repeat(64), input: {} },
  });
  expect(answer).toMatchObject({ status: 422, body: { title: "Invalid version or not permitted" } });
});

test("no token, a mistyped one and an unknown one are 401", async () => {
  const mistyped = caller.token.slice(0, -1) + (caller.token.endsWith("0") ? "1" : "0");
  for (const token of [mistyped, "r8_something", ""]) {
    const answer = await new Api(caller.url, token).request<Problem>("GET", "/v1/predictions");
    expect(answer).toMatchObject({ status: 401, body: { title: "Unauthenticated" } });
  }
});

test("another account's prediction is not found, by no road", async () => {
  const owned = await caller.run("noop", { text: "mine" });
  const other = await newCaller("other");
  for (const [method, path] of [
    ["GET", `/v1/predictions/${owned.id}`],
    ["POST", `/v1/predictions/${owned.id}/cancel`],
  ] as const) {
    const answer = await other.request<Problem>(method, path);
    expect(answer).toMatchObject({ status: 404, body: { code: "prediction.not_found" } });
  }
  expect(await listed(other)).toEqual([]);
  expect(await caller.get(owned)).toEqual(owned);
});

test("only the operator makes accounts", async () => {
  const answer = await caller.request("POST", "/admin/v1/accounts", {
    body: { type: "user", username: "mallory", name: "Mallory" },
  });
  expect(answer.status).toBe(403);
});

test("a model whose setup fails ends its predictions with a reason, and keeps its setup logs from callers", async () => {
  const end = await caller.untilEnd(await caller.create("broken-setup", {}), 90_000);
  expect(end.status).toBe("failed");
  expect(end.error).toBeTruthy();
  expect(end.logs).not.toContain("loading the weights");
});
