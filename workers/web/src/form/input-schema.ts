/**
 * Makes a form's schema out of a version's OpenAPI document: the `Input` component with references resolved, members in `x-order`, and for each member
 * the control that suits it. Cog's forms of schema: gpu-origin/python/make_schema.py.
 */
import type { RJSFSchema, UiSchema } from "@rjsf/utils";
import { words } from "../format.ts";

export interface InputForm {
  schema: RJSFSchema;
  uiSchema: UiSchema;
}

type Json = Record<string, unknown>;
const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** A reference chain longer than this is a loop. */
const REFERENCES_MAX = 16;
/** A text whose default, description or name promises more than a line gets a box of several. */
const ONE_LINE_CHARACTERS = 60;
const LONG_TEXT_NAMES =
  /prompt|text|message|instruction|content|lyrics|description|document|article|code|story|template/i;

/** Follows `$ref` and merges Cog's `allOf: [{$ref}]`, whose siblings (default, description, x-order) win. */
export function resolve(document: Json, schema: Json): Json {
  let current = schema;
  for (let i = 0; i < REFERENCES_MAX; i++) {
    if (typeof current["$ref"] === "string") {
      const { $ref, ...siblings } = current;
      current = { ...lookUp(document, String($ref)), ...siblings };
    } else if (Array.isArray(current["allOf"])) {
      const { allOf, ...siblings } = current;
      const parts = (allOf as unknown[]).filter(isObject).map((part) => resolve(document, part));
      current = Object.assign({}, ...parts.map(({ title, description, ...rest }) => rest), siblings) as Json;
    } else return current;
  }
  return {};
}

function lookUp(document: Json, reference: string): Json {
  let at: unknown = document;
  for (const part of reference.replace(/^#\//, "").split("/")) {
    const key = part.replaceAll("~1", "/").replaceAll("~0", "~");
    at = isObject(at) ? at[key] : undefined;
  }
  return isObject(at) ? at : {};
}

/** The component schema of a version's document (`Input`, `Output`); an empty object when it has none. */
export function component(document: Json, name: string): Json {
  return resolve(document, { $ref: `#/components/schemas/${name}` });
}

const isFile = (schema: Json) => schema["type"] === "string" && schema["format"] === "uri";
const isSecret = (schema: Json) => schema["format"] === "password" || schema["x-cog-secret"] === true;

function isLongText(name: string, schema: Json): boolean {
  if (typeof schema["maxLength"] === "number" && schema["maxLength"] <= ONE_LINE_CHARACTERS) return false;
  const sample = schema["default"];
  if (typeof sample === "string" && (sample.includes("\n") || sample.length > ONE_LINE_CHARACTERS)) return true;
  return LONG_TEXT_NAMES.test(name);
}

const SIMPLE_TYPES = new Set(["string", "number", "integer", "boolean"]);

/** The control of one member. `json` is a box for values of any shape: unions, objects, lists of them. */
function control(name: string, schema: Json): UiSchema {
  if (Array.isArray(schema["enum"])) return { "ui:widget": "choice" };
  switch (schema["type"]) {
    case "boolean":
      return { "ui:widget": "toggle" };
    case "integer":
    case "number":
      return { "ui:widget": "number" };
    case "string":
      if (isFile(schema)) return { "ui:widget": "file" };
      if (isSecret(schema)) return { "ui:widget": "secret" };
      return { "ui:widget": isLongText(name, schema) ? "longText" : "line" };
    case "array": {
      const items = isObject(schema["items"]) ? schema["items"] : {};
      if (!SIMPLE_TYPES.has(String(items["type"]))) return { "ui:field": "json" };
      return { items: { ...control(name, items), "ui:label": false } };
    }
    default:
      return { "ui:field": "json" };
  }
}

/** A member as JSON Schema: references gone, and only what the form and its validator use. */
function member(document: Json, name: string, raw: Json): Json {
  const { nullable, allOf, $ref, ...schema } = resolve(document, raw);
  const result: Json = { ...schema, title: words(name) };
  // "Nothing" is what an empty field says already.
  if (result["default"] === null) delete result["default"];
  if (isObject(schema["items"])) result["items"] = { ...resolve(document, schema["items"]), title: words(name) };
  return result;
}

export function inputForm(document: Json): InputForm {
  const input = component(document, "Input");
  const properties = isObject(input["properties"]) ? input["properties"] : {};
  const order = Object.entries(properties)
    .filter((entry): entry is [string, Json] => isObject(entry[1]))
    .sort(([, a], [, b]) => orderOf(a) - orderOf(b));
  const schema: Json = {};
  const uiSchema: UiSchema = { "ui:order": order.map(([name]) => name) };
  for (const [name, raw] of order) {
    const one = member(document, name, raw);
    schema[name] = one;
    uiSchema[name] = control(name, one);
  }
  const required = Array.isArray(input["required"]) ? input["required"].filter((name) => typeof name === "string") : [];
  return { schema: { type: "object", properties: schema, required } as RJSFSchema, uiSchema };
}

const orderOf = (schema: Json) => (typeof schema["x-order"] === "number" ? schema["x-order"] : Number.MAX_SAFE_INTEGER);

/** Every member that has a default, with it. */
export function defaultsOf(schema: RJSFSchema): Json {
  const defaults: Json = {};
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    if (isObject(property) && property["default"] !== undefined) defaults[name] = property["default"];
  }
  return defaults;
}

/** What is sent: members the form knows, without those left empty. */
export function inputOf(schema: RJSFSchema, formData: Json): Json {
  const input: Json = {};
  for (const name of Object.keys(schema.properties ?? {})) {
    const value = formData[name];
    if (value !== undefined && value !== null) input[name] = value;
  }
  return input;
}
