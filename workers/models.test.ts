/** The catalog as callers see it: announced by an origin, shown with versions and examples. */
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { runCounter } from "../durable-objects/stubs.ts";
import { NO_HISTORY, withRun } from "../schema/run-history.ts";
import { anAccount, anAnnounce, call, FakeOrigin, PUBLIC_URL, problemOf, theOperator } from "./testing/edge.ts";

let origin: FakeOrigin;
let version: string;
let alice: { token: string };

beforeAll(async () => {
  await theOperator();
  origin = await FakeOrigin.join();
  version = await origin.announce("echo", anAnnounce());
  await origin.announce("secret", anAnnounce({ visibility: "private" }));
  alice = await anAccount();
});

describe("models", () => {
  it("shows a model with its version, its example and its README", async () => {
    const announce = anAnnounce({ example_input: { text: "example" }, description: "It repeats.", tags: ["text"] });
    await origin.announce("shown", announce);
    const get = async () =>
      (await call("GET", "/v1/models/cogway/shown", { token: alice.token })).json<Record<string, never>>();
    const model = await get();
    expect(model).toMatchObject({
      url: `${PUBLIC_URL}/cogway/shown`,
      owner: "cogway",
      name: "shown",
      description: "It repeats.",
      visibility: "public",
      run_count: 0,
      latest_version: { id: announce.version?.id, cog_version: "0.17.0" },
      default_example: { status: "starting", input: { text: "example", count: 3, color: "red" } },
    });
    const id = (model["default_example"] as unknown as { id: string }).id;
    await origin.announce("shown", announce);
    expect((await get())["default_example"]).toMatchObject({ id });
    await origin.succeed(id, "example example");
    await vi.waitFor(async () => {
      expect((await get())["default_example"]).toMatchObject({ id, status: "succeeded", output: "example example" });
      const row = await env.DB.prepare("SELECT default_example FROM models WHERE name = 'shown'").first(
        "default_example",
      );
      expect(row).toContain(id);
    });
    const readme = await call("GET", "/v1/models/cogway/shown/readme", { token: alice.token });
    expect(readme.headers.get("content-type")).toMatch(/^text\/plain/);
    expect(await readme.text()).toBe("# Echo");
  });

  it("makes a new example when the first one failed", async () => {
    const announce = anAnnounce({ example_input: { text: "unlucky" } });
    await origin.announce("unlucky", announce);
    const get = async () =>
      (await call("GET", "/v1/models/cogway/unlucky", { token: alice.token })).json<{
        default_example: { id: string };
      }>();
    const { id } = (await get()).default_example;
    await origin.attemptOf(id);
    await origin.events(id, 0, [{ type: "finished", status: "failed", error: "no", metrics: {}, predict_time_s: 0 }]);
    await origin.announce("unlucky", announce);
    expect((await get()).default_example.id).not.toBe(id);
  });

  it("lists public models and versions", async () => {
    const list = await call("GET", "/v1/models", { token: alice.token });
    const { results, next, previous } = await list.json<{
      results: { name: string }[];
      next: unknown;
      previous: unknown;
    }>();
    expect(results.map((row) => row.name)).toContain("echo");
    expect(results.map((row) => row.name)).not.toContain("secret");
    expect([next, previous]).toEqual([null, null]);
    const versions = await call("GET", "/v1/models/cogway/echo/versions", { token: alice.token });
    expect(await versions.json()).toMatchObject({ results: [{ id: version }] });
    const run = { outcome: "succeeded" as const, platform_failure: false, run_ms: 1_000, queue_ms: 0, is_cold: false };
    const cold = withRun(withRun(NO_HISTORY, { ...run, ended_at: 5_000 }), {
      ...run,
      ...{ queue_ms: 9_000, is_cold: true, ended_at: 4_000 },
    });
    const ran = withRun(cold, { ...run, outcome: "failed", ended_at: 9_000 });
    await runCounter(env, "cogway/echo").add({ deployment_key: "k", seq: 1, runs: 0, histories: { [version]: ran } });
    const one = await call("GET", `/v1/models/cogway/echo/versions/${version}`, { token: alice.token });
    expect(await one.json()).toMatchObject({
      id: version,
      openapi_schema: { openapi: "3.0.2" },
      history: {
        ...{ runs: 3, success_share: 2 / 3, platform_failure_share: 0, queue_p50_ms: 0, cold_start_share: 1 / 3 },
        ...{ run_p50_ms: 939, boot_p50_ms: null, last_success_at: "1970-01-01T00:00:05.000Z" },
      },
    });
    const none = await call("GET", `/v1/models/cogway/echo/versions/${"0".repeat(63)}f`, { token: alice.token });
    expect((await problemOf(none)).code).toBe("version.not_found");
    expect(await (await call("GET", "/v1/hardware", { token: alice.token })).json()).toEqual([
      { name: "CPU", sku: "cpu", price_micros: 100, price_usd: "0.000100" },
    ]);
  });
});
