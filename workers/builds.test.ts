/** From a pushed source to a version that runs: builds over the API, by an origin that does what a test tells it. */
import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import type { showBuild } from "../schema/build-document.ts";
import { Cogway } from "../schema/client/index.ts";
import { newId } from "../schema/ids.ts";
import type { ModelDescription } from "../schema/packages.ts";
import { BUILDS_AT_ONCE_MAX } from "./storage/builds.ts";
import { aModel, aVersion, type Json, jsonOf, type Person, refusal, status } from "./testing/catalog.ts";
import { anAccount, call, FakeOrigin, PUBLIC_URL, problemOf, theOperator } from "./testing/edge.ts";
import { aBuild, aBuilt, aSource } from "./testing/packages.ts";

type Build = ReturnType<typeof showBuild>;

let origin: FakeOrigin;
let alice: Person;
let bob: Person;
let operator: Person;

beforeAll(async () => {
  operator = { id: "cogway", username: "cogway", token: await theOperator() };
  origin = await FakeOrigin.join({ runs: { packages: ["source", "image"], untrusted: true } });
  [alice, bob] = await Promise.all([anAccount(), anAccount()]);
});

const DESCRIPTION: ModelDescription = {
  title: "Greeter",
  description: "Greets.",
  tags: ["text"],
  readme: "# Greeter",
  weights_license: null,
  example_input: { text: "hi" },
};

/** Ends a build well, and answers it. */
async function succeed(
  path: string,
  by: Person,
  version = aBuilt(),
  description: ModelDescription = { ...DESCRIPTION, example_input: null },
  body: Json = {},
): Promise<Build> {
  const id = await aBuild(path, by, body);
  await origin.buildOf(id);
  await origin.buildEvents(id, 0, [{ type: "finished", status: "succeeded", version, description }]);
  return jsonOf<Build>("GET", `${path}/builds/${id}`, by);
}

