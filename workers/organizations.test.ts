/** Organizations: who may do what in them, and what the tokens of one are worth. */
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { newId } from "../schema/ids.ts";
import { findCaller, insertAccount } from "./storage/accounts.ts";
import { anAccount, call, problemOf } from "./testing/edge.ts";

type Person = { id: string; username: string; token: string };
type Role = "owner" | "admin" | "member";

let ada: Person;
let bob: Person;
let eve: Person;
beforeAll(async () => {
  [ada, bob, eve] = await Promise.all([anAccount(), anAccount(), anAccount()]);
});
afterEach(() => {
  vi.useRealTimers();
});

async function anOrganization(owner: Person, others: [Person, Role][] = []): Promise<string> {
  const username = `o${newId(10)}`;
  const made = await call("POST", "/v1/organizations", { token: owner.token, body: { username, name: "Acme" } });
  expect(made.status).toBe(201);
  for (const [person, role] of others) expect((await put(owner, username, person, role)).status).toBe(200);
  return username;
}

const put = (by: { token: string }, organization: string, member: Person, role: Role) =>
  call("PUT", `/v1/organizations/${organization}/members/${member.username}`, { token: by.token, body: { role } });
const remove = (by: { token: string }, organization: string, member: Person) =>
  call("DELETE", `/v1/organizations/${organization}/members/${member.username}`, { token: by.token });
const codeOf = async (answer: Response) => [answer.status, (await problemOf(answer)).code];

async function rolesOf(by: Person, organization: string): Promise<Record<string, string>> {
  const answer = await call("GET", `/v1/organizations/${organization}/members`, { token: by.token });
  const { results } = await answer.json<{ results: { username: string; role: string }[] }>();
  return Object.fromEntries(results.map(({ username, role }) => [username, role]));
}

describe("an organization", () => {
  it("belongs to who made it, and shows in its list at once", async () => {
    const username = `o${newId(10)}`;
    const made = await call("POST", "/v1/organizations", { token: ada.token, body: { username, name: "Acme" } });
    expect(made.status).toBe(201);
    const organization = await made.json();
    expect(organization).toEqual({
      type: "organization",
      username,
      name: "Acme",
      role: "owner",
      created_at: expect.stringMatching(/^\d{4}-.*Z$/),
    });
    const one = await call("GET", `/v1/organizations/${username}`, { token: ada.token });
    expect(await one.json()).toEqual(organization);
    const list = await (await call("GET", "/v1/organizations", { token: ada.token })).json<{ results: unknown[] }>();
    expect(list).toMatchObject({ previous: null, next: null });
    expect(list.results).toContainEqual(organization);
    expect(await rolesOf(ada, username)).toEqual({ [ada.username]: "owner" });
  });

  it("cannot take a name that is taken or reserved, or set anything else", async () => {
    const make = (body: unknown) => call("POST", "/v1/organizations", { token: ada.token, body });
    expect(await codeOf(await make({ username: bob.username, name: "X" }))).toEqual([409, "account.name_taken"]);
    for (const body of [
      { username: "admin", name: "X" },
      { username: "Big", name: "X" },
      { username: `o${newId(10)}` },
      { username: `o${newId(10)}`, name: "X", id: "mine" },
      { username: `o${newId(10)}`, name: "X", limits: { creates_per_minute: 9_999 } },
      { username: `o${newId(10)}`, name: "a\u0000b" },
    ]) {
      expect(await codeOf(await make(body))).toEqual([422, "input.invalid"]);
    }
    const raced = await Promise.all(
      [ada, bob].map(({ token }) =>
        call("POST", "/v1/organizations", { token, body: { username: "raced", name: "Race" } }),
      ),
    );
    expect(raced.map(({ status }) => status).toSorted()).toEqual([201, 409]);
  });

  it("is renamed by those who manage it, and by nobody else", async () => {
    const acme = await anOrganization(ada, [[bob, "member"]]);
    const rename = (by: Person, body: unknown) => call("PATCH", `/v1/organizations/${acme}`, { token: by.token, body });
    expect(await codeOf(await rename(bob, { name: "Bob's" }))).toEqual([403, "auth.forbidden"]);
    expect(await codeOf(await rename(eve, { name: "Eve's" }))).toEqual([404, "account.not_found"]);
    expect((await rename(ada, { name: "Acme 2", username: "acme2" })).status).toBe(422);
    expect(await (await rename(ada, { name: "Acme 2" })).json()).toMatchObject({ username: acme, name: "Acme 2" });
    expect(await (await call("GET", `/v1/organizations/${acme}`, { token: bob.token })).json()).toMatchObject({
      name: "Acme 2",
      role: "member",
    });
  });

  it("is not found by others, whatever they ask", async () => {
    const acme = await anOrganization(ada, [[bob, "admin"]]);
    const member = `/v1/organizations/${acme}/members/${bob.username}`;
    for (const [method, path, body] of [
      ["GET", `/v1/organizations/${acme}`],
      ["PATCH", `/v1/organizations/${acme}`, { name: "X" }],
      ["GET", `/v1/organizations/${acme}/members`],
      ["GET", member],
      ["PUT", member, { role: "member" }],
      ["DELETE", member],
    ] as const) {
      expect(await codeOf(await call(method, path, { token: eve.token, body }))).toEqual([404, "account.not_found"]);
    }
    expect(await rolesOf(ada, acme)).toEqual({ [ada.username]: "owner", [bob.username]: "admin" });
    const mine = await (await call("GET", "/v1/organizations", { token: eve.token })).text();
    expect(mine).not.toContain(acme);
  });
});

