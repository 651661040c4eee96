/**
 * Reads a YAML file that a person wrote and says everything that is wrong with it at once, each thing with its line and column. Shape is checked by a zod
 * schema, and what spans several members by functions over the plain values, so that one fault does not hide another.
 */
import { isAlias, isMap, isNode, isPair, isScalar, isSeq, LineCounter, type Pair, parseDocument } from "yaml";
import type { z } from "zod";

/** Far above any model's; what is larger was given by mistake (a data file of that name). */
export const YAML_BYTES_MAX = 256 * 1024;
/** After so many, the rest follows from them or can wait. */
const FAULTS_MAX = 50;

/** Something that the author has to change, or should (a warning). Lines and columns count from 1. */
export interface Fault {
  /** relative to the model's folder */
  file: string;
  line: number;
  column: number;
  message: string;
}

export type Place = readonly PropertyKey[];

/** What rules that span several members see: plain values, which may be of any type. */
export interface RuleContext {
  fault(place: Place, message: string, at?: "key" | "value"): void;
  warn(place: Place, message: string, at?: "key" | "value"): void;
}

export interface YamlRules<T> {
  schema: z.ZodType<T>;
  /** what to write into an empty file, in one line */
  example: string;
  /** what to write for members that must be there, by their path */
  missing?: Record<string, string>;
  /** members that are texts though they look like numbers, such as `build.python_version` */
  textMembers?: Place[];
  /** the fault for a member that the schema does not know */
  unknownKey(place: Place, key: string): string;
  rules(value: Record<string, unknown>, context: RuleContext): void;
}

export interface YamlCheck<T> {
  faults: Fault[];
  warnings: Fault[];
  /** null when there are faults */
  value: T | null;
  /** where a member is written, for faults that are found outside of the file */
  placeOf(place: Place, where?: "key" | "value"): Omit<Fault, "message">;
}

type Document = ReturnType<typeof parseDocument>;

export function checkYaml<T>(file: string, bytes: string, { rules, ...shape }: YamlRules<T>): YamlCheck<T> {
  const faults: Fault[] = [];
  const warnings: Fault[] = [];
  const failed = (message: string): YamlCheck<T> => ({
    faults: [{ file, line: 1, column: 1, message }],
    warnings,
    value: null,
    placeOf: () => ({ file, line: 1, column: 1 }),
  });
  if (Buffer.byteLength(bytes) > YAML_BYTES_MAX)
    return failed(`is larger than ${YAML_BYTES_MAX / 1024} KiB, so it is no ${file}.`);
  const text = bytes.replace(/^\uFEFF/, "");
  const lines = new LineCounter();
  let document: Document;
  let plain: unknown;
  try {
    document = parseDocument(text, { lineCounter: lines, merge: true, prettyErrors: false, logLevel: "error" });
    if (document.errors.length === 0) {
      takeAsText(document, shape.textMembers ?? []);
      plain = document.toJS();
    }
  } catch (error) {
    // A bomb of aliases, or nesting that no stack holds.
    return failed(`is not YAML: ${yamlReason(textOf(error))}.`);
  }
  const at = (offset: number): { line: number; column: number } => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  for (const error of document.errors) {
    const place = at(error.pos[0]);
    const isFollowUp = faults.some(({ line, column }) => line === place.line && column === place.column);
    if (!isFollowUp) faults.push({ file, ...place, message: yamlMessage(error.code, error.message) });
  }
  const placeOf: YamlCheck<T>["placeOf"] = (place, where = "value") => ({
    file,
    ...at(offsetOf(document, place, where)),
  });
  if (faults.length > 0) return { faults: faults.slice(0, FAULTS_MAX), warnings, value: null, placeOf };
  if (plain === null || plain === undefined) return failed(`is empty; it must say at least ${shape.example}.`);
  if (!isRecord(plain)) return failed(`must be lines of "name: value", such as ${shape.example}.`);

  const add = (list: Fault[]): RuleContext["fault"] => {
    return (place, message, where) => void list.push({ ...placeOf(place, where), message });
  };
  const fault = add(faults);
  const warn = add(warnings);
  const value = withoutNulls(plain);
  const parsed = shape.schema.safeParse(value, { reportInput: true });
  for (const issue of parsed.error?.issues ?? []) {
    if (issue.code === "unrecognized_keys") {
      for (const key of issue.keys) fault([...issue.path, key], shape.unknownKey(issue.path, key), "key");
    } else {
      const path = pathText(issue.path);
      fault(issue.path, `${path} ${issueText(issue, shape.missing?.[path])}`);
    }
  }
  if (isRecord(value)) rules(value, { fault, warn });
  faults.sort(byPlace);
  warnings.sort(byPlace);
  return {
    faults: faults.slice(0, FAULTS_MAX),
    warnings: warnings.slice(0, FAULTS_MAX),
    value: faults.length === 0 && parsed.success ? parsed.data : null,
    placeOf,
  };
}

