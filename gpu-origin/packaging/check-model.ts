/**
 * Everything about a model's folder that can be told without running it: its two YAML files, and that what they name exists. Reads files, changes nothing.
 * Origins call it before a build, and `cogway check` before a push.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type CogYaml, checkCogYaml, refOf } from "./cog-yaml.ts";
import { type CogwayYaml, checkCogwayYaml } from "./cogway-yaml.ts";
import { conflictText, type Resolution, resolveCompatibility } from "./compatibility.ts";
import { isFile, readBounded } from "./folder-files.ts";
import { readRequirements } from "./requirements-file.ts";
import { type Fault, faultText, nearest, type Place, YAML_BYTES_MAX } from "./yaml-faults.ts";

/** Of a file that is looked through for a name. */
const SOURCE_BYTES_MAX = 4 * 1024 ** 2;

export interface ModelCheck {
  /** what has to change, all at once */
  faults: Fault[];
  /** advice that stops nothing */
  warnings: Fault[];
  /** null when cog.yaml has faults of its own */
  cog: CogYaml | null;
  /** empty where there is no cogway.yaml, or a broken one */
  cogway: CogwayYaml;
  /** base image, CUDA and wheels that belong together; null where something does not fit, which is then one of the faults */
  resolution: Resolution | null;
}

/** The author has to change something; the message says what and where, one fault a line. */
export class ModelFault extends Error {}

/** What the check knows of the host that shall build; without it nothing is said about the host. */
export interface CheckHost {
  driver: "process" | "docker";
  /** the host's interpreter, such as 3.11.7 */
  python?: string;
}

