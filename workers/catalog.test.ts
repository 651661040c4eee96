/** The catalog as people keep it: models that they make, change and share, and lists of them. Announced ones are in models.test.ts. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import { SCOPES } from "../schema/tokens.ts";
import { keysetPage } from "./domain/cursors.ts";
import type { Caller } from "./env.ts";
import { insertAccount } from "./storage/accounts.ts";
import { listModels, type ModelPosition, modelPosition } from "./storage/models.ts";
import { aModel, aVersion, type Json, jsonOf, type Person, refusal, status } from "./testing/catalog.ts";
import { anAccount, aToken, call, FakeOrigin, PUBLIC_URL, theOperator } from "./testing/edge.ts";

let owner: Person;
let other: Person;
/** in the organization, by role */
let organization: string;
let people: { owner: Person; admin: Person; member: Person };

beforeAll(async () => {
  await theOperator();
  await FakeOrigin.join();
  [owner, other] = await Promise.all([anAccount(), anAccount()]);
  organization = `o${newId(10)}`;
  const made = await insertAccount(env.DB, { type: "organization", username: organization, name: "Org", limits: {} });
  const inRole = async (role: string): Promise<Person> => {
    const person = await anAccount();
    await env.DB.prepare("INSERT INTO members (organization_id, account_id, role, created_at) VALUES (?, ?, ?, 1)")
      .bind(made?.account.id, person.id, role)
      .run();
    return person;
  };
  people = { owner: await inRole("owner"), admin: await inRole("admin"), member: await inRole("member") };
});

describe("making a model", () => {
  it("answers the whole model, empty, which cannot run yet", async () => {
    const body = {
      owner: owner.username,
      name: "first",
      visibility: "private",
      hardware: "cpu",
      description: "Mine.",
      github_url: "https://github.com/me/first",
      cover_image_url: "https://example.com/cover.png",
    };
    const answer = await call("POST", "/v1/models", { token: owner.token, body });
    expect(answer.status).toBe(201);
    const model = await answer.json<Json>();
    expect(model).toMatchObject({
      url: `${PUBLIC_URL}/${owner.username}/first`,
      visibility: "private",
      description: "Mine.",
      github_url: body.github_url,
      cover_image_url: body.cover_image_url,
      is_official: false,
      pricing: null,
      run_count: 0,
      latest_version: null,
      default_example: null,
    });
    expect(model).not.toHaveProperty("state");
    const path = `/v1/models/${owner.username}/first`;
    expect(await jsonOf("GET", path, owner)).toEqual(model);
    expect((await refusal("GET", `${path}/readme`, owner)).code).toBe("model.not_found");
    const run = await refusal("POST", `${path}/predictions`, owner, { input: { text: "x" } });
    expect(run).toMatchObject({ status: 422, code: "version.invalid" });
    expect(run.detail).toContain("no version yet");
    const again = await refusal("POST", "/v1/models", owner, body);
    expect(again).toMatchObject({ status: 409, code: "model.name_taken" });
  });

  it("which gets its first version runs at once", async () => {
    const path = await aModel(owner);
    expect(await jsonOf("GET", path, owner)).toMatchObject({ latest_version: null });
    await aVersion(path, { unseen: true });
    expect(await status("POST", `${path}/predictions`, owner, { input: { text: "x" } })).toBe(201);
  });

  it("names every fault at once", async () => {
    const problem = await refusal("POST", "/v1/models", owner, {
      owner: owner.username,
      name: "Not A Name",
      visibility: "secret",
      description: "a\u0000b",
      github_url: "javascript:alert(1)",
      paper_url: "https://me:secret@example.com/",
      is_official: true,
    });
    expect(problem).toMatchObject({ status: 422, code: "input.invalid" });
    for (const word of ["name", "visibility", "hardware", "description", "github_url", "paper_url", "is_official"]) {
      expect(problem.detail).toContain(word);
    }
    const body = { owner: owner.username, name: "x", visibility: "public", hardware: "gpu-of-dreams" };
    expect((await refusal("POST", "/v1/models", owner, body)).detail).toMatch(
      /hardware: must be one of the SKUs .*cpu/,
    );
  });

  it("is for oneself and one's organizations, and for no other", async () => {
    const body = (by: string) => ({ owner: by, name: `m${newId(8)}`, visibility: "private", hardware: "cpu" });
    expect(await status("POST", "/v1/models", other, body(owner.username))).toBe(403);
    expect(await status("POST", "/v1/models", owner, body(organization))).toBe(403);
    expect(await status("POST", "/v1/models", people.member, body(organization))).toBe(201);
    const bound = await aToken(owner.id, [...SCOPES]);
    await env.DB.prepare("UPDATE tokens SET allowed_models = ? WHERE account_id = ? AND last_four = ?")
      .bind(JSON.stringify([`${owner.username}/only`]), owner.id, bound.slice(-4))
      .run();
    const narrow = { ...owner, token: bound };
    expect(await status("POST", "/v1/models", narrow, body(owner.username))).toBe(403);
    expect(await status("POST", "/v1/models", narrow, { ...body(owner.username), name: "only" })).toBe(201);
  });

  it("ends at the limit of an account", async () => {
    const rich = await anAccount();
    await env.DB.prepare(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 999) INSERT INTO models (owner, name, visibility, state, created_at, updated_at) SELECT ?, 'm' || i, 'private', 'ready', i, i FROM n",
    )
      .bind(rich.username)
      .run();
    await aModel(rich);
    const body = { owner: rich.username, name: "one-too-many", visibility: "private", hardware: "cpu" };
    const problem = await refusal("POST", "/v1/models", rich, body);
    expect(problem).toMatchObject({ status: 409, code: "account.limit_reached" });
    expect(problem.detail).toContain("Delete one");
  });
});

