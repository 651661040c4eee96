import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { CanaryObject } from "../durable-objects/canary.ts";
import { DeploymentObject } from "../durable-objects/deployment.ts";
import { deploymentStub, runCounter } from "../durable-objects/stubs.ts";
import { newId } from "../schema/ids.ts";
import type { AttemptStart, ModelAnnounce } from "../schema/origin-protocol.ts";
import { aModel as anOwnModel, aVersion, jsonOf, type Person } from "./testing/catalog.ts";
import { anAccount, anAnnounce, FakeOrigin, theOperator } from "./testing/edge.ts";

const WAIT = { timeout: 10_000, interval: 20 };
const DAY_MS = 86_400_000;
/** Of the examples here: what canaries run is known by it. */
const END = { metrics: {}, predict_time_s: 0.1 };
const EXAMPLE_TEXT = "the example";

type Example = { id: string; status: string };
interface Health {
  status: string;
  unhealthy_since: string | null;
  failures_in_row: number;
  last_success_at: string | null;
  last_error: string | null;
  runs: { outcome: string; detail: string | null; duration_ms: number | null }[];
}
type Model = {
  unhealthy_since: string | null;
  latest_version: { id: string; health: Health | null };
};

let person: Person;
let origin: FakeOrigin;
let operator: string;
beforeAll(async () => {
  operator = await theOperator();
  person = await anAccount();
  origin = await FakeOrigin.join({ capacity: { instances: 50, memory_bytes: 8_000_000_000 } });
});

const canaries = () => env.CANARIES.getByName("catalog");

function sql<T>(query: string, ...values: SqlStorageValue[]): Promise<T[]> {
  return runInDurableObject(canaries(), (_object, state) => state.storage.sql.exec(query, ...values).toArray() as T[]);
}

/** Every canary of the model is due, and nothing else is. */
async function ring(name: string, part: "run" | "walk" | "ask" = "run"): Promise<void> {
  await origin.heartbeat();
  await sql("UPDATE canaries SET due_at = ?", Date.now() + DAY_MS);
  await sql("UPDATE canaries SET due_at = 0 WHERE name = ?", name);
  await sql("INSERT OR REPLACE INTO deadlines VALUES (?, 1)", part);
  // Another process of the object, which remembers no deadline.
  await runInDurableObject(canaries(), (_object, state) => new CanaryObject(state, env).alarm());
}

/** A public model of the operator with an example, whose first run has succeeded. */
async function aModel(change: Partial<ModelAnnounce> = {}): Promise<{ name: string; path: string }> {
  await origin.heartbeat();
  const name = `m${newId(10)}`;
  const path = `/v1/models/cogway/${name}`;
  await origin.announce(name, anAnnounce({ example_input: { text: EXAMPLE_TEXT }, ...change }));
  await known(name);
  await exampleSucceeds(path);
  return { name, path };
}

/** The run that a new version's example is. */
async function exampleSucceeds(path: string): Promise<void> {
  await vi.waitFor(async () => {
    const { default_example: example } = await jsonOf<{ default_example: Example | null }>("GET", path, person);
    if (example === null || example.status === "succeeded") return;
    await origin.succeed(example.id, "out");
    throw new Error("the example has not ended");
  }, WAIT);
}

/** The object has heard of it. */
function known(name: string, versions = 1): Promise<unknown> {
  return vi.waitFor(
    async () => expect(await sql("SELECT 1 FROM canaries WHERE name = ?", name)).toHaveLength(versions),
    WAIT,
  );
}

/** The canary that runs now. */
async function attemptOf(name: string): Promise<AttemptStart> {
  const [running] = await vi.waitFor(async () => {
    const rows = await sql<{ running: string }>(
      "SELECT running FROM canaries WHERE name = ? AND running IS NOT NULL",
      name,
    );
    const states = await sql<{ state: string }>("SELECT state FROM canaries WHERE name = ?", name);
    if (rows.length !== 1) throw new Error(JSON.stringify(states));
    return rows;
  }, WAIT);
  return origin.attemptOf(running?.running ?? "");
}

async function ends(name: string, how: "succeeded" | "failed"): Promise<void> {
  await ring(name);
  const { prediction_id: id, input } = await attemptOf(name);
  expect(input).toMatchObject({ text: EXAMPLE_TEXT });
  await origin.events(id, 0, [
    { type: "started" },
    how === "failed"
      ? { type: "finished", status: "failed", error: "the weights are gone", ...END }
      : { type: "finished", status: "succeeded", ...END },
  ]);
  await hasEnded(name);
}

