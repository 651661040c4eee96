/** Deployments and the fleet together, as the Worker reaches them, over a host that is only pretended. The clock runs. */
import { env } from "cloudflare:workers";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { type InstanceBoot, InstanceBootSchema } from "../schema/origin-protocol.ts";
import { deploymentStub, fleetStub } from "./stubs.ts";
import { anEnqueue, aPredictionId, aSpec, aStatus, freshName } from "./testing/harness.ts";

const booted: InstanceBoot[] = [];
const drained: string[] = [];
let originId = "";

/** What the origin pushes when a state changes. */
function report(boot: InstanceBoot, state: "ready" | "stopped"): Promise<void> {
  const status = aStatus({ ...boot, state, slots_busy: 0, boot_ms: 10, setup_ms: 20 });
  return deploymentStub(env, boot.deployment_key).instancesChanged(originId, [status]);
}

beforeEach(async () => {
  booted.length = 0;
  drained.length = 0;
  vi.spyOn(globalThis, "fetch").mockImplementation(async (input, init) => {
    const request = new Request(input, init);
    const { pathname } = new URL(request.url);
    const drain = /^\/v1\/instances\/([^/]+)\/drain$/.exec(pathname)?.[1];
    if (drain !== undefined) {
      drained.push(drain);
      return Response.json(aStatus({ instance_id: drain, state: "draining" }), { status: 202 });
    }
    const boot = InstanceBootSchema.parse(await request.json());
    booted.push(boot);
    return Response.json(aStatus({ ...boot, state: "boot" }), { status: 202 });
  });
  const register = {
    protocol: 1 as const,
    url: "http://origin.test",
    incarnation: crypto.randomUUID(),
    region: "local",
    driver: "process",
    hardware: [{ sku: "cpu", name: "CPU", cpus: 2, memory_bytes: 1_000, gpus: 0 }],
    capacity: { instances: 1, memory_bytes: 1_000 },
    instances: [],
  };
  const result = await (originId === ""
    ? fleetStub(env).register({ ...register, join_token: "join-token-of-tests" }, null)
    : fleetStub(env).register(register, originId));
  if (!result.ok) throw new Error(result.detail);
  originId = result.result.origin_id;
});

afterEach(() => {
  vi.restoreAllMocks();
});

describe("capacity", () => {
  it("guarantees an instance from zero, a warm lease without the fleet, and none after its idle time", async () => {
    const key = freshName();
    const spec = aSpec({ deployment_key: key, idle_ttl_ms: 50 });
    const deployment = deploymentStub(env, key);
    const request = anEnqueue({ spec });
    expect(await deployment.enqueue(request)).toEqual({ kind: "queued", queue_position: 1 });
    await vi.waitFor(() => expect(booted).toMatchObject([{ deployment_key: key, slots: 1, memory_bytes: 1_000 }]));
    const boot = booted[0] as InstanceBoot;
    await report(boot, "ready");
    await vi.waitFor(async () => expect(await deployment.waitingFor(request)).toBeNull());
    await deployment.release([{ ...request, ran_ms: 1 }]);
    const warm = anEnqueue({ spec });
    expect(await deployment.enqueue(warm)).toMatchObject({
      kind: "leased",
      lease: { instance_id: boot.instance_id, origin_id: originId },
    });
    await deployment.release([{ ...warm, ran_ms: 1 }]);
    await vi.waitFor(() => expect(drained).toEqual([boot.instance_id]), { timeout: 5_000 });
    await report(boot, "stopped");
    expect(await deployment.describe()).toMatchObject({ instances: [], leases: 0, queue_length: 0 });
    expect(booted).toHaveLength(1);
  });

  it("guarantees that an idle model goes when another needs its room, and returns when it is asked again", async () => {
    const [first, second] = [freshName(), freshName()];
    const boots = async (key: string) => {
      const request = anEnqueue({ prediction_id: aPredictionId(), spec: aSpec({ deployment_key: key }) });
      await deploymentStub(env, key).enqueue(request);
      await vi.waitFor(() => expect(booted.at(-1)?.deployment_key).toBe(key), { timeout: 5_000 });
      const boot = booted.at(-1) as InstanceBoot;
      await report(boot, "ready");
      await deploymentStub(env, key).release([{ ...request, ran_ms: 1 }]);
      return boot;
    };
    const one = await boots(first);
    await boots(second);
    expect(drained).toEqual([one.instance_id]);
    await report(one, "stopped");
    expect((await deploymentStub(env, first).describe()).instances).toEqual([]);
    await boots(first);
    expect(drained).toHaveLength(2);
  });
});
