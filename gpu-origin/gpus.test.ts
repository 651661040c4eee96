/** On what nvidia-smi prints (`--query-gpu=index,uuid,name,memory.total --format=csv,noheader,nounits`) on hosts with 0, 1 and 8 devices, and with broken ones. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chooseGpus, type Gpu, GpuAllocator, gpuHardware, gpuSku, parseNvidiaSmi, partOf } from "./gpus.ts";

const ONE = "0, GPU-5f8c2a61-93d4-1b0e-7a55-cc20e6f1d9a4, Tesla T4, 15360\n";
const uuid = (n: number): string => `GPU-${String(n).repeat(8)}-1111-2222-3333-444455556666`;
const EIGHT = Array.from({ length: 8 }, (_, i) => `${i}, ${uuid(i)}, NVIDIA H100 80GB HBM3, 81559`).join("\n");
const HOST = { cpus: 128, memory_bytes: 2 * 1024 ** 4 };

describe("what nvidia-smi says", () => {
  it("finds none without a driver, without devices, and where it says nothing", () => {
    const without = [
      "",
      "No devices were found\n",
      "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.\n",
    ];
    for (const output of without) expect(parseNvidiaSmi(output)).toEqual({ working: [], broken: [] });
  });

  it("reads one and eight devices", () => {
    expect(parseNvidiaSmi(ONE).working).toEqual([
      {
        uuid: "GPU-5f8c2a61-93d4-1b0e-7a55-cc20e6f1d9a4",
        index: 0,
        name: "Tesla T4",
        sku: "gpu-t4",
        memory_bytes: 15_360 * 1024 ** 2,
      },
    ]);
    const { working, broken } = parseNvidiaSmi(EIGHT);
    expect(working.map((gpu) => gpu.uuid)).toEqual(Array.from({ length: 8 }, (_, i) => uuid(i)));
    expect(broken).toEqual([]);
  });

  it("tells devices that answer from those that do not", () => {
    const lines = EIGHT.split("\n");
    const output = [
      "Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.  Reboot the system to recover this GPU",
      ...lines.slice(0, 6),
      `6, ${uuid(6)}, [GPU requires reset], [GPU requires reset]`,
      "7, [Unknown Error], [Unknown Error], [Unknown Error]",
    ].join("\n");
    const probe = parseNvidiaSmi(output);
    expect(probe.working.map((gpu) => gpu.index)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(probe.broken).toEqual(["0000:3B:00.0", uuid(6), "7"]);
  });

  it.each([
    ["NVIDIA H100 80GB HBM3", 81_559, "gpu-h100"],
    ["NVIDIA H100 PCIe", 81_559, "gpu-h100"],
    ["NVIDIA H200", 143_771, "gpu-h200"],
    ["NVIDIA A100-SXM4-40GB", 40_960, "gpu-a100"],
    ["NVIDIA A100-SXM4-80GB", 81_920, "gpu-a100-large"],
    ["NVIDIA A100 80GB PCIe", 81_920, "gpu-a100-large"],
    ["NVIDIA L40S", 46_068, "gpu-l40s"],
    ["Tesla V100-SXM2-16GB", 16_384, "gpu-v100"],
    ["NVIDIA GeForce RTX 4090", 24_564, "gpu-rtx-4090"],
    ["NVIDIA RTX A6000", 49_140, "gpu-rtx-a6000"],
  ])("calls %s %s", (name, mib, sku) => {
    expect(gpuSku(name, mib * 1024 ** 2)).toBe(sku);
  });
});

describe("hardware of a host", () => {
  it("is divided between origins: each device is of one of them", () => {
    const probe = parseNvidiaSmi(
      [0, 1, 2].map((index) => `${index}, GPU-${String(index).repeat(8)}, NVIDIA H100 80GB HBM3, 81559`).join("\n"),
    );
    const parts = [0, 1].map((index) => partOf(probe, { index, of: 2 }).working.map((gpu) => gpu.index));
    expect(parts).toEqual([[0, 2], [1]]);
  });

  it("offers groups by name, and any kind for those who do not mind", () => {
    expect(gpuHardware(parseNvidiaSmi(EIGHT).working, HOST).map(({ sku, gpus }) => [sku, gpus])).toEqual([
      ["gpu", 1],
      ["gpu-2x", 2],
      ["gpu-4x", 4],
      ["gpu-8x", 8],
      ["gpu-h100", 1],
      ["gpu-h100-2x", 2],
      ["gpu-h100-4x", 4],
      ["gpu-h100-8x", 8],
    ]);
    expect(gpuHardware(parseNvidiaSmi(ONE).working, HOST).map(({ sku }) => sku)).toEqual(["gpu", "gpu-t4"]);
    expect(gpuHardware([], HOST)).toEqual([]);
  });
});

describe("choosing devices", () => {
  const gpu = (index: number, sku: string, gib: number): Gpu => ({
    uuid: uuid(index),
    index,
    name: sku,
    sku,
    memory_bytes: gib * 1024 ** 3,
  });
  const mixed = [gpu(0, "gpu-t4", 16), gpu(1, "gpu-h100", 80), gpu(3, "gpu-h100", 80), gpu(4, "gpu-h100", 80)];

  it("takes the kind that is asked for, the smallest that fits where any will do, and never a mixture", () => {
    expect(chooseGpus(mixed, 1, "gpu-h100")?.map(({ index }) => index)).toEqual([1]);
    expect(chooseGpus(mixed, 1, "gpu")?.map(({ index }) => index)).toEqual([0]);
    expect(chooseGpus(mixed, 2, "gpu-2x")?.map(({ index }) => index)).toEqual([3, 4]);
    expect(chooseGpus(mixed, 4, "gpu-4x")).toBeNull();
    expect(chooseGpus(mixed, 2, "gpu-t4-2x")).toBeNull();
    expect(chooseGpus([], 0, "cpu")).toEqual([]);
  });
});

describe("the allocator", () => {
  const allocatorOf = async (output: () => string): Promise<GpuAllocator> => {
    const allocator = new GpuAllocator(async () => parseNvidiaSmi(output()));
    await allocator.refresh();
    return allocator;
  };

  it("gives a model of eight all of them, and nobody else any", async () => {
    const allocator = await allocatorOf(() => EIGHT);
    expect(allocator.allocate("large", 8, "gpu-h100-8x")).toHaveLength(8);
    expect(allocator.allocate("small", 1, "gpu-h100")).toBeNull();
    expect(allocator.allocate("cpu", 0, "cpu")).toEqual([]);
    allocator.release("large");
    expect(allocator.allocate("small", 1, "gpu-h100")).toEqual([uuid(0)]);
    expect(allocator.allocate("small", 1, "gpu-h100")).toEqual([uuid(0)]);
  });

  it("takes a failed device out, names who held it, and takes it back once it works", async () => {
    let output = EIGHT;
    const allocator = await allocatorOf(() => output);
    expect(allocator.allocate("a", 1, "gpu")).toEqual([uuid(0)]);
    output = EIGHT.split("\n").slice(1).join("\n");
    expect(await allocator.refresh()).toEqual({ lost: ["a"], isChanged: true });
    allocator.release("a");
    expect(allocator.working).toHaveLength(7);
    expect(allocator.allocate("b", 8, "gpu-8x")).toBeNull();
    expect(allocator.allocate("c", 1, "gpu")).toEqual([uuid(1)]);
    output = EIGHT;
    expect(await allocator.refresh()).toEqual({ lost: [], isChanged: true });
    expect(allocator.working).toHaveLength(8);
  });

  it("never has a device in two instances, whatever is allocated, released, adopted, lost and found", async () => {
    const instance = fc.integer({ min: 0, max: 5 }).map((n) => `i${n}`);
    const step = fc.oneof(
      fc.record({ do: fc.constant("allocate" as const), instance, count: fc.constantFrom(1, 2, 4, 8) }),
      fc.record({ do: fc.constant("release" as const), instance }),
      fc.record({ do: fc.constant("fail" as const), index: fc.nat(7) }),
      fc.record({ do: fc.constant("mend" as const) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
        const broken = new Set<number>();
        const allocator = await allocatorOf(() =>
          EIGHT.split("\n")
            .filter((_, i) => !broken.has(i))
            .join("\n"),
        );
        const held = new Map<string, string[]>();
        for (const now of steps) {
          if (now.do === "allocate" && !held.has(now.instance)) {
            const got = allocator.allocate(now.instance, now.count, "gpu");
            const working = allocator.working.map(({ uuid: id }) => id);
            if (got !== null) {
              expect(new Set(got).size).toBe(now.count);
              expect(got.every((id) => working.includes(id))).toBe(true);
              held.set(now.instance, got);
            } else {
              const free = working.filter((id) => ![...held.values()].flat().includes(id));
              expect(free.length).toBeLessThan(now.count);
            }
          } else if (now.do === "release") {
            allocator.release(now.instance);
            held.delete(now.instance);
          } else if (now.do === "fail" || now.do === "mend") {
            if (now.do === "fail") broken.add(now.index);
            else broken.clear();
            for (const lost of (await allocator.refresh()).lost) {
              allocator.release(lost);
              held.delete(lost);
            }
          }
          const all = [...held.values()].flat();
          expect(new Set(all).size).toBe(all.length);
        }
      }),
    );
  });
});
