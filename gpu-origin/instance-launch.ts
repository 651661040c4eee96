/** What an instance is started with: its version, what the builder makes startable, weights, devices, environment and arguments of coglet. */
import { chmodSync } from "node:fs";
import { basename } from "node:path";
import type { InstanceBoot } from "../schema/origin-protocol.ts";
import type { BlobCache } from "./builds/blob-cache.ts";
import type { Builder, Launch } from "./builds/builder.ts";
import type { ProvideVersion } from "./builds/provide-version.ts";
import type { CompileCaches } from "./compile-cache.ts";
import type { GpuAllocator } from "./gpus.ts";
import { type PreparedVersion, trainerOf } from "./prepared-version.ts";

/** Threads that one model's numeric libraries start; unbounded, each instance starts one per core in each library. */
const THREAD_VARIABLES = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"];
/** Where a container finds the weights of its fine-tune. */
const WEIGHTS_FOLDER = "/weights";

export interface LaunchParts {
  provideVersion: ProvideVersion;
  builder: Pick<Builder, "launch">;
  weights: Pick<BlobCache, "hold">;
  gpus: Pick<GpuAllocator, "allocate" | "hold" | "release">;
  caches: Pick<CompileCaches, "open">;
  /** cores that an instance may use */
  cpus: number;
}

/** Everything but the file server; `release` gives back what is held for it, once. */
export interface InstanceLaunch {
  version: PreparedVersion;
  launch: Launch;
  devices: string[];
  env: Record<string, string>;
  args: string[];
  /** behind its first setup: keeps what compilers made in it */
  keepCache: () => Promise<void>;
  release: () => void;
}

export type Launched = { kind: "ready"; launched: InstanceLaunch } | { kind: "failed"; detail: string };

interface LaunchOptions {
  onProgress: (detail: string) => void;
  signal: AbortSignal;
  devices?: string[];
}

/**
 * Makes ready what `boot` names. `devices` are those that an adopted instance has; without them free ones are taken. What was held is given back where it
 * fails or throws.
 */
export async function launchInstance(
  boot: InstanceBoot,
  parts: LaunchParts,
  options: LaunchOptions,
): Promise<Launched> {
  const held: (() => void)[] = [];
  const release = (): void => {
    for (const each of held.splice(0).reverse()) each();
  };
  let isReady = false;
  try {
    const made = await makeReady(boot, parts, options, held);
    if (typeof made === "string") return { kind: "failed", detail: made };
    isReady = true;
    return { kind: "ready", launched: { ...made, release } };
  } finally {
    if (!isReady) release();
  }
}

/** Why it cannot be, as a text, where it cannot. `held` gets what gives back each thing that is taken on the way. */
async function makeReady(
  boot: InstanceBoot,
  parts: LaunchParts,
  options: LaunchOptions,
  held: (() => void)[],
): Promise<Omit<InstanceLaunch, "release"> | string> {
  const { instance_id, mode = "predict" } = boot;
  const { onProgress, signal } = options;
  const provided = await parts.provideVersion(boot, { onProgress, signal });
  if (provided.kind === "failed") return provided.detail;
  const isTrainer = mode === "train";
  if (isTrainer && provided.version.train_ref === null) return "this version has no train function";
  const version = isTrainer ? trainerOf(provided.version) : provided.version;

  if (options.devices !== undefined) parts.gpus.hold(instance_id, options.devices);
  const devices = parts.gpus.allocate(instance_id, boot.gpus ?? 0, boot.hardware ?? "gpu");
  if (devices === null)
    return `this host has too few free GPUs of the kind ${boot.hardware ?? "gpu"}: ${boot.gpus} are wanted`;
  held.push(() => parts.gpus.release(instance_id));

  const built = await parts.builder.launch(version, {
    instance_id,
    mode,
    is_trusted: boot.is_trusted ?? true,
    onProgress,
    signal,
  });
  if (built.kind === "failed") return built.detail;
  held.push(built.release);
  const weights = boot.weights === undefined ? null : await parts.weights.hold(boot.weights, signal);
  if (weights?.kind === "failed") return weights.detail;
  if (weights !== null) held.push(() => weights.release());
  const restores = options.devices === undefined;
  const cache = await parts.caches.open(boot, version, { launch: built.launch, devices, restores });
  held.push(cache.remove);
  if (signal.aborted) return "given up";

  const { launch, weightsPath } = withWeights(cache.launch, weights?.path ?? null);
  return {
    version,
    launch,
    devices,
    env: {
      ...cache.env,
      ...modelEnv(version, parts.cpus, boot.egress ?? false),
      ...(weightsPath === null ? {} : { COG_WEIGHTS: weightsPath }),
    },
    args: isTrainer ? ["--x-mode", "train"] : [],
    keepCache: cache.keep,
  };
}

/** A container sees the host's file as a mount of its own, and reads it as a user of its own; the folders above keep other users of the host out. */
function withWeights(launch: Launch, path: string | null): { launch: Launch; weightsPath: string | null } {
  if (path === null || launch.kind === "process") return { launch, weightsPath: path };
  chmodSync(path, 0o444);
  const target = `${WEIGHTS_FOLDER}/${basename(path)}`;
  return { launch: { ...launch, mounts: [...launch.mounts, { source: path, target }] }, weightsPath: target };
}

function modelEnv(version: PreparedVersion, cpus: number, egress: boolean): Record<string, string> {
  const threads = String(Math.max(1, Math.min(4, Math.floor(cpus))));
  return {
    ...Object.fromEntries(THREAD_VARIABLES.map((name) => [name, threads])),
    // Weights come with the version; a model that looks for them elsewhere fails at once instead of waiting for a network.
    ...(egress ? {} : { HF_HUB_OFFLINE: "1", TRANSFORMERS_OFFLINE: "1" }),
    PYTHONUNBUFFERED: "1",
    // What setup prints, warnings, and each log line of predictions. The latter are thrown away, but writing them holds coglet back to the speed of
    // its own stream: without it a burst of more than 1,024 lines overruns a buffer inside (measured: 10 of 12 bursts of 20,000 lines lost, with it none).
    RUST_LOG: "warn,coglet::setup=info,coglet::user=info,coglet::prediction=info",
    // With the default of 1,024 a burst of tokens loses its end.
    COG_STREAM_HISTORY_CAPACITY: "65536",
    ...version.env,
    ...(version.ref === null ? {} : { COG_PREDICT_TYPE_STUB: version.ref }),
    ...(version.train_ref === null ? {} : { COG_TRAIN_TYPE_STUB: version.train_ref }),
  };
}
