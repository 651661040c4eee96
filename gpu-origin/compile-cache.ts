/**
 * What compilers made of a model in its setup, kept at the edge for the next cold start on hardware of the same kind: the caches of torch inductor,
 * Triton, JAX/XLA and TensorRT.
 *
 * A cache is code in effect (shared objects, pickles), so it goes no way that the model's own code would not:
 * - it is kept for one version, one function and one deployment key. Instances of a private model have a key of their account, so that no account is given
 *   what another's instances wrote; a public model's instances are given only what instances of the same public version wrote.
 * - it is copied once, behind setup and before the first prediction is given to the instance: no input can reach it, neither as data nor as code.
 * The last writer wins; a cache that does not come, or is damaged, costs the time to compile again and nothing else.
 *
 * An instance writes to a folder of its own: of the host where a process runs it; in its container's scratch space otherwise, since nothing of the host is
 * writable there. That one is filled from a mount before the server starts, and read out behind setup.
 */
import { createHash } from "node:crypto";
import { constants, readFileSync } from "node:fs";
import { copyFile, mkdir, readdir, rm } from "node:fs/promises";
import { arch, cpus } from "node:os";
import { dirname, join } from "node:path";
import type { Readable } from "node:stream";
import type { InstanceBoot } from "../schema/origin-protocol.ts";
import type { Launch } from "./builds/builder.ts";
import { type CacheFile, listCache, packCache, unpackCache, unpackTar } from "./compile-cache-archive.ts";
import type { EdgeClient } from "./edge-client.ts";
import type { Log } from "./log.ts";
import type { PreparedVersion } from "./prepared-version.ts";

/** Packages that keep what they compile, or need one that does. */
const COMPILERS = /^\s*(?:torch|jax|jaxlib|triton|tensorrt|onnxruntime-gpu)\b/m;
/** In a container: what was kept, read-only, and where compilers write. */
const MOUNT = "/compile-cache";
const SCRATCH = "/tmp/compile-cache";
/** Fills the second from the first. Without a copy the server starts all the same. */
const FILL = ["sh", "-c", `cp -r ${MOUNT} ${SCRATCH}; exec "$@"`, "sh"];

export interface CompileCacheParts {
  /** a folder of each instance's own is made in it */
  folder: string;
  edge: Pick<EdgeClient, "fetchCompileCache" | "putCompileCache">;
  /** features of this CPU, for which XLA and inductor compile */
  cpuFeatures: string;
  /** the driver's; undefined where instances write to folders of the host */
  readFolder: ((instanceId: string, path: string) => Promise<Readable>) | undefined;
  /** the driver's name of a device */
  deviceName: (uuid: string) => string;
  log: Log;
}

/** Of one instance. */
export interface CompileCache {
  env: Record<string, string>;
  launch: Launch;
  /** Behind the first setup, before the first prediction. Resolves when it is copied; it is sent behind that. Never rejects. */
  keep: () => Promise<void>;
  remove: () => void;
}

export class CompileCaches {
  readonly #parts: CompileCacheParts;

  constructor(parts: CompileCacheParts) {
    this.#parts = parts;
  }

  /**
   * `restores`: it starts anew, with what the edge has. Otherwise it runs already. Never rejects for want of a cache. A version without any of COMPILERS has
   * none, and costs nothing; of an image it is not known what it has.
   */
  async open(
    boot: InstanceBoot,
    version: Pick<PreparedVersion, "environment">,
    { launch, devices, restores }: { launch: Launch; devices: readonly string[]; restores: boolean },
  ): Promise<CompileCache> {
    const { requirements, lock = "" } = version.environment;
    const isKnown = boot.package?.kind !== "image";
    if (isKnown && !COMPILERS.test(`${requirements}\n${lock}`)) {
      return { env: {}, launch, keep: async () => {}, remove: () => {} };
    }
    const folder = join(this.#parts.folder, boot.instance_id);
    const path = `/origin/v1/compile-caches/${boot.version_id}/${this.#key(boot, devices)}`;
    const restored = restores ? await this.#restore(folder, path, boot) : [];
    const isInside = launch.kind === "image";
    return {
      env: cacheEnv(isInside ? SCRATCH : folder),
      launch: isInside && restored.length > 0 ? filled(launch, folder) : launch,
      keep: () => this.#keep(folder, path, boot, restored, isInside),
      remove: () => {
        for (const each of [folder, copyOf(folder)]) void rm(each, { recursive: true, force: true }).catch(() => {});
      },
    };
  }

  /** Removes the folders of instances that are not in `known`: an earlier process of the origin left them. */
  async reap(known: ReadonlySet<string>): Promise<void> {
    const { folder } = this.#parts;
    const found = await readdir(folder).catch(() => []);
    const left = found.filter((name) => !known.has(name));
    await Promise.all(left.map((name) => rm(join(folder, name), { recursive: true, force: true })));
  }

  /** Compiled code runs on the hardware that it was made for; and whose it is belongs to it. */
  #key({ deployment_key, mode = "predict", hardware = "cpu" }: InstanceBoot, devices: readonly string[]): string {
    const { cpuFeatures, deviceName } = this.#parts;
    const parts = [deployment_key, mode, hardware, devices.map(deviceName).toSorted(), arch(), cpuFeatures];
    return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
  }

