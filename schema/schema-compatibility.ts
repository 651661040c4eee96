/**
 * Whether callers of one version can call another without changing anything: official and stable models promise it. Whatever was accepted stays accepted,
 * and whatever comes back has the form that it had. And what else is different, for whoever pushes a version. Pure; all are OpenAPI documents as Cog makes
 * them.
 */
type Json = Record<string, unknown>;

/** Depth at which a schema that refers to itself is cut. */
const SCHEMA_DEPTH_MAX = 16;
/** More faults than anybody reads. */
const FAULTS_MAX = 20;
/** Of a line, which names members that may be long. */
const LINE_CHARACTERS_MAX = 300;
/** Members that change what an output means to a client, beside its type. */
const OUTPUT_MEANING = ["format", "x-cog-array-type", "x-cog-array-display"];

/** What is different between two versions, one line each. */
export interface SchemaDiff {
  /** what callers of the previous one must change */
  breaking: string[];
  /** what is new, and nobody must use */
  added: string[];
  /** what is otherwise different: defaults, descriptions, wider types */
  changed: string[];
  previous_version: string | null;
}

/** The parts of a document that callers meet, and how lines name them. */
const PARTS = [
  { name: "Input", path: "input", isInput: true },
  { name: "Output", path: "output", isInput: false },
  { name: "TrainingInput", path: "training input", isInput: true },
  { name: "TrainingOutput", path: "training output", isInput: false },
] as const;

/** What would break for callers, one line each; empty when nothing does. */
export function breakingChanges(before: Json, after: Json): string[] {
  return bounded(PARTS.flatMap((part) => breaksOf(part, named(before, part.name), named(after, part.name))));
}

function breaksOf(part: (typeof PARTS)[number], before: Json, after: Json): string[] {
  // A version that gets a trainer had no callers of it.
  if (Object.keys(before).length === 0 && part.name.startsWith("Training")) return [];
  return part.isInput ? narrowedInput(before, after, part.path) : changedOutput(before, after, part.path);
}

function bounded(lines: string[]): string[] {
  const short = lines.map((line) =>
    line.length <= LINE_CHARACTERS_MAX ? line : `${line.slice(0, LINE_CHARACTERS_MAX)}…`,
  );
  if (short.length <= FAULTS_MAX) return short;
  return [...short.slice(0, FAULTS_MAX), `and ${short.length - FAULTS_MAX} more`];
}

export function schemaDiff(
  before: { id: string; openapi_schema: Json },
  after: { id: string; openapi_schema: Json },
): SchemaDiff {
  const diff: Omit<SchemaDiff, "previous_version"> = { breaking: [], added: [], changed: [] };
  for (const part of PARTS) {
    const schemas = {
      before: named(before.openapi_schema, part.name),
      after: named(after.openapi_schema, part.name),
    };
    const breaking = breaksOf(part, schemas.before, schemas.after);
    diff.breaking.push(...breaking);
    addDifferences(schemas.before, schemas.after, part.path, diff);
  }
  const isBroken = (path: string): boolean => diff.breaking.some((line) => line.startsWith(`${path} `));
  return {
    breaking: bounded(diff.breaking),
    added: bounded(diff.added.filter((line) => !isBroken(pathOf(line)))),
    changed: bounded(diff.changed.filter((line) => !isBroken(pathOf(line)))),
    previous_version: before.id,
  };
}

/** A path has no spaces but the one of `training input`. */
function pathOf(line: string): string {
  return /^(?:training )?\S+/.exec(line)?.[0] ?? line;
}

function addDifferences(before: Json, after: Json, path: string, diff: Pick<SchemaDiff, "added" | "changed">): void {
  if (Object.keys(before).length === 0 && Object.keys(after).length > 0) {
    diff.added.push(`${path} is new`);
    return;
  }
  const properties = { before: propertiesOf(before), after: propertiesOf(after) };
  for (const [name, property] of Object.entries(properties.after)) {
    const known = properties.before[name];
    const { default: value } = property;
    if (known !== undefined) addDifferences(known, property, `${path}.${name}`, diff);
    else diff.added.push(`${path}.${name} is new${value === undefined ? "" : `, by default ${JSON.stringify(value)}`}`);
  }
  const [was, is] = [before["default"], after["default"]];
  if (JSON.stringify(was) !== JSON.stringify(is))
    diff.changed.push(
      `${path} is by default ${JSON.stringify(is) ?? "nothing"}, and was ${JSON.stringify(was) ?? "nothing"}`,
    );
  for (const member of ["title", "description"]) {
    if (path.includes(".") && before[member] !== after[member]) diff.changed.push(`${path} has another ${member}`);
  }
  const own = ({ properties: _properties, required: _required, "x-order": _order, ...rest }: Json): Json => rest;
  if (!isSame(own(before), own(after))) diff.changed.push(`${path} accepts or gives other values`);
}

