import { describe, expect, it } from "vitest";
import { decidePlacement, type PlacementInstance, type PlacementOrigin } from "./placement.ts";

function anInstance(change: Partial<PlacementInstance> = {}): PlacementInstance {
  return {
    instance_id: "i1",
    deployment_key: "other",
    memory_bytes: 100,
    gpus: 0,
    is_idle: true,
    idle_since: 0,
    is_draining: false,
    ...change,
  };
}

function anOrigin(change: Partial<PlacementOrigin> = {}): PlacementOrigin {
  return {
    origin_id: "o1",
    is_alive: true,
    skus: ["cpu"],
    capacity: { instances: 4, memory_bytes: 400 },
    runs: null,
    instances: [],
    knows_version: false,
    ...change,
  };
}

const REQUEST = {
  deployment_key: "mine",
  hardware: "cpu",
  memory_bytes: 200,
  gpus: 0,
  package: null,
  is_trusted: true,
  is_starving: false,
};
const NONE: ReadonlySet<string> = new Set();

describe("decidePlacement", () => {
  it("guarantees that only a living origin with the hardware is chosen", () => {
    expect(decidePlacement(REQUEST, [], NONE)).toMatchObject({ reason: "no_origin" });
    expect(decidePlacement(REQUEST, [anOrigin({ is_alive: false })], NONE)).toMatchObject({ reason: "no_origin" });
    expect(decidePlacement(REQUEST, [anOrigin({ skus: ["gpu"] })], NONE)).toMatchObject({ reason: "no_origin" });
    expect(decidePlacement(REQUEST, [anOrigin()], NONE)).toEqual({ kind: "boot", origin_id: "o1" });
  });

  it("guarantees that an origin which ran the version is preferred, then the emptier one", () => {
    const knowing = anOrigin({ origin_id: "knowing", knows_version: true, instances: [anInstance()] });
    expect(decidePlacement(REQUEST, [anOrigin(), knowing], NONE)).toMatchObject({ origin_id: "knowing" });
    const full = anOrigin({ origin_id: "full", instances: [anInstance()] });
    expect(decidePlacement(REQUEST, [full, anOrigin()], NONE)).toMatchObject({ origin_id: "o1" });
  });

  it("guarantees that the longest idle instance goes first, and no more than are needed", () => {
    const origin = anOrigin({
      instances: [
        anInstance({ instance_id: "young", memory_bytes: 150, idle_since: 20 }),
        anInstance({ instance_id: "old", memory_bytes: 150, idle_since: 10 }),
      ],
    });
    expect(decidePlacement(REQUEST, [origin], NONE)).toMatchObject({ kind: "evict", victim: { instance_id: "old" } });
    const kept = decidePlacement(REQUEST, [origin], new Set(["old"]));
    expect(kept).toMatchObject({ kind: "evict", victim: { instance_id: "young" } });
    expect(decidePlacement(REQUEST, [origin], new Set(["old", "young"]))).toMatchObject({ reason: "no_room" });
    const small = anInstance({ instance_id: "small", memory_bytes: 10, idle_since: 1 });
    const large = anInstance({ instance_id: "large", memory_bytes: 390, idle_since: 5 });
    const mixed = anOrigin({ instances: [small, large] });
    expect(decidePlacement(REQUEST, [mixed], NONE)).toMatchObject({ victim: { instance_id: "large" } });
  });

  it("guarantees that busy, draining and own instances stay, but that a starving queue may ask a busy one", () => {
    const busy = anOrigin({ instances: [anInstance({ memory_bytes: 400, is_idle: false })] });
    expect(decidePlacement(REQUEST, [busy], NONE)).toMatchObject({ reason: "no_room" });
    expect(decidePlacement({ ...REQUEST, is_starving: true }, [busy], NONE)).toMatchObject({ kind: "evict" });
    const draining = anOrigin({ instances: [anInstance({ memory_bytes: 400, is_draining: true })] });
    expect(decidePlacement({ ...REQUEST, is_starving: true }, [draining], NONE)).toMatchObject({ reason: "no_room" });
    const own = anOrigin({ instances: [anInstance({ memory_bytes: 400, deployment_key: "mine" })] });
    expect(decidePlacement(REQUEST, [own], NONE)).toMatchObject({ reason: "no_room" });
  });

  it("guarantees that the number of instances is a bound too, and that nothing goes for what can never fit", () => {
    const counted = anOrigin({ capacity: { instances: 1, memory_bytes: 10_000 }, instances: [anInstance()] });
    expect(decidePlacement(REQUEST, [counted], NONE)).toMatchObject({ kind: "evict" });
    const huge = { ...REQUEST, memory_bytes: 500 };
    expect(decidePlacement(huge, [anOrigin({ instances: [anInstance()] })], NONE)).toMatchObject({ reason: "no_room" });
  });
});