describe("changing a model", () => {
  it("writes what is given, takes away what is null, and keeps the rest", async () => {
    const path = await aModel(owner, { description: "before", github_url: "https://github.com/me/x" });
    const change = {
      description: "after",
      readme: "# Read\n\n\tme",
      paper_url: "https://arxiv.org/abs/1",
      weights_url: "https://example.com/w",
      license_url: "https://example.com/l",
      title: "Title",
      tags: ["text", "small"],
      cover_image_url: "https://example.com/c.png",
      github_url: null,
    };
    const { readme, ...shown } = change;
    const updated = await jsonOf("PATCH", path, owner, change);
    expect(updated).toMatchObject({ ...shown, visibility: "private", latest_version: null });
    expect(await jsonOf("GET", path, owner)).toEqual(updated);
    expect(await (await call("GET", `${path}/readme`, { token: owner.token })).text()).toBe(readme);
    expect(await jsonOf("PATCH", path, owner, {})).toEqual(updated);
  });

  it.each<[string, Json]>([
    ["owner", { owner: "cogway" }],
    ["name", { name: "other" }],
    ["is_official", { is_official: true }],
    ["run_count", { run_count: 1_000_000 }],
    ["latest_version", { latest_version: null }],
    ["hardware", { hardware: "gpu" }],
    ["created_at", { created_at: "2000-01-01" }],
    ["description", { description: "x".repeat(10_001) }],
    ["description", { description: "bell \u0007" }],
    ["title", { title: "two\nlines" }],
    ["tags", { tags: Array.from({ length: 21 }, (_, i) => `t${i}`) }],
    ["weights_url", { weights_url: "ftp://example.com/w" }],
    ["license_url", { license_url: `https://example.com/${"x".repeat(2_048)}` }],
    ["visibility", { visibility: "shared" }],
  ])("refuses %s, and changes nothing", async (member, change) => {
    const path = await aModel(owner);
    const before = await jsonOf("GET", path, owner);
    const problem = await refusal("PATCH", path, owner, { paper_url: "https://example.com/p", ...change });
    expect(problem.status).toBe(422);
    expect(problem.detail).toContain(member);
    expect(await jsonOf("GET", path, owner)).toEqual(before);
  });

  it("to private cuts everybody else off, and to public lets them in", async () => {
    const path = await aModel(owner, { visibility: "public" });
    const version = await aVersion(path);
    expect(await status("GET", path, other)).toBe(200);
    expect(await status("PATCH", path, other, { description: "theirs" })).toBe(403);
    expect(await status("PATCH", path, owner, { visibility: "private" })).toBe(200);
    const body = { input: { text: "x" } };
    for (const [method, at, sent] of [
      ["GET", path],
      ["GET", `${path}/readme`],
      ["GET", `${path}/versions`],
      ["GET", `${path}/versions/${version}`],
      ["GET", `${path}/examples`],
      ["GET", `${path}/shares`],
      ["PATCH", path, { description: "theirs" }],
      ["DELETE", path],
      ["DELETE", `${path}/versions/${version}`],
      ["POST", `${path}/examples`, { prediction_id: "a" }],
      ["PUT", `${path}/shares/${other.username}`],
      ["POST", `${path}/predictions`, body],
    ] as const) {
      expect([method, at, await status(method, at, other, sent)]).toEqual([method, at, 404]);
      expect([method, at, await status(method, at, undefined, sent)]).toEqual([method, at, 401]);
    }
    expect(await status("POST", "/v1/predictions", other, { ...body, version })).toBe(422);
    expect(await status("PATCH", path, owner, { visibility: "public" })).toBe(200);
    expect(await status("POST", "/v1/predictions", other, { ...body, version })).toBe(201);
  });

  it("of an organization is for all its people; who sees it, for owners and admins", async () => {
    const path = await aModel(people.member, { owner: organization });
    for (const person of Object.values(people)) {
      expect(await status("GET", path, person)).toBe(200);
      expect(await status("PATCH", path, person, { description: person.username })).toBe(200);
    }
    expect(await status("PATCH", path, other, { description: "theirs" })).toBe(404);
    expect(await status("PATCH", path, people.member, { visibility: "public" })).toBe(403);
    expect(await status("PATCH", path, people.member, { visibility: "private" })).toBe(200);
    expect(await status("GET", `${path}/shares`, people.member)).toBe(403);
    expect(await status("DELETE", path, people.member)).toBe(403);
    expect(await status("PATCH", path, people.admin, { visibility: "public" })).toBe(200);
    expect(await status("PATCH", path, people.owner, { visibility: "private" })).toBe(200);
    expect(await status("DELETE", path, people.admin)).toBe(204);
    expect(await status("GET", path, people.owner)).toBe(404);
  });
});

