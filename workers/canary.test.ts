import { runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { CanaryObject } from "../durable-objects/canary.ts";
import { newId } from "../schema/ids.ts";
import type { AttemptStart, ModelAnnounce } from "../schema/origin-protocol.ts";
import { jsonOf, type Person } from "./testing/catalog.ts";
import { anAccount, anAnnounce, FakeOrigin } from "./testing/edge.ts";

const WAIT = { timeout: 10_000, interval: 20 };
const DAY_MS = 86_400_000;
/** Of the examples here: what canaries run is known by it. */
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
  run_count: number;
  unhealthy_since: string | null;
  latest_version: { id: string; health: Health | null; history: unknown };
};

let person: Person;
let origin: FakeOrigin;
beforeAll(async () => {
  person = await anAccount();
  origin = await FakeOrigin.join();
});

const canaries = () => env.CANARIES.getByName("catalog");

function sql<T>(query: string, ...values: SqlStorageValue[]): Promise<T[]> {
  return runInDurableObject(canaries(), (_object, state) => state.storage.sql.exec(query, ...values).toArray() as T[]);
}

/** Every canary of the model is due, and nothing else is. */
async function ring(name: string, part: "run" | "walk" | "ask" = "run"): Promise<void> {
  await sql("UPDATE canaries SET due_at = ?", Date.now() + DAY_MS);
  await sql("UPDATE canaries SET due_at = 0 WHERE name = ?", name);
  await sql("INSERT OR REPLACE INTO deadlines VALUES (?, 1)", part);
  // Another process of the object, which remembers no deadline.
  await runInDurableObject(canaries(), (_object, state) => new CanaryObject(state, env).alarm());
}

/** A public model of the operator with an example, whose first run has succeeded. */
async function aModel(change: Partial<ModelAnnounce> = {}): Promise<{ name: string; path: string }> {
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
    if (example?.status === "succeeded") return;
    if (example !== null) await origin.succeed(example.id, "out");
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
  const end = { metrics: {}, predict_time_s: 0.1 };
  await origin.events(id, 0, [
    { type: "started" },
    how === "failed"
      ? { type: "finished", status: "failed", error: "the weights are gone", ...end }
      : { type: "finished", status: "succeeded", ...end },
  ]);
  await vi.waitFor(
    async () => expect(await sql("SELECT 1 FROM canaries WHERE name = ? AND running IS NOT NULL", name)).toEqual([]),
    WAIT,
  );
}

const modelOf = (path: string): Promise<Model> => jsonOf<Model>("GET", path, person);

/** Within the life of what Workers remember. */
function hasHealth(path: string, health: Record<string, unknown>): Promise<void> {
  return vi.waitFor(async () => expect((await modelOf(path)).latest_version.health).toMatchObject(health), WAIT);
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
    const [due] = await sql<{ n: number }>(
      "SELECT count(*) AS n FROM canaries WHERE name = ? AND due_at <= ?",
      name,
      Date.now(),
    );
    expect(due?.n).toBeGreaterThanOrEqual(1);
    const latest = (await modelOf(path)).latest_version.id;
    await sql("UPDATE canaries SET due_at = 0 WHERE version = ?", latest);
    await sql("DELETE FROM canaries WHERE name = ? AND version <> ?", name, latest);
    await ends(name, "succeeded");
    await vi.waitFor(async () => expect((await modelOf(path)).unhealthy_since).toBeNull(), WAIT);
    await hasHealth(path, { status: "healthy", failures_in_row: 0, last_error: null });
    // None of the four is a run of the model, and no invoice or list of the operator has one.
    expect((await modelOf(path)).run_count).toBeLessThanOrEqual(2);
  });
});