/** `cog.yaml:3:5 build.gpu must be …`, as editors link it. */
export function faultText({ file, line, column, message }: Fault): string {
  return `${file}:${line}:${column} ${message}`;
}

export function pathText(place: Place): string {
  return place
    .map((part, index) => (typeof part === "number" ? `[${part}]` : `${index === 0 ? "" : "."}${String(part)}`))
    .join("");
}

/** The known word nearest to a mistyped one, or null when none is near. */
export function nearest(word: string, known: readonly string[]): string | null {
  let best: string | null = null;
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase().replaceAll("-", "_"), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Insertions, deletions, replacements, and neighbours that changed places. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let least = Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        least = Math.min(least, (before[j - 2] ?? 0) + 1);
      next.push(least);
    }
    [before, row] = [row, next];
  }
  return row[b.length] ?? 0;
}

/** `python_version: 3.10` is a number to YAML, and would lose its zero. */
function takeAsText(document: Document, members: Place[]): void {
  for (const member of members) {
    const node = document.getIn(member, true);
    if (isScalar(node) && typeof node.value === "number" && node.source !== undefined) node.value = node.source;
  }
}

/** A member without a value says nothing; in a list, null is an entry like any other. */
function withoutNulls(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withoutNulls);
  if (!isRecord(value)) return value;
  return Object.fromEntries(
    Object.entries(value).flatMap(([key, member]) => (member === null ? [] : [[key, withoutNulls(member)]])),
  );
}

/** Where the deepest part of `place` that was written begins. */
function offsetOf(document: Document, place: Place, where: "key" | "value"): number {
  let node: unknown = document.contents;
  let offset = startOf(node);
  for (const [index, part] of place.entries()) {
    if (isAlias(node)) node = node.resolve(document);
    if (isMap(node)) {
      const pair: Pair | undefined = node.items.find(
        ({ key }) => String(isScalar(key) ? key.value : key) === String(part),
      );
      if (pair === undefined) return offset;
      const isEnd = index === place.length - 1;
      const hasValue = isNode(pair.value) && !(isScalar(pair.value) && pair.value.value === null);
      offset = startOf((isEnd && where === "key") || !hasValue ? pair.key : pair.value);
      node = pair.value;
    } else if (isSeq(node) && typeof part === "number") {
      node = node.items[part];
      offset = startOf(node) || offset;
    } else {
      return offset;
    }
  }
  return offset;
}

function startOf(node: unknown): number {
  if (isPair(node)) return startOf(node.key);
  return isNode(node) ? (node.range?.[0] ?? 0) : 0;
}

function yamlMessage(code: string, message: string): string {
  if (code === "TAB_AS_INDENT") return "is indented by a tab; YAML takes spaces only.";
  if (code === "DUPLICATE_KEY") return "says a thing twice: this key was given before. Keep one of them.";
  if (code === "MULTIPLE_DOCS") return "holds more than one document; take away the `---`.";
  return `is not YAML: ${yamlReason(message.split("\n")[0] ?? "")}.`;
}

function yamlReason(message: string): string {
  if (/call stack/.test(message)) return "it is nested too deep";
  if (/Excessive alias count/.test(message)) return "its aliases make it too large";
  return message.replace(/"quote/, "quote").replace(/\.$/, "");
}

const TYPE_NAMES: Record<string, string> = {
  string: "a text",
  number: "a number",
  int: "a whole number",
  boolean: "true or false",
  array: "a list",
  object: "a group of names and values",
};

function issueText(issue: z.core.$ZodIssue, missing: string | undefined): string {
  const given = "input" in issue ? issue.input : undefined;
  if (issue.code === "invalid_type") {
    if (given === undefined) return missing === undefined ? "is missing." : `is missing: add ${missing}.`;
    return `must be ${TYPE_NAMES[issue.expected] ?? issue.expected}, not ${shown(given)}.`;
  }
  if (issue.code === "invalid_value")
    return `must be ${issue.values.map((value) => JSON.stringify(value)).join(" or ")}, not ${shown(given)}.`;
  if (issue.code === "too_small" && issue.origin !== "array" && issue.origin !== "string")
    return `must be ${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum}, not ${shown(given)}.`;
  const message = issue.message.replace(/\.$/, "");
  return `${message}${given === undefined || isRecord(given) || Array.isArray(given) ? "" : `, not ${shown(given)}`}.`;
}

const SHOWN_MAX = 60;

function shown(value: unknown): string {
  if (isRecord(value)) return "a group of names and values";
  if (Array.isArray(value)) return "a list";
  if (value === null) return "nothing";
  const text = JSON.stringify(value) ?? String(value);
  return text.length > SHOWN_MAX ? `${text.slice(0, SHOWN_MAX)}…` : text;
}

function byPlace(a: Fault, b: Fault): number {
  return a.line - b.line || a.column - b.column;
}

function textOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replace(/\.$/, "");
}
