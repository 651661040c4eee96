/**
 * The NVIDIA GPUs of this host: which there are, which work, and which instance has which. Devices are named by UUID, since an index may name another one
 * after a restart; none is ever in two instances at once. A device that fails is taken out until it works again.
 *
 * What nvidia-smi says is parsed here too, pure: `--query-gpu` with QUERY below, one device a line (documented in `nvidia-smi --help-query-gpu`).
 */
import { execa } from "execa";
import type { z } from "zod";
import type { HardwareSchema } from "../schema/origin-protocol.ts";

const QUERY = "index,uuid,name,memory.total";
/** A driver that hangs must not hold up the start of the origin. */
const PROBE_TIMEOUT_MS = 20_000;
const PROBE_INTERVAL_MS = 30_000;
const MIB = 1024 ** 2;
/** An A100 comes with 40 or 80 GB, which are different machines to those who choose one. */
const A100_LARGE_BYTES_MIN = 60 * 1024 ** 3;
/** How many devices of one kind a hardware SKU may have. */
const GROUP_SIZES = [1, 2, 4, 8];

type Hardware = z.infer<typeof HardwareSchema>;

export interface Gpu {
  uuid: string;
  index: number;
  /** as the driver says, such as "NVIDIA H100 80GB HBM3" */
  name: string;
  /** SKU of one such device, such as `gpu-h100` */
  sku: string;
  memory_bytes: number;
}

/** What one look found: devices that answer, and the places of those that do not. Null: there is no driver, so no GPU. */
export interface GpuProbe {
  working: Gpu[];
  /** UUIDs, bus addresses or indexes, as far as the driver knows them */
  broken: string[];
}

/** `gpu-` and the model's own name, without maker, memory and form: "Tesla T4" is `gpu-t4`, "NVIDIA GeForce RTX 4090" is `gpu-rtx-4090`. */
export function gpuSku(name: string, memoryBytes: number): string {
  const model = name
    .toLowerCase()
    .replace(/\b(nvidia|tesla|quadro|geforce)\b/g, " ")
    .replace(/\b\d+\s?gb\b/g, " ")
    .replace(/\b(sxm\d?|pcie|nvl|hbm\d?e?)\b/g, " ")
    .replace(/[^a-z0-9]+/g, "-")
    .replace(/^-+|-+$/g, "");
  const large = model === "a100" && memoryBytes >= A100_LARGE_BYTES_MIN ? "-large" : "";
  return `gpu-${model || "unknown"}${large}`;
}

