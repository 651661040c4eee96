/**
 * A prediction's input against its version's schema: all faults at once, in the shape of Replicate's `invalid_fields`. What passes is completed
 * (defaults), cleaned (nulls of optional members, unknown members) and comes with a second form that is safe to show (secrets redacted).
 * Pure; the schema is a Cog OpenAPI 3.0 document, which is JSON Schema but for `$ref` into components and `nullable`.
 */
import { Validator } from "@cfworker/json-schema";
import { AppError, type InvalidField } from "../../schema/problems.ts";
import { isSecretInput, REDACTED } from "../../schema/secret-inputs.ts";

type Json = Record<string, unknown>;

/** Enough for every version that one isolate serves at a time; a compiled schema is a few kilobytes. */
const COMPILED_SCHEMAS_MAX = 500;
/** A request with more faults than this is nonsense; the rest is counted, not listed. */
const FAULTS_MAX = 100;
/** So many dropped members are named in the logs, by so much of their names: a body may hold a million of them, or one of a megabyte. */
const UNKNOWN_LINES_MAX = 20;
const UNKNOWN_NAME_CHARACTERS_MAX = 100;
/** Depth at which a schema that refers to itself is cut: deeper values are left to the model. */
const SCHEMA_DEPTH_MAX = 16;

export type InputResult =
  | { ok: true; input: Json; shown_input: Json | null; log_lines: string[] }
  | { ok: false; faults: InvalidField[] };

interface CompiledSchema {
  /** the input's schema in plain JSON Schema, references put in place */
  rules: Json;
  properties: Record<string, Json>;
  required: Set<string>;
  keepsUnknown: boolean;
  validator: Validator;
}

const compiled = new Map<string, CompiledSchema>();

/** Validates `input` for version `versionId`, whose `openapi_schema` is compiled once per isolate and function of the model. */
export function validateInput(
  versionId: string,
  openapiSchema: Json,
  input: unknown,
  component: "Input" | "TrainingInput" = "Input",
): InputResult {
  if (!isObject(input)) {
    return { ok: false, faults: [{ type: "invalid_type", field: "input", description: expected("object", input) }] };
  }
  const schema = compile(versionId, openapiSchema, component);
  const clean: Json = {};
  const shown: Json = {};
  const unknown: string[] = [];
  let redacted = false;
  for (const [name, value] of Object.entries(input)) {
    const property = Object.hasOwn(schema.properties, name) ? schema.properties[name] : undefined;
    if (property === undefined && !schema.keepsUnknown) {
      unknown.push(name);
      continue;
    }
    if (value === null && (property?.["nullable"] === true || !schema.required.has(name))) continue;
    setOwn(clean, name, value);
  }
  for (const [name, property] of Object.entries(schema.properties)) {
    if (!Object.hasOwn(clean, name) && property["default"] !== undefined && property["default"] !== null) {
      setOwn(clean, name, property["default"]);
    }
  }
  const faults = faultsOf(schema, clean, input);
  if (faults.length > 0) return { ok: false, faults };
  for (const [name, value] of Object.entries(clean)) {
    const isSecret = isSecretInput(schema.properties[name]);
    redacted ||= isSecret;
    setOwn(shown, name, isSecret ? REDACTED : value);
  }
  return { ok: true, input: clean, shown_input: redacted ? shown : null, log_lines: linesAbout(unknown) };
}

/** Lines for the prediction's own logs about members that were dropped. */
function linesAbout(unknown: string[]): string[] {
  const lines = unknown.slice(0, UNKNOWN_LINES_MAX).map((name) => {
    const shown = JSON.stringify(name.slice(0, UNKNOWN_NAME_CHARACTERS_MAX));
    return `Input ${shown} is not an input of this model and was ignored.`;
  });
  const more = unknown.length - lines.length;
  return more === 0 ? lines : [...lines, `${more} more are no inputs of this model either.`];
}

/** A 422 that names every fault. */
export function invalidInput(faults: InvalidField[]): AppError {
  return new AppError("input.invalid", faultsDetail(faults), { invalid_fields: faults });
}

/** One line per fault, as Replicate's clients print it: `- input.width: Must be less than or equal to 1024`. */
export function faultsDetail(faults: InvalidField[]): string {
  return faults.map((fault) => `- ${fault.field === "" ? "" : `${fault.field}: `}${fault.description}\n`).join("");
}

/** What the schema says of a version's output: whether it grows element by element, and whether it is files. */
export function outputKind(openapiSchema: Json): { is_iterator: boolean; stream_kind: "text" | "files" } {
  const output = inlineRefs(componentOf(openapiSchema, "Output") ?? {}, openapiSchema, 0);
  const items = isObject(output["items"]) ? output["items"] : output;
  return {
    is_iterator: output["type"] === "array" && output["x-cog-array-type"] === "iterator",
    stream_kind: items["format"] === "uri" ? "files" : "text",
  };
}