describe("a build", () => {
  it("goes to an origin, and its good end is a version with its package, its description and its first prediction", async () => {
    const path = await aModel(alice);
    const id = await aBuild(path, alice);
    const start = await origin.buildOf(id);
    expect(start).toMatchObject({ repository: path.replace("/v1/models/", ""), is_trusted: false });
    await origin.buildEvents(id, 0, [
      { type: "stage", stage: "resolve" },
      { type: "log", data: "Resolved 3 packages\n" },
    ]);
    expect(await jsonOf("GET", `${path}/builds/${id}`, alice)).toMatchObject({
      status: "building",
      stage: "resolve",
      version: null,
      waiting_for: null,
    });

    const version = aBuilt({}, { prepared: { ref: "predict.py:Predictor" } });
    const end = { type: "finished" as const, status: "succeeded" as const, version, description: DESCRIPTION };
    expect(await origin.buildEvents(id, 2, [{ ...end, warnings: ["python_version is old"] }])).toEqual({
      through_i: 2,
      outcome: "stored",
    });
    const build = await jsonOf<Build>("GET", `${path}/builds/${id}`, alice);
    expect(build).toMatchObject({
      status: "succeeded",
      version: version.id,
      warnings: ["python_version is old"],
      schema_diff: null,
    });
    const model = await jsonOf("GET", path, alice);
    expect(model).toMatchObject({ title: "Greeter", tags: ["text"], latest_version: { id: version.id } });

    const packaged = await origin.send("GET", `/origin/v1/packages${path.replace("/v1/models", "")}/${version.id}`);
    expect(await packaged.json()).toEqual({
      package: { kind: "source", repository: start.repository, manifest: start.manifest },
      version,
    });
    const prediction = String(build.test_prediction);
    await origin.attemptOf(prediction);
    await origin.succeed(prediction, "hello");
    expect(await jsonOf("GET", `/v1/predictions/${prediction}`, alice)).toMatchObject({ output: "hello" });
    expect(await jsonOf("GET", path, alice)).toMatchObject({ default_example: { id: prediction, output: "hello" } });
    expect(await (await call("GET", `${path}/builds/${id}/logs`, { token: alice.token })).text()).toBe(
      "Resolved 3 packages\n",
    );
    const { results } = await jsonOf<{ results: Json[] }>("GET", `${path}/builds`, alice);
    expect(results).toMatchObject([{ id, status: "succeeded", version: version.id }]);
  });

  it("makes a version without a first prediction where its account may spend nothing more", async () => {
    const poor = await anAccount();
    const budget = { day_micros: 0 };
    expect((await call("PATCH", "/v1/account/billing", { token: poor.token, body: { budget } })).status).toBe(200);
    const path = await aModel(poor);
    const version = aBuilt();
    expect(await succeed(path, poor, version, DESCRIPTION)).toMatchObject({
      status: "succeeded",
      version: version.id,
      test_prediction: null,
    });
    expect(await jsonOf("GET", path, poor)).toMatchObject({
      latest_version: { id: version.id },
      default_example: null,
    });
  });

  it("is told in events that resume where they were cut, and end with the whole build", async () => {
    const path = await aModel(alice);
    const id = await aBuild(path, alice);
    await origin.buildOf(id);
    await origin.buildEvents(id, 0, [{ type: "log", data: "one\n" }]);
    const events = (last?: string) =>
      call("GET", `${path}/builds/${id}/events`, {
        token: alice.token,
        ...(last === undefined ? {} : { headers: { "last-event-id": last } }),
      });
    const live = (await events()).text();
    await origin.buildEvents(id, 1, [
      { type: "stage", stage: "environment" },
      { type: "log", data: "zwei: ü\n" },
      { type: "finished", status: "failed", code: "build.requirements", error: "No package of this name." },
    ]);
    const whole = await live;
    expect(whole).toContain("event: logs\nid: 4\ndata: one\ndata: \n");
    expect(whole).toContain('"stage":"environment"');
    expect(whole).toContain("event: logs\nid: 13\ndata: zwei: ü\n");
    const done = /event: done\nid: (\S+)\ndata: (.*)\n/.exec(whole);
    expect(JSON.parse(done?.[2] ?? "")).toMatchObject({ status: "failed", code: "build.requirements" });
    for (const from of ["4", "13", String(done?.[1])]) {
      await vi.waitFor(async () => {
        const rest = await (await events(from)).text();
        expect(rest.includes("zwei")).toBe(from === "4");
        expect(rest.includes("event: logs\nid: 4")).toBe(false);
        expect(rest.includes("event: done")).toBe(from !== done?.[1]);
      });
    }
  });

  it("is begun, followed and waited for by the client", async () => {
    const path = await aModel(alice);
    const name = path.replace("/v1/models/", "");
    const fetch = (url: string, init: RequestInit) => exports.default.fetch(new Request(url, init));
    const { builds } = new Cogway({ baseUrl: PUBLIC_URL, token: alice.token, fetch });
    const { id } = await builds.create(name, { manifest: await aSource(path) });
    await origin.buildOf(id);
    const said = (async () => {
      const events = [];
      for await (const { event, data } of builds.events(name, id)) if (event === "logs") events.push(data);
      return events;
    })();
    const ended = builds.wait(name, id);
    await origin.buildEvents(id, 0, [
      { type: "log", data: "working\n" },
      { type: "finished", status: "failed", code: "build.schema", error: "No." },
    ]);
    expect(await said).toEqual(["working\n"]);
    expect(await ended).toMatchObject({ status: "failed", code: "build.schema" });
    expect(await builds.cancel(name, id)).toMatchObject({ status: "failed" });
    for await (const each of builds.list(name)) expect(each).toMatchObject({ id, error: "No." });
  });

  it("takes each event once, and nothing behind a gap or from who does not build it", async () => {
    const path = await aModel(alice);
    const id = await aBuild(path, alice);
    await origin.buildOf(id);
    const log = (data: string) => ({ type: "log" as const, data });
    expect(await origin.buildEvents(id, 0, [log("a"), log("b")])).toEqual({ through_i: 1, outcome: "stored" });
    expect(await origin.buildEvents(id, 0, [log("a"), log("b"), log("c")])).toEqual({
      through_i: 2,
      outcome: "stored",
    });
    expect(await origin.buildEvents(id, 5, [log("x")])).toEqual({ through_i: 2, outcome: "stored" });
    expect((await origin.buildEvents("a".repeat(26), 0, [log("x")])).outcome).toBe("unknown");
    const version = aBuilt();
    const end = { type: "finished" as const, status: "succeeded" as const, version, description: DESCRIPTION };
    const acks = [await origin.buildEvents(id, 3, [end]), await origin.buildEvents(id, 3, [end])];
    expect(acks).toEqual([
      { through_i: 3, outcome: "stored" },
      { through_i: 3, outcome: "stored" },
    ]);
    expect(await origin.buildEvents(id, 4, [log("late")])).toMatchObject({ outcome: "fenced" });
    expect(await (await call("GET", `${path}/builds/${id}/logs`, { token: alice.token })).text()).toBe("abc");
    const { results } = await jsonOf<{ results: Json[] }>("GET", `${path}/versions`, alice);
    expect(results).toHaveLength(1);
    const predictions = await jsonOf<{ results: Json[] }>("GET", "/v1/predictions", alice);
    expect(predictions.results.filter((row) => row["version"] === version.id)).toHaveLength(1);
  });

  it("is canceled at once, its origin is told, and what that still says is refused", async () => {
    const path = await aModel(alice);
    const id = await aBuild(path, alice);
    await origin.buildOf(id);
    expect(await jsonOf("POST", `${path}/builds/${id}/cancel`, alice)).toMatchObject({ status: "canceled" });
    await vi.waitFor(() => expect(origin.canceledBuilds).toContain(id));
    const end = { type: "finished" as const, status: "succeeded" as const, version: aBuilt() };
    expect(await origin.buildEvents(id, 0, [end])).toMatchObject({ outcome: "fenced" });
    expect(await jsonOf("GET", path, alice)).toMatchObject({ latest_version: null });
  });

  it("needs a source manifest that the repository holds", async () => {
    const path = await aModel(alice);
    const unknown = await refusal("POST", `${path}/builds`, alice, { manifest: `sha256:${"0".repeat(64)}` });
    expect(unknown).toMatchObject({ status: 422, code: "package.invalid" });
    const image = await aSource(path, "application/vnd.example");
    expect((await refusal("POST", `${path}/builds`, alice, { manifest: image })).code).toBe("package.invalid");
    expect((await refusal("POST", `${path}/builds`, alice, { manifest: "latest" })).code).toBe("input.invalid");
  });

  it("and its log are for the model's people and the operator", async () => {
    const path = await aModel(alice, { visibility: "public" });
    const id = await aBuild(path, alice);
    await origin.buildOf(id);
    for (const at of ["", "/logs"]) {
      expect(await status("GET", `${path}/builds/${id}${at}`, alice)).toBe(200);
      expect(await status("GET", `${path}/builds/${id}${at}`, operator)).toBe(200);
      expect(await status("GET", `${path}/builds/${id}${at}`, bob)).toBe(403);
    }
    const other = await aModel(alice);
    expect(await status("GET", `${other}/builds/${id}`, alice)).toBe(404);
    await call("POST", `${path}/builds/${id}/cancel`, { token: alice.token });
  });

  it("waits for no more than so many of its owner", async () => {
    const carol = await anAccount();
    const path = await aModel(carol);
    for (let k = 0; k < BUILDS_AT_ONCE_MAX; k++) await aBuild(path, carol);
    const answer = await call("POST", `${path}/builds`, {
      token: carol.token,
      body: { manifest: await aSource(path) },
    });
    expect(answer.headers.get("retry-after")).not.toBeNull();
    expect(await problemOf(answer)).toMatchObject({ status: 429, code: "build.too_many" });
  });
});