/** Reads what nvidia-smi printed on both channels. A line that is no device, or a device with a member that the driver could not read, is a broken one. */
export function parseNvidiaSmi(output: string): GpuProbe {
  const working: Gpu[] = [];
  const broken: string[] = [];
  for (const line of output.split("\n").map((text) => text.trim())) {
    if (line === "" || /^no devices were found/i.test(line)) continue;
    const [index = "", uuid = "", name = "", memory = ""] = line.split(",").map((part) => part.trim());
    if (/^\d+$/.test(index) && /^GPU-[0-9a-f-]+$/i.test(uuid) && name !== "" && /^\d+$/.test(memory)) {
      const memory_bytes = Number(memory) * MIB;
      working.push({ uuid, index: Number(index), name, sku: gpuSku(name, memory_bytes), memory_bytes });
      continue;
    }
    const place = /GPU-[0-9a-f-]{36}/i.exec(line)?.[0] ?? /[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.\d/i.exec(line)?.[0];
    if (place !== undefined) broken.push(place);
    else if (/^\d+$/.test(index)) broken.push(index);
  }
  return { working: working.toSorted((a, b) => a.index - b.index), broken };
}

/** Every `of`-th working device, from `index` on: those of one of several origins that divide the host. What is broken is known to all. */
export function partOf(probe: GpuProbe, { index, of }: { index: number; of: number }): GpuProbe {
  return { ...probe, working: probe.working.filter((gpu) => gpu.index % of === index) };
}

/** Looks at the host. Without nvidia-smi, or with one that finds no driver, there are none. */
export async function probeGpus(env: Record<string, string | undefined>): Promise<GpuProbe> {
  const args = [`--query-gpu=${QUERY}`, "--format=csv,noheader,nounits"];
  const result = await execa("nvidia-smi", args, {
    env,
    extendEnv: false,
    reject: false,
    timeout: PROBE_TIMEOUT_MS,
    all: true,
  });
  return result.all === undefined ? { working: [], broken: [] } : parseNvidiaSmi(result.all);
}

/**
 * `count` of the free devices, or null when there are not as many. Of a kind that has enough; neighbours by index where there are, since those share the
 * faster links on the usual boards. `sku` is a hardware SKU: `gpu` and `gpu-2x` take any kind, `gpu-h100-8x` those of its name.
 */
export function chooseGpus(free: Gpu[], count: number, sku: string): Gpu[] | null {
  if (count === 0) return [];
  const kind = kindOf(sku);
  const kinds = Map.groupBy(
    free.filter((gpu) => kind === null || gpu.sku === kind),
    (gpu) => gpu.sku,
  );
  // The smallest devices that fit: a model that takes any must not hold the ones that others ask for by name.
  const fitting = [...kinds.values()]
    .filter((gpus) => gpus.length >= count)
    .sort((a, b) => (a[0]?.memory_bytes ?? 0) - (b[0]?.memory_bytes ?? 0));
  const [gpus] = fitting;
  if (gpus === undefined) return null;
  const windows = gpus.slice(0, gpus.length - count + 1).map((_, start) => gpus.slice(start, start + count));
  const span = (chosen: Gpu[]): number => (chosen.at(-1)?.index ?? 0) - (chosen[0]?.index ?? 0);
  return windows.toSorted((a, b) => span(a) - span(b))[0] ?? null;
}

/** The SKU of one device that a hardware SKU is made of; null takes any. */
function kindOf(sku: string): string | null {
  const kind = sku.replace(/-\d+x$/, "");
  return kind === "gpu" || kind === "cpu" ? null : kind;
}

/** The hardware SKUs that a host with these devices offers: by name and number, and `gpu` for those who take any. */
export function gpuHardware(gpus: Gpu[], host: { cpus: number; memory_bytes: number }): Hardware[] {
  const kinds = [...Map.groupBy(gpus, (gpu) => gpu.sku)];
  const groups = kinds.flatMap(([sku, devices]) =>
    GROUP_SIZES.filter((size) => size <= devices.length).map((size) => ({ sku, size, name: devices[0]?.name ?? sku })),
  );
  const named = groups.map(({ sku, size, name }) => ({
    sku: size === 1 ? sku : `${sku}-${size}x`,
    name: size === 1 ? name : `${size} x ${name}`,
    gpus: size,
    ...host,
  }));
  const sizes = GROUP_SIZES.filter((size) => groups.some((group) => group.size === size));
  const any = sizes.map((size) => ({
    sku: size === 1 ? "gpu" : `gpu-${size}x`,
    name: size === 1 ? "Any GPU" : `${size} GPUs of one kind`,
    gpus: size,
    ...host,
  }));
  return [...any, ...named];
}

/** Who has which device. Its memory is the host's truth as long as the process lives; after a restart adopted instances bring theirs (`hold`). */
export class GpuAllocator {
  readonly #probe: () => Promise<GpuProbe>;
  #gpus: Gpu[] = [];
  readonly #failed = new Set<string>();
  readonly #held = new Map<string, string[]>();
  #timer: NodeJS.Timeout | null = null;

  constructor(probe: () => Promise<GpuProbe>) {
    this.#probe = probe;
  }

  /** Devices that work now. */
  get working(): Gpu[] {
    return this.#gpus.filter((gpu) => !this.#failed.has(gpu.uuid));
  }

  /** As its driver says; empty when there is no such device. */
  nameOf(uuid: string): string {
    return this.#gpus.find((gpu) => gpu.uuid === uuid)?.name ?? "";
  }

  /** Looks again. Answers the instances that hold a device that has failed since: they are of no use any more. */
  async refresh(): Promise<{ lost: string[]; isChanged: boolean }> {
    const before = this.working.map((gpu) => gpu.uuid).join();
    const probe = await this.#probe();
    const seen = new Set(probe.working.map((gpu) => gpu.uuid));
    const known = new Map([...this.#gpus, ...probe.working].map((gpu) => [gpu.uuid, gpu]));
    this.#gpus = [...known.values()].toSorted((a, b) => a.index - b.index);
    for (const { uuid } of this.#gpus) {
      if (seen.has(uuid)) this.#failed.delete(uuid);
      else this.#failed.add(uuid);
    }
    const lost = [...this.#held].filter(([, uuids]) => uuids.some((uuid) => this.#failed.has(uuid)));
    return {
      lost: lost.map(([instanceId]) => instanceId),
      isChanged: before !== this.working.map((gpu) => gpu.uuid).join(),
    };
  }

  /** Looks every 30 s until stopped. `onChange` gets what `refresh` answers where something changed or instances are lost. */
  watch(onChange: (change: { lost: string[]; isChanged: boolean }) => void): void {
    this.#timer = setTimeout(() => {
      void this.refresh()
        .then((change) => {
          if (change.isChanged || change.lost.length > 0) onChange(change);
        })
        .finally(() => {
          if (this.#timer !== null) this.watch(onChange);
        });
    }, PROBE_INTERVAL_MS).unref();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  /** UUIDs of `count` devices that the instance has for itself until `release`; the same again for the same instance. Null: not as many are free. */
  allocate(instanceId: string, count: number, sku: string): string[] | null {
    const held = this.#held.get(instanceId);
    if (held !== undefined) return held;
    const taken = new Set([...this.#held.values()].flat());
    const chosen = chooseGpus(
      this.working.filter((gpu) => !taken.has(gpu.uuid)),
      count,
      sku,
    );
    if (chosen === null) return null;
    const uuids = chosen.map((gpu) => gpu.uuid);
    if (count > 0) this.#held.set(instanceId, uuids);
    return uuids;
  }

  /** An adopted instance keeps what it has. */
  hold(instanceId: string, uuids: string[]): void {
    if (uuids.length > 0) this.#held.set(instanceId, uuids);
  }

  release(instanceId: string): void {
    this.#held.delete(instanceId);
  }
}