/** What `before` accepted and `after` refuses. */
function narrowedInput(before: Json, after: Json, path: string): string[] {
  if (isUnion(before) || isUnion(after)) return isSame(before, after) ? [] : [`${path} has another type`];
  const faults: string[] = [];
  const types = { before: typesOf(before), after: typesOf(after) };
  if (types.after.length > 0 && !(types.before.length > 0 && types.before.every((type) => accepts(types.after, type))))
    return [`${path} was ${types.before.join(" or ") || "anything"} and is ${types.after.join(" or ")}`];
  if (before["format"] !== after["format"]) faults.push(`${path} has another format`);
  const allowed = valuesOf(after);
  const refused = valuesOf(before)?.filter((value) => allowed?.includes(value) === false);
  if (allowed !== null && refused === undefined) faults.push(`${path} accepts only some values now`);
  if (refused !== undefined && refused.length > 0) faults.push(`${path} no longer accepts ${refused.join(", ")}`);
  for (const [lower, upper] of BOUNDS) {
    if (isTighter(before[lower], after[lower], 1)) faults.push(`${path} has a higher ${lower}`);
    if (isTighter(before[upper], after[upper], -1)) faults.push(`${path} has a lower ${upper}`);
  }
  if (after["pattern"] !== undefined && after["pattern"] !== before["pattern"])
    faults.push(`${path} must match a pattern`);
  if (isObject(after["items"])) faults.push(...narrowedInput(objectOf(before["items"]), after["items"], `${path}[]`));
  const properties = { before: propertiesOf(before), after: propertiesOf(after) };
  const wasRequired = requiredOf(before);
  for (const name of requiredOf(after)) {
    if (!wasRequired.has(name)) faults.push(`${path}.${name} is required now`);
  }
  for (const [name, property] of Object.entries(properties.before)) {
    const now = properties.after[name];
    if (now === undefined) faults.push(`${path}.${name} was removed`);
    else faults.push(...narrowedInput(property, now, `${path}.${name}`));
  }
  return faults;
}

/** What `after` may answer and a reader of `before` does not expect. */
function changedOutput(before: Json, after: Json, path: string): string[] {
  if (isUnion(before) || isUnion(after)) return isSame(before, after) ? [] : [`${path} has another type`];
  const types = { before: typesOf(before), after: typesOf(after) };
  if (types.before.length > 0 && !(types.after.length > 0 && types.after.every((type) => accepts(types.before, type))))
    return [`${path} was ${types.before.join(" or ")} and is ${types.after.join(" or ") || "anything"}`];
  const faults = OUTPUT_MEANING.filter((member) => before[member] !== after[member]).map(
    (member) => `${path} has another ${member}`,
  );
  if (after["nullable"] === true && before["nullable"] !== true) faults.push(`${path} may be null now`);
  const known = valuesOf(before);
  if (known !== null && valuesOf(after)?.every((value) => known.includes(value)) !== true)
    faults.push(`${path} has other values`);
  if (isObject(before["items"])) faults.push(...changedOutput(before["items"], objectOf(after["items"]), `${path}[]`));
  const properties = { before: propertiesOf(before), after: propertiesOf(after) };
  const isRequired = requiredOf(after);
  for (const name of requiredOf(before)) {
    if (properties.after[name] !== undefined && !isRequired.has(name))
      faults.push(`${path}.${name} may be missing now`);
  }
  for (const [name, property] of Object.entries(properties.before)) {
    const now = properties.after[name];
    if (now === undefined) faults.push(`${path}.${name} was removed`);
    else faults.push(...changedOutput(property, now, `${path}.${name}`));
  }
  return faults;
}

const BOUNDS = [
  ["minimum", "maximum"],
  ["exclusiveMinimum", "exclusiveMaximum"],
  ["minLength", "maxLength"],
  ["minItems", "maxItems"],
] as const;

/** Whether a bound was added or moved inwards: up (1) for a lower one, down (-1) for an upper one. */
function isTighter(before: unknown, after: unknown, inwards: 1 | -1): boolean {
  if (typeof after !== "number") return false;
  return typeof before !== "number" || (after - before) * inwards > 0;
}

/** An integer is a number; no type at all is every type. */
function accepts(types: string[], type: string): boolean {
  return types.length === 0 || types.includes(type) || (type === "integer" && types.includes("number"));
}

/** A schema by its name, with every reference in it put in place. */
function named(document: Json, name: string): Json {
  const schemas = objectOf(objectOf(document["components"])["schemas"]);
  const resolve = (value: unknown, depth: number): unknown => {
    if (Array.isArray(value)) return value.map((item) => resolve(item, depth));
    if (!isObject(value)) return value;
    if (depth > SCHEMA_DEPTH_MAX) return {};
    const { $ref, allOf, ...own } = value;
    const target = typeof $ref === "string" ? schemas[$ref.slice($ref.lastIndexOf("/") + 1)] : undefined;
    const parts = [target, ...(Array.isArray(allOf) ? allOf : [])].filter((part) => part !== undefined);
    const members = Object.entries(own).map(([key, member]) => [key, resolve(member, depth + 1)]);
    return Object.assign({}, ...parts.map((part) => resolve(part, depth + 1)), Object.fromEntries(members));
  };
  return objectOf(resolve(schemas[name] ?? {}, 0));
}

function isUnion(schema: Json): boolean {
  return Array.isArray(schema["anyOf"]) || Array.isArray(schema["oneOf"]);
}

/** Equal but for words that only people read. */
function isSame(before: unknown, after: unknown): boolean {
  if (Array.isArray(before) && Array.isArray(after))
    return before.length === after.length && before.every((item, i) => isSame(item, after[i]));
  if (!isObject(before) || !isObject(after)) return before === after;
  return [...new Set([...Object.keys(before), ...Object.keys(after)])]
    .filter((key) => key !== "title" && key !== "description" && key !== "default")
    .every((key) => isSame(before[key], after[key]));
}

function typesOf({ type }: Json): string[] {
  if (Array.isArray(type)) return type.map(String);
  return typeof type === "string" ? [type] : [];
}

function valuesOf(schema: Json): unknown[] | null {
  return Array.isArray(schema["enum"]) ? schema["enum"] : null;
}

function requiredOf({ required }: Json): Set<string> {
  return new Set(Array.isArray(required) ? required.map(String) : []);
}

function propertiesOf({ properties }: Json): Record<string, Json> {
  return Object.fromEntries(Object.entries(objectOf(properties)).map(([name, value]) => [name, objectOf(value)]));
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function objectOf(value: unknown): Json {
  return isObject(value) ? value : {};
}
