/** What the engine is asked for to run one instance: pure, so that every restriction is a line here and in a test. */
import type { ContainerCreateOptions, DeviceRequest, ImageInspectInfo, MountSettings } from "dockerode";
import type { Mount } from "../builds/builder.ts";
import type { StartSpec } from "./driver.ts";

/** Names this origin (its data folder): what carries another's is never touched. */
export const ORIGIN_LABEL = "run.cogway.origin";
export const INSTANCE_LABEL = "run.cogway.instance";
const VERSION_LABEL = "run.cogway.version";
const DEPLOYMENT_LABEL = "run.cogway.deployment";

/** coglet's own. Every container has an address of its own, so there is nothing to choose. */
export const COGLET_PORT = 5000;
/** Debian's `nobody`, for images that name no user, root, or a name of their own passwd file, which may hide root. */
const NOBODY = "65534:65534";
/** A model of eight GPUs runs some hundreds of threads; a fork bomb stops here. */
const PIDS_MAX = 2_048;
/** An idle coglet holds 50 MB. */
export const MEMORY_BYTES_MIN = 128 * 1024 ** 2;
/** Shared memory of frameworks' data loaders; it counts as the container's memory. */
const SHM_BYTES_MAX = 2 * 1024 ** 3;
/** Against 1,024 of everything else: under load the origin keeps serving. */
const CPU_SHARES = 512;
/** When the host itself runs out of memory a model goes before the origin does. */
const OOM_SCORE = 500;
/** The working folder of every image of a model. */
const FOLDER = "/src";

/** Not in the types of dockerode. */
const OWN_CONTROL_GROUPS = { CgroupnsMode: "private" };

/** What is known of the image. */
export interface ImageFacts {
  user: string;
  /** paths that it declares as volumes */
  volumes: string[];
}

export function imageFacts(info: ImageInspectInfo): ImageFacts {
  return { user: info.Config.User ?? "", volumes: Object.keys(info.Config.Volumes ?? {}) };
}

export interface ContainerPlace {
  originId: string;
  name: string;
  network: string;
  /** its address in the network */
  address: string;
  /** the engine's name of the runtime; null is its default */
  runtime: string | null;
}

export type Requested = { kind: "request"; options: ContainerCreateOptions } | { kind: "failed"; detail: string };

export function containerRequest(spec: StartSpec, image: ImageFacts, place: ContainerPlace): Requested {
  const { launch } = spec;
  if (launch.kind !== "image") {
    return { kind: "failed", detail: "the docker driver starts images; this version was made for the process driver" };
  }
  if (image.volumes.some((path) => path === "/tmp" || path.startsWith("/tmp/") || path === "/")) {
    return {
      kind: "failed",
      detail: "the image declares a volume at /tmp, which is the model's scratch space: remove it",
    };
  }
  const memory = Math.max(spec.memory_bytes, MEMORY_BYTES_MIN);
  const options: ContainerCreateOptions = {
    name: place.name,
    Image: launch.image,
    Cmd: [...(launch.prefix ?? []), "python", "-m", "cog.server.http", "--host", "0.0.0.0", ...spec.args],
    User: /^[1-9]\d*(:\d+)?$/.test(image.user) ? image.user : NOBODY,
    WorkingDir: FOLDER,
    Hostname: "model",
    Env: Object.entries({ ...spec.env, PORT: String(COGLET_PORT), HOME: "/tmp", TMPDIR: "/tmp" }).map(
      ([name, value]) => `${name}=${value}`,
    ),
    Labels: {
      [ORIGIN_LABEL]: place.originId,
      [INSTANCE_LABEL]: spec.instance_id,
      [VERSION_LABEL]: spec.version_id,
      [DEPLOYMENT_LABEL]: spec.deployment_key,
    },
    // An image's own check would run beside ours.
    Healthcheck: { Test: ["NONE"] },
    HostConfig: {
      ReadonlyRootfs: true,
      Tmpfs: { "/tmp": `rw,nosuid,nodev,exec,mode=1777,size=${Math.floor(memory / 2)}` },
      Mounts: [...launch.mounts.map(bind), ...image.volumes.map((path) => scratch(path, Math.floor(memory / 4)))],
      CapDrop: ["ALL"],
      // The engine's default filters of system calls (seccomp) and AppArmor stay as they are.
      SecurityOpt: ["no-new-privileges"],
      PidsLimit: PIDS_MAX,
      Memory: memory,
      // Equal: no swap.
      MemorySwap: memory,
      NanoCpus: Math.round(spec.cpus * 1e9),
      CpuShares: CPU_SHARES,
      OomScoreAdj: OOM_SCORE,
      ShmSize: Math.min(Math.floor(memory / 2), SHM_BYTES_MAX),
      IpcMode: "private",
      ...OWN_CONTROL_GROUPS,
      // Open files stay as the engine has them: more than the host's own limit it may not be able to give, and each counts as memory.
      Ulimits: [{ Name: "core", Soft: 0, Hard: 0 }],
      NetworkMode: place.network,
      // Names of hosts would go out by the engine's resolver, past the network: without egress there is none.
      ...(spec.egress ? {} : { Dns: ["127.0.0.1"], DnsOptions: ["timeout:1", "attempts:1"] }),
      // What it writes goes to the origin alone, which reads within bounds: nothing fills the disk.
      LogConfig: { Type: "none", Config: {} },
      RestartPolicy: { Name: "" },
      ...(spec.gpus.length === 0 ? {} : { DeviceRequests: [deviceRequest(spec.gpus)] }),
      ...(place.runtime === null ? {} : { Runtime: place.runtime }),
    },
    NetworkingConfig: { EndpointsConfig: { [place.network]: { IPAMConfig: { IPv4Address: place.address } } } },
  };
  return { kind: "request", options };
}

/** As `docker run --gpus '"device=UUID,UUID","capabilities=compute,utility"'` asks for them. */
export function deviceRequest(uuids: string[]): DeviceRequest {
  return { Driver: "", DeviceIDs: uuids, Capabilities: [["gpu", "compute", "utility"]] };
}

/** Nothing of the host is writable for a model, whoever asks. */
function bind({ source, target }: Mount): MountSettings {
  return { Type: "bind", Source: source, Target: target, ReadOnly: true };
}

/** In place of a volume, which would be a folder of the host without a bound. */
function scratch(path: string, bytes: number): MountSettings {
  return { Type: "tmpfs", Source: "", Target: path, TmpfsOptions: { SizeBytes: bytes, Mode: 0o1777 } };
}