describe("a version that was pushed", () => {
  it("says what is different from the one before, and an equal one makes no second", async () => {
    const path = await aModel(alice);
    const first = aBuilt({ count: { type: "integer", default: 3 } });
    await succeed(path, alice, first);
    const second = aBuilt({ count: { type: "integer", default: 4 }, color: { type: "string", default: "red" } });
    const build = await succeed(path, alice, second);
    expect(build.schema_diff).toEqual({
      breaking: [],
      added: ['input.color is new, by default "red"'],
      changed: ["input.count is by default 4, and was 3"],
      previous_version: first.id,
    });
    const again = await succeed(path, alice, second);
    expect(again).toMatchObject({ version: second.id, schema_diff: null });
    expect(again.warnings[0]).toContain("no second one was made");
    expect(await jsonOf("GET", `${path}/versions/${second.id}/diff`, alice)).toEqual(build.schema_diff);
    const back = await jsonOf<Json>("GET", `${path}/versions/${first.id}/diff?from=${second.id}`, alice);
    expect(back["breaking"]).toEqual(["input.color was removed"]);
  });

  it("is refused where it breaks callers of a stable model, unless it is forced", async () => {
    const path = await aModel(alice);
    const first = aBuilt({ count: { type: "integer" } });
    await succeed(path, alice, first);
    expect(await jsonOf("PATCH", path, alice, { stable: true })).toMatchObject({ stable: true });
    const breaking = aBuilt({ count: { type: "string" } });
    const refused = await succeed(path, alice, breaking);
    expect(refused).toMatchObject({ status: "failed", code: "version.breaking", version: null });
    expect(refused.error).toContain("input.count was integer and is string");
    expect(await jsonOf("GET", path, alice)).toMatchObject({ latest_version: { id: first.id } });
    expect(await status("GET", `${path}/versions/${breaking.id}`, alice)).toBe(404);
    const forced = await succeed(path, alice, breaking, { ...DESCRIPTION, example_input: null }, { force: true });
    expect(forced).toMatchObject({ status: "succeeded", version: breaking.id });
  });

  it("leaves what people wrote of the model, and fills the rest", async () => {
    const path = await aModel(alice, { description: "By hand." });
    const said = { ...DESCRIPTION, example_input: null };
    await succeed(path, alice, aBuilt(), { ...said, stable: true });
    const model = await jsonOf("GET", path, alice);
    expect(model).toMatchObject({ title: "Greeter", description: "By hand.", stable: true });
    await call("PATCH", path, { token: alice.token, body: { title: "Mine" } });
    await succeed(path, alice, aBuilt(), { ...said, title: "Theirs", readme: "# New" });
    expect(await jsonOf("GET", path, alice)).toMatchObject({ title: "Mine" });
    expect(await (await call("GET", `${path}/readme`, { token: alice.token })).text()).toBe("# New");
  });

  it("runs with its package, its devices, and only the connections that its account may open", async () => {
    const body = { type: "user", username: `u${newId(10)}`, name: "Dave", limits: { egress: true } };
    const made = await jsonOf<{ account: Person; token: string }>("POST", "/admin/v1/accounts", operator, body);
    const dave = { ...made.account, token: made.token };
    const boots = [];
    for (const by of [alice, dave]) {
      const path = await aModel(by);
      const version = aBuilt({}, { egress: true });
      await succeed(path, by, version);
      const made = await call("POST", `${path}/predictions`, { token: by.token, body: { input: { text: "x" } } });
      const { id } = await made.json<{ id: string }>();
      boots.push(
        await vi.waitFor(() => {
          const boot = origin.boots.find(({ version_id }) => version_id === version.id);
          if (boot === undefined) throw new Error("not booted yet");
          return boot;
        }),
      );
      await origin.attemptOf(id);
    }
    expect(boots[0]).toMatchObject({ is_trusted: false, package: { kind: "source" } });
    expect(boots[0]?.egress).toBeUndefined();
    expect(boots[1]).toMatchObject({ egress: true });
  });

  it("can be rolled back to, and forward", async () => {
    const path = await aModel(alice);
    const old = await aVersion(path, { created_at: Date.now() - 1_000 });
    const newest = await aVersion(path);
    for (const id of [old, newest]) {
      expect(await jsonOf("PATCH", path, alice, { latest_version: id })).toMatchObject({ latest_version: { id } });
    }
    const wrong = await refusal("PATCH", path, alice, { latest_version: "0".repeat(64) });
    expect(wrong).toMatchObject({ status: 422, invalid_fields: [{ field: "latest_version" }] });
  });

  it("takes its package along when it is deleted", async () => {
    const path = await aModel(alice);
    const version = aBuilt();
    await succeed(path, alice, version);
    const key = `packages${path.replace("/v1/models", "")}/${version.id}.json`;
    expect(await env.FILES.head(key)).not.toBeNull();
    expect(await status("DELETE", `${path}/versions/${version.id}`, alice)).toBe(202);
    await vi.waitFor(async () => expect(await env.FILES.head(key)).toBeNull());
  });
});