function hasEnded(name: string): Promise<void> {
  const running = "SELECT 1 FROM canaries WHERE name = ? AND running IS NOT NULL";
  return vi.waitFor(async () => expect(await sql(running, name)).toEqual([]), WAIT);
}

const modelOf = (path: string): Promise<Model> => jsonOf<Model>("GET", path, person);

/** Within the life of what Workers remember. */
function hasHealth(path: string, health: Record<string, unknown>): Promise<void> {
  return vi.waitFor(async () => expect((await modelOf(path)).latest_version.health).toMatchObject(health), WAIT);
}

/** Runs that are counted once the deployment of a version has told all of its own. */
async function countedRuns(name: string, version: string): Promise<{ ofModel: number; ofVersion: number | undefined }> {
  const deployment = deploymentStub(env, `version:${version}`);
  await vi.waitFor(async () => expect((await deployment.describe()).leases).toBe(0), WAIT);
  await runInDurableObject(deployment as never, async (_object, state) => {
    state.storage.sql.exec("INSERT OR REPLACE INTO deadlines VALUES ('runs', 1)");
    await new DeploymentObject(state, env).alarm();
  });
  const counter = runCounter(env, `cogway/${name}`);
  return { ofModel: await counter.total(), ofVersion: (await counter.history(version))?.runs };
}

