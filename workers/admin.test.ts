/** What the operator does to models, tokens, accounts and origins, and what others see of it. */
import { runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { eq } from "drizzle-orm";
import { drizzle } from "drizzle-orm/d1";
import { beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { accountStub, auditStub, batchStub } from "../durable-objects/stubs.ts";
import { predictionObjectName } from "../schema/ids.ts";
import { versions } from "../schema/tables/index.ts";
import { hashToken, tokenId } from "../schema/tokens.ts";
import { compileCacheKey } from "./domain/compile-caches.ts";
import { eraseNext } from "./domain/erase-account.ts";
import { packageKey } from "./domain/publish-version.ts";
import { settingsOf } from "./env.ts";
import { readAccount } from "./storage/admin.ts";
import {
  aDestination,
  anAccount,
  anAnnounce,
  aRegister,
  aToken,
  call,
  FakeOrigin,
  predictionOf,
  problemOf,
  theOperator,
} from "./testing/edge.ts";

let operator: string;
let origin: FakeOrigin;
let version: string;

beforeAll(async () => {
  operator = await theOperator();
  vi.stubGlobal("fetch", async () => new Response(null, { status: 500 }));
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
});
beforeEach(() => origin.heartbeat());

const asOperator = (method: string, path: string, body?: unknown) => call(method, path, { token: operator, body });
const create = (token: string, more: Record<string, unknown> = {}, headers: Record<string, string> = {}) =>
  call("POST", "/v1/predictions", { token, body: { version, input: { text: "planted-input" }, ...more }, headers });

/** Every row of an object's own tables, as text. */
const rowsOf = (stub: unknown): Promise<string> =>
  runInDurableObject(stub as never, (_object, state) =>
    JSON.stringify(
      state.storage.sql
        .exec<{ name: string }>(
          "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\'",
        )
        .toArray()
        .flatMap(({ name }) => state.storage.sql.exec(`SELECT * FROM "${name}"`).toArray()),
    ),
  );
/** Keys of what R2 holds of a prediction. */
async function objectsOf(id: string): Promise<string[]> {
  const prefixes = [`predictions/${id}/`, `outputs/${id}/`];
  const lists = await Promise.all(prefixes.map((prefix) => env.FILES.list({ prefix })));
  return lists.flatMap(({ objects }) => objects.map(({ key }) => key));
}

describe("a paused model", () => {
  it("starts nothing new and says why, finishes what it accepted, and runs again when resumed", async () => {
    const { token } = await anAccount();
    const before = await predictionOf(await create(token));
    await asOperator("POST", "/admin/v1/models/cogway/echo/pause", { reason: "its weights are wrong" });
    for (const path of ["/v1/predictions", "/v1/models/cogway/echo/predictions"]) {
      const body = { ...(path === "/v1/predictions" ? { version } : {}), input: { text: "x" } };
      const refused = await call("POST", path, { token, body });
      expect(refused.status).toBe(503);
      expect(refused.headers.get("retry-after")).toBe("60");
      const problem = await problemOf(refused);
      expect(problem.code).toBe("model.paused");
      expect(problem.detail).toContain("its weights are wrong");
    }
    const page = await (await call("GET", "/v1/status", { token })).json<{ results: Record<string, unknown>[] }>();
    expect(page.results.find(({ model }) => model === "cogway/echo")).toMatchObject({
      state: "paused",
      reason: "its weights are wrong",
      queue_length: expect.any(Number),
    });
    await origin.succeed(before.id, "y");
    await vi.waitFor(async () => {
      const ended = await predictionOf(await call("GET", `/v1/predictions/${before.id}`, { token }));
      expect(ended.status).toBe("succeeded");
    });
    await asOperator("POST", "/admin/v1/models/cogway/echo/resume");
    expect((await create(token)).status).toBe(201);
  });

  it("has to exist", async () => {
    const answer = await asOperator("POST", "/admin/v1/models/cogway/nothing/pause", { reason: "x" });
    expect((await problemOf(answer)).code).toBe("model.not_found");
  });
});

describe("a banned token", () => {
  it("of any account is refused from then on", async () => {
    const account = await anAccount();
    const token = await aToken(account.id, ["account:read"]);
    expect((await call("GET", "/v1/account", { token })).status).toBe(200);
    const path = `/admin/v1/tokens/${tokenId(hashToken(token))}/ban`;
    for (let again = 0; again < 2; again++) expect((await asOperator("POST", path)).status).toBe(204);
    expect((await call("GET", "/v1/account", { token })).status).toBe(401);
    expect((await call("GET", "/v1/account", { token: account.token })).status).toBe(200);
    const unknown = await asOperator("POST", `/admin/v1/tokens/${"0".repeat(20)}/ban`);
    expect((await problemOf(unknown)).code).toBe("token.not_found");
  });
});

describe("origins", () => {
  it("are added with a token that works once, drained, and removed", async () => {
    const { join_token } = await (await asOperator("POST", "/admin/v1/origins")).json<{ join_token: string }>();
    const body = aRegister({ join_token, url: "http://127.0.0.1:18799" });
    const joined = await call("POST", "/origin/v1/register", { body });
    expect(joined.status).toBe(200);
    const { origin_id } = await joined.json<{ origin_id: string }>();
    expect((await call("POST", "/origin/v1/register", { body: { ...body, incarnation: "x" } })).status).toBe(401);
    type Listing = { id: string; state: string };
    const listed = async () =>
      (await (await asOperator("GET", "/admin/v1/origins")).json<{ results: Listing[] }>()).results;
    expect((await listed()).find(({ id }) => id === origin_id)?.state).toBe("ready");
    const drained = await asOperator("POST", `/admin/v1/origins/${origin_id}/drain`);
    expect(await drained.json()).toMatchObject({ id: origin_id, state: "drained" });
    const back = await asOperator("POST", `/admin/v1/origins/${origin_id}/undrain`);
    expect(await back.json()).toMatchObject({ state: "ready" });
    expect((await asOperator("DELETE", `/admin/v1/origins/${origin_id}`)).status).toBe(204);
    expect((await listed()).map(({ id }) => id)).not.toContain(origin_id);
    const again = await asOperator("DELETE", `/admin/v1/origins/${origin_id}`);
    expect((await problemOf(again)).code).toBe("origin.not_found");
  });
});

describe("zero retention", () => {
  it("keeps nothing beyond delivery, whatever a prediction asks for", async () => {
    const account = await anAccount();
    const path = `/admin/v1/accounts/${account.username}`;
    expect(await (await asOperator("PATCH", path, { zero_retention: true })).json()).toMatchObject({
      zero_retention: true,
    });
    const webhook = "https://receiver.example/";
    const made = await predictionOf(await create(account.token, { webhook }, { "cogway-retention": "forever" }));
    await origin.succeed(made.id, "planted-output");
    const url = `/v1/predictions/${made.id}`;
    const read = async () => predictionOf(await call("GET", url, { token: account.token }));
    await vi.waitFor(async () => expect((await read()).status).toBe("succeeded"));
    // That was the delivery. Its webhook was not taken, and what it would tell is not kept for it.
    await vi.waitFor(async () => expect(await read()).toMatchObject({ data_removed: true, output: null, input: {} }), {
      timeout: 15_000,
      interval: 200,
    });
    const stub = env.PREDICTIONS.getByName(predictionObjectName(made.id));
    const dump = await runInDurableObject(stub, (_object, state) =>
      ["predictions", "log", "webhooks"]
        .flatMap((table) => state.storage.sql.exec(`SELECT * FROM ${table}`).toArray())
        .filter((row) => JSON.stringify(row).includes(made.id)),
    );
    expect(dump).not.toEqual([]);
    expect(JSON.stringify(dump)).not.toContain("planted");
    const batch = await call("POST", "/v1/batches", {
      token: account.token,
      body: { version, inputs: [{ text: "x" }] },
    });
    expect((await problemOf(batch)).detail).toContain("keeps nothing");
  });

  it("leaves no input, output, log or error in objects of R2, the account's list or any line of the log", async () => {
    const written: string[] = [];
    for (const level of ["log", "info", "warn", "error"] as const) {
      vi.spyOn(console, level).mockImplementation((...parts: unknown[]) => {
        written.push(parts.map(String).join(" "));
      });
    }
    onTestFinished(() => {
      vi.restoreAllMocks();
      vi.useRealTimers();
    });
    const account = await anAccount();
    await asOperator("PATCH", `/admin/v1/accounts/${account.username}`, { zero_retention: true });
    // Too large for a row, so it lies in R2 until it was delivered; and one that a wrong value refuses.
    const large = (text: string) => text.padEnd(300_000, "x");
    const made = await predictionOf(await create(account.token, { input: { text: large("planted-input") } }));
    const failed = await predictionOf(await create(account.token));
    expect((await create(account.token, { input: { text: ["planted-wrong"] } })).status).toBe(422);
    await origin.attemptOf(made.id);
    const file = new TextEncoder().encode("planted-file");
    const headers = { "content-type": "text/plain", "content-length": String(file.byteLength) };
    expect((await origin.send("PUT", `/origin/v1/outputs/${made.id}/1/0/f.txt`, file, headers)).status).toBe(201);
    await origin.events(made.id, 0, [
      { type: "started" },
      { type: "log", source: "stdout", data: "planted-log\n" },
      { type: "output", mode: "set", value: large("planted-output") },
    ]);
    await vi.waitFor(async () => expect((await objectsOf(made.id)).length).toBeGreaterThanOrEqual(3));
    const end = { type: "finished", metrics: {}, predict_time_s: 0.1 } as const;
    await origin.events(made.id, 3, [{ ...end, status: "succeeded" }]);
    await origin.attemptOf(failed.id);
    await origin.events(failed.id, 0, [{ type: "started" }, { ...end, status: "failed", error: "planted-error" }]);
    const list = accountStub(env, account.id);
    for (const { id } of [made, failed]) {
      const path = `/v1/predictions/${id}`;
      await vi.waitFor(async () => {
        expect((await predictionOf(await call("GET", path, { token: account.token }))).completed_at).not.toBeNull();
      });
    }
    // Files may be fetched for a minute after their delivery.
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 61_000 });
    for (const { id } of [made, failed]) {
      await vi.waitFor(
        async () => {
          await runDurableObjectAlarm(env.PREDICTIONS.getByName(predictionObjectName(id)));
          const { rows } = await list.list({ kind: "prediction", limit: 10 });
          expect(rows.find((row) => row.prediction_id === id)?.document).toMatchObject({ data_removed: true });
        },
        { timeout: 10_000, interval: 100 },
      );
      expect(await objectsOf(id)).toEqual([]);
    }
    const rows = await rowsOf(list);
    expect(rows).toContain(made.id);
    expect(rows).not.toContain("planted");
    // Lines of requests wait a moment for company.
    await vi.waitFor(() => expect(written.filter((line) => line.includes(made.id))).not.toEqual([]));
    expect(written.filter((line) => line.includes("planted"))).toEqual([]);
  });
});

