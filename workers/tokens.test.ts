/** Tokens: what they are worth, how they are made and end, and that no wrong one costs more than a look at it. */
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { hashToken, isTokenWellFormed, newToken, SCOPES } from "../schema/tokens.ts";
import { app } from "./app.ts";
import {
  anAccount,
  anAnnounce,
  call,
  FakeOrigin,
  PUBLIC_URL,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

type Account = Awaited<ReturnType<typeof anAccount>>;
interface WireToken {
  id: string;
  token: string;
  account: string;
  name: string;
  last_four: string;
  scopes: string[];
  allowed_models: string[] | null;
  created_at: string;
  created_by: string | null;
  expires_at: string | null;
  last_used_at: string | null;
  revoked: boolean;
}

let operator: string;
let origin: FakeOrigin;
let owner: Account;
let other: Account;
beforeAll(async () => {
  operator = await theOperator();
  origin = await FakeOrigin.join();
  [owner, other] = await Promise.all([anAccount(), anAccount()]);
});
afterEach(() => {
  vi.useRealTimers();
});

const mint = (token: string, body: Record<string, unknown>) => call("POST", "/v1/tokens", { token, body });
async function minted(token: string, body: Record<string, unknown>): Promise<WireToken> {
  const answer = await mint(token, { name: "robot", scopes: ["account:read"], ...body });
  if (answer.status !== 201) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}
const statusOf = async (token: string) => (await call("GET", "/v1/account", { token })).status;
const codeOf = async (answer: Response) => [answer.status, (await problemOf(answer)).code];

describe("a token", () => {
  it("is shown once, and stored as its hash alone", async () => {
    const expires_at = new Date(Date.now() + 3_600_000).toISOString();
    const body = { name: "CI", scopes: ["account:read", "models:read"], expires_at, allowed_models: ["cogway/echo"] };
    const answer = await mint(owner.token, body);
    expect(answer.status).toBe(201);
    const { token, ...shown } = await answer.json<WireToken>();
    expect(isTokenWellFormed(token)).toBe(true);
    expect(shown).toEqual({
      ...body,
      id: hashToken(token).slice(0, 20),
      account: owner.username,
      last_four: token.slice(-4),
      created_at: expect.stringMatching(/Z$/),
      created_by: owner.username,
      last_used_at: null,
      revoked: false,
      budget: null,
    });
    expect(await (await call("GET", `/v1/tokens/${shown.id}`, { token: owner.token })).json()).toEqual(shown);
    const stored = JSON.stringify((await env.DB.prepare("SELECT * FROM tokens").all()).results);
    for (const text of [token, owner.token, operator]) {
      expect(stored).not.toContain(text);
      expect(stored).toContain(hashToken(text));
    }
  });

  it("ends when it was to end", async () => {
    const { token, expires_at, created_at } = await minted(owner.token, { expires_in: 60 });
    expect(Date.parse(expires_at ?? "") - Date.parse(created_at)).toBe(60_000);
    expect(await statusOf(token)).toBe(200);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.parse(expires_at ?? "") - 1 });
    expect(await statusOf(token)).toBe(200);
    vi.setSystemTime(Date.parse(expires_at ?? ""));
    expect(await statusOf(token)).toBe(401);
  });

  it("may do no more than what made it, and passes on its bounds", async () => {
    const expires_at = new Date(Date.now() + 3_600_000).toISOString();
    const later = new Date(Date.now() + 3_600_001).toISOString();
    const scopes = ["tokens:admin", "account:read"];
    const narrow = await minted(owner.token, { scopes, expires_at, allowed_models: ["a/b", "a/c"] });
    for (const wider of [
      { scopes: ["account:read", "predictions:read"] },
      { scopes: ["admin"] },
      { allowed_models: ["a/b", "a/d"] },
      { expires_at: later },
    ]) {
      const answer = await mint(narrow.token, { name: "x", scopes: ["account:read"], ...wider });
      expect(await codeOf(answer)).toEqual([403, "auth.forbidden"]);
    }
    expect(await minted(narrow.token, {})).toMatchObject({ expires_at, allowed_models: ["a/b", "a/c"] });
    const narrower = await minted(narrow.token, { scopes: ["account:read"], expires_in: 60, allowed_models: ["a/c"] });
    expect(narrower.allowed_models).toEqual(["a/c"]);
    expect(await codeOf(await mint(narrower.token, { name: "x", scopes: ["account:read"] }))).toEqual([
      403,
      "auth.forbidden",
    ]);
    expect(await codeOf(await mint(owner.token, { name: "x", scopes: ["admin"] }))).toEqual([403, "auth.forbidden"]);
    expect((await minted(operator, { scopes: ["admin"] })).scopes).toEqual(["admin"]);
  });

  it("of the operator's scope goes to no organization", async () => {
    const username = `o${crypto.randomUUID()}`;
    await call("POST", "/v1/organizations", { token: operator, body: { username, name: "X" } });
    const answer = await mint(operator, { name: "x", scopes: ["admin"], account: username });
    expect(await codeOf(answer)).toEqual([403, "auth.forbidden"]);
  });

  it.each([
    { name: "x" },
    { scopes: ["account:read"] },
    { name: "", scopes: ["account:read"] },
    { name: "a\nb", scopes: ["account:read"] },
    { name: "x".repeat(256), scopes: ["account:read"] },
    { name: "x", scopes: [] },
    { name: "x", scopes: ["everything"] },
    { name: "x", scopes: ["account:read"], expires_in: 0 },
    { name: "x", scopes: ["account:read"], expires_in: 60, expires_at: "2090-01-01T00:00:00Z" },
    { name: "x", scopes: ["account:read"], expires_at: "2020-01-01T00:00:00Z" },
    { name: "x", scopes: ["account:read"], expires_at: "tomorrow" },
    { name: "x", scopes: ["account:read"], allowed_models: [] },
    { name: "x", scopes: ["account:read"], allowed_models: ["no-owner"] },
    { name: "x", scopes: ["account:read"], id: "mine" },
    { name: "x", scopes: ["account:read"], last_used_at: "2020-01-01T00:00:00Z" },
    { name: "x", scopes: ["account:read"], revoked: true },
  ])("is refused as %o", async (body) => {
    const before = await env.DB.prepare("SELECT count(*) AS n FROM tokens").first("n");
    expect(await codeOf(await mint(owner.token, body))).toEqual([422, "input.invalid"]);
    expect(await env.DB.prepare("SELECT count(*) AS n FROM tokens").first("n")).toBe(before);
  });

  it("says when it was last used, within a minute and with one write a minute", async () => {
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() });
    const { id, token } = await minted(owner.token, {});
    const lastUsed = async () =>
      (await (await call("GET", `/v1/tokens/${id}`, { token: owner.token })).json<WireToken>()).last_used_at;
    expect(await lastUsed()).toBeNull();
    const first = new Date().toISOString();
    await statusOf(token);
    await vi.waitFor(async () => expect(await lastUsed()).toBe(first));
    vi.setSystemTime(Date.now() + 59_000);
    await statusOf(token);
    expect(await lastUsed()).toBe(first);
    vi.setSystemTime(Date.now() + 6_000);
    const second = new Date().toISOString();
    await statusOf(token);
    await vi.waitFor(async () => expect(await lastUsed()).toBe(second));
  });

  it("that an earlier release stored has no name and no bounds", async () => {
    const token = newToken();
    await env.DB.prepare("INSERT INTO tokens (hash, account_id, scopes, last_four, created_at) VALUES (?, ?, ?, ?, ?)")
      .bind(hashToken(token), owner.id, JSON.stringify(["account:read", "tokens:admin"]), token.slice(-4), 1)
      .run();
    const answer = await call("GET", `/v1/tokens/${hashToken(token).slice(0, 20)}`, { token });
    expect(await answer.json()).toMatchObject({
      name: "",
      allowed_models: null,
      created_by: null,
      expires_at: null,
      revoked: false,
    });
  });
});

