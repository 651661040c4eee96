/** The launcher's environment, parsed once: what design calls the set-up contract. A fault is one line that says what to do. */
import { createHmac } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import ipaddr from "ipaddr.js";
import { z } from "zod";
import { isTokenWellFormed, newToken } from "../../schema/tokens.ts";
import { ModelFault, readModel } from "../packaging/check-model.ts";
import { exampleNames, ROOT } from "./paths.ts";

/** More would divide a host into parts too small for a model. */
const ORIGINS_MAX = 8;

/** Something that the person who starts Cogway has to change. Its message is the one line that they see. */
export class SetupFault extends Error {}

export interface Settings {
  /** where callers connect */
  port: number;
  /** at least one; the first has the folders and the port that a single one has */
  origins: OriginSettings[];
  /** where origins reach the edge; undefined: at its own plain port */
  edgeUrl: string | undefined;
  dataDir: string;
  /** undefined: the origin's default, below dataDir */
  cacheDir: string | undefined;
  driver: "process" | "docker" | "kubernetes";
  publicUrl: string;
  /** address that works on this machine, whatever the public one is */
  localUrl: string;
  isTls: boolean;
  allowPrivateUrls: string;
  retention: string;
  /** how often examples of public versions are run; 0 is never */
  canaryInterval: string;
  /** leases of slots a second above which a deployment is divided into lanes; undefined: as wrangler.toml has it */
  laneLeasesPerS: number | undefined;
  /** where spans of the edge go; empty: nowhere */
  otlp: { url: string; headers: string };
  /** of the first origin; undefined: none has any */
  metricsPort: number | undefined;
  /** origin that uploads of the registry go through; empty: they go to the edge */
  uploadRelayUrl: string;
  modelDirs: string[];
  /** the user named them, so a broken one ends the start */
  modelsAreExplicit: boolean;
  token: string;
  signingSecret: string;
}

/** One gpu-origin process of several on this host: each is to the edge what a host of its own would be. */
export interface OriginSettings {
  port: number;
  /** where the edge reaches it; undefined: at its port */
  url: string | undefined;
  dataDir: string;
  /** it joins with this once; its own key is what it signs with from then on */
  joinToken: string;
}

const PORT_MAX = 65535;
const PortSchema = z.coerce.number("must be a port number").int().min(1).max(PORT_MAX);

const DurationSchema = z
  .string()
  .regex(/^(\d{1,9}|(?=\d)(\d{1,9}d)?(\d{1,9}h)?(\d{1,9}m)?(\d{1,9}s)?)$/, "must be a duration such as 30m, 1h or 7d");

const EnvironmentSchema = z.object({
  COGWAY_PORT: PortSchema.default(8787),
  COGWAY_ORIGIN_PORT: PortSchema.default(8788),
  COGWAY_DATA: z.string().optional(),
  COGWAY_CACHE: z.string().optional(),
  COGWAY_TOKEN: z
    .string()
    .trim()
    .refine(isTokenWellFormed, "is no well-formed token (cw_…, with its checksum)")
    .optional(),
  COGWAY_MODELS: z.string().optional(),
  COGWAY_DRIVER: z
    .enum(["process", "docker", "kubernetes"], "must be process, docker or kubernetes")
    .default("process"),
  COGWAY_PUBLIC_URL: z.url({ protocol: /^https?$/, error: "must be an http or https URL" }).optional(),
  COGWAY_TLS: z.enum(["0", "1"], "must be 1 or 0").default("0"),
  COGWAY_ALLOW_PRIVATE_URLS: z
    .string()
    .refine((text) => cidrs(text).every((cidr) => ipaddr.isValidCIDR(cidr)), "must be a comma list of CIDR ranges")
    .default(""),
  COGWAY_OTLP_TRACES_URL: z.url({ protocol: /^https?$/, error: "must be an http or https URL" }).optional(),
  COGWAY_OTLP_HEADERS: z.string().default(""),
  COGWAY_METRICS_PORT: PortSchema.optional(),
  COGWAY_CANARY_INTERVAL: DurationSchema.default("1d"),
  COGWAY_LANE_LEASES_PER_S: z.coerce.number("must be a whole number above 0").int().positive().optional(),
  COGWAY_UPLOAD_RELAY: z.enum(["0", "1"], "must be 1 or 0").default("0"),
  /** for tests of faults: ports of loopback proxies, to the edge and then to each origin, that edge and origins reach each other through */
  COGWAY_PROXY_PORTS: z
    .string()
    .regex(/^\d{1,5}(,\d{1,5})+$/, "must be a comma list of ports, at least two")
    .optional(),
  COGWAY_RETENTION: DurationSchema.default("1h"),
});

