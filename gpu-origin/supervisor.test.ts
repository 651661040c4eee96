import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import type { InstanceBoot } from "../schema/origin-protocol.ts";
import { TestOrigin } from "./testing/harness.ts";

describe("an origin of processes", () => {
  let origin: TestOrigin;
  beforeAll(async () => {
    origin = await TestOrigin.start(["noop"]);
  }, 240_000);
  afterAll(() => origin.stop());

  const boot = (change: Partial<InstanceBoot>): Promise<{ status: number; body: unknown }> =>
    origin.edge.call("POST", "/v1/instances", {
      protocol: 1,
      instance_id: newId(16),
      deployment_key: "d",
      version_id: origin.version("noop").id,
      slots: 1,
      memory_bytes: 1,
      setup_timeout_ms: 1_000,
      ...change,
    });
  const manifest = `sha256:${"0".repeat(64)}`;

  it("says what it runs", () => {
    expect(origin.edge.registrations.at(-1)).toMatchObject({
      driver: "process",
      runs: { packages: ["source"], untrusted: false },
      capacity: { gpus: expect.any(Number) },
    });
  });

  it("runs no model that is not the operator's, and says what would", async () => {
    const { status, body } = await boot({ is_trusted: false });
    expect(status).toBeGreaterThanOrEqual(400);
    expect(body).toMatchObject({
      code: "version.not_trusted",
      detail: expect.stringContaining("COGWAY_DRIVER=docker"),
    });
  });

  it("runs no images, and says what would", async () => {
    const { body } = await boot({ package: { kind: "image", repository: "a/b", manifest } });
    expect(body).toMatchObject({ code: "version.no_images", detail: expect.stringContaining("COGWAY_DRIVER=docker") });
  });

  it("gives back the place of an instance whose package is not to be had, with the reason", async () => {
    const instance_id = newId(16);
    const version_id = "f".repeat(64);
    const answer = await boot({ instance_id, version_id, package: { kind: "source", repository: "a/b", manifest } });
    expect(answer).toMatchObject({ status: 202, body: { state: "boot" } });
    const failed = await origin.untilState(instance_id, ["failed"]);
    expect(failed.reason).toMatch(/^boot: /);
    expect(origin.origin.supervisor.statuses().some((status) => status.instance_id === instance_id)).toBe(false);
  });

  it("pauses an idle instance and resumes it as it was, in milliseconds and without a setup; a busy one it leaves", async () => {
    const instance_id = await origin.boot("noop");
    const ready = await origin.untilState(instance_id, ["ready"]);
    const call = (what: string): ReturnType<typeof boot> =>
      origin.edge.call("POST", `/v1/instances/${instance_id}/${what}`);
    expect(await call("pause")).toMatchObject({ status: 202, body: { state: "paused" } });
    expect(await call("pause")).toMatchObject({ status: 202, body: { state: "paused" } });
    const began = performance.now();
    expect(await call("resume")).toMatchObject({ status: 202, body: { state: "ready", setup_ms: ready.setup_ms } });
    expect(performance.now() - began).toBeLessThan(500);
    expect(await origin.predict("noop", instance_id, { text: "again" })).toMatchObject({ status: "succeeded" });

    expect(await call("pause")).toMatchObject({ status: 202 });
    // A lease that was given before the edge knew: it runs all the same.
    expect(await origin.predict("noop", instance_id, { text: "late" })).toMatchObject({ status: "succeeded" });
    expect(await call("pause")).toMatchObject({ status: 202 });
    await origin.edge.call("POST", `/v1/instances/${instance_id}/drain`, { reason: "evicted", grace_ms: 1_000 });
    expect((await origin.untilState(instance_id, ["stopped"])).state).toBe("stopped");
    expect((await call("pause")).status).toBe(404);
  }, 60_000);

  it("ends pauses and resumes that come together in the order of their coming", async () => {
    const instance_id = await origin.boot("noop");
    const { supervisor } = origin.origin;
    const [, resumed] = await Promise.all([supervisor.pause(instance_id), supervisor.resume(instance_id)]);
    expect(resumed).toMatchObject({ state: "ready" });
    expect(supervisor.statuses().find((status) => status.instance_id === instance_id)?.state).toBe("ready");
  });
});