describe("a revoked token", () => {
  it("is refused at once here, and stays in the list", async () => {
    const { id, token } = await minted(owner.token, {});
    expect(await statusOf(token)).toBe(200);
    for (let i = 0; i < 2; i++) {
      expect((await call("DELETE", `/v1/tokens/${id}`, { token: owner.token })).status).toBe(204);
      expect(await statusOf(token)).toBe(401);
    }
    const row = await (await call("GET", `/v1/tokens/${id}`, { token: owner.token })).json<WireToken>();
    expect(row.revoked).toBe(true);
  });

  it("is refused within five seconds where another isolate revoked it, and makes no token in between", async () => {
    const { id, token } = await minted(owner.token, { scopes: ["tokens:admin", "account:read"] });
    expect(await statusOf(token)).toBe(200);
    await env.DB.prepare("UPDATE tokens SET revoked_at = 1 WHERE hash LIKE ?").bind(`${id}%`).run();
    expect(await codeOf(await mint(token, { name: "x", scopes: ["account:read"] }))).toEqual([
      401,
      "auth.unauthenticated",
    ]);
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 5_000 });
    expect(await statusOf(token)).toBe(401);
  });

  it("may revoke itself, and never another account's", async () => {
    const { id, token } = await minted(owner.token, { scopes: ["tokens:admin"] });
    for (const method of ["GET", "DELETE"]) {
      expect(await codeOf(await call(method, `/v1/tokens/${id}`, { token: other.token }))).toEqual([
        404,
        "token.not_found",
      ]);
    }
    for (const wrong of [
      id.slice(1),
      `${id}0`,
      id.toUpperCase().replace(/^./, "/"),
      "%27%20OR%201=1",
      "g".repeat(20),
    ]) {
      expect((await call("DELETE", `/v1/tokens/${wrong}`, { token })).status).toBe(404);
    }
    expect((await call("DELETE", `/v1/tokens/${id}`, { token })).status).toBe(204);
    expect(await statusOf(token)).toBe(401);
  });
});