describe("sharing a private model", () => {
  it("lets an account see and run it, until it is shared no longer", async () => {
    const path = await aModel(owner);
    const version = await aVersion(path);
    const friend = await anAccount();
    const share = `${path}/shares/${friend.username}`;
    expect(await status("GET", path, friend)).toBe(404);
    const made = await jsonOf("PUT", share, owner);
    expect(made).toMatchObject({ account: { type: "user", username: friend.username, name: "Test" } });
    expect(await jsonOf("PUT", share, owner)).toEqual(made);
    expect(await jsonOf("GET", `${path}/shares`, owner)).toEqual({ previous: null, next: null, results: [made] });
    expect(await status("GET", path, friend)).toBe(200);
    expect(await status("GET", path, other)).toBe(404);
    expect(await status("GET", `${path}/shares`, friend)).toBe(403);
    expect(await status("PUT", `${path}/shares/${other.username}`, friend)).toBe(403);
    expect(await status("PATCH", path, friend, { description: "theirs" })).toBe(403);
    const body = { version, input: { text: "x" } };
    expect(await status("POST", "/v1/predictions", friend, body)).toBe(201);
    const listed = await jsonOf<{ results: Json[] }>("GET", `/v1/models?owner=${owner.username}`, friend);
    const privateOnes = listed.results.filter((model) => model["visibility"] === "private");
    expect(privateOnes.map((model) => `/v1/models/${model["owner"]}/${model["name"]}`)).toEqual([path]);
    expect(await status("DELETE", share, owner)).toBe(204);
    expect(await status("DELETE", share, owner)).toBe(204);
    expect(await status("GET", path, friend)).toBe(404);
    expect(await status("POST", "/v1/predictions", friend, body)).toBe(422);
  });

  it("with an organization reaches its members", async () => {
    const path = await aModel(owner);
    expect(await status("GET", path, people.member)).toBe(404);
    expect(await status("PUT", `${path}/shares/${organization}`, owner)).toBe(200);
    expect(await status("GET", path, people.member)).toBe(200);
  });

  it("with nobody says so", async () => {
    const path = await aModel(owner);
    for (const method of ["PUT", "DELETE"]) {
      const problem = await refusal(method, `${path}/shares/nobody-at-all`, owner);
      expect(problem).toMatchObject({ status: 404, code: "account.not_found" });
    }
  });

  it("within a token's models only", async () => {
    const [path, hidden] = [await aModel(owner), await aModel(owner, { visibility: "public" })];
    const token = await aToken(owner.id, [...SCOPES]);
    await env.DB.prepare("UPDATE tokens SET allowed_models = ? WHERE account_id = ? AND last_four = ?")
      .bind(JSON.stringify([path.replace("/v1/models/", "")]), owner.id, token.slice(-4))
      .run();
    const narrow = { ...owner, token };
    expect(await status("GET", path, narrow)).toBe(200);
    expect(await status("GET", hidden, narrow)).toBe(404);
    expect(await status("PATCH", hidden, narrow, {})).toBe(404);
    const listed = await jsonOf<{ results: Json[] }>("GET", `/v1/models?owner=${owner.username}`, narrow);
    expect(listed.results).toHaveLength(1);
    expect((await jsonOf<{ results: Json[] }>("GET", "/v1/models", narrow)).results).toEqual([]);
  });
});