describe("how instances start", () => {
  it("is said to who waits, and its logs to the model's people and the operator", async () => {
    const path = await aModel(alice, { visibility: "public" });
    const version = aBuilt();
    await succeed(path, alice, version);
    const made = await call("POST", "/v1/predictions", {
      token: bob.token,
      body: { version: version.id, input: { text: "x" } },
    });
    const { id } = await made.json<{ id: string }>();
    const boot = await vi.waitFor(() => {
      const found = origin.boots.find(({ version_id }) => version_id === version.id);
      if (found === undefined) throw new Error("not booted yet");
      return found;
    });
    const says = (change: Json) => origin.reportAs(boot, change);
    for (const row of [2, 3]) {
      const reason = `restarting: its server exited (1) (${row} times in a row, next start in 2000 ms)`;
      await says({ state: "boot", reason });
      await vi.waitFor(async () => {
        const shown = await jsonOf("GET", `/v1/predictions/${id}`, bob);
        expect(shown).toMatchObject({ waiting_for: { reason: "boot", detail: reason } });
      });
    }
    await says({ state: "ready", logs: "loaded weights\n" });
    for (const who of [alice, operator]) {
      const { results } = await jsonOf<{ results: Json[] }>("GET", `${path}/setup-logs`, who);
      expect(results).toMatchObject([{ version: version.id, state: "ready", logs: "loaded weights\n" }]);
    }
    expect(await status("GET", `${path}/setup-logs`, bob)).toBe(403);
  });
});
