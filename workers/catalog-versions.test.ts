/** What refers to versions: they go only when nothing does. And examples, which outlive their predictions' data. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { aModel, aVersion, type Json, jsonOf, type Person, refusal, status } from "./testing/catalog.ts";
import { anAccount, call, FakeOrigin, predictionOf, theOperator } from "./testing/edge.ts";

let origin: FakeOrigin;
let owner: Person;
let other: Person;

beforeAll(async () => {
  await theOperator();
  // Nothing listens to webhooks here.
  vi.stubGlobal("fetch", async () => new Response(null, { status: 204 }));
  origin = await FakeOrigin.join();
  [owner, other] = await Promise.all([anAccount(), anAccount()]);
});

it("finds a version of equal content that another model got a moment ago", async () => {
  const [first, second] = [await aModel(owner), await aModel(owner)];
  const version = await aVersion(first);
  expect(await status("GET", `${first}/versions/${version}`, owner)).toBe(200);
  // As a training ends whose weights were made before: an object inserts the row, and no isolate's memory is told.
  const [, , , by, name] = second.split("/");
  await env.DB.prepare(
    "INSERT INTO versions (owner, name, id, openapi_schema, cog_version, slots, memory_bytes, hardware, idempotent, created_at) SELECT ?, ?, id, openapi_schema, cog_version, slots, memory_bytes, hardware, idempotent, created_at FROM versions WHERE id = ?",
  )
    .bind(by, name, version)
    .run();
  const body = { version: `${by}/${name}:${version}`, input: { text: "x" } };
  expect(await status("POST", "/v1/predictions", owner, body)).toBe(201);
  expect(await status("GET", `${second}/versions/${version}`, owner)).toBe(200);
});

describe("deleting", () => {
  it("a model: only a private one without versions, and all that belongs to it", async () => {
    const path = await aModel(owner, { visibility: "public" });
    const version = await aVersion(path);
    await jsonOf("PUT", `${path}/shares/${other.username}`, owner);
    expect(await refusal("DELETE", path, owner)).toMatchObject({ status: 409, code: "model.not_empty" });
    await jsonOf("PATCH", path, owner, { visibility: "private" });
    const full = await refusal("DELETE", path, owner);
    expect(full).toMatchObject({ status: 409, code: "model.not_empty" });
    expect(full.detail).toContain("Delete each of them first");
    expect(await status("DELETE", `${path}/versions/${version}`, owner)).toBe(202);
    expect(await status("DELETE", path, other)).toBe(403);
    const answer = await call("DELETE", path, { token: owner.token });
    expect([answer.status, await answer.text()]).toEqual([204, ""]);
    expect(await status("GET", path, owner)).toBe(404);
    expect(await status("DELETE", path, owner)).toBe(404);
    const [, , , by, name] = path.split("/");
    const left = await env.DB.prepare("SELECT count(*) FROM shares WHERE owner = ? AND name = ?")
      .bind(by, name)
      .first("count(*)");
    expect(left).toBe(0);
    // The name is free again, and nobody from before sees the new one.
    await aModel(owner, { name: name ?? "" });
    expect(await status("GET", path, other)).toBe(404);
  });

  it("the latest version makes the newest that is left the latest", async () => {
    const path = await aModel(owner);
    const [first, second] = [await aVersion(path, { created_at: 1_000 }), await aVersion(path, { created_at: 2_000 })];
    expect(await jsonOf("GET", path, owner)).toMatchObject({ latest_version: { id: second } });
    const answer = await call("DELETE", `${path}/versions/${second}`, { token: owner.token });
    expect([answer.status, await answer.text()]).toEqual([202, ""]);
    expect(await jsonOf("GET", path, owner)).toMatchObject({ latest_version: { id: first } });
    expect((await refusal("GET", `${path}/versions/${second}`, owner)).code).toBe("version.not_found");
    expect((await refusal("DELETE", `${path}/versions/${second}`, owner)).code).toBe("version.not_found");
    expect(await status("DELETE", `${path}/versions/${first}`, owner)).toBe(202);
    expect(await jsonOf("GET", path, owner)).toMatchObject({ latest_version: null });
  });

  it("a version of a public model is refused, and of a model of another account too", async () => {
    const path = await aModel(owner, { visibility: "public" });
    const version = await aVersion(path);
    const problem = await refusal("DELETE", `${path}/versions/${version}`, owner);
    expect(problem).toMatchObject({ status: 409, code: "version.in_use" });
    expect(problem.detail).toContain("private first");
    expect(await status("DELETE", `${path}/versions/${version}`, other)).toBe(403);
  });

  it("a version that a deployment runs is refused, until it runs another", async () => {
    const path = await aModel(owner);
    const [used, next] = [await aVersion(path), await aVersion(path)];
    const deploy = (number: number, version: string) => [
      env.DB.prepare(
        "INSERT INTO releases (owner, name, number, model, version, hardware, min_instances, max_instances, created_at, created_by) VALUES (?, 'live', ?, ?, ?, 'cpu', 0, 1, 1, ?)",
      ).bind(owner.username, number, path.replace("/v1/models/", ""), version, owner.username),
      env.DB.prepare(
        "INSERT INTO deployments (owner, name, release, created_at) VALUES (?, 'live', ?, 1) ON CONFLICT DO UPDATE SET release = excluded.release",
      ).bind(owner.username, number),
    ];
    await env.DB.batch(deploy(1, used));
    const problem = await refusal("DELETE", `${path}/versions/${used}`, owner);
    expect(problem).toMatchObject({ status: 409, code: "version.in_use" });
    expect(problem.detail).toContain(`${owner.username}/live`);
    await env.DB.batch(deploy(2, next));
    expect(await status("DELETE", `${path}/versions/${used}`, owner)).toBe(202);
  });

  it("a version that another was trained from is refused", async () => {
    const [path, tuned] = [await aModel(owner), await aModel(owner)];
    const base = await aVersion(path);
    const child = await aVersion(tuned, { base });
    const problem = await refusal("DELETE", `${path}/versions/${base}`, owner);
    expect(problem.code).toBe("version.in_use");
    expect(problem.detail).toContain(tuned.replace("/v1/models/", ""));
    expect(await status("DELETE", `${tuned}/versions/${child}`, owner)).toBe(202);
    expect(await status("DELETE", `${path}/versions/${base}`, owner)).toBe(202);
  });

  it("a version that another account has run is refused for ever", async () => {
    const path = await aModel(owner);
    const version = await aVersion(path);
    await jsonOf("PUT", `${path}/shares/${other.username}`, owner);
    const body = { version, input: { text: "x" } };
    await predictionOf(await call("POST", "/v1/predictions", { token: other.token, body }));
    await jsonOf("DELETE", `${path}/shares/${other.username}`, owner).catch(() => undefined);
    await vi.waitFor(async () => {
      const problem = await refusal("DELETE", `${path}/versions/${version}`, owner);
      expect(problem.detail).toContain("Another account has run");
    });
  });

  it("a version is refused while predictions of it run", async () => {
    const path = await aModel(owner);
    const version = await aVersion(path);
    const id = await origin.aRunning(owner.token, version);
    const problem = await refusal("DELETE", `${path}/versions/${version}`, owner);
    expect(problem.code).toBe("version.in_use");
    expect(problem.detail).toContain("wait or run");
    await origin.events(id, 1, [{ type: "finished", status: "succeeded", metrics: {}, predict_time_s: 0.1 }]);
    await vi.waitFor(async () => expect(await status("DELETE", `${path}/versions/${version}`, owner)).toBe(202));
    const prediction = await jsonOf("GET", `/v1/predictions/${id}`, owner);
    expect(prediction).toMatchObject({ status: "succeeded", version });
  });

  it("a version's weights go with the last version that has them", async () => {
    const path = await aModel(owner);
    const [first, second] = [await aVersion(path), await aVersion(path)];
    const key = `weights/${"c".repeat(64)}/w.tar`;
    await env.FILES.put(key, "weights");
    const weights = JSON.stringify({ key, sha256: "c".repeat(64), size_bytes: 7 });
    await env.DB.prepare("UPDATE versions SET weights = ? WHERE id IN (?, ?)").bind(weights, first, second).run();
    expect(await status("DELETE", `${path}/versions/${first}`, owner)).toBe(202);
    expect(await env.FILES.head(key)).not.toBeNull();
    expect(await status("DELETE", `${path}/versions/${second}`, owner)).toBe(202);
    await vi.waitFor(async () => expect(await env.FILES.head(key)).toBeNull());
  });
});

describe("examples", () => {
  async function aSucceeded(token: string, version: string, body: Json = {}): Promise<string> {
    const made = await call("POST", "/v1/predictions", {
      token,
      body: { version, input: { text: "x" }, ...body },
      headers: { "cogway-retention": "2s" },
    });
    const { id } = await predictionOf(made);
    await origin.succeed(id, "done");
    await vi.waitFor(async () => {
      expect((await predictionOf(await call("GET", `/v1/predictions/${id}`, { token }))).status).toBe("succeeded");
    });
    return id;
  }
  const ids = ({ results }: { results: Json[] }) => results.map(({ id }) => id);

  it("are added by the owner, kept, and taken away; the first is the default one", async () => {
    const path = await aModel(owner, { visibility: "public" });
    const version = await aVersion(path);
    const first = await aSucceeded(owner.token, version, { webhook: "https://example.com/secret-hook" });
    const add = (id: string) => jsonOf("POST", `${path}/examples`, owner, { prediction_id: id });
    expect(await add(first)).toMatchObject({ id: first, output: "done", expires_at: null });
    const mine = await jsonOf<{ results: Json[] }>("GET", "/v1/predictions", owner);
    expect(mine.results.find(({ id }) => id === first)).toMatchObject({ output: "done", expires_at: null });
    const second = await aSucceeded(owner.token, version);
    await add(second);
    await add(second);
    expect(await jsonOf("GET", path, other)).toMatchObject({ default_example: { id: first, output: "done" } });
    const listed = await jsonOf<{ results: Json[] }>("GET", `${path}/examples`, other);
    expect(ids(listed)).toEqual([first, second]);
    expect(JSON.stringify(listed)).not.toContain("secret-hook");
    const third = await aSucceeded(owner.token, version);
    // Its data goes 2 s after its end; that of examples, which are older, stays.
    await vi.waitFor(
      async () => expect(await jsonOf("GET", `/v1/predictions/${third}`, owner)).toMatchObject({ data_removed: true }),
      { timeout: 10_000, interval: 200 },
    );
    expect(await jsonOf("GET", `/v1/predictions/${first}`, owner)).toMatchObject({ output: "done" });
    const late = await refusal("POST", `${path}/examples`, owner, { prediction_id: third });
    expect(late.detail).toContain("no data any more");

    expect(await status("DELETE", `${path}/examples/${first}`, owner)).toBe(204);
    expect(await jsonOf("GET", path, other)).toMatchObject({ default_example: { id: second } });
    expect(ids(await jsonOf("GET", `${path}/examples`, other))).toEqual([second]);
    expect(await status("DELETE", `${path}/examples/${first}`, owner)).toBe(404);
    const used = await refusal("DELETE", `${path}/versions/${version}`, owner);
    expect(used.detail).toContain("public");
    await jsonOf("PATCH", path, owner, { visibility: "private" });
    expect((await refusal("DELETE", `${path}/versions/${version}`, owner)).detail).toContain("default example");
    expect(await status("DELETE", `${path}/examples/${second}`, owner)).toBe(204);
    expect(await jsonOf("GET", path, owner)).toMatchObject({ default_example: null });
    expect(await jsonOf("GET", `${path}/examples`, owner)).toEqual({ previous: null, next: null, results: [] });
    expect(await status("DELETE", `${path}/versions/${version}`, owner)).toBe(202);
  });

  it("are one's own ended predictions of that model, added by those who may change it", async () => {
    const [path, elsewhere] = [await aModel(owner, { visibility: "public" }), await aModel(owner)];
    const [version, otherVersion] = [await aVersion(path), await aVersion(elsewhere)];
    const add = (who: Person, prediction_id: string) => refusal("POST", `${path}/examples`, who, { prediction_id });
    const theirs = await aSucceeded(other.token, version);
    expect(await add(owner, theirs)).toMatchObject({ status: 404, code: "prediction.not_found" });
    expect(await add(other, theirs)).toMatchObject({ status: 403 });
    expect(await add(owner, "nothing")).toMatchObject({ status: 404 });
    expect((await add(owner, await aSucceeded(owner.token, otherVersion))).detail).toContain("not of");
    expect((await add(owner, await origin.aRunning(owner.token, version))).detail).toContain("not succeeded");
  });
});
