import { describe, expect, it } from "vitest";
import { whyNoRoom } from "./canary-room.ts";
import type { DeploymentDescription } from "./deployment-contract.ts";
import type { OriginListing } from "./fleet-contract.ts";

const spec = { memory_bytes: 100, gpus: 1, hardware: "gpu" };
const nothing = { queue_length: 0, leases: 0, instances: [], wanted_instances: 0, reason: "" };

function instance(change: Partial<DeploymentDescription["instances"][number]> = {}): DeploymentDescription {
  const one = {
    instance_id: "i",
    origin_id: "o",
    state: "ready" as const,
    slots: 2,
    leased: 1,
    idle_since: null,
    is_current: true,
  };
  return { ...nothing, instances: [{ ...one, ...change }] };
}

function anOrigin(change: Partial<OriginListing> = {}): OriginListing {
  return {
    ...{ origin_id: "o", url: "", region: "local", driver: "fake", state: "ready", instances: [], warm_versions: [] },
    hardware: [{ sku: "gpu", name: "GPU", cpus: 1, memory_bytes: 1_000, gpus: 2 }],
    capacity: { instances: 2, memory_bytes: 1_000 },
    used: { instances: 1, memory_bytes: 900, gpus: 1 },
    last_seen_at: 0,
    ...change,
  };
}

describe("the room for a canary", () => {
  it("is a free slot that nobody waits for", () => {
    expect(whyNoRoom(spec, instance(), [])).toBeNull();
    expect(whyNoRoom(spec, instance({ leased: 2 }), [anOrigin()])).toBe("Its instances are in use.");
    expect(whyNoRoom(spec, { ...instance(), queue_length: 1 }, [anOrigin()])).toBe("Others wait for its instances.");
    expect(whyNoRoom(spec, instance({ state: "setup" }), [anOrigin()])).toBe("Its instances are starting.");
  });

  it("is what a host has that nothing is on, so that no instance goes for it", () => {
    expect(whyNoRoom(spec, nothing, [anOrigin()])).toBeNull();
    const full = [
      anOrigin({ used: { instances: 2, memory_bytes: 0, gpus: 0 } }),
      anOrigin({ used: { instances: 0, memory_bytes: 901, gpus: 0 } }),
      anOrigin({ used: { instances: 0, memory_bytes: 0, gpus: 2 } }),
      anOrigin({ state: "draining" }),
      anOrigin({ hardware: [] }),
    ];
    for (const origin of full) expect(whyNoRoom(spec, nothing, [origin])).toBe("No host has room that is not in use.");
  });
});
