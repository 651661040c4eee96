import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type PlacementDecision, PlacementIndex } from "./placement.ts";
import { keepingValue } from "./placement-eviction.ts";
import type { PlacementHost, PlacementInstance, PlacementRequest } from "./placement-hosts.ts";

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

interface Origin extends PlacementHost {
  instances: PlacementInstance[];
  knows_version: boolean;
}

function anOrigin(change: Partial<Origin> = {}): Origin {
  return {
    origin_id: "o1",
    is_open: true,
    skus: ["cpu"],
    capacity: { instances: 4, memory_bytes: 400 },
    runs: null,
    instances: [],
    knows_version: false,
    ...change,
  };
}

const REQUEST: PlacementRequest = {
  deployment_key: "mine",
  version_id: "v1",
  hardware: "cpu",
  memory_bytes: 200,
  gpus: 0,
  package: null,
  is_trusted: true,
  is_starving: false,
};
const NONE: ReadonlySet<string> = new Set();
const NOW = 1_000_000;

function indexOf(origins: Origin[]): PlacementIndex {
  const index = new PlacementIndex();
  for (const origin of origins) {
    index.setHost(origin);
    for (const instance of origin.instances) index.setInstance(origin.origin_id, instance);
    index.setWarm(origin.origin_id, REQUEST.version_id, origin.knows_version);
  }
  return index;
}

function decide(request: PlacementRequest, origins: Origin[], kept = NONE): PlacementDecision {
  return indexOf(origins).decide(request, { now: NOW, kept, unable: NONE });
}

