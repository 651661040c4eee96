/** What holds for every request, whatever it asks for: its token, its answer, its line of log, and its share of the isolate. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { newToken } from "../schema/tokens.ts";
import { app } from "./app.ts";
import {
  anAccount,
  anAnnounce,
  aToken,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

let operator: string;
let owner: { id: string; username: string; token: string };
let version: string;
/** path and query of an output file */
let output: string;
const input = { text: "x" };

beforeAll(async () => {
  operator = await theOperator();
  const origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  owner = await anAccount();
  const id = await origin.aRunning(owner.token, version);
  const headers = { "content-type": "text/plain", "content-length": "5" };
  const file = await origin.send("PUT", `/origin/v1/outputs/${id}/1/0/f.txt`, "bytes", headers);
  await origin.events(id, 1, [
    { type: "output", mode: "set", value: await file.json() },
    { type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.1 },
  ]);
  const ended = await predictionOf(await call("GET", `/v1/predictions/${id}`, { token: owner.token }));
  output = String(ended.output).replace(PUBLIC_URL, "");
});
afterEach(() => vi.restoreAllMocks());

describe("tokens", () => {
  it.each(["Bearer", "bearer", "Token"])("are accepted as %s", async (scheme) => {
    const answer = await call("GET", "/v1/account", { headers: { authorization: `${scheme} ${owner.token}` } });
    expect(await answer.json()).toEqual({
      type: "user",
      username: owner.username,
      name: "Test",
      github_url: null,
      avatar_url: null,
    });
  });

  it("that are well-formed but nobody's, or expired, are refused", async () => {
    for (const token of [newToken(), await aToken(owner.id, ["account:read"], Date.now() - 1)]) {
      const answer = await call("GET", "/v1/account", { token });
      expect(answer.status).toBe(401);
      expect(answer.headers.get("www-authenticate")).toMatch(/^Bearer/);
      expect(await problemOf(answer)).toMatchObject({ code: "auth.unauthenticated", title: "Unauthenticated" });
    }
  });

  it("with any mistake are refused without a look-up", async () => {
    const DB = new Proxy({}, { get: () => expect.unreachable("the database was asked") });
    const good = owner.token;
    const flipped = [...good].map((character, at) => {
      const swapped = character === character.toLowerCase() ? character.toUpperCase() : character.toLowerCase();
      return (
        good.slice(0, at) + (swapped === character ? (character === "7" ? "8" : "7") : swapped) + good.slice(at + 1)
      );
    });
    const others = [
      ...Array.from({ length: good.length }, (_, length) => good.slice(0, length)),
      `${good}0`,
      `${good} ${good}`,
      "' OR 1=1 --",
      "x".repeat(1_000_000),
    ];
    for (const token of [...flipped, ...others]) {
      const context = createExecutionContext();
      const request = new Request(`${PUBLIC_URL}/v1/account`, { headers: { authorization: `Bearer ${token}` } });
      const answer = await app.fetch(request, { ...env, DB } as unknown as Env, context);
      await waitOnExecutionContext(context);
      expect(answer.status).toBe(401);
    }
  });
});

describe("a new account", () => {
  const make = (body: unknown) => call("POST", "/admin/v1/accounts", { token: operator, body });

  it("gets a token that works, and its name once", async () => {
    const body = { type: "organization", username: "acme", name: "Acme", limits: { creates_per_minute: 7 } };
    const answer = await make(body);
    expect(answer.status).toBe(201);
    const { account, token } = await answer.json<{ account: Record<string, unknown>; token: string }>();
    expect(account).toMatchObject({
      type: "organization",
      username: "acme",
      name: "Acme",
      limits: { creates_per_minute: 7 },
    });
    expect(await (await call("GET", "/v1/account", { token })).json()).toMatchObject({ username: "acme" });
    const made = await call("POST", "/v1/predictions", { token, body: { version, input } });
    expect(made.headers.get("ratelimit-remaining")).toBe("6");
    const taken = await make(body);
    expect(taken.status).toBe(409);
    expect((await problemOf(taken)).code).toBe("account.name_taken");
  });

  it("cannot take the name of an address, nor any other form", async () => {
    for (const username of ["admin", "v1", "Big", "a/b", "", "-x"]) {
      expect((await make({ type: "user", username, name: "X" })).status).toBe(422);
    }
    expect((await make({ type: "user", username: "ok", name: "X", scopes: ["admin"] })).status).toBe(422);
  });
});

