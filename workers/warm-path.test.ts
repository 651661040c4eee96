/** The warm path of create, get and stream reads no database: rows that change rarely are in the isolate's memory, and everything else is in objects. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterAll, beforeAll, expect, it, vi } from "vitest";
import { app } from "./app.ts";
import { anAccount, anAnnounce, FakeOrigin, PUBLIC_URL, type WirePrediction } from "./testing/edge.ts";

/** Answers nothing, and says who asked. */
const NO_DATABASE = new Proxy({} as D1Database, {
  get: (_target, method) => {
    throw new Error(`the database was asked: ${String(method)}`);
  },
});

let token: string;
let version: string;
let username: string;
let origin: FakeOrigin;
beforeAll(async () => {
  // What is remembered for 5 s stays so, however slow the machine is.
  vi.useFakeTimers({ toFake: ["Date"] });
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  ({ token, username } = await anAccount());
  const bounds = { hardware: "cpu", min_instances: 0, max_instances: 1 };
  const body = { name: "warm", model: "cogway/echo", version, ...bounds };
  expect((await fetchWith(env.DB, "POST", "/v1/deployments", body)).status).toBe(200);
});

afterAll(() => {
  vi.useRealTimers();
});

async function fetchWith(db: D1Database, method: string, path: string, body?: unknown): Promise<Response> {
  const context = createExecutionContext();
  const request = new Request(PUBLIC_URL + path, {
    method,
    headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const answer = await app.fetch(request, { ...env, DB: db }, context);
  await waitOnExecutionContext(context);
  return answer;
}

it.each([
  ["by version", "/v1/predictions", () => ({ version, input: { text: "x" } })],
  ["by owner/name", "/v1/predictions", () => ({ version: "cogway/echo", input: { text: "x" } })],
  ["on the model", "/v1/models/cogway/echo/predictions", () => ({ input: { text: "x" } })],
  ["on a deployment", "/v1/deployments/USERNAME/warm/predictions", () => ({ input: { text: "x" } })],
])("creates %s, gets, lists, streams and cancels without a read", async (_how, template, body) => {
  const path = template.replace("USERNAME", username);
  const cold = await fetchWith(env.DB, "POST", path, body());
  expect(cold.status).toBe(201);
  const warm = await fetchWith(NO_DATABASE, "POST", path, body());
  expect(warm.status).toBe(201);
  const { id, urls } = await warm.json<WirePrediction>();
  expect((await fetchWith(NO_DATABASE, "GET", `/v1/predictions/${id}`)).status).toBe(200);
  expect((await fetchWith(NO_DATABASE, "GET", "/v1/predictions")).status).toBe(200);
  expect((await fetchWith(NO_DATABASE, "POST", `/v1/predictions/${id}/cancel`)).status).toBe(200);
  const stream = await fetchWith(NO_DATABASE, "GET", String(urls["stream"]).replace(PUBLIC_URL, ""));
  expect(await stream.text()).toContain("event: done");
});