describe("an export", () => {
  it("has everything that is kept of an account, no secret, and an end", async () => {
    const account = await anAccount();
    const spare = await aToken(account.id, ["account:read"]);
    const destination = await aDestination(account);
    const made = await predictionOf(await create(account.token));
    await origin.succeed(made.id, "an output");
    const answer = await asOperator("GET", `/admin/v1/accounts/${account.username}/export`);
    expect(answer.headers.get("content-type")).toBe("application/x-ndjson");
    const text = await answer.text();
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    const of = (kind: string) => lines.filter((line) => line["kind"] === kind);
    expect(of("account")).toMatchObject([{ id: account.id, username: account.username }]);
    expect(of("token").map(({ id }) => id)).toEqual(
      [account.token, spare].map((token) => tokenId(hashToken(token))).toSorted(),
    );
    expect(of("model")).toMatchObject([{ owner: account.username, name: destination.split("/")[1] }]);
    expect(of("prediction")).toMatchObject([{ id: made.id, input: { text: "planted-input" } }]);
    expect(of("audit")).toMatchObject([{ action: "model.created" }]);
    expect(lines.at(-1)).toEqual({ kind: "end" });
    for (const token of [account.token, spare]) {
      expect(text).not.toContain(token);
      expect(text).not.toContain(hashToken(token));
    }
  });
});