function compile(versionId: string, openapiSchema: Json, component: string): CompiledSchema {
  const key = `${versionId} ${component}`;
  const known = compiled.get(key);
  if (known !== undefined) return known;
  const schema = inlineRefs(componentOf(openapiSchema, component) ?? { type: "object" }, openapiSchema, 0);
  const properties: Record<string, Json> = {};
  for (const [name, property] of Object.entries(isObject(schema["properties"]) ? schema["properties"] : {})) {
    if (isObject(property)) properties[name] = property;
  }
  const rules = forValidation(schema);
  const result: CompiledSchema = {
    rules,
    properties,
    required: new Set(
      (Array.isArray(schema["required"]) ? schema["required"] : []).filter(
        (name) => typeof name === "string" && properties[name]?.["nullable"] !== true,
      ),
    ),
    keepsUnknown: schema["additionalProperties"] === true || isObject(schema["additionalProperties"]),
    validator: new Validator(rules, "7", false),
  };
  if (compiled.size >= COMPILED_SCHEMAS_MAX) compiled.delete(compiled.keys().next().value ?? "");
  compiled.set(key, result);
  return result;
}

function faultsOf(schema: CompiledSchema, clean: Json, given: Json): InvalidField[] {
  const faults: InvalidField[] = [];
  for (const name of schema.required) {
    if (Object.hasOwn(clean, name)) continue;
    faults.push({ type: "required", field: "input", description: `${name} is required` });
  }
  for (const unit of schema.validator.validate(clean).errors) {
    // Wrappers repeat what their leaves say; missing members of the top level are named above.
    if (WRAPPERS.has(unit.keyword) || /\/(?:anyOf|oneOf)\//.test(unit.keywordLocation)) continue;
    if (unit.keyword === "required" && unit.instanceLocation === "#") continue;
    const path = pointerParts(unit.instanceLocation);
    const rule = at(schema.rules, pointerParts(unit.keywordLocation));
    faults.push(describe(unit.keyword, rule, ["input", ...path].join("."), at(clean, path), unit.error));
  }
  for (const [name, property] of Object.entries(schema.properties)) {
    if (Object.hasOwn(clean, name)) faults.push(...uriFaults(property, clean[name], `input.${name}`));
  }
  const distinct = new Map(faults.map((fault) => [`${fault.field} ${fault.type} ${fault.description}`, fault]));
  const order = new Map(Object.keys(given).map((name, position) => [`input.${name}`, position]));
  return [...distinct.values()]
    .sort((a, b) => (order.get(a.field) ?? -1) - (order.get(b.field) ?? -1))
    .slice(0, FAULTS_MAX);
}

/** Keywords whose errors only say that something below them failed. `anyOf` and `oneOf` speak for their branches instead. */
const WRAPPERS = new Set([
  "properties",
  "patternProperties",
  "additionalProperties",
  "items",
  "prefixItems",
  "allOf",
  "$ref",
  "if",
]);

function describe(keyword: string, rule: unknown, field: string, value: unknown, message: string): InvalidField {
  const limit = typeof rule === "number" ? String(rule) : "";
  switch (keyword) {
    case "type":
      return { type: "invalid_type", field, description: expected(rule, value) };
    case "required":
      return { type: "required", field, description: message.replace(/^.*property "(.*)"\.$/s, "$1 is required") };
    case "enum": {
      const allowed = (Array.isArray(rule) ? rule : []).map((item) => JSON.stringify(item)).join(", ");
      return { type: "enum", field, description: `${field} must be one of the following: ${allowed}` };
    }
    case "minimum":
      return { type: "number_gte", field, description: `Must be greater than or equal to ${limit}` };
    case "maximum":
      return { type: "number_lte", field, description: `Must be less than or equal to ${limit}` };
    case "exclusiveMinimum":
      return { type: "number_gt", field, description: `Must be greater than ${limit}` };
    case "exclusiveMaximum":
      return { type: "number_lt", field, description: `Must be less than ${limit}` };
    case "minLength":
      return { type: "string_gte", field, description: `String length must be greater than or equal to ${limit}` };
    case "maxLength":
      return { type: "string_lte", field, description: `String length must be less than or equal to ${limit}` };
    case "pattern":
      return { type: "pattern", field, description: `Does not match pattern '${String(rule)}'` };
    case "minItems":
      return { type: "array_min_items", field, description: `Array must have at least ${limit} items` };
    case "maxItems":
      return { type: "array_max_items", field, description: `Array must have at most ${limit} items` };
    case "false":
      return { type: "additional_property_not_allowed", field, description: "Additional property is not allowed" };
    case "anyOf":
    case "oneOf":
      return { type: "any_of", field, description: "Must validate at least one schema (anyOf)" };
    default:
      return { type: keyword, field, description: message };
  }
}

function expected(rule: unknown, value: unknown): string {
  const given = value === null ? "null" : Array.isArray(value) ? "array" : typeof value;
  const wanted = (Array.isArray(rule) ? rule : [rule]).join(" or ");
  return `Invalid type. Expected: ${wanted}, given: ${given === "number" && Number.isInteger(value) ? "integer" : given}`;
}

// ---- files ----------------------------------------------------------------------------------------------------------------

/** RFC 2397: `data:[<type>][;attribute=value]*[;base64],<data>`; only the head is matched, the data is scanned by class. */
const DATA_URI_HEAD =
  /^data:(?:[a-z0-9!#$&^_.+-]+\/[a-z0-9!#$&^_.+-]+)?(?:;[a-z0-9!#$&^_.+-]+=(?:[^;,"\s]+|"[^"]*"))*(;base64)?,/i;
/** The longest head that is looked at. */
const DATA_URI_HEAD_CHARACTERS_MAX = 1_024;

/** Faults of file inputs, at any depth: they are http(s) URLs or data URIs. Who may be fetched is decided where it is fetched, by the origin's guard. */
function uriFaults(schema: Json, value: unknown, field: string): InvalidField[] {
  if (Array.isArray(value)) {
    const items = schema["items"];
    return isObject(items) ? value.flatMap((item, index) => uriFaults(items, item, `${field}.${index}`)) : [];
  }
  if (schema["format"] !== "uri" || typeof value !== "string" || isFileReference(value)) return [];
  return [
    { type: "format", field, description: "Does not match format 'uri': an http(s) URL or a data URI is needed" },
  ];
}

function isFileReference(text: string): boolean {
  if (/^data:/i.test(text)) {
    const head = DATA_URI_HEAD.exec(text.slice(0, DATA_URI_HEAD_CHARACTERS_MAX));
    if (head === null) return false;
    const data = text.slice(head[0].length);
    return head[1] === undefined ? !/[\s"<>]/.test(data) : /^[A-Za-z0-9+/_-]*={0,2}$/.test(data.replaceAll("%3D", "="));
  }
  if (!/^https?:\/\//i.test(text) || !URL.canParse(text)) return false;
  const url = new URL(text);
  return url.hostname !== "" && url.username === "" && url.password === "";
}

// ---- schemas --------------------------------------------------------------------------------------------------------------

function componentOf(openapiSchema: Json, name: string): Json | undefined {
  const components = openapiSchema["components"];
  const schemas = isObject(components) ? components["schemas"] : undefined;
  const schema = isObject(schemas) ? schemas[name] : undefined;
  return isObject(schema) ? schema : undefined;
}

/** The schema with each `#/components/schemas/X` put in its place; recursion ends at a depth, below which anything is allowed. */
function inlineRefs(schema: Json, openapiSchema: Json, depth: number): Json {
  if (depth > SCHEMA_DEPTH_MAX) return {};
  const ref = schema["$ref"];
  if (typeof ref === "string") {
    const target = componentOf(openapiSchema, ref.replace("#/components/schemas/", ""));
    return target === undefined ? {} : inlineRefs(target, openapiSchema, depth + 1);
  }
  const out: Json = {};
  for (const [key, value] of Object.entries(schema)) {
    const isData = key === "default" || key === "enum" || key === "example" || key === "examples" || key === "const";
    setOwn(out, key, isData ? value : inlineValue(value, openapiSchema, depth + 1));
  }
  return out;
}

function inlineValue(value: unknown, openapiSchema: Json, depth: number): unknown {
  if (Array.isArray(value)) return value.map((item) => inlineValue(item, openapiSchema, depth));
  return isObject(value) ? inlineRefs(value, openapiSchema, depth) : value;
}

/** OpenAPI's `nullable` in JSON Schema's words; formats are dropped, since the only one that counts is checked by {@link uriFaults}. */
function forValidation(schema: unknown): Json {
  const out: Json = {};
  for (const [key, value] of Object.entries(isObject(schema) ? schema : {})) {
    if (key === "format" || key === "nullable" || key === "default" || key === "example" || key === "title") continue;
    if (key === "properties" && isObject(value)) {
      const properties: Json = {};
      for (const [name, property] of Object.entries(value)) setOwn(properties, name, forValidation(property));
      out[key] = properties;
    } else if (key === "items" || key === "additionalProperties" || key === "not") {
      out[key] = isObject(value) ? forValidation(value) : value;
    } else if ((key === "allOf" || key === "anyOf" || key === "oneOf") && Array.isArray(value)) {
      out[key] = value.map(forValidation);
    } else {
      setOwn(out, key, value);
    }
  }
  if (isObject(schema) && schema["nullable"] === true) {
    return typeof out["type"] === "string" && out["enum"] === undefined
      ? { ...out, type: [out["type"], "null"] }
      : { anyOf: [out, { type: "null" }] };
  }
  return out;
}

function pointerParts(pointer: string): string[] {
  return pointer
    .split("/")
    .slice(1)
    .map((part) => decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~"));
}

function at(root: unknown, path: string[]): unknown {
  let value: unknown = root;
  for (const part of path) {
    value = Array.isArray(value)
      ? value[Number(part)]
      : isObject(value) && Object.hasOwn(value, part)
        ? value[part]
        : undefined;
  }
  return value;
}

function isObject(value: unknown): value is Json {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Sets a member even when it is called `__proto__`, which a plain assignment would make the prototype. */
function setOwn(target: Json, name: string, value: unknown): void {
  if (name === "__proto__")
    Object.defineProperty(target, name, { value, enumerable: true, configurable: true, writable: true });
  else target[name] = value;
}
