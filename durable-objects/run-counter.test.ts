import { evictDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { runCounter } from "./stubs.ts";
import { freshName } from "./testing/harness.ts";

describe("the run counter of a model", () => {
  it("guarantees that each report counts once, by deployment, and nothing else changes it", async () => {
    const counter = runCounter(env, freshName());
    expect(await counter.total()).toBe(0);
    expect(await counter.add({ deployment_key: "version:a", seq: 1, runs: 5 })).toBe(5);
    expect(await counter.add({ deployment_key: "version:a", seq: 1, runs: 5 })).toBe(5);
    expect(await counter.add({ deployment_key: "version:b", seq: 1, runs: 2 })).toBe(7);
    expect(await counter.add({ deployment_key: "version:a", seq: 2, runs: 1 })).toBe(8);
    expect(await counter.add({ deployment_key: "version:a", seq: 1, runs: 5 })).toBe(8);
    expect(await counter.total()).toBe(8);
  });

  it("guarantees that its count outlives its memory", async () => {
    const model = freshName();
    await runCounter(env, model).add({ deployment_key: "version:a", seq: 3, runs: 4 });
    await evictDurableObject(env.RUN_COUNTERS.getByName(`model:${model}`));
    expect(await runCounter(env, model).add({ deployment_key: "version:a", seq: 3, runs: 4 })).toBe(4);
    expect(await runCounter(env, "another/model").total()).toBe(0);
  });
});
