/** The environment of the process, parsed once. Everything else gets values, never `process.env`. */
import { readFileSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";
import { join, resolve } from "node:path";
import ipaddr from "ipaddr.js";
import { z } from "zod";
import { baseImages } from "./builds/dockerfile-host.ts";
import type { OutputBounds } from "./output-spool.ts";
import type { TelemetryConfig } from "./telemetry.ts";

/** Part of the host's memory that instances may book; the rest is for the edge, the origin and the system. */
const MEMORY_SHARE = 0.8;
/** One instance is assumed to need this much where the number of instances is not given. */
const MEMORY_PER_INSTANCE_BYTES = 1024 ** 3;
const INSTANCES_MIN = 4;
const INSTANCES_MAX = 32;
/** Room for the networks of 64 instances. */
const SUBNETS_BITS_MAX = 24;

const CidrListSchema = z
  .string()
  .default("")
  .transform((text, context) => {
    const cidrs = text
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== "");
    for (const cidr of cidrs) {
      if (!ipaddr.isValidCIDR(cidr)) context.addIssue({ code: "custom", message: `"${cidr}" is not a CIDR range` });
    }
    return cidrs;
  });

const EnvironmentSchema = z.object({
  COGWAY_ORIGIN_PORT: z.coerce.number().int().min(1).max(65535).default(8788),
  /** where the edge calls this origin; must be given when that is not loopback */
  COGWAY_ORIGIN_URL: z.url().optional(),
  COGWAY_EDGE_URL: z.url().default("http://127.0.0.1:8787"),
  COGWAY_PUBLIC_URL: z.url().optional(),
  COGWAY_DATA: z.string().min(1).default(".cogway"),
  COGWAY_CACHE: z.string().min(1).optional(),
  COGWAY_MODELS: z.string().optional(),
  COGWAY_MODEL_DIRS: z
    .string()
    .default("[]")
    .transform((text, context): string[] => {
      const list = z.array(z.string()).safeParse(parseJson(text));
      if (list.success) return list.data;
      context.addIssue({ code: "custom", message: "must be a JSON list of folders" });
      return [];
    }),
  COGWAY_JOIN_TOKEN: z.string().min(1).optional(),
  COGWAY_DRIVER: z.enum(["process", "docker", "kubernetes"]).default("process"),
  COGWAY_DOCKER_HOST: z.string().optional(),
  /** what Docker's own tools take */
  DOCKER_HOST: z.string().optional(),
  COGWAY_DOCKER_RUNTIME: z.string().optional(),
  COGWAY_DOCKER_SUBNETS: z
    .string()
    .refine(
      (text) => ipaddr.IPv4.isValidCIDR(text) && Number(text.split("/")[1]) <= SUBNETS_BITS_MAX,
      `must be an IPv4 CIDR range of /${SUBNETS_BITS_MAX} or larger`,
    )
    .default("10.197.0.0/16"),
  COGWAY_BASE_IMAGE: z
    .string()
    .refine((text) => baseImages(text) !== null, "must be an image, or a JSON object from images to images")
    .default(""),
  COGWAY_BUILD_SECRETS: z.string().min(1).optional(),
  /** builds at a time */
  COGWAY_BUILDS_MAX: z.coerce.number().int().min(1).max(16).default(1),
  /** of the large files that versions and fine-tunes share; what is in use may be more */
  COGWAY_BLOBS_GB: z.coerce.number().int().min(1).default(20),
  COGWAY_TRUST_ALL_MODELS: z.enum(["0", "1"], "must be 1 or 0").default("0"),
  COGWAY_ADOPT: z.enum(["0", "1"], "must be 1 or 0").default("1"),
  COGWAY_INSTANCE_CPUS: z.coerce.number("must be a number of cores").min(0.1).optional(),
  COGWAY_ALLOW_PRIVATE_URLS: CidrListSchema,
  /** "2/3": the second of three origins that divide this host */
  COGWAY_HOST_PART: z
    .string()
    .regex(/^[1-9]\d?\/[1-9]\d?$/, "must be a part of a number of parts, such as 1/2")
    .transform((text) => text.split("/").map(Number) as [number, number])
    .refine(([part, parts]) => part <= parts, "must be a part of a number of parts, such as 1/2")
    .default([1, 1]),
  COGWAY_INSTANCES_MAX: z.coerce.number().int().min(1).optional(),
  COGWAY_MEMORY_MB: z.coerce.number().int().min(64).optional(),
  /** OTLP/HTTP address that spans go to, such as http://127.0.0.1:4318/v1/traces */
  COGWAY_OTLP_TRACES_URL: z.url({ protocol: /^https?$/, error: "must be an http or https URL" }).optional(),
  COGWAY_OTLP_HEADERS: z.string().default(""),
  /** where /metrics is, on loopback; a port of its own, since a tunnel makes the other one public */
  COGWAY_METRICS_PORT: z.coerce.number().int().min(1).max(65535).optional(),
  COGWAY_LOG_LEVEL: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info"),
});