describe("deleting an account", () => {
  interface Erasure {
    state: "erasing" | "erased";
    cursor: string | null;
    step: string;
    waiting_for: string | null;
  }

  async function erase(username: string): Promise<Erasure[]> {
    const told: Erasure[] = [];
    for (let cursor: string | null = null; told.length < 50; ) {
      const query = cursor === null ? "" : `?cursor=${encodeURIComponent(cursor)}`;
      const answer = await asOperator("DELETE", `/admin/v1/accounts/${username}${query}`);
      expect(answer.status).toBe(200);
      const piece = await answer.json<Erasure>();
      told.push(piece);
      cursor = piece.cursor;
      if (piece.state === "erased") return told;
    }
    throw new Error(`it does not end: ${JSON.stringify(told.at(-1))}`);
  }

  it("ends its tokens, predictions, files and models, leaves others alone, and may be repeated", async () => {
    const [account, other] = [await anAccount(), await anAccount()];
    const destination = await aDestination(account);
    const ended = await predictionOf(await create(account.token));
    await origin.succeed(ended.id, "planted-output");
    const waiting = await predictionOf(await create(account.token, { webhook: "https://receiver.example/" }));
    const kept = await predictionOf(await create(other.token));
    const form = '--b\r\nContent-Disposition: form-data; name="content"; filename="f"\r\n\r\nplanted\r\n--b--\r\n';
    const headers = { "content-type": "multipart/form-data; boundary=b" };
    const file = await call("POST", "/v1/files", { token: account.token, body: form, headers });
    const { id: fileId } = await file.json<{ id: string }>();
    await vi.waitFor(async () => expect(await env.FILES.head(`files/${fileId}`)).not.toBeNull());

    const first = await asOperator("DELETE", `/admin/v1/accounts/${account.username}`);
    expect(await first.json()).toMatchObject({ state: "erasing", step: "predictions" });
    for (const path of ["/v1/account", `/v1/predictions/${ended.id}`]) {
      expect((await call("GET", path, { token: account.token })).status).toBe(401);
    }
    // From the start, as after a fault.
    const steps = await erase(account.username);
    const order = [...new Set(steps.map(({ step }) => step))];
    expect(order).toEqual(["predictions", "trainings", "batches", "files", "deployments", "models", "account"]);
    expect((await erase(account.username)).at(-1)?.state).toBe("erased");

    for (const { id } of [ended, waiting]) {
      const document = await env.PREDICTIONS.getByName(predictionObjectName(id)).get(id, account.id);
      expect(document).toMatchObject({ data_removed: true, output: null, input: {} });
    }
    const stub = env.PREDICTIONS.getByName(predictionObjectName(ended.id));
    const dump = await runInDurableObject(stub, (_object, state) =>
      ["predictions", "log"]
        .flatMap((table) => state.storage.sql.exec(`SELECT * FROM ${table}`).toArray())
        .filter((row) => JSON.stringify(row).includes(ended.id)),
    );
    expect(dump).not.toEqual([]);
    expect(JSON.stringify(dump)).not.toContain("planted");
    await vi.waitFor(async () => expect(await env.FILES.head(`files/${fileId}`)).toBeNull(), { timeout: 10_000 });
    expect((await asOperator("GET", `/v1/models/${destination}`)).status).toBe(404);
    expect(await (await asOperator("GET", `/admin/v1/accounts/${account.username}`)).json()).toMatchObject({
      username: account.username,
      deleted_at: expect.any(String),
    });
    const taken = await asOperator("POST", "/admin/v1/accounts", {
      type: "user",
      username: account.username,
      name: "New",
    });
    expect((await problemOf(taken)).code).toBe("account.name_taken");
    const alive = await predictionOf(await call("GET", `/v1/predictions/${kept.id}`, { token: other.token }));
    expect(alive.data_removed).toBe(false);
    const { entries } = await auditStub(env, "cogway").list({ before_seq: null, limit: 100 });
    expect(entries.filter(({ target }) => target === account.username).at(-1)).toMatchObject({
      action: "account.deleted",
      actor: "cogway",
      token_id: tokenId(hashToken(operator)),
      request_id: first.headers.get("x-request-id"),
    });
  });

  it("removes the predictions of batches, and what errors said of inputs, also where the data went before", async () => {
    const account = await anAccount();
    const failing = async (retention: string) => {
      const made = await predictionOf(await create(account.token, {}, { "cogway-retention": retention }));
      await origin.attemptOf(made.id);
      const finished = { type: "finished", status: "failed", error: "planted-error", metrics: {}, predict_time_s: 0.1 };
      await origin.events(made.id, 0, [{ type: "started" }, finished as never]);
      const url = `/v1/predictions/${made.id}`;
      await call("GET", url, { token: account.token });
      return made.id;
    };
    const [early, late] = [await failing("1s"), await failing("1h")];
    const list = accountStub(env, account.id);
    const listed = async (kind: "prediction" | "batch") => (await list.list({ kind, limit: 10 })).rows;
    await vi.waitFor(
      async () =>
        expect((await listed("prediction")).find((row) => row.prediction_id === early)?.document).toMatchObject({
          data_removed: true,
          error: "planted-error",
        }),
      { timeout: 15_000, interval: 200 },
    );

    const before = origin.attempts.length;
    const body = {
      version,
      inputs: [{ text: "planted-a" }, { text: "planted-b" }, { text: "planted-c" }],
      max_concurrency: 2,
    };
    const batch = await (await call("POST", "/v1/batches", { token: account.token, body })).json<{ id: string }>();
    await vi.waitFor(() => expect(origin.attempts.length).toBe(before + 2), { timeout: 10_000 });
    const [first, second] = origin.attempts.slice(before).map(({ prediction_id }) => prediction_id);
    await origin.succeed(first ?? "", "planted-output");
    // One has ended, one runs, and one waits or runs too.
    await erase(account.username);

    for (const id of [early, late]) {
      const document = await env.PREDICTIONS.getByName(predictionObjectName(id)).get(id, account.id);
      expect(document).toMatchObject({ data_removed: true, error: expect.stringContaining("removed") });
    }
    for (const id of [first ?? "", second ?? ""]) {
      const document = await env.PREDICTIONS.getByName(predictionObjectName(id)).get(id, account.id);
      expect(document).toMatchObject({ data_removed: true, output: null, input: {} });
    }
    expect((await env.FILES.list({ prefix: `batches/${batch.id}/` })).objects).toEqual([]);
    // The list's copies go with the next delivery of the outboxes.
    await vi.waitFor(async () => expect(JSON.stringify(await listed("prediction"))).not.toContain("planted"));
    expect(await rowsOf(accountStub(env, account.id))).not.toContain("planted");
    expect(await rowsOf(batchStub(env, batch.id))).not.toContain("planted");
    expect(await listed("batch")).toHaveLength(1);
  });

  it("leaves no bytes of its versions in R2, also after a call that broke, and spares weights that others share", async () => {
    const account = await anAccount();
    const [destination, elsewhere] = [await aDestination(account), await aDestination(await anAccount())];
    const orm = drizzle(env.DB);
    const row = await orm.select().from(versions).where(eq(versions.id, version)).get();
    if (row === undefined) throw new Error("the announced version is gone");
    const versionOf = async (path: string, key: string): Promise<string> => {
      const [owner = "", name = ""] = path.split("/");
      const id = hashToken(crypto.randomUUID());
      const weights = { key, sha256: "a".repeat(64), size: 1, format: "tar" };
      await orm.insert(versions).values({ ...row, owner, name, id, weights: weights as never });
      return id;
    };
    const [own, shared] = [`weights/${crypto.randomUUID()}`, `weights/${crypto.randomUUID()}`];
    const id = await versionOf(destination, own);
    await versionOf(destination, shared);
    await versionOf(elsewhere, shared);
    const [owner = "", name = ""] = destination.split("/");
    const gone = [own, packageKey(owner, name, id), compileCacheKey(id, "a".repeat(64))];
    for (const key of [...gone, shared]) await env.FILES.put(key, "planted");

    const stored = await readAccount(env.DB, account.username);
    if (stored === null) throw new Error("the account that was just made is gone");
    const broken = { list: env.FILES.list.bind(env.FILES), delete: () => Promise.reject(new Error("R2 is away")) };
    const edge = { env: { ...env, FILES: broken as never }, settings: settingsOf(env), later: () => undefined };
    await expect(eraseNext(edge, stored, { step: "models", before: null })).rejects.toThrow("R2 is away");
    await erase(account.username);

    for (const key of gone) expect(await env.FILES.head(key), key).toBeNull();
    expect(await env.FILES.head(shared)).not.toBeNull();
  });

  it("forgets where its owner's alerts went, and keeps what its bills rest on", async () => {
    const account = await anAccount();
    const path = `/admin/v1/accounts/${account.username}/terms`;
    const change = { alert_webhook: "https://alerts.example/planted", discount_ppm: 1_000 };
    expect((await asOperator("PATCH", path, change)).status).toBe(200);
    expect(await rowsOf(accountStub(env, account.id))).toContain("planted");
    await erase(account.username);
    expect(await (await asOperator("GET", path)).json()).toMatchObject({ alert_webhook: null, discount_ppm: 1_000 });
    expect(await rowsOf(accountStub(env, account.id))).not.toContain("planted");
  });

  it("is refused for the operator, and for the last owner of an organization", async () => {
    expect((await problemOf(await asOperator("DELETE", "/admin/v1/accounts/cogway"))).code).toBe("auth.forbidden");
    const owner = await anAccount();
    const username = `o${crypto.randomUUID()}`;
    await call("POST", "/v1/organizations", { token: owner.token, body: { username, name: "Acme" } });
    const refused = await problemOf(await asOperator("DELETE", `/admin/v1/accounts/${owner.username}`));
    expect(refused).toMatchObject({ code: "organization.last_owner", detail: expect.stringContaining(username) });
    expect((await call("GET", "/v1/account", { token: owner.token })).status).toBe(200);
  });
});
