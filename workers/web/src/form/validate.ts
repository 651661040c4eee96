/**
 * Checks a form's values against its schema: the part of JSON Schema that Cog writes, in words for people, and without the code generation that the
 * page's policy forbids. The edge validates everything again; this only spares a round trip.
 */
export interface Fault {
  /** path of the value, such as `["texts", 0]` */
  path: (string | number)[];
  message: string;
}

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const TYPE_WORDS: Record<string, string> = {
  string: "a text",
  number: "a number",
  integer: "a whole number",
  boolean: "on or off",
  array: "a list",
  object: "an object",
};

export function hasType(value: unknown, type: string): boolean {
  switch (type) {
    case "string":
      return typeof value === "string";
    case "number":
      return typeof value === "number" && Number.isFinite(value);
    case "integer":
      return typeof value === "number" && Number.isInteger(value);
    case "boolean":
      return typeof value === "boolean";
    case "array":
      return Array.isArray(value);
    case "object":
      return isObject(value);
    case "null":
      return value === null;
    default:
      return true;
  }
}

/** All faults of `value`, none when it fits. An absent value fits everything but a `required` of its parent. */
export function validate(schema: Json, value: unknown, path: Fault["path"] = []): Fault[] {
  if (value === undefined) return [];
  const fault = (message: string): Fault => ({ path, message });
  if (typeof schema["type"] === "string" && !hasType(value, schema["type"])) {
    return [fault(`must be ${TYPE_WORDS[schema["type"]] ?? schema["type"]}`)];
  }
  if (Array.isArray(schema["enum"]) && !schema["enum"].includes(value)) {
    return [fault(`must be one of ${schema["enum"].join(", ")}`)];
  }
  for (const key of ["anyOf", "oneOf"]) {
    const options = schema[key];
    if (Array.isArray(options) && !options.some((option) => isObject(option) && validate(option, value).length === 0)) {
      const types = options.filter(isObject).map((option) => TYPE_WORDS[String(option["type"])] ?? "another value");
      return [fault(`must be ${types.join(" or ")}`)];
    }
  }
  if (typeof value === "number") return rangeFaults(schema, value).map(fault);
  if (typeof value === "string") return textFaults(schema, value).map(fault);
  if (Array.isArray(value)) return listFaults(schema, value, path);
  if (isObject(value)) return memberFaults(schema, value, path);
  return [];
}

function rangeFaults(schema: Json, value: number): string[] {
  const faults: string[] = [];
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
  if (typeof minimum === "number" && value < minimum) faults.push(`must be at least ${minimum}`);
  if (typeof maximum === "number" && value > maximum) faults.push(`must be at most ${maximum}`);
  if (typeof exclusiveMinimum === "number" && value <= exclusiveMinimum)
    faults.push(`must be more than ${exclusiveMinimum}`);
  if (typeof exclusiveMaximum === "number" && value >= exclusiveMaximum)
    faults.push(`must be less than ${exclusiveMaximum}`);
  if (typeof multipleOf === "number" && multipleOf > 0 && !Number.isInteger(Number((value / multipleOf).toFixed(9))))
    faults.push(`must be a multiple of ${multipleOf}`);
  return faults;
}

function textFaults(schema: Json, value: string): string[] {
  const faults: string[] = [];
  const { minLength, maxLength, pattern } = schema;
  // Characters as Python counts them: code points, not the halves of an emoji.
  const length = [...value].length;
  if (typeof minLength === "number" && length < minLength)
    faults.push(minLength === 1 ? "must not be empty" : `must have at least ${minLength} characters`);
  if (typeof maxLength === "number" && length > maxLength)
    faults.push(`must have at most ${maxLength} characters (it has ${length})`);
  if (typeof pattern === "string" && matches(pattern, value) === false) faults.push(`must match ${pattern}`);
  return faults;
}

/** Null for a pattern that only Python understands: the edge decides then. */
function matches(pattern: string, value: string): boolean | null {
  try {
    return new RegExp(pattern, "u").test(value);
  } catch {
    return null;
  }
}

function listFaults(schema: Json, value: unknown[], path: Fault["path"]): Fault[] {
  const faults: Fault[] = [];
  const { minItems, maxItems, items } = schema;
  if (typeof minItems === "number" && value.length < minItems)
    faults.push({ path, message: `must have at least ${minItems} entries` });
  if (typeof maxItems === "number" && value.length > maxItems)
    faults.push({ path, message: `must have at most ${maxItems} entries` });
  if (isObject(items)) {
    for (const [index, item] of value.entries()) {
      // An entry that was added and never filled in.
      if (item === undefined || item === null) faults.push({ path: [...path, index], message: "must be filled in" });
      else faults.push(...validate(items, item, [...path, index]));
    }
  }
  return faults;
}

function memberFaults(schema: Json, value: Json, path: Fault["path"]): Fault[] {
  const faults: Fault[] = [];
  const required = Array.isArray(schema["required"]) ? schema["required"] : [];
  for (const name of required) {
    if (typeof name === "string" && (value[name] === undefined || value[name] === null))
      faults.push({ path: [...path, name], message: "is needed" });
  }
  if (isObject(schema["properties"])) {
    for (const [name, property] of Object.entries(schema["properties"])) {
      if (isObject(property) && value[name] !== null) faults.push(...validate(property, value[name], [...path, name]));
    }
  }
  return faults;
}