describe("a canary", () => {
  it("three that fail make the model unhealthy in its page's data, lists and search; one of a new version that succeeds ends it", async () => {
    const { name, path } = await aModel();
    await ends(name, "failed");
    await ends(name, "failed");
    expect((await modelOf(path)).unhealthy_since).toBeNull();
    await ends(name, "failed");
    await vi.waitFor(async () => expect((await modelOf(path)).unhealthy_since).toEqual(expect.any(String)), WAIT);
    await hasHealth(path, {
      ...{ status: "unhealthy", failures_in_row: 3, last_success_at: null, last_error: "the weights are gone" },
      runs: [1, 2, 3].map(() => expect.objectContaining({ outcome: "failed", detail: "the weights are gone" })),
    });
    const listed = await jsonOf<{ results: Model[] }>("GET", `/v1/models?owner=cogway`, person);
    expect(
      listed.results.find((model) => (model as unknown as { name: string }).name === name)?.unhealthy_since,
    ).toEqual(expect.any(String));
    await vi.waitFor(async () => {
      const found = await jsonOf<{ models: { model: Model }[] }>("GET", `/v1/search?query=${name}`, person);
      expect(found.models[0]?.model.unhealthy_since).toEqual(expect.any(String));
    }, WAIT);

    const bad = (await modelOf(path)).latest_version.id;
    await origin.announce(name, anAnnounce({ example_input: { text: EXAMPLE_TEXT } }));
    await known(name, 2);
    await vi.waitFor(async () => expect((await modelOf(path)).latest_version.id).not.toBe(bad), WAIT);
    await exampleSucceeds(path);
    // Its canary is due at once.
    const latest = (await modelOf(path)).latest_version.id;
    const due = "SELECT version FROM canaries WHERE name = ? AND due_at <= ?";
    expect(await sql(due, name, Date.now())).toEqual([{ version: latest }]);
    await sql("UPDATE canaries SET due_at = 0 WHERE version = ?", latest);
    await sql("DELETE FROM canaries WHERE name = ? AND version <> ?", name, latest);
    await ends(name, "succeeded");
    await vi.waitFor(async () => expect((await modelOf(path)).unhealthy_since).toBeNull(), WAIT);
    await hasHealth(path, { status: "healthy", failures_in_row: 0, last_error: null });
    // None of the four is a run of the model: these are of the examples of both versions.
    expect(await countedRuns(name, bad)).toMatchObject({ ofVersion: 1 });
    expect(await countedRuns(name, latest)).toEqual({ ofModel: 2, ofVersion: 1 });
  });

  it("says nothing of a model when the platform fails, nobody has room, or there is nothing to run", async () => {
    const { name, path } = await aModel();
    for (let day = 0; day < 4; day++) {
      await ring(name);
      const { prediction_id: id } = await attemptOf(name);
      await origin.events(id, 0, [{ type: "started" }, { type: "lost", started: true, reason: "its host went down" }]);
      await hasEnded(name);
    }
    await hasHealth(path, { status: "unknown", failures_in_row: 0, unhealthy_since: null });
    const { path: bare, name: bareName } = await aModel({ example_input: undefined });
    await ring(bareName);
    const detail = "It has no example that fits its inputs, and its inputs have no defaults.";
    await hasHealth(bare, { status: "unknown", runs: [expect.objectContaining({ outcome: "not_run", detail })] });
  });

  it("is no run of the model, costs nothing, and is in no list of the operator", async () => {
    const { name, path } = await aModel();
    await ends(name, "succeeded");
    await hasHealth(path, { status: "healthy" });
    const { id: version } = (await modelOf(path)).latest_version;
    // The one is its example's.
    expect(await countedRuns(name, version)).toEqual({ ofModel: 1, ofVersion: 1 });
    const listed = await jsonOf<{ results: { model: string }[] }>("GET", "/v1/predictions", {
      ...person,
      token: operator,
    });
    expect(listed.results.filter(({ model }) => model === `cogway/${name}`)).toHaveLength(1);
    expect(
      (await jsonOf<{ total_micros: number }>("GET", "/v1/usage", { ...person, token: operator })).total_micros,
    ).toBe(0);
  });

  it("that was lost by a crash is asked for, and counts once", async () => {
    const { name, path } = await aModel();
    await ring(name);
    await attemptOf(name);
    const [row] = await sql<{ running: string }>("SELECT running FROM canaries WHERE name = ?", name);
    // As if the process that waits for it were gone: what it hears later is of a run that counted already.
    await sql("UPDATE canaries SET running = 'aaaaaaaaaaaaaaaaaaaaaaaaaa' WHERE name = ?", name);
    await origin.events(row?.running ?? "", 0, [
      { type: "started" },
      { type: "finished", status: "failed", error: "no", ...END },
    ]);
    await vi.waitFor(async () => {
      await sql("UPDATE canaries SET running = ? WHERE name = ?", row?.running ?? "", name);
      await ring(name, "ask");
      await hasEnded(name);
    }, WAIT);
    await hasHealth(path, { failures_in_row: 1 });
  });

  it("of a model that became private is gone", async () => {
    const { name } = await aModel();
    await origin.announce(name, anAnnounce({ visibility: "private" }));
    await known(name, 0);
  });

  it("tells the owner once, by webhook and page, when nobody has used an unhealthy model for 90 days", async () => {
    const owner = await anAccount();
    const calls: { body: { type: string; data: Record<string, unknown> } }[] = [];
    const outside = globalThis.fetch;
    vi.stubGlobal("fetch", async (input: RequestInfo | URL, init?: RequestInit) => {
      const request = new Request(input, init);
      if (new URL(request.url).hostname !== "alerts.example") return outside(request);
      calls.push({ body: await request.json() });
      return new Response(null, { status: 204 });
    });
    await env.DB.prepare("UPDATE accounts SET terms = ? WHERE id = ?")
      .bind(JSON.stringify({ alert_webhook: "https://alerts.example/hook" }), owner.id)
      .run();
    const path = await anOwnModel(owner, { visibility: "public" });
    const version = await aVersion(path);
    const name = path.split("/").at(-1) ?? "";
    await env.DB.prepare("UPDATE models SET default_example = ?, example_prediction_id = 'x' WHERE name = ?")
      .bind(JSON.stringify({ id: "x", input: { text: EXAMPLE_TEXT }, account_id: owner.id, state: "succeeded" }), name)
      .run();
    await runInDurableObject(canaries(), (_object, state) =>
      new CanaryObject(state, env).changed([`${owner.username}/${name}`]),
    );
    await known(name);
    const old = Date.now() - 91 * DAY_MS;
    for (let day = 0; day < 2; day++) await ends(name, "failed");
    await sql("UPDATE canaries SET first_seen_at = ? WHERE name = ?", old, name);
    await ends(name, "failed");
    const told = () => calls.filter(({ body }) => body.type === "model.unhealthy");
    await vi.waitFor(() => expect(told()).toHaveLength(1), WAIT);
    expect(told()[0]?.body.data).toMatchObject({
      ...{ model: `${owner.username}/${name}`, version, error: "the weights are gone" },
      detail: expect.stringContaining("nobody has run the model for 91 days"),
    });
    const billing = await jsonOf<{ alerts: { type: string; state: string }[] }>("GET", "/v1/account/billing", owner);
    expect(billing.alerts.map(({ type }) => type)).toEqual(["model.unhealthy"]);
    await ends(name, "failed");
    expect(told()).toHaveLength(1);
  });
});