describe("placement", () => {
  it("guarantees that only a living origin with the hardware is chosen", () => {
    expect(decide(REQUEST, [])).toMatchObject({ reason: "no_origin" });
    expect(decide(REQUEST, [anOrigin({ is_open: false })])).toMatchObject({ reason: "no_origin" });
    expect(decide(REQUEST, [anOrigin({ skus: ["gpu"] })])).toMatchObject({ reason: "no_origin" });
    expect(decide(REQUEST, [anOrigin()])).toEqual({ kind: "boot", origin_id: "o1" });
  });

  it("guarantees that an origin which ran the version is preferred, then the fullest one", () => {
    const knowing = anOrigin({ origin_id: "knowing", knows_version: true, instances: [anInstance()] });
    expect(decide(REQUEST, [anOrigin(), knowing])).toMatchObject({ origin_id: "knowing" });
    const fuller = anOrigin({ origin_id: "fuller", instances: [anInstance()] });
    expect(decide(REQUEST, [anOrigin(), fuller])).toMatchObject({ origin_id: "fuller" });
    expect(decide({ ...REQUEST, memory_bytes: 400 }, [fuller, anOrigin()])).toMatchObject({ origin_id: "o1" });
  });

  it("guarantees that the longest idle instance goes first, and no more than are needed", () => {
    const origin = anOrigin({
      instances: [
        anInstance({ instance_id: "young", memory_bytes: 150, idle_since: 20 }),
        anInstance({ instance_id: "old", memory_bytes: 150, idle_since: 10 }),
      ],
    });
    expect(decide(REQUEST, [origin])).toMatchObject({ kind: "evict", victim: { instance_id: "old" } });
    const kept = decide(REQUEST, [origin], new Set(["old"]));
    expect(kept).toMatchObject({ kind: "evict", victim: { instance_id: "young" } });
    expect(decide(REQUEST, [origin], new Set(["old", "young"]))).toMatchObject({ reason: "no_room" });
    const small = anInstance({ instance_id: "small", memory_bytes: 10, idle_since: 1 });
    const large = anInstance({ instance_id: "large", memory_bytes: 390, idle_since: 5 });
    const mixed = anOrigin({ instances: [small, large] });
    expect(decide(REQUEST, [mixed])).toMatchObject({ victim: { instance_id: "large" } });
  });

  it("guarantees that busy, draining and own instances stay, but that a starving queue may ask a busy one", () => {
    const busy = anOrigin({ instances: [anInstance({ memory_bytes: 400, is_idle: false })] });
    expect(decide(REQUEST, [busy])).toMatchObject({ reason: "no_room" });
    expect(decide({ ...REQUEST, is_starving: true }, [busy])).toMatchObject({ kind: "evict" });
    const draining = anOrigin({ instances: [anInstance({ memory_bytes: 400, is_draining: true })] });
    expect(decide({ ...REQUEST, is_starving: true }, [draining])).toMatchObject({ reason: "no_room" });
    const own = anOrigin({ instances: [anInstance({ memory_bytes: 400, deployment_key: "mine" })] });
    expect(decide(REQUEST, [own])).toMatchObject({ reason: "no_room" });
  });

  it("guarantees that the number of instances is a bound too, and that nothing goes for what can never fit", () => {
    const counted = anOrigin({ capacity: { instances: 1, memory_bytes: 10_000 }, instances: [anInstance()] });
    expect(decide(REQUEST, [counted])).toMatchObject({ kind: "evict" });
    const huge = { ...REQUEST, memory_bytes: 500 };
    expect(decide(huge, [anOrigin({ instances: [anInstance()] })])).toMatchObject({ reason: "no_room" });
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
    expect(decide(source, [process])).toMatchObject({ origin_id: "process" });
    expect(decide(source, [anOrigin()])).toMatchObject({ reason: "no_origin" });
    expect(decide(REQUEST, [anOrigin()])).toMatchObject({ origin_id: "o1" });
    const image = { ...REQUEST, package: "image" as const };
    expect(decide(image, [process, docker])).toMatchObject({ origin_id: "docker" });
    expect(decide(image, [process])).toMatchObject({
      reason: "no_origin",
      detail: expect.stringContaining("COGWAY_DRIVER=docker"),
    });
    const untrusted = { ...source, is_trusted: false };
    expect(decide(untrusted, [process, docker])).toMatchObject({ origin_id: "docker" });
    expect(decide(untrusted, [process])).toMatchObject({
      detail: expect.stringContaining("COGWAY_TRUST_ALL_MODELS=1"),
    });
    const eight = { ...image, hardware: "gpu-h100-8x", gpus: 8 };
    expect(decide(eight, [docker, gpu])).toMatchObject({ origin_id: "gpu" });
    expect(decide({ ...image, hardware: "gpu", gpus: 1 }, [docker, gpu])).toMatchObject({
      origin_id: "gpu",
    });
    const broken = { ...gpu, capacity: { ...gpu.capacity, gpus: 7 } };
    expect(decide(eight, [broken])).toMatchObject({
      reason: "no_origin",
      detail: expect.stringContaining("needs 8 GPUs"),
    });
  });

  it("guarantees that one deployment is spread over two hosts before it stays where it is warm, and over all where none is", () => {
    const own = anInstance({ instance_id: "own", deployment_key: "mine", is_idle: false });
    const mine = anOrigin({ origin_id: "mine", knows_version: true, instances: [own] });
    expect(decide(REQUEST, [mine, anOrigin()])).toMatchObject({ origin_id: "o1" });
    expect(decide(REQUEST, [mine])).toMatchObject({ origin_id: "mine" });
    const other = anOrigin({ origin_id: "other", instances: [{ ...own, instance_id: "own2" }] });
    expect(decide(REQUEST, [mine, other, anOrigin()]), "two hosts are enough").toMatchObject({ origin_id: "mine" });
    const hosts = Array.from({ length: 50 }, (_, n) => anOrigin({ origin_id: `o${n}` }));
    const index = indexOf(hosts);
    const chosen = hosts.map((_, n) => {
      const decision = index.decide(REQUEST, { now: NOW, kept: NONE, unable: NONE });
      if (decision.kind !== "boot") throw new Error("there is room");
      index.setInstance(decision.origin_id, anInstance({ instance_id: `i${n}`, deployment_key: "mine" }));
      return decision.origin_id;
    });
    expect(new Set(chosen).size).toBe(hosts.length);
  });

  it("guarantees the cheapest hardware that satisfies the request, and CPU work on hosts without devices", () => {
    const runs = { packages: ["source" as const], untrusted: true };
    const gpu = (sku: string, price: number): Origin =>
      anOrigin({
        ...{ origin_id: sku, skus: ["cpu", "gpu", sku], prices: { cpu: 100, [sku]: price }, runs },
        capacity: { instances: 8, memory_bytes: 4_000, gpus: 2 },
      });
    const hosts = [gpu("gpu-h100", 1_525), gpu("gpu-t4", 225), anOrigin({ prices: { cpu: 100 } })];
    expect(decide({ ...REQUEST, hardware: "gpu", gpus: 1 }, hosts)).toMatchObject({ origin_id: "gpu-t4" });
    expect(decide({ ...REQUEST, hardware: "gpu-h100", gpus: 1 }, hosts)).toMatchObject({ origin_id: "gpu-h100" });
    expect(decide(REQUEST, hosts)).toMatchObject({ origin_id: "o1" });
    const full = anOrigin({ prices: { cpu: 100 }, instances: [anInstance({ memory_bytes: 400, is_idle: false })] });
    expect(decide(REQUEST, [...hosts.slice(0, 2), full])).toMatchObject({ kind: "boot" });
    expect(decide({ ...REQUEST, hardware: "gpu", gpus: 2 }, [gpu("gpu-x", 1), gpu("gpu-t4", 225)])).toMatchObject({
      origin_id: "gpu-x",
    });
  });

  it("guarantees that the least valuable instance goes first: seldom used and soon started before often used and slow", () => {
    const use = (arrivals_per_hour: number, cold_start_ms: number) => ({ use: { arrivals_per_hour, cold_start_ms } });
    const idle = { memory_bytes: 400, idle_since: NOW };
    const hosts = [
      anOrigin({ origin_id: "a", instances: [anInstance({ instance_id: "often", ...idle, ...use(60, 5_000) })] }),
      anOrigin({ origin_id: "b", instances: [anInstance({ instance_id: "quick", ...idle, ...use(2, 1_000) })] }),
      anOrigin({ origin_id: "c", instances: [anInstance({ instance_id: "slow", ...idle, ...use(2, 300_000) })] }),
    ];
    const order = [new Set<string>(), new Set(["quick"]), new Set(["quick", "often"])].map((kept) => {
      const decision = decide(REQUEST, hosts, kept);
      return decision.kind === "evict" ? decision.victim.instance_id : decision.kind;
    });
    expect(order).toEqual(["quick", "often", "slow"]);
    expect(decide({ ...REQUEST, evicts: false }, hosts)).toMatchObject({ reason: "no_room" });
    const busy = anInstance(use(60, 5_000));
    expect(keepingValue(busy, 3_600_000)).toBeCloseTo(keepingValue(busy, 0) / 2);
  });

  it("guarantees that all who go on one host are worth less together than on any other, wherever the least valuable one is", () => {
    const worth = (instance_id: string, arrivals_per_hour: number) =>
      anInstance({ instance_id, idle_since: NOW, memory_bytes: 200, use: { arrivals_per_hour, cold_start_ms: 1_000 } });
    const uneven = anOrigin({ origin_id: "uneven", instances: [worth("least", 1), worth("most", 100)] });
    const even = anOrigin({ origin_id: "even", instances: [worth("first", 11), worth("second", 10)] });
    const both = { ...REQUEST, memory_bytes: 400 };
    for (const hosts of [
      [uneven, even],
      [even, uneven],
    ]) {
      expect(decide(both, hosts)).toMatchObject({ victim: { instance_id: "second" } });
      expect(decide(REQUEST, hosts)).toMatchObject({ victim: { instance_id: "least" } });
    }
  });

  it("guarantees that a paused instance of the same deployment is no owner's any more, so it may go", () => {
    const paused = anInstance({ deployment_key: "mine", memory_bytes: 400, is_paused: true });
    expect(decide(REQUEST, [anOrigin({ instances: [paused] })])).toMatchObject({ kind: "evict" });
  });

  it("guarantees that what a starving queue may take is found on any of many hosts", () => {
    const busy = (n: number, change: Partial<PlacementInstance> = {}): Origin =>
      anOrigin({
        origin_id: `o${n}`,
        instances: [anInstance({ instance_id: `i${n}`, memory_bytes: 400, is_idle: false, ...change })],
      });
    const hosts = Array.from({ length: 300 }, (_, n) => busy(n, n === 299 ? {} : { is_draining: true }));
    const index = indexOf(hosts);
    const tries = Array.from({ length: 25 }, () =>
      index.decide({ ...REQUEST, is_starving: true }, { now: NOW, kept: NONE, unable: NONE }),
    );
    expect(tries.find((decision) => decision.kind === "evict")).toMatchObject({ victim: { instance_id: "i299" } });
  });

  it("guarantees: never overbooked, never on a closed host, no eviction where there is room, only idle ones go, no host twice before all once", () => {
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
      fc.record({ kind: fc.constantFrom("use" as const, "end" as const, "toggle" as const), n: fc.nat(20) }),
    );
    fc.assert(
      fc.property(
        fc.array(origin, { minLength: 1, maxLength: 4 }),
        fc.array(step, { maxLength: 60 }),
        (capacities, steps) => {
          const hosts = capacities.map((capacity, n) => anOrigin({ origin_id: `o${n}`, capacity }));
          const index = indexOf(hosts);
          const all = (): PlacementInstance[] => hosts.flatMap((each) => each.instances);
          const remove = (id: string): void => {
            index.removeInstance(id);
            for (const each of hosts) each.instances = each.instances.filter((row) => row.instance_id !== id);
          };
          const sum = (host: Origin, of: "memory_bytes" | "gpus"): number =>
            host.instances.reduce((total, row) => total + row[of], 0);
          const hasRoom = (host: Origin, need: { memory_bytes: number; gpus: number }): boolean =>
            host.is_open &&
            host.instances.length < host.capacity.instances &&
            sum(host, "memory_bytes") + need.memory_bytes <= host.capacity.memory_bytes &&
            sum(host, "gpus") + need.gpus <= (host.capacity.gpus ?? 0);
          let names = 0;
          for (const next of steps) {
            if (next.kind === "toggle") {
              const host = hosts[next.n % hosts.length];
              if (host !== undefined) index.setHost(Object.assign(host, { is_open: !host.is_open }));
              continue;
            }
            if (next.kind !== "place") {
              const target = all()[next.n % Math.max(1, all().length)];
              const host = hosts.find((each) => each.instances.some((row) => row === target));
              if (target === undefined || host === undefined) continue;
              if (next.kind === "end") remove(target.instance_id);
              else index.setInstance(host.origin_id, Object.assign(target, { is_idle: !target.is_idle }));
              continue;
            }
            const { memory_bytes, gpus, key } = next;
            const request = { ...REQUEST, deployment_key: key, memory_bytes, gpus };
            for (;;) {
              const decision = index.decide(request, { now: NOW, kept: NONE, unable: NONE });
              const roomy = hosts.filter((host) => hasRoom(host, next));
              if (decision.kind !== "boot") expect(roomy).toEqual([]);
              if (decision.kind === "evict") {
                expect(decision.victim).toMatchObject({ is_idle: true, is_draining: false });
                expect(decision.victim.deployment_key).not.toBe(key);
                expect(hosts.find((host) => host.origin_id === decision.origin_id)?.is_open).toBe(true);
                remove(decision.victim.instance_id);
                continue;
              }
              if (decision.kind === "boot") {
                const target = roomy.find((host) => host.origin_id === decision.origin_id);
                expect(target).toBeDefined();
                const count = (host: Origin | undefined): number =>
                  host?.instances.filter((row) => row.deployment_key === key).length ?? 0;
                const spreadable = roomy.filter((host) => host.capacity.gpus === target?.capacity.gpus);
                expect(count(target)).toBe(Math.min(...spreadable.map(count)));
                const instance = anInstance({ instance_id: `i${++names}`, deployment_key: key, memory_bytes, gpus });
                target?.instances.push(instance);
                index.setInstance(decision.origin_id, instance);
              }
              break;
            }
          }
        },
      ),
      { numRuns: 300 },
    );
  });

  it("guarantees a decision of at most 50 µs with 10,000 full hosts, where one that looked at all of them took a hundred times as long", () => {
    const measure = (count: number): number => {
      const index = new PlacementIndex();
      const capacity = { instances: 8, memory_bytes: 8_000, gpus: 8 };
      for (let n = 0; n < count; n++) index.setHost(anOrigin({ origin_id: `o${n}`, capacity }));
      let names = 0;
      const place = (): void => {
        const request = { ...REQUEST, deployment_key: `d${names % 97}`, gpus: 1, memory_bytes: 900 + (names % 7) };
        const decision = index.decide(request, { now: NOW + names, kept: NONE, unable: NONE });
        if (decision.kind === "evict") index.removeInstance(decision.victim.instance_id);
        if (decision.kind === "boot") {
          const instance_id = `i${names}`;
          const instance = anInstance({ ...request, instance_id, idle_since: NOW + names, is_idle: names % 3 > 0 });
          index.setInstance(decision.origin_id, instance);
        }
        names += 1;
      };
      for (let n = 0; n < count * 8; n++) place();
      const rounds = Array.from({ length: 5 }, () => {
        const began = performance.now();
        for (let n = 0; n < 400; n++) place();
        return ((performance.now() - began) * 1_000) / 400;
      });
      return Math.min(...rounds);
    };
    measure(10);
    const [few, many] = [measure(10), measure(10_000)];
    console.info(`placement: ${few.toFixed(1)} µs with 10 full hosts, ${many.toFixed(1)} µs with 10,000`);
    expect(many).toBeLessThan(50);
  });
});