describe("members", () => {
  it("get roles from owners, and all but ownership from admins", async () => {
    const acme = await anOrganization(ada, [[bob, "admin"]]);
    expect(await (await put(bob, acme, eve, "member")).json()).toMatchObject({
      username: eve.username,
      role: "member",
    });
    expect(await codeOf(await put(bob, acme, eve, "owner"))).toEqual([403, "auth.forbidden"]);
    expect(await codeOf(await put(bob, acme, ada, "member"))).toEqual([403, "auth.forbidden"]);
    expect(await codeOf(await remove(bob, acme, ada))).toEqual([403, "auth.forbidden"]);
    expect(await codeOf(await put(bob, acme, bob, "owner"))).toEqual([403, "auth.forbidden"]);
    expect(await codeOf(await put(eve, acme, eve, "admin"))).toEqual([403, "auth.forbidden"]);
    expect(await codeOf(await remove(eve, acme, bob))).toEqual([403, "auth.forbidden"]);
    expect((await put(bob, acme, eve, "admin")).status).toBe(200);
    expect((await put(ada, acme, bob, "owner")).status).toBe(200);
    expect(await rolesOf(ada, acme)).toEqual({
      [ada.username]: "owner",
      [bob.username]: "owner",
      [eve.username]: "admin",
    });
    expect((await remove(bob, acme, eve)).status).toBe(204);
    expect(await codeOf(await remove(bob, acme, eve))).toEqual([404, "account.not_found"]);
  });

  it("must be people", async () => {
    const acme = await anOrganization(ada);
    const others = await anOrganization(ada);
    const nobody = { id: "", username: "nobody-at-all", token: "" };
    for (const member of [nobody, { ...nobody, username: others }]) {
      expect(await codeOf(await put(ada, acme, member, "member"))).toEqual([404, "account.not_found"]);
    }
    for (const body of [{}, { role: "boss" }, { role: "member", id: "x" }]) {
      const path = `/v1/organizations/${acme}/members/${bob.username}`;
      expect((await call("PUT", path, { token: ada.token, body })).status).toBe(422);
    }
  });

  it("leave by themselves, but for the last owner", async () => {
    const acme = await anOrganization(ada, [[bob, "member"]]);
    expect((await remove(bob, acme, bob)).status).toBe(204);
    expect(await codeOf(await remove(ada, acme, ada))).toEqual([409, "organization.last_owner"]);
    expect(await codeOf(await put(ada, acme, ada, "admin"))).toEqual([409, "organization.last_owner"]);
    expect((await put(ada, acme, bob, "owner")).status).toBe(200);
    expect((await remove(ada, acme, ada)).status).toBe(204);
    expect(await rolesOf(bob, acme)).toEqual({ [bob.username]: "owner" });
  });

  it("always hold one owner, however two of them race", async () => {
    const acme = await anOrganization(ada, [[bob, "owner"]]);
    const answers = await Promise.all([remove(ada, acme, bob), remove(bob, acme, ada)]);
    expect(answers.filter(({ status }) => status === 204)).toHaveLength(1);
    const left = answers[0]?.status === 204 ? ada : bob;
    expect(await rolesOf(left, acme)).toEqual({ [left.username]: "owner" });
  });
});

