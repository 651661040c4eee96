/** Search over HTTP with the real index in its object and no embeddings model: words, typos, tags, rights, pages, and what stands in for the vectors. */
import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { searchStub } from "../durable-objects/stubs.ts";
import { anAccount, anAnnounce, call, FakeOrigin, PUBLIC_URL, problemOf, theOperator } from "./testing/edge.ts";

interface SearchBody {
  query: string;
  models: { model: { owner: string; name: string; url: string }; metadata: { tags: string[]; score: number } }[];
  collections: { name: string; slug: string; description: string; models: string[] | null }[];
  pages: { name: string; href: string }[];
  mode: string;
  is_complete: boolean;
}

let origin: FakeOrigin;
let operator: string;
let alice: { id: string; username: string; token: string };

const MODELS: [string, Parameters<typeof anAnnounce>[0]][] = [
  [
    "hearing",
    {
      title: "Hearing",
      description: "Transcribes speech into text, with times for subtitles.",
      tags: ["speech to text", "audio"],
      readme: "# Hearing\n\nGive it a recording of a meeting.",
    },
  ],
  [
    "voice",
    {
      title: "Voice",
      description: "A narrator that reads any text aloud.",
      tags: ["text to speech", "audio"],
      readme: "# Voice\n\nFor audiobooks.",
    },
  ],
  [
    "cutout",
    {
      title: "Cutout",
      description: "Removes the background of a photograph.",
      tags: ["background removal", "image"],
      readme: "# Cutout\n\nFor product shots.",
    },
  ],
];

beforeAll(async () => {
  operator = await theOperator();
  origin = await FakeOrigin.join();
  for (const [name, announce] of MODELS) await origin.announce(name, anAnnounce(announce));
  await origin.announce(
    "secret",
    anAnnounce({ visibility: "private", title: "Secret", description: "Finds zebras in speech." }),
  );
  alice = await anAccount();
  await indexed(4);
});

/** Until the index has so many models: it is told behind the answer. */
async function indexed(models: number): Promise<void> {
  await vi.waitFor(async () => expect((await searchStub(env).state()).models).toBe(models), { timeout: 10_000 });
}

