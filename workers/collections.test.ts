/** Collections, and what makes a model official. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { deploymentStub } from "../durable-objects/stubs.ts";
import type { ModelAnnounce } from "../schema/origin-protocol.ts";
import { aModel, type Json, jsonOf, type Person, refusal, status } from "./testing/catalog.ts";
import { anAccount, anAnnounce, call, FakeOrigin, PUBLIC_URL, problemOf, theOperator } from "./testing/edge.ts";

let origin: FakeOrigin;
let operator: Person;
let alice: Person;

beforeAll(async () => {
  operator = { id: "cogway", username: "cogway", token: await theOperator() };
  origin = await FakeOrigin.join();
  alice = await anAccount();
});

const slugs = async (): Promise<string[]> =>
  (await jsonOf<{ results: { slug: string }[] }>("GET", "/v1/collections", alice)).results.map(({ slug }) => slug);
const namesIn = async (slug: string): Promise<string[]> =>
  (await jsonOf<{ models: { name: string }[] }>("GET", `/v1/collections/${slug}`, alice)).models.map(
    ({ name }) => name,
  );

describe("collections", () => {
  it("come with the first model that names them, and show only what is public and runs", async () => {
    expect(await slugs()).toEqual([]);
    const { version, ...others } = anAnnounce({ collections: ["text-generation", "no-such-thing"] });
    await origin.announce("writer", { ...others, state: "preparing" });
    expect(await slugs()).toEqual([]);
    if (version === undefined) throw new Error("no version");
    await origin.announce("writer", { ...others, version });
    await origin.announce("hidden", anAnnounce({ collections: ["ocr", "text-generation"], visibility: "private" }));
    expect(await slugs()).toEqual(["text-generation"]);
    expect(await jsonOf("GET", "/v1/collections/text-generation", alice)).toMatchObject({
      name: "Text generation",
      slug: "text-generation",
      full_description: null,
      models: [{ owner: "cogway", name: "writer", latest_version: { id: version.id } }],
    });
    expect(await namesIn("ocr")).toEqual([]);
    const none = await refusal("GET", "/v1/collections/no-such-thing", alice);
    expect(none).toMatchObject({ status: 404, code: "collection.not_found" });
    // Its folder says another one now.
    await origin.announce("writer", { ...others, version, collections: ["speech-to-text"] });
    expect(await slugs()).toEqual(["speech-to-text"]);
  });

  it("are the operator's to make, replace and delete", async () => {
    const mine = (await aModel(alice)).replace("/v1/models/", "");
    await origin.announce("b-model", anAnnounce());
    await origin.announce("a-model", anAnnounce());
    const path = "/admin/v1/collections/best-of";
    const body = {
      name: "Best of",
      description: "What we like.",
      full_description: "# Much",
      models: ["cogway/b-model", mine, "cogway/a-model"],
    };
    expect(await status("PUT", path, alice, body)).toBe(403);
    expect(await jsonOf("PUT", path, operator, body)).toEqual({ slug: "best-of", ...body });
    expect(await namesIn("best-of")).toEqual(["b-model", "a-model"]);
    expect(await slugs()).toContain("best-of");
    await jsonOf("PUT", path, operator, { ...body, models: ["cogway/a-model"] });
    expect(await namesIn("best-of")).toEqual(["a-model"]);
    const faults = await refusal("PUT", path, operator, { ...body, name: "\u0000", models: ["cogway/x", "cogway/x"] });
    expect(faults.status).toBe(422);
    expect(faults.detail).toMatch(/name[\s\S]*models/);
    const unknown = await refusal("PUT", path, operator, { ...body, models: ["cogway/a-model", "cogway/none", "x"] });
    expect(unknown.invalid_fields?.map(({ field }) => field)).toEqual(["models.1", "models.2"]);
    expect(await namesIn("best-of")).toEqual(["a-model"]);
    expect(await status("PUT", "/admin/v1/collections/Not%20A%20Slug", operator, body)).toBe(400);
    expect(await status("DELETE", path, alice)).toBe(403);
    expect(await status("DELETE", path, operator)).toBe(204);
    expect(await status("DELETE", path, operator)).toBe(404);
    expect(await status("GET", "/v1/collections/best-of", alice)).toBe(404);
    expect(await status("GET", "/v1/models/cogway/a-model", alice)).toBe(200);
  });

  it("are listed page by page", async () => {
    await origin.announce("everywhere", anAnnounce());
    const rows = Array.from({ length: 105 }, (_, i) => `c${String(i).padStart(3, "0")}`).flatMap((slug) => [
      env.DB.prepare("INSERT INTO collections (slug, name, description, created_at) VALUES (?, ?, '', 1)").bind(
        slug,
        slug,
      ),
      env.DB.prepare(
        "INSERT INTO collection_models (slug, owner, name, position) VALUES (?, 'cogway', 'everywhere', 0)",
      ).bind(slug),
    ]);
    await env.DB.batch(rows);
    interface Page {
      results: { slug: string }[];
      next: string | null;
      previous: string | null;
    }
    const get = (url: string | null) => jsonOf<Page>("GET", (url ?? "").replace(PUBLIC_URL, ""), alice);
    const first = await get("/v1/collections");
    const second = await get(first.next);
    expect(first.results).toHaveLength(100);
    expect([...first.results, ...second.results].filter(({ slug }) => slug.startsWith("c"))).toHaveLength(105);
    expect(second.next).toBeNull();
    expect(await get(second.previous)).toMatchObject({ results: first.results, previous: null });
  });
});

describe("an official model", () => {
  const official = { unit: "image", price_micros: 2_500 };

  it("has a price, which changes with the announcement and not before", async () => {
    const announce = anAnnounce({ official });
    await origin.announce("painter", announce);
    const get = () => jsonOf("GET", "/v1/models/cogway/painter", alice);
    expect(await get()).toMatchObject({ is_official: true, pricing: official });
    await origin.announce("painter", announce);
    const prices = () => env.DB.prepare("SELECT count(*) AS n FROM prices WHERE name = 'painter'").first("n");
    expect(await prices()).toBe(1);
    const insert =
      "INSERT INTO prices (owner, name, unit, price_micros, per, valid_from) VALUES ('cogway', 'painter', 'image', ?, ?, ?)";
    await env.DB.prepare(insert)
      .bind(9, 1, Date.now() + 3_600_000)
      .run();
    // One of the operator's outlasts an announcement that says nothing new.
    await env.DB.prepare(insert).bind(7_000, 2, Date.now()).run();
    await origin.announce("painter", announce);
    expect(await get()).toMatchObject({ pricing: { price_micros: 7_000, per: 2 } });
    await origin.announce("painter", { ...announce, official: { ...official, price_micros: 3_000 } });
    expect(await get()).toMatchObject({ pricing: { price_micros: 3_000 } });
    expect(await prices()).toBe(4);
    await origin.announce("painter", { ...announce, official: null });
    expect(await get()).toMatchObject({ is_official: false, pricing: null });
    expect(await jsonOf("GET", "/v1/models/cogway/writer", alice)).toMatchObject({ is_official: false });
  });

  it("runs without a version in the request", async () => {
    await origin.announce("official-echo", anAnnounce({ official }));
    for (const [path, body] of [
      ["/v1/predictions", { version: "cogway/official-echo", input: { text: "x" } }],
      ["/v1/models/cogway/official-echo/predictions", { input: { text: "x" } }],
    ] as const) {
      expect(await status("POST", path, alice, body)).toBe(201);
    }
  });

  it("keeps one instance of its newest version warm, and of no other", async () => {
    const [first, second] = [anAnnounce({ official }), anAnnounce({ official })];
    /** The idle instance of a version, once it is there; whether it may be given up tells whether it is kept. */
    const isGivenUp = async (version: string): Promise<boolean> => {
      const deployment = deploymentStub(env, `version:${version}`);
      const instance = await vi.waitFor(
        async () => {
          await origin.bringUp();
          const found = (await deployment.describe()).instances.find(({ state }) => state === "ready");
          if (found === undefined) throw new Error("no instance yet");
          return found;
        },
        { timeout: 10_000, interval: 50 },
      );
      return deployment.evictIdle(instance.instance_id);
    };
    await origin.announce("warm", first);
    expect(await isGivenUp(first.version?.id ?? "")).toBe(false);
    await origin.announce("warm", second);
    expect(await isGivenUp(second.version?.id ?? "")).toBe(false);
    expect(await isGivenUp(first.version?.id ?? "")).toBe(true);
  });

  it("refuses a version that would break its callers, and says why", async () => {
    const first = anAnnounce({ official });
    const narrowed = withInput(anAnnounce({ official }), { text: { type: "string", maxLength: 10 } });
    await origin.announce("stable", first);
    await origin.announce("stable", narrowed);
    const model = await jsonOf("GET", "/v1/models/cogway/stable", alice);
    expect(model).toMatchObject({ latest_version: { id: first.version?.id }, is_official: true });
    expect(model["state_reason"]).toContain("input.text has a lower maxLength");
    expect(model).not.toHaveProperty("state");
    const refused = await call("POST", "/v1/predictions", {
      token: alice.token,
      body: { version: narrowed.version?.id, input: { text: "x" } },
    });
    expect((await problemOf(refused)).code).toBe("version.invalid");
    const wider = withInput(anAnnounce({ official }), { extra: { type: "integer" } });
    await origin.announce("stable", wider);
    const now = await jsonOf("GET", "/v1/models/cogway/stable", alice);
    expect(now).toMatchObject({ latest_version: { id: wider.version?.id } });
    expect(now).not.toHaveProperty("state_reason");
  });

  it("that is official no longer may change as it likes", async () => {
    await origin.announce("free", anAnnounce({ official }));
    const narrowed = withInput(anAnnounce({ official: null }), { text: { type: "string", maxLength: 10 } });
    await origin.announce("free", narrowed);
    expect(await jsonOf("GET", "/v1/models/cogway/free", alice)).toMatchObject({
      latest_version: { id: narrowed.version?.id },
    });
  });
});