/** Reads the environment, and makes what is kept in the data folder: the token, the secrets. */
export function readSettings(env: NodeJS.ProcessEnv, originCount = 1): Settings {
  const given = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== undefined && value !== ""));
  const parsed = EnvironmentSchema.safeParse(given);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new SetupFault(`${issue?.path.join(".") ?? "The environment"} ${issue?.message ?? "is invalid"}.`);
  }
  const values = parsed.data;
  const { COGWAY_PORT: port, COGWAY_ORIGIN_PORT: originPort, COGWAY_DATA, COGWAY_CACHE, COGWAY_MODELS } = values;
  if (port === originPort)
    throw new SetupFault(`COGWAY_PORT and COGWAY_ORIGIN_PORT are both ${port}; they must differ.`);
  const lastPort = originPort + originCount - 1;
  if (lastPort > PORT_MAX || (port > originPort && port <= lastPort)) {
    const detail = `${originCount} origins listen on ports ${originPort} to ${lastPort}`;
    throw new SetupFault(
      `${detail}: set COGWAY_ORIGIN_PORT so that these exist and COGWAY_PORT (${port}) is not among them.`,
    );
  }
  const modelDirs =
    COGWAY_MODELS === undefined ? exampleNames().map(exampleDir) : COGWAY_MODELS.split(",").flatMap(modelDir);
  checkModels(COGWAY_MODELS === undefined ? [] : modelDirs);
  const isTls = values.COGWAY_TLS === "1";
  const localUrl = `${isTls ? "https" : "http"}://127.0.0.1:${port}`;
  const dataDir = dataFolder(COGWAY_DATA);
  makeDataDir(dataDir);
  const [edgeProxy, ...originProxies] =
    values.COGWAY_PROXY_PORTS?.split(",").map((each) => `http://127.0.0.1:${each}`) ?? [];
  const { signingSecret, joinToken } = keptSecrets(join(dataDir, "secrets.json"));
  return {
    port,
    origins: Array.from({ length: originCount }, (_, index) => ({
      port: originPort + index,
      url: originProxies[index],
      dataDir: index === 0 ? dataDir : join(dataDir, `origin-${index}`),
      joinToken: index === 0 ? joinToken : derivedToken(joinToken, index),
    })),
    edgeUrl: edgeProxy,
    dataDir,
    cacheDir: COGWAY_CACHE === undefined ? undefined : fromCaller(COGWAY_CACHE),
    driver: values.COGWAY_DRIVER,
    publicUrl: values.COGWAY_PUBLIC_URL?.replace(/\/+$/, "") ?? localUrl,
    localUrl,
    isTls,
    allowPrivateUrls: values.COGWAY_ALLOW_PRIVATE_URLS,
    retention: values.COGWAY_RETENTION,
    canaryInterval: values.COGWAY_CANARY_INTERVAL,
    laneLeasesPerS: values.COGWAY_LANE_LEASES_PER_S,
    otlp: { url: values.COGWAY_OTLP_TRACES_URL ?? "", headers: values.COGWAY_OTLP_HEADERS },
    metricsPort: values.COGWAY_METRICS_PORT,
    uploadRelayUrl: values.COGWAY_UPLOAD_RELAY === "1" ? `http://127.0.0.1:${originPort}` : "",
    modelDirs,
    modelsAreExplicit: COGWAY_MODELS !== undefined,
    token: values.COGWAY_TOKEN ?? keptToken(join(dataDir, "token")),
    signingSecret,
  };
}