describe("lists", () => {
  it.each(
    (["model_created_at", "latest_version_created_at"] as const).flatMap((sort_by) =>
      (["asc", "desc"] as const).map((sort_direction) => ({ sort_by, sort_direction })),
    ),
  )("of models neither repeat nor lose a row while others come: $sort_by, $sort_direction", async (sorting) => {
    const PAGE_ROWS = 40;
    const isAscending = sorting.sort_direction === "asc";
    const rich = await anAccount();
    const caller: Caller = {
      ...{ account_id: rich.id, username: rich.username, type: "user", name: "Rich", scopes: [] },
      ...{ allowed_models: null, organizations: [], creates_per_minute: 1, reads_per_minute: 1 },
      token: { hash: "", expires_at: null, created_by: null, budget: null },
      terms: {},
      zero_retention: false,
    };
    await env.DB.prepare(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) INSERT INTO models (owner, name, visibility, state, latest_version_at, created_at, updated_at) SELECT ?, 'm' || i, 'private', 'ready', CASE WHEN i % 3 = 0 THEN NULL ELSE i / 5 END, i / 7, i FROM n",
    )
      .bind(rich.username)
      .run();
    const page = async (cursor: ModelPosition | null) => {
      const query = { ...sorting, owner: rich.username, cursor, limit: PAGE_ROWS + 1 };
      const read = await listModels(env.DB, caller, query);
      return keysetPage(read, PAGE_ROWS, cursor?.side, (row) => modelPosition(row, sorting.sort_by));
    };
    const pages = [await page(null)];
    expect(pages[0]?.previous).toBeNull();
    for (let next = pages[0]?.next ?? null; next !== null; next = pages.at(-1)?.next ?? null) {
      await env.DB.prepare(
        "INSERT INTO models (owner, name, visibility, state, latest_version_at, created_at, updated_at) VALUES (?, ?, 'private', 'ready', ?, ?, 1)",
      )
        // Before all others.
        .bind(
          ...(isAscending ? [rich.username, `a${newId(8)}`, null, -1] : [rich.username, `z${newId(8)}`, 9e12, 9e12]),
        )
        .run();
      pages.push(await page(next));
    }
    const namesOf = ({ rows }: (typeof pages)[number]) => rows.map(({ model }) => model.name);
    const names = pages.flatMap(namesOf);
    expect(names).toHaveLength(100);
    expect(new Set(names).size).toBe(100);
    const [first, second] = pages;
    if (first === undefined || second === undefined) throw new Error("too few pages");
    expect(namesOf(await page(second.previous))).toEqual(namesOf(first));
  });

  it("of an owner show what the caller may see", async () => {
    const [open, closed] = [
      await aModel(people.owner, { owner: organization, visibility: "public" }),
      await aModel(people.owner, { owner: organization }),
    ];
    const seen = async (who: Person) => {
      const { results } = await jsonOf<{ results: Json[] }>("GET", `/v1/models?owner=${organization}`, who);
      return results.map((model) => `/v1/models/${model["owner"]}/${model["name"]}`);
    };
    expect(await seen(people.member)).toEqual(expect.arrayContaining([open, closed]));
    expect(await seen(other)).toContain(open);
    expect(await seen(other)).not.toContain(closed);
    const everybody = await jsonOf<{ results: Json[] }>("GET", "/v1/models", people.member);
    expect(everybody.results.filter((model) => model["visibility"] !== "public")).toEqual([]);
    expect((await jsonOf<{ results: Json[] }>("GET", "/v1/models?owner=nobody", other)).results).toEqual([]);
  });

  it("of versions are newest first, page by page", async () => {
    const path = await aModel(owner);
    const [, , , by = "", name = ""] = path.split("/");
    await env.DB.prepare(
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 105) INSERT INTO versions (owner, name, id, openapi_schema, cog_version, slots, memory_bytes, hardware, idempotent, created_at) SELECT ?, ?, printf('%064d', i), '{}', '0.17.0', 1, 1, 'cpu', 0, 1000 + i / 2 FROM n",
    )
      .bind(by, name)
      .run();
    interface Page {
      results: { id: string; created_at: string }[];
      next: string | null;
      previous: string | null;
    }
    const first = await jsonOf<Page>("GET", `${path}/versions`, owner);
    const newest = await aVersion(path, { created_at: 99_999 });
    const second = await jsonOf<Page>("GET", (first.next ?? "").replace(PUBLIC_URL, ""), owner);
    expect([first.results.length, second.results.length, first.previous, second.next]).toEqual([100, 5, null, null]);
    const all = [...first.results, ...second.results];
    expect(new Set(all.map(({ id }) => id)).size).toBe(105);
    expect(all.map(({ created_at }) => created_at)).toEqual(
      all
        .map(({ created_at }) => created_at)
        .toSorted()
        .reverse(),
    );
    const back = await jsonOf<Page>("GET", (second.previous ?? "").replace(PUBLIC_URL, ""), owner);
    expect(back.results).toEqual(first.results);
    const before = await jsonOf<Page>("GET", (back.previous ?? "").replace(PUBLIC_URL, ""), owner);
    expect(before.results.map(({ id }) => id)).toEqual([newest]);
    for (const cursor of ["x", "e30", btoa(JSON.stringify({ offset: 1 }))]) {
      expect(await status("GET", `${path}/versions?cursor=${cursor}`, owner)).toBe(400);
      expect(await status("GET", `/v1/models?cursor=${cursor}`, owner)).toBe(400);
    }
  });
});