  async #restore(folder: string, path: string, { instance_id, version_id }: InstanceBoot): Promise<CacheFile[]> {
    const { edge, log } = this.#parts;
    const empty = async (): Promise<void> => {
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { recursive: true });
    };
    await empty();
    const startedAt = performance.now();
    const answer = await edge.fetchCompileCache(path);
    if (answer.kind === "refused" && answer.status === 404) return [];
    try {
      if (answer.kind !== "ok") throw new Error(answer.detail);
      await unpackCache(answer.value, folder);
      const files = await listCache(folder);
      const ms = Math.round(performance.now() - startedAt);
      log.info({ instance_id, version_id, files: files.length, ms }, "a compile cache was restored");
      return files;
    } catch (error) {
      log.warn({ instance_id, version_id, reason: String(error) }, "a compile cache was not restored");
      await empty();
      return [];
    }
  }

  async #keep(
    folder: string,
    path: string,
    boot: InstanceBoot,
    restored: readonly CacheFile[],
    isInside: boolean,
  ): Promise<void> {
    const { instance_id, version_id } = boot;
    const copy = copyOf(folder);
    const failed = async (error: unknown): Promise<void> => {
      this.#parts.log.warn({ instance_id, version_id, reason: String(error) }, "a compile cache was not kept");
      await rm(copy, { recursive: true, force: true }).catch(() => {});
    };
    try {
      await rm(copy, { recursive: true, force: true });
      await mkdir(copy, { recursive: true });
      if (isInside) await this.#readOut(instance_id, copy);
      else await copyFiles(folder, copy);
      const files = await listCache(copy);
      // Compilers name their entries by content: another listing is what a change looks like.
      if (files.length === 0 || JSON.stringify(files) === JSON.stringify(restored)) {
        await rm(copy, { recursive: true, force: true });
        return;
      }
      void this.#send(copy, files, path, boot).catch(failed);
    } catch (error) {
      await failed(error);
    }
  }

  async #readOut(instanceId: string, copy: string): Promise<void> {
    const tar = await this.#parts.readFolder?.(instanceId, SCRATCH);
    if (tar !== undefined) await unpackTar(tar, copy);
  }

  async #send(
    copy: string,
    files: readonly CacheFile[],
    path: string,
    { instance_id, version_id }: InstanceBoot,
  ): Promise<void> {
    const archive = await packCache(copy, files);
    const answer = await this.#parts.edge.putCompileCache(path, archive);
    if (answer.kind !== "ok") throw new Error(answer.detail);
    const counts = { files: files.length, archive_bytes: archive.length };
    this.#parts.log.info({ instance_id, version_id, ...counts }, "a compile cache was kept");
    await rm(copy, { recursive: true, force: true });
  }
}

const copyOf = (folder: string): string => `${folder}.kept`;

async function copyFiles(folder: string, copy: string): Promise<void> {
  for (const file of await listCache(folder)) {
    const target = join(copy, file.path);
    await mkdir(dirname(target), { recursive: true });
    await copyFile(join(folder, file.path), target, constants.COPYFILE_FICLONE);
  }
}

function filled(launch: Extract<Launch, { kind: "image" }>, folder: string): Launch {
  const mounts = [...launch.mounts, { source: folder, target: MOUNT }];
  return { ...launch, mounts, prefix: [...FILL, ...(launch.prefix ?? [])] };
}

/**
 * Where each compiler looks. JAX keeps only what took a second unless it is told otherwise, and with XLA's own caches on the folder's path is part of each
 * key (measured with 0.7.1: no hit in another folder). ONNX Runtime's TensorRT keeps nothing unless it is told to.
 */
function cacheEnv(folder: string): Record<string, string> {
  return {
    TORCHINDUCTOR_CACHE_DIR: join(folder, "inductor"),
    TRITON_CACHE_DIR: join(folder, "triton"),
    JAX_COMPILATION_CACHE_DIR: join(folder, "jax"),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS: "0",
    JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES: "-1",
    JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES: "none",
    ORT_TENSORRT_ENGINE_CACHE_ENABLE: "1",
    ORT_TENSORRT_TIMING_CACHE_ENABLE: "1",
    ORT_TENSORRT_CACHE_PATH: join(folder, "tensorrt"),
  };
}

/** Flags of the first CPU as the kernel lists them (`flags` on x86, `Features` on Arm), with its model's name. Without a kernel's list the name alone. */
export function cpuFeatures(cpuInfo = readCpuInfo()): string {
  const flags = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuInfo)?.[1] ?? "";
  return `${cpus()[0]?.model ?? ""} ${flags.split(/\s+/).toSorted().join(" ")}`;
}

function readCpuInfo(): string {
  try {
    return readFileSync("/proc/cpuinfo", "utf8");
  } catch {
    return "";
  }
}