/** The number after `--origins`. */
export function originCount(text: string): number {
  const count = Number(text);
  if (/^\d+$/.test(text) && count >= 1 && count <= ORIGINS_MAX) return count;
  throw new SetupFault(`--origins: "${text}" is no number from 1 to ${ORIGINS_MAX}.`);
}

/** Each further origin has a token of its own, which needs no place of its own in the kept secrets. */
function derivedToken(joinToken: string, index: number): string {
  return createHmac("sha256", joinToken).update(`origin ${index}`).digest("base64");
}

export function cidrs(text: string): string[] {
  return text
    .split(",")
    .map((cidr) => cidr.trim())
    .filter((cidr) => cidr !== "");
}

/** Where all local state is; `given`: COGWAY_DATA. */
export function dataFolder(given: string | undefined): string {
  return given === undefined || given === "" ? join(ROOT, ".cogway") : fromCaller(given);
}

/** npm runs scripts in the package's folder; a relative path means the folder where the person stands. */
export function fromCaller(path: string): string {
  return resolve(process.env["INIT_CWD"] ?? process.cwd(), path);
}

function exampleDir(name: string): string {
  return join(ROOT, "examples", "models", name);
}

/** The folder of one entry of COGWAY_MODELS: an example's name, or a path. */
function modelDir(entry: string): string[] {
  const text = entry.trim();
  if (text === "") return [];
  if (exampleNames().includes(text)) return [exampleDir(text)];
  const folder = fromCaller(text);
  if (existsSync(folder)) return [folder];
  throw new SetupFault(
    `COGWAY_MODELS: "${text}" is no folder, and no example (those are: ${exampleNames().join(", ") || "none"}).`,
  );
}

/** What can be seen before anything runs: the origin looks again, and deeper. */
function checkModels(folders: string[]): void {
  const names = new Set<string>();
  for (const folder of folders) {
    const name = basename(folder).toLowerCase();
    if (names.has(name)) throw new SetupFault(`COGWAY_MODELS: two of the folders are named "${name}"; rename one.`);
    names.add(name);
    if (!statSync(folder).isDirectory()) throw new SetupFault(`COGWAY_MODELS: ${folder} is not a folder.`);
    try {
      readModel(folder);
    } catch (error) {
      if (!(error instanceof ModelFault)) throw error;
      const [first = "", ...more] = error.message.split("\n");
      throw new SetupFault(
        more.length === 0 ? first : `${first} (${more.length} more: see \`cogway check ${folder}\`)`,
      );
    }
  }
}

function makeDataDir(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw new SetupFault(`COGWAY_DATA: ${path} cannot be made: ${error instanceof Error ? error.message : error}`);
  }
}

/** The first account's token: made once, for its owner's eyes only. */
function keptToken(path: string): string {
  if (!existsSync(path)) writeFileSync(path, `${newToken()}\n`, { mode: 0o600 });
  const token = readFileSync(path, "utf8").trim();
  if (isTokenWellFormed(token)) return token;
  throw new SetupFault(`${path} holds no well-formed token; remove the file, and a new one is made.`);
}

const SecretsSchema = z.object({ signingSecret: z.string().min(1), joinToken: z.string().min(1) });

/** Made once: with another signing secret every URL that was handed out would end. */
function keptSecrets(path: string): z.infer<typeof SecretsSchema> {
  if (!existsSync(path)) {
    const random = (): string => Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("base64");
    writeFileSync(path, JSON.stringify({ signingSecret: random(), joinToken: random() }), { mode: 0o600 });
  }
  try {
    return SecretsSchema.parse(JSON.parse(readFileSync(path, "utf8")));
  } catch {
    throw new SetupFault(`${path} cannot be read as secrets; remove it, and new ones are made (old output URLs end).`);
  }
}