async function search(query: string, token = alice.token, rest = ""): Promise<SearchBody> {
  const answer = await call("GET", `/v1/search?query=${encodeURIComponent(query)}${rest}`, { token });
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const names = (body: SearchBody) => body.models.map(({ model }) => model.name);

describe("an index that an earlier release wrote", () => {
  it("shows its models from the catalog, where their cards lack what tables have now", async () => {
    const before = await search("subtitles");
    expect(before.models.map(({ model }) => model)).toMatchObject([{ name: "hearing", unhealthy_since: null }]);
    await runInDurableObject(searchStub(env) as never, (_object, { storage }) =>
      storage.sql.exec("UPDATE cards SET card = json_remove(card, '$.model.unhealthy_since') WHERE card <> ''"),
    );
    expect((await search("subtitles")).models).toEqual(before.models);
  });
});

describe("GET /v1/search", () => {
  it("finds a model by what it does, with its tags and a score, as it is shown everywhere", async () => {
    const body = await search("transcribe a meeting");
    expect(names(body)[0]).toBe("hearing");
    expect(body.models[0]?.metadata).toMatchObject({ tags: ["speech to text", "audio"] });
    expect(body.models[0]?.metadata.score).toBeGreaterThan(0);
    const model = await (await call("GET", "/v1/models/cogway/hearing", { token: alice.token })).json<
      Record<string, unknown>
    >();
    // How a version runs is asked for where one model is looked at.
    const { history: _history, health: _health, ...version } = model["latest_version"] as Record<string, unknown>;
    expect(body.models[0]?.model).toEqual({ ...model, latest_version: version });
  });

  it.each([
    ["transcrib speach", "hearing"],
    ["remve bakground", "cutout"],
    ["narator", "voice"],
    ["subtitels for my talk", "hearing"],
  ])("forgives typing mistakes: %s", async (query, name) => {
    expect(names(await search(query))[0]).toBe(name);
  });

  it("tells models of equal words apart by the order of a tag's words", async () => {
    expect(names(await search("text to speech"))[0]).toBe("voice");
    expect(names(await search("speech to text"))[0]).toBe("hearing");
  });

  it("goes by words where no embeddings model can run, and says so", async () => {
    const answer = await call("GET", "/v1/search?query=photo", { token: alice.token });
    expect(answer.headers.get("cogway-search-mode")).toBe("text");
    expect(await answer.json()).toMatchObject({ mode: "text", is_complete: true, query: "photo" });
  });

  it("shows private models to those who may see them, and to nobody else", async () => {
    expect(names(await search("zebras", operator))).toContain("secret");
    expect(names(await search("zebras"))).not.toContain("secret");
    await env.DB.batch([
      env.DB.prepare("INSERT INTO shares VALUES ('cogway', 'secret', ?, 0)").bind(alice.id),
      env.DB.prepare("UPDATE models SET updated_at = updated_at + 1 WHERE name = 'secret'"),
    ]);
    await searchStub(env).changed(["cogway/secret"]);
    await vi.waitFor(async () => expect(names(await search("zebras"))).toContain("secret"), { timeout: 10_000 });
  });

  it("bounds the number of results, and keeps to one that is asked for", async () => {
    expect((await search("speech text audio", alice.token, "&limit=1")).models).toHaveLength(1);
    const answer = await call("GET", "/v1/search?query=x&limit=51", { token: alice.token });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toEqual({ detail: "`limit` must be a whole number from 1 to 50." });
  });

  it.each(["/v1/search", "/v1/search?query=", "/v1/search?query=%20", `/v1/search?query=${"x".repeat(1_001)}`])(
    "says what is wrong with %s as Replicate does: plain JSON with a detail",
    async (path) => {
      const answer = await call("GET", path, { token: alice.token });
      expect(answer.status).toBe(400);
      expect(answer.headers.get("content-type")).toBe("application/json");
      expect(Object.keys(await answer.json<object>())).toEqual(["detail"]);
    },
  );

  it("takes any text for words: what means something to the index's language means nothing here", async () => {
    for (const query of [
      '" OR 1',
      "a* NOT (b",
      "NEAR(",
      "'; DROP TABLE documents",
      "😀",
      "日本語",
      "{title}:x",
      "\u0000",
    ]) {
      const answer = await call("GET", `/v1/search?query=${encodeURIComponent(query)}`, { token: alice.token });
      expect([query, answer.status]).toEqual([query, 200]);
    }
  });

  it("needs a token", async () => {
    expect((await call("GET", "/v1/search?query=x")).status).toBe(401);
  });

  it("finds collections, and names of them only models that everybody may see", async () => {
    await env.DB.batch([
      env.DB.prepare("INSERT INTO collections VALUES ('listen', 'Listening', 'Speech in, text out', NULL, 0)"),
      env.DB.prepare(
        "INSERT INTO collection_models VALUES ('listen', 'cogway', 'hearing', 0), ('listen', 'cogway', 'secret', 1)",
      ),
    ]);
    await searchStub(env).changed([]);
    const { collections } = await search("listening to speech");
    expect(collections).toEqual([
      { name: "Listening", slug: "listen", description: "Speech in, text out", models: ["cogway/hearing"] },
    ]);
  });
});

describe("QUERY /v1/models", () => {
  const query = (body: string) =>
    call("QUERY", "/v1/models", { token: alice.token, body, headers: { "content-type": "text/plain" } });

  it.each(["background of a photograph", '"background of a photograph"'])(
    "takes text as it is and as a JSON string: %s",
    async (body) => {
      const answer = await query(body);
      expect(answer.status).toBe(200);
      expect(await answer.json()).toMatchObject({ previous: null, next: null, results: [{ name: "cutout" }] });
    },
  );

  it("shows public models alone", async () => {
    const answer = await call("QUERY", "/v1/models", {
      token: operator,
      body: "zebras",
      headers: { "content-type": "text/plain" },
    });
    expect((await answer.json<{ results: { name: string }[] }>()).results.map(({ name }) => name)).not.toContain(
      "secret",
    );
  });

  it("refuses an empty body", async () => {
    expect((await problemOf(await query("  "))).code).toBe("request.malformed");
  });

  it("goes on at `next`, without a repeat, with a plain GET", async () => {
    for (let i = 0; i < 25; i++) {
      const words = anAnnounce({ title: `Sorter ${i}`, description: "Sorts pebbles by colour." });
      await origin.announce(`sorter-${i}`, words);
    }
    await indexed(29);
    const first = await (await query("sort pebbles")).json<{ next: string; results: { name: string }[] }>();
    expect(first.results).toHaveLength(20);
    expect(first.next.startsWith(`${PUBLIC_URL}/v1/search/models?query=sort+pebbles&cursor=`)).toBe(true);
    const path = first.next.slice(PUBLIC_URL.length);
    const second = await (await call("GET", path, { token: alice.token })).json<typeof first>();
    expect(second.next).toBeNull();
    expect(new Set([...first.results, ...second.results].map(({ name }) => name)).size).toBe(25);
  });
});