export function checkModel(folder: string, host?: CheckHost): ModelCheck {
  const text = readBounded(join(folder, "cog.yaml"), YAML_BYTES_MAX + 1);
  if (text === null) {
    const message = "is missing: a model's folder has a cog.yaml.";
    const fault = { file: "cog.yaml", line: 1, column: 1, message };
    return { faults: [fault], warnings: [], cog: null, cogway: {}, resolution: null };
  }
  const cogCheck = checkCogYaml(text);
  const cog = cogCheck.value;
  const cogwayText = readBounded(join(folder, "cogway.yaml"), YAML_BYTES_MAX + 1);
  // Without a word in it, the file says as much as no file.
  const isSilent = cogwayText === null || cogwayText.replace(/#.*|\s/g, "") === "";
  const cogwayCheck = isSilent ? null : checkCogwayYaml(cogwayText, cog);
  const faults = [...cogCheck.faults, ...(cogwayCheck?.faults ?? [])];
  const warnings = [...cogCheck.warnings, ...(cogwayCheck?.warnings ?? [])];
  let resolution: Resolution | null = null;
  if (cog !== null) {
    for (const [place, message] of missingNames(folder, cog)) {
      faults.push({ ...cogCheck.placeOf(place), message });
    }
    resolution = checkPackages(folder, cog, cogCheck.placeOf, faults, warnings);
    if (host?.driver === "process" && host.python !== undefined && !isPythonOf(cog.build.python_version, host.python)) {
      const message = `build.python_version is ${cog.build.python_version}; this host has ${host.python}, which is used.`;
      warnings.push({ ...cogCheck.placeOf(["build", "python_version"]), message });
    }
  }
  return { faults, warnings, cog, cogway: cogwayCheck?.value ?? {}, resolution };
}

/** Reads the requirements and resolves what goes together; what does not is added to `faults`. */
function checkPackages(
  folder: string,
  cog: CogYaml,
  placeOf: (place: Place) => Omit<Fault, "message">,
  faults: Fault[],
  warnings: Fault[],
): Resolution | null {
  const { python_version: python, python_requirements: file, gpu, cuda, cudnn } = cog.build;
  // That the file itself is missing was said.
  if (file !== undefined && !isFile(join(folder, file))) return null;
  const { requirements, faults: unread } = readRequirements(folder, cog);
  faults.push(...unread.map((fault) => ({ ...fault, column: 1 })));
  const result = resolveCompatibility({ python, gpu, cuda, cudnn, requirements });
  const members = ["python_requirements", "python_packages", "cuda", "cudnn", "python_version"] as const;
  const place = placeOf(["build", members.find((name) => cog.build[name] !== undefined) ?? "python_version"]);
  if (result.kind === "conflict") {
    faults.push({ ...place, message: conflictText(result) });
    return null;
  }
  warnings.push(...result.warnings.map((message) => ({ ...place, message })));
  return result;
}

/** The two files of a model without faults; throws a {@link ModelFault} that names every fault, one a line. */
export function readModel(folder: string): {
  cog: CogYaml;
  cogway: CogwayYaml;
  resolution: Resolution | null;
  warnings: Fault[];
} {
  const { cog, cogway, resolution, faults, warnings } = checkModel(folder);
  if (cog === null || faults.length > 0) {
    throw new ModelFault(faults.map((fault) => `${folder}/${faultText(fault)}`).join("\n"));
  }
  return { cog, cogway, resolution, warnings };
}

function isPythonOf(wanted: string, has: string): boolean {
  return has === wanted || has.startsWith(`${wanted}.`);
}

/** What cog.yaml names and the folder has not got: where it is named, and what to change. */
function missingNames(folder: string, cog: CogYaml): [Place, string][] {
  const faults: [Place, string][] = [];
  const requirements = cog.build.python_requirements;
  if (requirements !== undefined && !isFile(join(folder, requirements)))
    faults.push([
      ["build", "python_requirements"],
      `build.python_requirements names ${requirements}, which is missing.`,
    ]);
  const refs: [string, string | undefined][] = [
    [cog.run === undefined ? "predict" : "run", refOf(cog)],
    ["train", cog.train],
  ];
  for (const [member, ref] of refs) {
    const message = ref === undefined ? null : refFault(folder, member, ref);
    if (message !== null) faults.push([[member], message]);
  }
  for (const [index, { source }] of cog.weights.entries()) {
    for (const { uri } of source) {
      if (/^https:/i.test(uri)) continue;
      const path = uri.replace(/^file:(\/\/)?/i, "");
      if (!existsSync(join(folder, path)))
        faults.push([["weights", index, "source"], `weights: ${uri} is missing in this folder.`]);
    }
  }
  const max = cog.concurrency.max ?? 1;
  const [file = "", name = ""] = refOf(cog).split(":");
  const code = max > 1 ? readBounded(join(folder, file), SOURCE_BYTES_MAX) : null;
  if (code !== null && hasName(code, name) && !/\basync\s+def\s+(run|predict)\b/.test(code))
    faults.push([["concurrency", "max"], `concurrency.max is ${max}, which needs an \`async def run\` in ${file}.`]);
  return faults;
}

/** A cheap look at the text; what the name really is shows when the schema is made. */
function refFault(folder: string, member: string, ref: string): string | null {
  const [file = "", name = ""] = ref.split(":");
  const path = join(folder, file);
  if (!isFile(path)) return `${member} names ${file}, which is missing.`;
  const code = readBounded(path, SOURCE_BYTES_MAX);
  if (code === null || hasName(code, name)) return null;
  const names = [...code.matchAll(/^(?:class|def|async\s+def)\s+(\w+)/gm)].map((match) => match[1] ?? "");
  const meant = nearest(name, names) ?? (names.length === 1 ? names[0] : undefined);
  const hint = meant === undefined ? `it defines ${names.join(", ") || "nothing"}` : `did you mean ${file}:${meant}?`;
  return `${member} names ${name}, which is not in ${file}: ${hint}${hint.endsWith("?") ? "" : "."}`;
}

function hasName(code: string, name: string): boolean {
  return new RegExp(
    `^\\s*((class|def|async\\s+def)\\s+${name}\\b|${name}\\s*(:[^=]+)?=|from\\s.*\\bimport\\s+\\*|(from|import)\\s[^\\n]*\\b${name}\\b|\\(?\\s*${name}\\s*,?\\s*\\)?$)`,
    "m",
  ).test(code);
}
