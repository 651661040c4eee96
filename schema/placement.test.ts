import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decideBuildPlace, decidePlacement, type PlacementInstance, type PlacementOrigin } from "./placement.ts";

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

  it("guarantees that packages, devices and models of others go only where they run, and says what must be started", () => {
    const process = anOrigin({ origin_id: "process", runs: { packages: ["source"], untrusted: false } });
    const docker = anOrigin({ origin_id: "docker", runs: { packages: ["source", "image"], untrusted: true } });
    const gpu = anOrigin({
      origin_id: "gpu",
      skus: ["gpu-h100", "gpu-h100-8x"],
      capacity: { instances: 8, memory_bytes: 4_000, gpus: 8 },
      runs: { packages: ["source", "image"], untrusted: true },
    });
    const source = { ...REQUEST, package: "source" as const };
    expect(decidePlacement(source, [process], NONE)).toMatchObject({ origin_id: "process" });
    expect(decidePlacement(source, [anOrigin()], NONE)).toMatchObject({ reason: "no_origin" });
    expect(decidePlacement(REQUEST, [anOrigin()], NONE)).toMatchObject({ origin_id: "o1" });
    const image = { ...REQUEST, package: "image" as const };
    expect(decidePlacement(image, [process, docker], NONE)).toMatchObject({ origin_id: "docker" });
    expect(decidePlacement(image, [process], NONE)).toMatchObject({
      reason: "no_origin",
      detail: expect.stringContaining("COGWAY_DRIVER=docker"),
    });
    const untrusted = { ...source, is_trusted: false };
    expect(decidePlacement(untrusted, [process, docker], NONE)).toMatchObject({ origin_id: "docker" });
    expect(decidePlacement(untrusted, [process], NONE)).toMatchObject({
      detail: expect.stringContaining("COGWAY_TRUST_ALL_MODELS=1"),
    });
    const eight = { ...image, hardware: "gpu-h100-8x", gpus: 8 };
    expect(decidePlacement(eight, [docker, gpu], NONE)).toMatchObject({ origin_id: "gpu" });
    expect(decidePlacement({ ...image, hardware: "gpu", gpus: 1 }, [docker, gpu], NONE)).toMatchObject({
      origin_id: "gpu",
    });
    const broken = { ...gpu, capacity: { ...gpu.capacity, gpus: 7 } };
    expect(decidePlacement(eight, [broken], NONE)).toMatchObject({
      reason: "no_origin",
      detail: expect.stringContaining("needs 8 GPUs"),
    });
  });

  it("guarantees that neither memory, instances nor devices are ever overbooked, and that only idle ones make room", () => {
    const origin = fc.record({
      instances: fc.integer({ min: 1, max: 6 }),
      memory_bytes: fc.integer({ min: 1, max: 1_000 }),
      gpus: fc.integer({ min: 0, max: 8 }),
    });
    const step = fc.oneof(
      fc.record({
        kind: fc.constant("place" as const),
        key: fc.constantFrom("a", "b", "c"),
        memory_bytes: fc.integer({ min: 1, max: 600 }),
        gpus: fc.integer({ min: 0, max: 8 }),
      }),
      fc.record({ kind: fc.constant("use" as const), n: fc.nat(20) }),
      fc.record({ kind: fc.constant("end" as const), n: fc.nat(20) }),
    );
    fc.assert(
      fc.property(
        fc.array(origin, { minLength: 1, maxLength: 3 }),
        fc.array(step, { maxLength: 40 }),
        (hosts, steps) => {
          const origins = hosts.map((capacity, n) => anOrigin({ origin_id: `o${n}`, capacity }));
          const all = (): PlacementInstance[] => origins.flatMap((each) => each.instances);
          const remove = (id: string): void => {
            for (const each of origins) each.instances = each.instances.filter((row) => row.instance_id !== id);
          };
          let names = 0;
          for (const next of steps) {
            if (next.kind !== "place") {
              const target = all()[next.n % Math.max(1, all().length)];
              if (target !== undefined && next.kind === "end") remove(target.instance_id);
              else if (target !== undefined) target.is_idle = !target.is_idle;
              continue;
            }
            const { memory_bytes, gpus, key } = next;
            const request = { ...REQUEST, deployment_key: key, memory_bytes, gpus };
            for (;;) {
              const decision = decidePlacement(request, origins, NONE);
              if (decision.kind === "evict") {
                expect(decision.victim.is_idle).toBe(true);
                expect(decision.victim.deployment_key).not.toBe(key);
                remove(decision.victim.instance_id);
                continue;
              }
              if (decision.kind === "boot") {
                names += 1;
                const instance_id = `i${names}`;
                const target = origins.find((each) => each.origin_id === decision.origin_id);
                target?.instances.push(anInstance({ instance_id, deployment_key: key, memory_bytes, gpus }));
              }
              break;
            }
            for (const { instances, capacity } of origins) {
              const sum = (of: "memory_bytes" | "gpus"): number => instances.reduce((total, row) => total + row[of], 0);
              expect(instances.length).toBeLessThanOrEqual(capacity.instances);
              expect(sum("memory_bytes")).toBeLessThanOrEqual(capacity.memory_bytes);
              expect(sum("gpus")).toBeLessThanOrEqual(capacity.gpus ?? 0);
            }
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("decideBuildPlace", () => {
  const process = {
    origin_id: "p",
    is_alive: true,
    runs: { packages: ["source" as const], untrusted: false },
    builds: 0,
  };
  const docker = { ...process, origin_id: "d", runs: { packages: ["source" as const], untrusted: true }, builds: 2 };
  const ask = (is_trusted: boolean, origins: (typeof process)[], except: string[] = []) =>
    decideBuildPlace({ is_trusted, except }, origins);

  it("guarantees that a build goes to who builds least, of those that may take it", () => {
    expect(ask(true, [docker, process])).toEqual({ origin_id: "p" });
    expect(ask(false, [docker, process])).toEqual({ origin_id: "d" });
    expect(ask(true, [docker, process], ["p"])).toEqual({ origin_id: "d" });
    expect(ask(true, [{ ...process, is_alive: false }])).toEqual({ refused: "No origin is connected." });
    expect(ask(false, [process])).toMatchObject({ refused: expect.stringContaining("COGWAY_DRIVER=docker") });
    expect(ask(true, [process], ["p"])).toMatchObject({ refused: expect.stringContaining("cannot be reached") });
  });
});
