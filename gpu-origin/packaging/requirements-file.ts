/** A model's requirements as one text: files that the file includes are put in its place, since builds hand the text on without its folder. */
import { posix } from "node:path";
import type { CogYaml } from "./cog-yaml.ts";
import { isInFolder, readBounded } from "./folder-files.ts";
import { logicalLines, parseRequirements } from "./requirements.ts";

const REQUIREMENTS_BYTES_MAX = 1024 ** 2;
/** Of files that include files. */
const DEPTH_MAX = 8;

export interface RequirementsText {
  /** lines of a requirements file; paths of local archives are relative to the model's folder */
  requirements: string;
  /** lines of the constraints files that it names, or empty */
  constraints: string;
  faults: { file: string; line: number; message: string }[];
}

export function readRequirements(folder: string, { build }: CogYaml): RequirementsText {
  const result: RequirementsText = { requirements: "", constraints: "", faults: [] };
  if (build.python_requirements === undefined) {
    return { ...result, requirements: (build.python_packages ?? []).map((line) => `${line}\n`).join("") };
  }
  const python = build.python_version;
  /** The text of one file with its includes. */
  const read = (file: string, depth: number): string => {
    const text = readBounded(`${folder}/${file}`, REQUIREMENTS_BYTES_MAX + 1);
    if (text === null || text.length > REQUIREMENTS_BYTES_MAX) {
      const message = text === null ? "is missing." : "is larger than 1 MiB, so it is no requirements file.";
      result.faults.push({ file, line: 1, message });
      return "";
    }
    const includes = parseRequirements(text, { python }).includes;
    if (includes.length === 0) return text.endsWith("\n") ? text : `${text}\n`;
    const lines: string[] = [];
    for (const { line, content } of logicalLines(text)) {
      const include = includes.find((known) => known.line === line);
      const isElsewhere = /^\/|:\/\//.test(include?.path ?? "");
      const path =
        include === undefined
          ? null
          : posix.normalize(isElsewhere ? include.path : `${posix.dirname(file)}/${include.path}`);
      if (path === null) lines.push(content);
      else if (isElsewhere || !isInFolder(path))
        result.faults.push({ file, line, message: `${path} must lie in the model's folder.` });
      else if (depth === DEPTH_MAX) result.faults.push({ file, line, message: "files include each other too deep." });
      else if (/^(-c|--constraint)/.test(content)) result.constraints += read(path, depth + 1);
      else lines.push(read(path, depth + 1).trimEnd());
      if (result.requirements.length + result.constraints.length > REQUIREMENTS_BYTES_MAX) break;
    }
    return `${lines.join("\n")}\n`;
  };
  result.requirements = read(build.python_requirements, 1);
  return result;
}
