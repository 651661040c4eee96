/**
 * Cog's own file, all of it: every member that Cog documents is read and checked; its deprecated forms are taken with a warning. Pure over the file's text.
 * What needs the folder or the other files is in check-model.ts.
 */
import { z } from "zod";
import { COGWAY_MEMBERS } from "./cogway-yaml.ts";
import { isInFolder } from "./folder-files.ts";
import { checkYaml, isRecord, nearest, type Place, pathText, type RuleContext, type YamlCheck } from "./yaml-faults.ts";

/** Newer ones are unknown to the tables and to coglet's tests. */
export const PYTHON_VERSIONS = ["3.10", "3.11", "3.12", "3.13", "3.14"];
const DEFAULT_PYTHON = "3.11";
/** Below it, Cog's runtime is another one, without coglet's protocol. */
const SDK_VERSION_MIN = [0, 16, 0] as const;
const CUDA_MAJOR_MIN = 11;

const PYTHON_EXAMPLE = `python_version: "${DEFAULT_PYTHON}"`;
const EXAMPLE = `build: { ${PYTHON_EXAMPLE} } and run: "predict.py:Runner"`;

const RefSchema = z
  .string()
  .regex(/^[^:]+\.py:[A-Za-z_]\w*$/, 'must be "file.py:Name"')
  .refine((ref) => isInFolder(ref.split(":")[0] ?? ""), "must name a file of this folder");
const LineSchema = z.string().regex(/^[^\n\r\0]*\S[^\n\r\0]*$/, "must be one line");
const CommandSchema = z
  .string()
  .regex(/\S/, "must be a command")
  .regex(/^[^\0]*$/, "must be a command");
const AbsolutePathSchema = z
  .string()
  .regex(/^\/[^\0\n]*[^/\0\n]/, 'must be an absolute path below "/", such as "/src/weights"')
  .refine((path) => !path.split("/").includes(".."), 'must not contain ".."');

const MountSchema = z.strictObject({
  type: z.literal("secret"),
  id: z.string().regex(/^[\w.-]+$/, "must be a name"),
  target: AbsolutePathSchema,
});

const RunSchema = z.preprocess(
  (value) => (typeof value === "string" ? { command: value } : value),
  z.strictObject({ command: CommandSchema, mounts: z.array(MountSchema).default([]) }),
);

const SourceSchema = z.preprocess(
  (value) => (typeof value === "string" ? { uri: value } : value),
  z.strictObject({
    uri: z.string().min(1, "must not be empty"),
    include: z.array(LineSchema).default([]),
    exclude: z.array(LineSchema).default([]),
  }),
);

const WeightsSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z0-9]+([._-][a-z0-9]+)*$/, "must be lower-case letters and digits, with . _ or - between"),
  target: AbsolutePathSchema,
  source: z.preprocess((value) => (Array.isArray(value) ? value : [value]), z.array(SourceSchema).min(1)),
});