export interface OriginConfig {
  port: number;
  url: string;
  edgeUrl: string;
  publicUrl: string;
  dataDir: string;
  cacheDir: string;
  modelDirs: string[];
  /** the user named the models, so one that is broken is an error at start */
  modelsAreExplicit: boolean;
  joinToken: string | null;
  allowPrivateUrls: string[];
  capacity: { instances: number; memory_bytes: number };
  /** which of the origins that divide this host it is, from 0: it takes an equal share of memory, cores and devices. The first one tells of the operator's models. */
  hostPart: { index: number; of: number };
  hardware: { sku: string; name: string; cpus: number; memory_bytes: number; gpus: number };
  /** cores that one instance may use, where the driver can bound them */
  instanceCpus: number;
  /** takes over ready instances that an earlier process of this data folder left, in place of ending them */
  adopts: boolean;
  driver: "process" | "docker";
  /** of the docker driver; it is what drivers/docker.ts documents */
  docker: {
    host: string;
    runtime: string | null;
    subnets: string;
    /** what models are built on in place of the images that are resolved: one image, or JSON; empty: as resolved */
    baseImage: string;
    /** folder whose files are secrets for build.run of the operator's models */
    buildSecrets: string | null;
  };
  /** runs models of others than the operator though the driver keeps nothing apart */
  trustsAllModels: boolean;
  /** builds at a time */
  buildsMax: number;
  /** bound of the cache of large files */
  blobsBytesMax: number;
  logLevel: string;
  telemetry: TelemetryConfig;
  /** null: there are no metrics */
  metricsPort: number | null;
  /** of files that models make; absent: those of output-spool.ts */
  outputBounds?: OutputBounds;
}

/** Parses the environment. The error is one line that names the variable. */
export function parseConfig(
  env: Record<string, string | undefined>,
): { ok: true; config: OriginConfig } | { ok: false; detail: string } {
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ""));
  const parsed = EnvironmentSchema.safeParse(given);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    return { ok: false, detail: `${issue?.path.join(".") ?? "environment"}: ${issue?.message ?? "invalid"}` };
  }
  const values = parsed.data;
  if (values.COGWAY_DRIVER === "kubernetes") {
    return { ok: false, detail: "COGWAY_DRIVER=kubernetes is not available yet; use process or docker." };
  }
  const [hostName, host] =
    values.COGWAY_DOCKER_HOST === undefined
      ? ["DOCKER_HOST", values.DOCKER_HOST ?? ""]
      : ["COGWAY_DOCKER_HOST", values.COGWAY_DOCKER_HOST];
  if (values.COGWAY_DRIVER === "docker" && host !== "" && !host.startsWith("unix:///")) {
    const detail = `${hostName}=${host}: instances are reached on this host's own bridges, so the engine must be this host's: unix:///path/to/docker.sock`;
    return { ok: false, detail };
  }
  const dataDir = resolve(values.COGWAY_DATA);
  const [part, parts] = values.COGWAY_HOST_PART;
  const memory = Math.floor(hostMemoryBytes() / parts);
  const cpus = availableParallelism() / parts;
  const bookable = (values.COGWAY_MEMORY_MB ?? Math.floor((memory * MEMORY_SHARE) / 1024 ** 2)) * 1024 ** 2;
  const byMemory = Math.floor(bookable / MEMORY_PER_INSTANCE_BYTES);
  return {
    ok: true,
    config: {
      port: values.COGWAY_ORIGIN_PORT,
      url: values.COGWAY_ORIGIN_URL ?? `http://127.0.0.1:${values.COGWAY_ORIGIN_PORT}`,
      edgeUrl: values.COGWAY_EDGE_URL,
      publicUrl: values.COGWAY_PUBLIC_URL ?? values.COGWAY_EDGE_URL,
      dataDir,
      cacheDir: resolve(values.COGWAY_CACHE ?? join(dataDir, "cache")),
      modelDirs: values.COGWAY_MODEL_DIRS.map((dir) => resolve(dir)),
      modelsAreExplicit: values.COGWAY_MODELS !== undefined,
      joinToken: values.COGWAY_JOIN_TOKEN ?? null,
      allowPrivateUrls: values.COGWAY_ALLOW_PRIVATE_URLS,
      capacity: {
        instances: values.COGWAY_INSTANCES_MAX ?? Math.min(Math.max(byMemory, INSTANCES_MIN), INSTANCES_MAX),
        memory_bytes: bookable,
      },
      hostPart: { index: part - 1, of: parts },
      hardware: { sku: "cpu", name: "CPU", cpus, memory_bytes: memory, gpus: 0 },
      instanceCpus: Math.min(values.COGWAY_INSTANCE_CPUS ?? cpus, cpus),
      adopts: values.COGWAY_ADOPT === "1",
      driver: values.COGWAY_DRIVER,
      docker: {
        host,
        runtime: values.COGWAY_DOCKER_RUNTIME ?? null,
        subnets: values.COGWAY_DOCKER_SUBNETS,
        baseImage: values.COGWAY_BASE_IMAGE,
        buildSecrets: values.COGWAY_BUILD_SECRETS === undefined ? null : resolve(values.COGWAY_BUILD_SECRETS),
      },
      buildsMax: values.COGWAY_BUILDS_MAX,
      blobsBytesMax: values.COGWAY_BLOBS_GB * 1024 ** 3,
      trustsAllModels: values.COGWAY_TRUST_ALL_MODELS === "1",
      logLevel: values.COGWAY_LOG_LEVEL,
      telemetry: { url: values.COGWAY_OTLP_TRACES_URL ?? null, headers: values.COGWAY_OTLP_HEADERS },
      metricsPort: values.COGWAY_METRICS_PORT ?? null,
    },
  };
}

/** The smaller of the machine's memory and the control group's limit. */
function hostMemoryBytes(): number {
  try {
    const limit = Number(readFileSync("/sys/fs/cgroup/memory.max", "utf8"));
    if (Number.isFinite(limit) && limit > 0) return Math.min(limit, totalmem());
  } catch {
    // No control groups here: the machine's memory counts.
  }
  return totalmem();
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