describe("what people wrote of an announced model", () => {
  it("stays until its folder says something new", async () => {
    const announce = anAnnounce({ title: "First", description: "as announced", tags: ["a"] });
    await origin.announce("edited", announce);
    const path = "/v1/models/cogway/edited";
    await jsonOf("PATCH", path, operator, { description: "as written", readme: "mine", visibility: "private" });
    await origin.announce("edited", { ...announce, title: "Second" });
    expect(await jsonOf("GET", path, operator)).toMatchObject({
      title: "Second",
      description: "as written",
      visibility: "private",
    });
    expect(await (await call("GET", `${path}/readme`, { token: operator.token })).text()).toBe("mine");
    await origin.announce("edited", { ...announce, title: "Second", description: null });
    expect(await jsonOf("GET", path, operator)).toMatchObject({ description: null });
    await origin.announce("edited", { state: "failed", reason: "cog.yaml line 3" });
    expect(await jsonOf("GET", path, operator)).toMatchObject({
      visibility: "private",
      title: "Second",
      tags: ["a"],
      state_reason: "cog.yaml line 3",
      latest_version: { id: announce.version?.id },
    });
    expect(await status("GET", path, alice)).toBe(404);
  });
});

/** The same announcement with inputs added or replaced. */
function withInput(announce: ModelAnnounce, properties: Json): ModelAnnounce {
  const copy = structuredClone(announce);
  const schema = copy.version?.openapi_schema as { components: { schemas: { Input: { properties: Json } } } };
  Object.assign(schema.components.schemas.Input.properties, properties);
  return copy;
}