const BUILD = {
  gpu: z.boolean().default(false),
  python_version: z.string().regex(/^\d+\.\d+(\.\d+)?$/, `must be a version such as "${DEFAULT_PYTHON}"`),
  python_requirements: z.string().refine(isInFolder, "must be the path of a file of this folder").optional(),
  python_packages: z.array(LineSchema).optional(),
  system_packages: z
    .array(
      z
        .string()
        .regex(
          /^[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?(=[A-Za-z0-9.+:~*-]+)?$/,
          "must be the name of a Debian package, one an entry",
        ),
    )
    .default([]),
  run: z.array(RunSchema).default([]),
  pre_install: z.array(CommandSchema).default([]),
  cuda: z
    .string()
    .regex(/^\d+(\.\d+){0,2}$/, 'must be a version such as "12.4"')
    .optional(),
  cudnn: z
    .string()
    .regex(/^\d+(\.\d+){0,3}$/, 'must be a version such as "9"')
    .optional(),
  sdk_version: z
    .string()
    .regex(/^(prerelease|\d+\.\d+\.\d+\S*)$/, 'must be a version such as "0.23.1"')
    .optional(),
};

const TOP = {
  run: RefSchema.optional(),
  predict: RefSchema.optional(),
  train: RefSchema.optional(),
  image: LineSchema.optional(),
  model: z
    .string()
    .regex(/^[a-z0-9][a-z0-9._/:-]*$/, "must be a repository without a tag, such as host/owner/name")
    .refine((model) => !/:[^/]*$/.test(model), "must not have a tag")
    .optional(),
  environment: z.array(z.string().regex(/^[A-Za-z_]\w*=[^\n\0]*$/, "must be NAME=value")).default([]),
  concurrency: z
    .strictObject({ max: z.int().min(1).optional(), default_target: z.int().min(1).optional() })
    .default({}),
  weights: z.array(WeightsSchema).default([]),
  build: z.strictObject(BUILD),
};

const CogYamlSchema = z.strictObject(TOP);

export type CogYaml = z.infer<typeof CogYamlSchema>;

/** Members that a text of digits is read as. */
const TEXT_MEMBERS: Place[] = ["python_version", "cuda", "cudnn", "sdk_version"].map((name) => ["build", name]);

/** Environment variables that a model may not set: Cog's own list, and what is ours or would change how programs start. */
const REFUSED_VARIABLES =
  /^(PATH|LD_LIBRARY_PATH|PYTHONPATH|VIRTUAL_ENV|PYTHONUNBUFFERED|LIBRARY_PATH|R8_.*|REPLICATE_.*|CUDA_.*|NVIDIA_.*|NV_.*|PGET_.*|HF_ENDPOINT|HF_HUB_ENABLE_HF_TRANSFER|KUBERNETES_.*|PORT|TMPDIR|RUST_LOG|LD_PRELOAD|COG_.*|COGWAY_.*)$/;

export function checkCogYaml(text: string): YamlCheck<CogYaml> {
  return checkYaml("cog.yaml", text, {
    schema: CogYamlSchema,
    example: EXAMPLE,
    missing: { build: `build: { ${PYTHON_EXAMPLE} }`, "build.python_version": PYTHON_EXAMPLE },
    textMembers: TEXT_MEMBERS,
    unknownKey,
    rules: checkRules,
  });
}

/** `file.py:Name` of what predicts. */
export function refOf(cog: CogYaml): string {
  return cog.run ?? cog.predict ?? "";
}

/** Members that older Cogs had, and where they went. */
const MOVED = new Map([
  ["python_extra_index_urls", "write `--extra-index-url URL` into the requirements file"],
  ["python_find_links", "write `--find-links URL` into the requirements file"],
  ["tests", "Cog has no such member; take it away"],
]);

function unknownKey(place: Place, key: string): string {
  const here = place.length === 0 ? Object.keys(TOP) : membersOf(place);
  const name = pathText([...place, key]);
  const hint = (): string => {
    if (place.length === 0 && Object.hasOwn(BUILD, key)) return `it belongs into build`;
    if (place[0] === "build" && Object.hasOwn(TOP, key)) return "it belongs to the top level, outside of build";
    if (COGWAY_MEMBERS.includes(key)) return "it belongs into cogway.yaml";
    const moved = MOVED.get(key);
    if (moved !== undefined) return moved;
    const meant = nearest(key, here) ?? (place.length === 0 ? nearest(key, Object.keys(BUILD)) : null);
    if (meant === null) return `known here are ${here.join(", ")}`;
    return here.includes(meant) ? `did you mean ${meant}?` : `did you mean ${meant}, in build?`;
  };
  return `${name} is unknown: ${hint().replace(/([^?])$/, "$1.")}`;
}

function membersOf(place: Place): string[] {
  const names = place.filter((part) => typeof part === "string").join(".");
  if (names === "build") return Object.keys(BUILD);
  if (names === "build.run") return ["command", "mounts"];
  if (names === "build.run.mounts") return ["type", "id", "target"];
  if (names === "concurrency") return ["max", "default_target"];
  if (names === "weights") return ["name", "target", "source"];
  return ["uri", "include", "exclude"];
}

/** What spans several members. `cog` may hold anything. */
function checkRules(cog: Record<string, unknown>, context: RuleContext): void {
  const { fault, warn } = context;
  if (cog["run"] !== undefined && cog["predict"] !== undefined)
    fault(["predict"], "predict is the older name of run: give one of them, not both.", "key");
  else if (cog["predict"] !== undefined) warn(["predict"], "predict is deprecated: name it run.", "key");
  else if (cog["run"] === undefined) fault([], 'run is missing: say what predicts, such as run: "predict.py:Runner".');
  if (cog["image"] !== undefined && cog["model"] !== undefined)
    fault(["model"], "model and image exclude each other: keep one.", "key");
  checkEnvironment(cog["environment"], context);
  checkWeights(cog["weights"], context);
  const build = isRecord(cog["build"]) ? cog["build"] : {};
  checkBuild(build, context);
  checkConcurrency(cog["concurrency"], build["python_version"], context);
}

function checkEnvironment(entries: unknown, { fault, warn }: RuleContext): void {
  const names = new Set<string>();
  for (const [index, entry] of listOf(entries).entries()) {
    if (typeof entry !== "string") continue;
    const name = entry.split("=")[0] ?? "";
    const place = ["environment", index];
    if (REFUSED_VARIABLES.test(name)) fault(place, `environment must not set ${name}: it is set by the platform.`);
    else if (names.has(name)) warn(place, `environment sets ${name} twice; the last one counts.`);
    names.add(name);
  }
}

function checkConcurrency(concurrency: unknown, python: unknown, { fault, warn }: RuleContext): void {
  if (!isRecord(concurrency)) return;
  const { max, default_target: target } = concurrency;
  if (max === undefined) return;
  warn(
    ["concurrency", "max"],
    "concurrency.max is deprecated: write @cog.concurrent(max=…) above run(). It counts until then.",
    "key",
  );
  if (typeof max !== "number") return;
  if (max > 1 && python === "3.10")
    fault(["concurrency", "max"], "concurrency.max above 1 needs Python 3.11 or newer (build.python_version).");
  if (typeof target === "number" && target > max)
    fault(
      ["concurrency", "default_target"],
      `concurrency.default_target must be at most concurrency.max, which is ${max}.`,
    );
}

function checkBuild(build: Record<string, unknown>, { fault, warn }: RuleContext): void {
  const at = (name: string): Place => ["build", name];
  const { python_version: python, cuda, sdk_version: sdk } = build;
  if (typeof python === "string" && /^\d+\.\d+(\.\d+)?$/.test(python)) {
    const minor = python.split(".").slice(0, 2).join(".");
    if (!PYTHON_VERSIONS.includes(minor))
      fault(at("python_version"), `build.python_version must be one of ${PYTHON_VERSIONS.join(", ")}, not ${python}.`);
  }
  if (build["python_requirements"] !== undefined && build["python_packages"] !== undefined)
    fault(at("python_packages"), "build.python_packages and build.python_requirements exclude each other.", "key");
  else if (build["python_packages"] !== undefined)
    warn(
      at("python_packages"),
      "build.python_packages is deprecated: write them into a file and name it as build.python_requirements.",
      "key",
    );
  if (listOf(build["pre_install"]).length > 0)
    warn(
      at("pre_install"),
      "build.pre_install is deprecated: use build.run. It runs before the Python packages.",
      "key",
    );
  if (typeof cuda === "string" && Number(cuda.split(".")[0]) < CUDA_MAJOR_MIN)
    fault(at("cuda"), `build.cuda must be at least ${CUDA_MAJOR_MIN}, not ${cuda}.`);
  for (const name of ["cuda", "cudnn"])
    if (build[name] !== undefined && build["gpu"] !== true)
      warn(at(name), `build.${name} counts only with build.gpu: true.`, "key");
  if (typeof sdk === "string" && /^\d/.test(sdk) && isBelow(sdk, SDK_VERSION_MIN))
    fault(at("sdk_version"), `build.sdk_version must be at least ${SDK_VERSION_MIN.join(".")}, not ${sdk}.`);
}

function checkWeights(weights: unknown, { fault }: RuleContext): void {
  const names = new Set<string>();
  const targets: string[] = [];
  for (const [index, entry] of listOf(weights).entries()) {
    if (!isRecord(entry)) continue;
    const { name, target, source } = entry;
    if (typeof name === "string") {
      if (names.has(name)) fault(["weights", index, "name"], `weights: the name ${name} is used twice.`);
      names.add(name);
    }
    if (typeof target === "string" && /^\/[^/]/.test(target)) {
      const path = `${target.replace(/\/+/g, "/").replace(/\/$/, "")}/`;
      const other = targets.find((known) => known.startsWith(path) || path.startsWith(known));
      if (other !== undefined)
        fault(
          ["weights", index, "target"],
          `weights: ${target} and ${other.slice(0, -1)} overlap; targets must be apart.`,
        );
      targets.push(path);
    }
    for (const [at, one] of listOf(Array.isArray(source) ? source : [source]).entries()) {
      const uri = isRecord(one) ? one["uri"] : one;
      const message = typeof uri === "string" ? uriFault(uri) : null;
      if (message === null) continue;
      const place = [
        "weights",
        index,
        "source",
        ...(Array.isArray(source) ? [at] : []),
        ...(isRecord(one) ? ["uri"] : []),
      ];
      fault(place, message);
    }
  }
}

function uriFault(uri: string): string | null {
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(uri)?.[1]?.toLowerCase();
  if (scheme === "hf")
    return `weights: ${uri} cannot be fetched here. Download it beside cog.yaml and name its folder (source: weights/…), or give an https:// address.`;
  if (scheme === undefined)
    return isInFolder(uri.replace(/^\.\//, "")) ? null : `weights: ${uri} must lie in this folder.`;
  if (scheme === "file")
    return isInFolder(uri.replace(/^file:(\/\/)?(\.\/)?/i, ""))
      ? null
      : `weights: ${uri} must lie in this folder, such as file://./weights.`;
  if (scheme === "https") return URL.canParse(uri) ? null : `weights: ${uri} is no address.`;
  return `weights: ${scheme}:// is unknown; use https://, file:// or a path in this folder.`;
}

function listOf(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function isBelow(version: string, least: readonly number[]): boolean {
  const parts = version.split(/[^\d]+/).map(Number);
  for (const [index, part] of least.entries()) {
    const difference = (parts[index] ?? 0) - part;
    if (difference !== 0) return difference < 0;
  }
  return false;
}
