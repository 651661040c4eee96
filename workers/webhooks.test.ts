/** Webhooks as account owners see them over HTTP: keys, the log, replays, tests, and what is said of retention. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { Webhook } from "standardwebhooks";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import type { z } from "zod";
import type { WebhookEventPageSchema } from "../schema/api/webhooks.ts";
import { anAccount, anAnnounce, call, FakeOrigin, predictionOf, problemOf, theOperator } from "./testing/edge.ts";

const RECEIVER = "https://receiver.example/hook";

let origin: FakeOrigin;
let version: string;
let alice: { id: string; token: string };
let bob: { id: string; token: string };
let inner: typeof fetch;
const received: { headers: Headers; text: string }[] = [];
let answer: () => Response = () => new Response(null, { status: 204 });

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  [alice, bob] = await Promise.all([anAccount(), anAccount()]);
  inner = globalThis.fetch;
  vi.stubGlobal("fetch", async (url: RequestInfo | URL, init?: RequestInit) => {
    if (!String(url).startsWith(RECEIVER)) return inner(url, init);
    received.push({ headers: new Headers(init?.headers), text: String(init?.body) });
    return answer();
  });
});
afterAll(() => {
  vi.stubGlobal("fetch", inner);
});

type EventPage = z.infer<typeof WebhookEventPageSchema>;

async function json<T>(method: string, path: string, body?: unknown, token = alice.token): Promise<T> {
  const got = await call(method, path, { token, ...(body === undefined ? {} : { body }) });
  if (!got.ok) throw new Error(`${got.status} ${await got.text()}`);
  return got.json();
}

async function told(headers: Record<string, string> = {}): Promise<string> {
  const body = { version, input: { text: "x" }, webhook: RECEIVER };
  const made = await call("POST", "/v1/predictions", { token: alice.token, body, headers });
  const { id } = await predictionOf(made);
  await origin.succeed(id, "x x x");
  return id;
}

const logOf = (id: string): Promise<EventPage> => json("GET", `/v1/predictions/${id}/webhooks`);

describe("keys", () => {
  it("are an account's own, stay, and verify its webhooks; a rotated one signs beside the new one for a day", async () => {
    const { key } = await json<{ key: string }>("GET", "/v1/webhooks/default/secret");
    expect(key).toMatch(/^whsec_[A-Za-z0-9+/]{32}$/);
    expect(await json("GET", "/v1/webhooks/default/secret")).toEqual({ key });
    expect(await json("GET", "/v1/webhooks/default/secret", undefined, bob.token)).not.toEqual({ key });
    const rotated = await json<{ key: string; previous_valid_until: string }>(
      "POST",
      "/v1/webhooks/default/secret/rotate",
    );
    expect(rotated.key).not.toBe(key);
    expect(Date.parse(rotated.previous_valid_until) - Date.now()).toBeGreaterThan(86_300_000);
    expect(await json("GET", "/v1/webhooks/default/secret")).toEqual({ key: rotated.key });
    const id = await told();
    await vi.waitFor(async () => expect((await logOf(id)).results.at(-1)?.state).toBe("delivered"));
    const calls = received.filter(({ text }) => text.includes(id));
    expect(calls).toHaveLength(3);
    for (const { headers, text } of calls) {
      for (const secret of [key, rotated.key]) {
        expect(new Webhook(secret).verify(text, Object.fromEntries(headers))).toMatchObject({ id });
      }
    }
  });

  it("are stored nowhere in clear", async () => {
    const { key } = await json<{ key: string }>("GET", "/v1/webhooks/default/secret");
    const stored = env.ACCOUNTS.getByName(alice.id);
    const rows = await runInDurableObject(stored, (_object, state) =>
      JSON.stringify(state.storage.sql.exec("SELECT * FROM webhook_keys").toArray()),
    );
    expect(rows).not.toContain(key.slice(6));
  });
});

describe("the log", () => {
  it("shows each event with its attempts, and a replay sends it again", async () => {
    answer = () => new Response(null, { status: 503 });
    const id = await told();
    await vi.waitFor(async () => expect((await logOf(id)).results.at(-1)?.tried).toBe(1));
    const { results } = await logOf(id);
    expect(results.map(({ event, state }) => [event, state])).toEqual([
      ["start", "failed"],
      ["output", "failed"],
      ["completed", "pending"],
    ]);
    expect(results[2]).toMatchObject({ attempts: [{ status: 503, error: "status", is_replay: false }] });
    expect(Date.parse(results[2]?.next_attempt_at ?? "")).toBeGreaterThan(Date.now() - 1_000);
    answer = () => new Response(null, { status: 204 });
    const replayed = await json<EventPage["results"][0]>("POST", `/v1/predictions/${id}/webhooks/completed/replay`);
    expect(replayed).toMatchObject({ id: results[2]?.id, state: "delivered", next_attempt_at: null });
    expect(received.at(-1)?.headers.get("webhook-id")).toBe(results[2]?.id);
    await json("POST", `/v1/predictions/${id}/webhooks/${results[0]?.id}/replay`);
    expect(received.at(-1)?.headers.get("cogway-event")).toBe("start");
  });

  it("of others, of unknown ones and of trainings is not found", async () => {
    const id = await told();
    for (const [path, method, token] of [
      [`/v1/predictions/${id}/webhooks`, "GET", bob.token],
      [`/v1/predictions/${id}/webhooks/completed/replay`, "POST", bob.token],
      [`/v1/trainings/${id}/webhooks`, "GET", alice.token],
      [`/v1/predictions/${"a".repeat(26)}/webhooks`, "GET", alice.token],
      [`/v1/predictions/${id}/webhooks/nothing/replay`, "POST", alice.token],
    ] as const) {
      expect((await call(method, path, { token })).status, path).toBe(404);
    }
  });
});

describe("a test", () => {
  it("calls the receiver with a signed sample and tells what it said; ten a minute", async () => {
    const { key } = await json<{ key: string }>("GET", "/v1/webhooks/default/secret", undefined, bob.token);
    answer = () => new Response(null, { status: 404 });
    const test = (event?: string) =>
      json("POST", "/v1/webhooks/test", { url: RECEIVER, ...(event === undefined ? {} : { event }) }, bob.token);
    expect(await test()).toMatchObject({ event: "completed", status: 404, error: "status" });
    const { headers, text } = received.at(-1) ?? { headers: new Headers(), text: "" };
    expect(new Webhook(key).verify(text, Object.fromEntries(headers))).toMatchObject({
      test: true,
      status: "succeeded",
      output: "test",
    });
    answer = () => new Response(null, { status: 204 });
    for (let n = 0; n < 9; n++) expect(await test("output")).toMatchObject({ status: 204, error: null });
    const limited = await call("POST", "/v1/webhooks/test", { token: bob.token, body: { url: RECEIVER } });
    expect(limited.status).toBe(429);
    expect(Number(limited.headers.get("retry-after"))).toBeGreaterThan(0);
  });

  it.each([
    "http://127.0.0.1/hook",
    "http://localhost/hook",
    "https://receiver.example:8443/",
    "ftp://receiver.example/",
    "https://user:pass@receiver.example/",
    "http://metadata.google.internal/",
    "http://[::ffff:127.0.0.1]/",
    "http://2130706433/",
  ])("and a webhook may not go to %s", async (url) => {
    const tested = await call("POST", "/v1/webhooks/test", { token: alice.token, body: { url } });
    expect((await problemOf(tested)).invalid_fields).toMatchObject([{ field: "url" }]);
    const body = { version, input: { text: "x" }, webhook: url };
    const made = await call("POST", "/v1/predictions", { token: alice.token, body });
    expect(made.status).toBe(422);
    expect((await problemOf(made)).invalid_fields).toMatchObject([{ field: "webhook" }]);
  });
});

describe("Cogway-Retention", () => {
  const ended = async (retention: string) => {
    const body = { version, input: { text: "x" } };
    const headers = { "cogway-retention": retention };
    const { id } = await predictionOf(await call("POST", "/v1/predictions", { token: alice.token, body, headers }));
    await origin.succeed(id, "out");
    return () => call("GET", `/v1/predictions/${id}`, { token: alice.token }).then(predictionOf);
  };

  it("shows when the data goes once it ended", async () => {
    const week = await (await ended("7d"))();
    const { expires_at, completed_at } = week;
    expect(Date.parse(String(expires_at)) - Date.parse(String(completed_at))).toBe(7 * 86_400_000);
    expect(await (await ended("forever"))()).toMatchObject({ expires_at: null, output: "out" });
  });

  it("0 removes the data once it was shown", async () => {
    const get = await ended("0");
    expect(await get()).toMatchObject({ output: "out", data_removed: false });
    await vi.waitFor(async () => expect(await get()).toMatchObject({ output: null, data_removed: true }));
  });

  it.each(["", "-1", "1w", "367d", "never"])("%j is refused", async (retention) => {
    const body = { version, input: { text: "x" } };
    const headers = { "cogway-retention": retention };
    const refused = await call("POST", "/v1/predictions", { token: alice.token, body, headers });
    expect((await problemOf(refused)).code).toBe("request.header_invalid");
  });
});
