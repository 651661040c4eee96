/** The audit log as an account and the operator read it, and what happens to one that somebody has written in. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import type { AuditObject } from "../durable-objects/audit.ts";
import { hashToken, tokenId } from "../schema/tokens.ts";
import { anAccount, call, theOperator } from "./testing/edge.ts";

interface Entry {
  seq: number;
  actor: string;
  token_id: string;
  action: string;
  target: string;
  details: Record<string, unknown>;
  request_id: string;
}
interface Check {
  entries: number;
  broken_at: number | null;
  head: string;
}

let operator: string;
beforeAll(async () => {
  operator = await theOperator();
});

const read = async <T>(path: string, token: string): Promise<T> => (await call("GET", path, { token })).json<T>();
const entriesOf = async (token: string, query = ""): Promise<Entry[]> =>
  (await read<{ results: Entry[] }>(`/v1/audit${query}`, token)).results;

async function withTokens(names: string[]) {
  const account = await anAccount();
  for (const name of names) {
    await call("POST", "/v1/tokens", { token: account.token, body: { name, scopes: ["account:read"] } });
  }
  return account;
}

describe("an entry", () => {
  it("says who did what to what, under which request, and holds no secret", async () => {
    const account = await anAccount();
    const made = await call("POST", "/v1/tokens", {
      token: account.token,
      body: { name: "ci", scopes: ["account:read"] },
      headers: { "cf-connecting-ip": "192.0.2.7" },
    });
    const token = await made.json<{ id: string; token: string }>();
    const entries = await entriesOf(account.token);
    expect(entries).toMatchObject([
      {
        seq: 1,
        actor: account.id,
        token_id: tokenId(hashToken(account.token)),
        action: "token.created",
        target: token.id,
        details: { name: "ci", scopes: ["account:read"] },
        ip: "192.0.2.7",
        request_id: made.headers.get("x-request-id"),
      },
    ]);
    expect(JSON.stringify(entries)).not.toContain(token.token);
  });

  it("is not left by a request that was refused, nor by one that runs a model", async () => {
    const account = await anAccount();
    await call("POST", "/v1/tokens", { token: account.token, body: { name: "x", scopes: ["admin"] } });
    await call("POST", "/v1/predictions", { token: account.token, body: { version: "cogway/nothing", input: {} } });
    expect(await entriesOf(account.token)).toEqual([]);
  });

  it("about an organization is in the log of that organization, which those who manage it read", async () => {
    const [owner, other] = [await anAccount(), await anAccount()];
    const username = `o${crypto.randomUUID()}`;
    await call("POST", "/v1/organizations", { token: owner.token, body: { username, name: "Acme" } });
    const path = `/v1/organizations/${username}/members/${other.username}`;
    await call("PUT", path, { token: owner.token, body: { role: "member" } });
    expect(await entriesOf(owner.token, `?account=${username}`)).toMatchObject([
      { action: "member.set", target: `${username}/${other.username}`, details: { role: "member" }, actor: owner.id },
    ]);
    for (const token of [other.token, operator]) {
      expect((await call("GET", `/v1/audit?account=${username}`, { token })).status).toBe(404);
    }
    const { results } = await read<{ results: Entry[] }>(`/admin/v1/audit?account=${username}`, operator);
    expect(results).toHaveLength(1);
  });

  it("is stored once, however often the same request appends it", async () => {
    const account = await anAccount();
    const entry = {
      at: 1,
      actor: account.id,
      token_id: null,
      action: "model.created",
      target: "a/b",
      details: {},
      ip: null,
      request_id: "r",
    };
    const log = env.AUDITS.getByName(account.id) as DurableObjectStub<AuditObject>;
    await Promise.all([log.append(entry), log.append(entry), log.append({ ...entry, action: "model.deleted" })]);
    expect(await entriesOf(account.token)).toMatchObject([{ seq: 2 }, { seq: 1 }]);
  });
});

describe("the chain", () => {
  it.each<[string, string, number]>([
    ["a changed actor", "UPDATE entries SET actor = 'nobody' WHERE seq = 2", 2],
    ["a changed time", "UPDATE entries SET at = at + 1 WHERE seq = 1", 1],
    ["a changed token", "UPDATE entries SET token_id = NULL WHERE seq = 2", 2],
    ["a changed action", "UPDATE entries SET action = 'x' WHERE seq = 3", 3],
    ["a changed target", "UPDATE entries SET target = 'x' WHERE seq = 2", 2],
    ["changed details", "UPDATE entries SET details = '{}' WHERE seq = 2", 2],
    ["a changed address", "UPDATE entries SET ip = '192.0.2.1' WHERE seq = 2", 2],
    ["a changed request", "UPDATE entries SET request_id = 'x' WHERE seq = 2", 2],
    ["a changed hash", "UPDATE entries SET hash = 'x' WHERE seq = 2", 2],
    ["a missing entry", "DELETE FROM entries WHERE seq = 2", 2],
    ["a missing first entry", "DELETE FROM entries WHERE seq = 1", 1],
    ["a missing last entry", "DELETE FROM entries WHERE seq = 3", 3],
    ["exchanged entries", "UPDATE entries SET seq = 9 - seq WHERE seq IN (1, 2)", 1],
  ])("shows %s", async (_what, sql, broken_at) => {
    const account = await withTokens(["a", "b", "c"]);
    expect(await read<Check>("/v1/audit/verify", account.token)).toMatchObject({ entries: 3, broken_at: null });
    const log = env.AUDITS.getByName(account.id) as DurableObjectStub<AuditObject>;
    await runInDurableObject(log, (_object, state) => void state.storage.sql.exec(sql));
    expect(await read<Check>("/v1/audit/verify", account.token)).toMatchObject({ broken_at });
    const path = `/admin/v1/audit/verify?account=${account.username}`;
    expect(await read<Check>(path, operator)).toMatchObject({ broken_at });
  });

  it("of nothing holds, and reading it stores nothing", async () => {
    const account = await anAccount();
    expect(await read<Check>("/v1/audit/verify", account.token)).toMatchObject({ entries: 0, broken_at: null });
    const log = env.AUDITS.getByName(account.id) as DurableObjectStub<AuditObject>;
    const tables = await runInDurableObject(log, (_object, state) =>
      state.storage.sql.exec("SELECT name FROM sqlite_master WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'").toArray(),
    );
    expect(tables).toEqual([]);
  });
});