describe("the list of tokens", () => {
  it("shows each of the account once over its pages, newest first, and none of another's", async () => {
    const account = await anAccount();
    const insert = env.DB.prepare(
      "INSERT INTO tokens (hash, account_id, scopes, last_four, created_at) VALUES (?, ?, '[]', 'abcd', ?)",
    );
    // Pairs of the same millisecond, and pages of 100: 201 with the account's first.
    await env.DB.batch(
      Array.from({ length: 200 }, (_, i) => insert.bind(hashToken(newToken()), account.id, 1_000 + Math.floor(i / 2))),
    );
    const pages: WireToken[][] = [];
    let next: string | null = `${PUBLIC_URL}/v1/tokens`;
    let previous: string | null = null;
    while (next !== null) {
      const page: { next: string | null; previous: string | null; results: WireToken[] } = await (
        await call("GET", next, { token: account.token })
      ).json();
      pages.push(page.results);
      ({ next, previous } = page);
      if (pages.length === 1) {
        expect(previous).toBeNull();
        await minted(account.token, {});
      }
    }
    expect(pages.map((rows) => rows.length)).toEqual([100, 100, 1]);
    const all = pages.flat();
    expect(new Set(all.map(({ id }) => id)).size).toBe(201);
    expect(all.map(({ created_at }) => created_at)).toEqual(
      all
        .map(({ created_at }) => created_at)
        .toSorted()
        .reverse(),
    );
    const back = await (await call("GET", previous ?? "", { token: account.token })).json<{ results: WireToken[] }>();
    expect(back.results).toEqual(pages[1]);
    expect(all.every((row) => row.account === account.username)).toBe(true);
  });

  it("refuses a thousand and first live one", async () => {
    const account = await anAccount();
    const insert = env.DB.prepare(
      "INSERT INTO tokens (hash, account_id, scopes, last_four, created_at, revoked_at) VALUES (?, ?, '[]', 'abcd', 1, ?)",
    );
    const rows = (n: number, revoked: number | null) =>
      env.DB.batch(Array.from({ length: n }, () => insert.bind(hashToken(newToken()), account.id, revoked)));
    await rows(500, 1);
    await rows(998, null);
    await minted(account.token, {});
    expect(await codeOf(await mint(account.token, { name: "x", scopes: ["account:read"] }))).toEqual([
      409,
      "account.limit_reached",
    ]);
  });
});

