/** Who may see and change models: the whole table, and the same question asked of the database for lists. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import type { Caller } from "../env.ts";
import { listModels } from "../storage/models.ts";
import { isAllowed, mayManage, mayPush, maySee } from "./model-access.ts";

function caller(username: string, change: Partial<Caller> = {}): Caller {
  return {
    account_id: `id-${username}`,
    type: "user",
    username,
    name: username,
    scopes: [],
    allowed_models: null,
    organizations: [],
    creates_per_minute: 1,
    reads_per_minute: 1,
    token: { hash: "", expires_at: null, created_by: null, budget: null },
    terms: {},
    zero_retention: false,
    ...change,
  };
}
const inOrganization = (role: "owner" | "admin" | "member") =>
  caller(role, { organizations: [{ username: "acme", role }] });

const callers = {
  owner: caller("ada"),
  acme: caller("acme", { type: "organization" }),
  organizationOwner: inOrganization("owner"),
  organizationAdmin: inOrganization("admin"),
  organizationMember: inOrganization("member"),
  friend: caller("friend"),
  stranger: caller("stranger"),
  boundToOpen: caller("ada", { allowed_models: ["ada/open"] }),
  boundToNothing: caller("ada", { allowed_models: [] }),
};
type Name = keyof typeof callers;

/** model: who sees it */
const seen: Record<string, Name[]> = {
  "ada/open": Object.keys(callers).filter((name) => name !== "boundToNothing") as Name[],
  "ada/closed": ["owner"],
  "ada/shared": ["owner", "friend"],
  "ada/for-acme": ["owner", "acme", "organizationOwner", "organizationAdmin", "organizationMember"],
  "acme/closed": ["acme", "organizationOwner", "organizationAdmin", "organizationMember"],
};
const shares: Record<string, string[]> = { "ada/shared": ["friend"], "ada/for-acme": ["acme"] };

describe("who sees a model", () => {
  it.each(Object.entries(seen))("%s", (path, expected) => {
    const [owner = "", name = ""] = path.split("/");
    const visibility = name === "open" ? "public" : "private";
    const model = { model: { owner, name, visibility }, shares: shares[path] ?? [] } as const;
    const answers = Object.entries(callers).filter(([, caller]) => maySee(caller, model));
    expect(answers.map(([name]) => name)).toEqual(
      Object.keys(callers).filter((name) => expected.includes(name as Name)),
    );
  });
});

describe("lists say the same", () => {
  beforeAll(async () => {
    const account = (username: string, type: string) =>
      env.DB.prepare("INSERT INTO accounts (id, type, username, name, created_at) VALUES (?, ?, ?, '', 1)").bind(
        `id-${username}`,
        type,
        username,
      );
    await env.DB.batch([
      ...["ada", "friend"].map((username) => account(username, "user")),
      account("acme", "organization"),
      ...Object.keys(seen).flatMap((path) => {
        const [owner = "", name = ""] = path.split("/");
        return [
          env.DB.prepare(
            "INSERT INTO models (owner, name, visibility, state, created_at, updated_at) VALUES (?, ?, ?, 'ready', 1, 1)",
          ).bind(owner, name, name === "open" ? "public" : "private"),
          ...(shares[path] ?? []).map((username) =>
            env.DB.prepare("INSERT INTO shares (owner, name, account_id, created_at) VALUES (?, ?, ?, 1)").bind(
              owner,
              name,
              `id-${username}`,
            ),
          ),
        ];
      }),
    ]);
  });

  it.each(Object.keys(callers) as Name[])("to %s", async (name) => {
    const query = { sort_by: "model_created_at", sort_direction: "asc", limit: 100, cursor: null } as const;
    const paths = async (owner: string | null) => {
      const rows = await listModels(env.DB, callers[name], { ...query, owner });
      return rows.map(({ model }) => `${model.owner}/${model.name}`);
    };
    const listed = [...(await paths("ada")), ...(await paths("acme"))];
    const expected = Object.keys(seen).filter((path) => seen[path]?.includes(name));
    expect(listed.toSorted()).toEqual(expected.toSorted());
    expect(await paths(null)).toEqual(expected.filter((path) => path === "ada/open"));
  });
});

it("all people of an organization push, its owners and admins manage, and nobody else does either", () => {
  const who = (may: (caller: Caller) => boolean) =>
    Object.entries(callers).flatMap(([name, one]) => (may(one) ? name : []));
  expect(who((one) => mayPush(one, "acme"))).toEqual([
    "acme",
    "organizationOwner",
    "organizationAdmin",
    "organizationMember",
  ]);
  expect(who((one) => mayManage(one, "acme"))).toEqual(["acme", "organizationOwner", "organizationAdmin"]);
  expect(who((one) => mayManage(one, "ada"))).toEqual(["owner", "boundToOpen", "boundToNothing"]);
  expect(isAllowed(callers.boundToOpen, "ada", "open")).toBe(true);
  expect(isAllowed(callers.boundToOpen, "ada", "closed")).toBe(false);
});