describe("every answer", () => {
  it("has an id, and is kept by nobody", async () => {
    const answer = await call("GET", "/v1/account", { token: owner.token });
    expect(answer.headers.get("x-request-id")).toMatch(/^[a-z2-7]{20}$/);
    expect(answer.headers.get("cache-control")).toBe("no-store");
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    expect((await call("GET", "/v1/nothing")).headers.get("x-request-id")).toMatch(/^[a-z2-7]{20}$/);
  });

  it("leaves one line of log without inputs, tokens or queries", async () => {
    const lines: unknown[] = [];
    for (const method of ["log", "warn", "error"] as const) {
      vi.spyOn(console, method).mockImplementation((line: unknown) => void lines.push(line));
    }
    const secret = "planted\ncanary";
    const answers = [
      await call("POST", "/v1/predictions", { token: owner.token, body: { version, input: { text: secret } } }),
      await call("POST", "/v1/predictions", {
        token: owner.token,
        body: { version, input: { text: 1, image: secret } },
      }),
      await call("GET", output),
    ];
    const ids = answers.map((answer) => String(answer.headers.get("x-request-id")));
    const own = () => lines.filter((line) => ids.some((id) => String(line).includes(id)));
    await vi.waitFor(() => expect(own()).toHaveLength(3));
    for (const line of own()) {
      expect(line).not.toMatch(/canary|cw_|\n/);
      expect(line).not.toContain(new URL(output, PUBLIC_URL).search);
      expect(JSON.parse(String(line))).toMatchObject({ status: expect.any(Number), request_id: expect.any(String) });
    }
    expect(JSON.parse(String(own()[0]))).toMatchObject({ method: "POST", route: "/v1/predictions", account: owner.id });
    expect(lines.join(" ")).not.toContain("canary");
  });

  it("hides what failed inside, and logs it under the request's id", async () => {
    const errors = vi.spyOn(console, "error").mockImplementation(() => {});
    const context = createExecutionContext();
    const DB = new Proxy(
      {},
      {
        get: () => () => {
          throw new Error("the disk is on fire");
        },
      },
    );
    const request = new Request(`${PUBLIC_URL}/v1/account`, { headers: { authorization: `Bearer ${newToken()}` } });
    const answer = await app.fetch(request, { ...env, DB } as unknown as Env, context);
    await waitOnExecutionContext(context);
    expect(answer.status).toBe(500);
    const problem = await problemOf(answer);
    expect(problem.code).toBe("internal.error");
    expect(JSON.stringify(problem)).not.toContain("fire");
    expect(errors.mock.calls[0]?.[0]).toContain("fire");
    expect(errors.mock.calls[0]?.[0]).toContain(problem.instance);
  });

  it.each([
    ["DELETE", "/v1/predictions", "GET, HEAD, POST"],
    ["GET", "/admin/v1/accounts", "POST"],
    ["PUT", "/v1/predictions/x/cancel", "POST"],
    ["POST", "/healthz", "GET, HEAD"],
    ["PATCH", "/openapi.json", "GET, HEAD"],
  ])("to %s %s is 405 with the methods that it knows", async (method, path, allow) => {
    const answer = await call(method, path, { token: owner.token });
    expect([answer.status, answer.headers.get("allow")]).toEqual([405, allow]);
    expect((await problemOf(answer)).code).toBe("request.method_not_allowed");
  });

  it("lets browsers of any site call the API, and none the operator's and origins' routes", async () => {
    const preflight = (path: string) =>
      call("OPTIONS", path, {
        headers: {
          origin: "https://site.example",
          "access-control-request-method": "POST",
          "access-control-request-headers": "authorization,content-type,prefer,user-agent",
        },
      });
    const api = await preflight("/v1/predictions");
    expect(api.status).toBe(204);
    expect(api.headers.get("access-control-allow-origin")).toBe("*");
    expect(api.headers.get("access-control-allow-headers")).toContain("prefer");
    expect(api.headers.get("access-control-allow-methods")).toContain("QUERY");
    expect(api.headers.get("access-control-allow-credentials")).toBeNull();
    for (const path of ["/admin/v1/accounts", "/origin/v1/events", "/healthz"]) {
      expect((await preflight(path)).headers.get("access-control-allow-origin")).toBeNull();
    }
    const refused = await call("GET", "/v1/account", { headers: { origin: "https://site.example" } });
    expect(refused.status).toBe(401);
    expect(refused.headers.get("access-control-allow-origin")).toBe("*");
    expect(refused.headers.get("access-control-expose-headers")?.toLowerCase()).toContain("location");
  });
});