describe("a token that is bound to models", () => {
  it("creates, gets, lists and cancels predictions of these alone", async () => {
    await origin.announce("bound-a", anAnnounce());
    const announced = anAnnounce();
    await origin.announce("bound-b", announced);
    const account = await anAccount();
    const { token } = await minted(account.token, {
      scopes: SCOPES.filter((scope) => scope !== "admin" && scope !== "metrics:read"),
      allowed_models: ["cogway/bound-a"],
    });
    const create = (by: string, version: string) =>
      call("POST", "/v1/predictions", { token: by, body: { version, input: { text: "x" } } });
    const seen = await predictionOf(await create(token, "cogway/bound-a"));
    const hidden = await predictionOf(await create(account.token, "cogway/bound-b"));
    expect((await create(token, "cogway/bound-b")).status).toBe(404);
    expect((await create(token, announced.version?.id ?? "")).status).toBe(422);
    expect((await call("GET", "/v1/models/cogway/bound-b", { token })).status).toBe(404);
    expect((await call("GET", `/v1/predictions/${seen.id}`, { token })).status).toBe(200);
    expect(await codeOf(await call("GET", `/v1/predictions/${hidden.id}`, { token }))).toEqual([
      404,
      "prediction.not_found",
    ]);
    expect((await call("POST", `/v1/predictions/${hidden.id}/cancel`, { token })).status).toBe(404);
    const listed = async (by: string) =>
      (await (await call("GET", "/v1/predictions", { token: by })).json<{ results: { id: string }[] }>()).results.map(
        ({ id }) => id,
      );
    expect(await listed(token)).toEqual([seen.id]);
    expect(await listed(account.token)).toEqual([hidden.id, seen.id]);
    const batch = async (by: string, model: string) => {
      const body = { version: model, inputs: [{ text: "x" }] };
      return (await call("POST", "/v1/batches", { token: by, body })).json<{ id: string }>();
    };
    const [seenBatch, hiddenBatch] = [
      await batch(token, "cogway/bound-a"),
      await batch(account.token, "cogway/bound-b"),
    ];
    const { results } = await (await call("GET", "/v1/batches", { token })).json<{ results: { id: string }[] }>();
    expect(results.map((row) => row.id)).toEqual([seenBatch.id]);
    for (const [method, path] of [
      ["GET", ""],
      ["POST", "/cancel"],
      ["GET", "/results"],
    ]) {
      const answer = await call(method ?? "", `/v1/batches/${hiddenBatch.id}${path}`, { token });
      expect(await codeOf(answer)).toEqual([404, "batch.not_found"]);
    }
    const still = await predictionOf(await call("GET", `/v1/predictions/${hidden.id}`, { token: account.token }));
    expect(still.status).not.toBe("canceled");
  });
});

describe("a wrong token", () => {
  it("is refused without a look-up in 10,000 forms", async () => {
    const DB = new Proxy({}, { get: () => expect.unreachable("the database was asked") });
    const good = newToken();
    const random = (n: number) => Math.floor(Math.random() * n);
    const strange = [
      ..."\u0000\t!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~ ",
      "' OR 1=1 --",
      '"; DROP TABLE tokens; --',
      "%00",
      "..",
      "cw_",
    ];
    const mutations: (() => string)[] = [
      () => good.slice(0, random(good.length)),
      () => good.slice(1 + random(good.length - 1)),
      () => flip(good, random(good.length)),
      () => flip(flip(good, 3 + random(15)), 18 + random(15)),
      () => good.slice(0, 33) + newToken().slice(33),
      () => `${good}${strange[random(strange.length)]}`,
      () => good.slice(0, 3 + random(36)) + strange[random(strange.length)] + good.slice(3 + random(36)),
      () => strange[random(strange.length)]?.repeat(1 + random(50)) ?? "",
      () => good.toUpperCase(),
      () => [...good].toReversed().join(""),
    ];
    const statuses = new Map<number, number>();
    const context = createExecutionContext();
    const ask = async (authorization: string) => {
      let request: Request;
      try {
        request = new Request(`${PUBLIC_URL}/v1/account`, { headers: { authorization } });
      } catch {
        // no header can hold it, so no request can bring it
        request = new Request(`${PUBLIC_URL}/v1/account`);
      }
      const { status } = await app.fetch(request, { ...env, DB } as unknown as Env, context);
      statuses.set(status, (statuses.get(status) ?? 0) + 1);
    };
    const wrong = Array.from({ length: 9_994 }, (_, i) => mutations[i % mutations.length]?.() ?? "").filter(
      // white space around a header's value is no part of it
      (token) => !isTokenWellFormed(token.trim()),
    );
    for (let i = 0; i < wrong.length; i += 100) {
      await Promise.all(wrong.slice(i, i + 100).map((token) => ask(`Bearer ${token}`)));
    }
    const MB = 1_000_000;
    for (const header of [
      `Bearer ${"x".repeat(MB)}`,
      `Bearer${" ".repeat(MB)}x y`,
      `Bearer x${" ".repeat(MB)}y`,
      // few of these: workerd warns of each
      `Bearer ${good}\u00e9`,
      `Bearer \u00ff\u00ff\u00ff`,
      `Bearer ${good.slice(0, -1)}\u212a`,
      `Basic ${good}`,
      good,
      "",
    ]) {
      await ask(header);
    }
    await waitOnExecutionContext(context);
    expect([...statuses.keys()]).toEqual([401]);
    expect(statuses.get(401)).toBeGreaterThan(9_900);
  });

  function flip(token: string, at: number): string {
    const character = token.charAt(at);
    const swapped = character === character.toLowerCase() ? character.toUpperCase() : character.toLowerCase();
    return (
      token.slice(0, at) + (swapped === character ? (character === "7" ? "8" : "7") : swapped) + token.slice(at + 1)
    );
  }
});