describe("a token of an organization", () => {
  const scopes = ["account:read", "account:write", "tokens:admin"];
  const mint = (by: { token: string }, body: Record<string, unknown>) =>
    call("POST", "/v1/tokens", { token: by.token, body: { name: "robot", scopes, ...body } });
  const tokenOf = async (answer: Response) => {
    expect(answer.status).toBe(201);
    return answer.json<{ id: string; token: string; created_by: string; account: string }>();
  };
  const account = async (token: string) => (await call("GET", "/v1/account", { token })).status;

  it("is made by those who manage it, and acts for it", async () => {
    const acme = await anOrganization(ada, [
      [bob, "admin"],
      [eve, "member"],
    ]);
    for (const person of [ada, bob]) {
      const made = await tokenOf(await mint(person, { account: acme }));
      expect(made).toMatchObject({ account: acme, created_by: person.username });
      const answer = await call("GET", "/v1/account", { token: made.token });
      expect(await answer.json()).toMatchObject({ type: "organization", username: acme });
      const one = await call("GET", `/v1/tokens/${made.id}`, { token: ada.token });
      expect(await one.json()).toMatchObject({ id: made.id, account: acme });
      expect((await call("GET", `/v1/tokens/${made.id}`, { token: eve.token })).status).toBe(404);
    }
    expect(await codeOf(await mint(eve, { account: acme }))).toEqual([404, "account.not_found"]);
    const list = (by: Person) => call("GET", `/v1/tokens?account=${acme}`, { token: by.token });
    expect((await (await list(bob)).json<{ results: unknown[] }>()).results).toHaveLength(2);
    expect(await codeOf(await list(eve))).toEqual([404, "account.not_found"]);
  });

  it("ends with its maker's power, and so does what was made with it", async () => {
    const acme = await anOrganization(ada, [[bob, "admin"]]);
    const ofBob = await tokenOf(await mint(bob, { account: acme }));
    const madeWithIt = await tokenOf(await mint(ofBob, {}));
    const ofAda = await tokenOf(await mint(ada, { account: acme }));
    expect(madeWithIt).toMatchObject({ account: acme, created_by: bob.username });
    for (const { token } of [ofBob, madeWithIt, ofAda]) expect(await account(token)).toBe(200);
    expect((await put(ada, acme, bob, "member")).status).toBe(200);
    expect([await account(ofBob.token), await account(madeWithIt.token), await account(ofAda.token)]).toEqual([
      401, 401, 200,
    ]);
    expect(await codeOf(await mint(bob, { account: acme }))).toEqual([404, "account.not_found"]);
  });

  it("manages members as its maker does, and the first one as an owner", async () => {
    const acme = await anOrganization(ada, [[bob, "admin"]]);
    const ofBob = await tokenOf(await mint(bob, { account: acme }));
    expect((await put(ofBob, acme, eve, "member")).status).toBe(200);
    expect(await codeOf(await put(ofBob, acme, eve, "owner"))).toEqual([403, "auth.forbidden"]);
    const other = await anOrganization(eve);
    expect(await codeOf(await put(ofBob, other, eve, "member"))).toEqual([404, "account.not_found"]);
    expect(
      await codeOf(
        await call("POST", "/v1/organizations", { token: ofBob.token, body: { username: `o${newId(9)}`, name: "X" } }),
      ),
    ).toEqual([403, "auth.forbidden"]);
    const username = `o${newId(10)}`;
    const first = await insertAccount(env.DB, {
      type: "organization",
      username,
      name: "Made by the operator",
      limits: {},
    });
    expect((await put({ token: first?.token ?? "" }, username, ada, "owner")).status).toBe(200);
    expect(await rolesOf(ada, username)).toEqual({ [ada.username]: "owner" });
  });
});

describe("membership in requests", () => {
  it("is seen within five seconds of a change elsewhere", async () => {
    const readCallerOf = (token: string) => findCaller(env.DB, token, () => {});
    const acme = await anOrganization(ada);
    await readCallerOf(bob.token);
    await put(ada, acme, bob, "admin");
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 5_000 });
    expect((await readCallerOf(bob.token))?.organizations).toContainEqual({ username: acme, role: "admin" });
    await remove(ada, acme, bob);
    vi.setSystemTime(Date.now() + 5_000);
    const organizations = (await readCallerOf(bob.token))?.organizations.map(({ username }) => username);
    expect(organizations).not.toContain(acme);
  });
});