describe("load", () => {
  it("holds at most four bodies above 4 MiB at once", async () => {
    const part = new TextEncoder().encode(`{"x":"${"x".repeat(4_500_000)}`);
    const open: ReadableStreamDefaultController<Uint8Array>[] = [];
    const send = async (): Promise<number> => {
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(part);
          open.push(controller);
        },
      });
      const context = createExecutionContext();
      const headers = { authorization: `Bearer ${owner.token}`, "content-type": "application/json" };
      const request = new Request(`${PUBLIC_URL}/v1/predictions`, { method: "POST", headers, body });
      const answer = await app.fetch(request, env, context);
      if (answer.status === 503) expect((await problemOf(answer)).code).toBe("edge.busy");
      return answer.status;
    };
    const answers = Array.from({ length: 5 }, send);
    expect(await Promise.race(answers)).toBe(503);
    for (const controller of open) {
      try {
        controller.enqueue(new TextEncoder().encode('"}'));
        controller.close();
      } catch {
        // the refused one was cancelled
      }
    }
    expect((await Promise.all(answers)).toSorted()).toEqual([422, 422, 422, 422, 503]);
    expect(
      (await call("POST", "/v1/predictions", { token: owner.token, body: { x: "x".repeat(4_500_000) } })).status,
    ).toBe(422);
  });

  it("makes a warm create out of two object calls, and asks neither the database nor the cache", async () => {
    const calls: string[] = [];
    const recorded = (binding: "ACCOUNTS" | "PREDICTIONS") => ({
      getByName: (name: string) =>
        new Proxy(env[binding].getByName(name), {
          get:
            (stub, method) =>
            (...args: unknown[]) => {
              calls.push(String(method));
              return (stub as unknown as Record<string | symbol, (...args: unknown[]) => unknown>)[method]?.(...args);
            },
        }),
    });
    const send = async (bindings: Env): Promise<Response> => {
      const context = createExecutionContext();
      const headers = { authorization: `Bearer ${owner.token}`, "content-type": "application/json" };
      const body = JSON.stringify({ version: "cogway/echo", input });
      const answer = await app.fetch(
        new Request(`${PUBLIC_URL}/v1/predictions`, { method: "POST", headers, body }),
        bindings,
        context,
      );
      await waitOnExecutionContext(context);
      return answer;
    };
    await send(env);
    const match = vi.spyOn(caches.default, "match");
    const DB = new Proxy({}, { get: () => expect.unreachable("the database was asked") });
    const warm = { ...env, DB, ACCOUNTS: recorded("ACCOUNTS"), PREDICTIONS: recorded("PREDICTIONS") };
    expect((await send(warm as unknown as Env)).status).toBe(201);
    expect(calls).toEqual(["admit", "create"]);
    expect(match).not.toHaveBeenCalled();
  });
});
