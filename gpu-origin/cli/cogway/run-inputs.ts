/** `-i key=value` by the schema of a version: what a text means depends on the type that the model gave the input. Pure, but for the files that it names. */
import { CliFault } from "./fault.ts";

type Json = Record<string, unknown>;

/** A value, or a file that has to be uploaded to become one. */
export type InputValue = { kind: "value"; value: unknown } | { kind: "file"; path: string };

export interface GivenInput {
  name: string;
  value: InputValue;
  /** another of a list */
  isElement: boolean;
}

/** The inputs that a version takes, by name: `components.schemas.Input` with its enumerations put in place. */
export function inputProperties(openapi: Json): Record<string, Json> {
  const schemas = objectOf(objectOf(openapi["components"])["schemas"]);
  const properties = objectOf(objectOf(schemas["Input"])["properties"]);
  return Object.fromEntries(
    Object.entries(properties).map(([name, property]) => [name, resolved(objectOf(property), schemas)]),
  );
}

/** `key=value`, told apart at the first `=`. */
export function parseInput(text: string, properties: Record<string, Json>): GivenInput {
  const at = text.indexOf("=");
  if (at < 1) throw new CliFault(`-i ${text} is no key=value, such as -i prompt="a cat".`);
  const name = text.slice(0, at);
  const property = properties[name];
  if (property === undefined) {
    const names = Object.keys(properties).join(", ");
    throw new CliFault(`There is no input "${name}". ${names === "" ? "This model has none." : `It takes: ${names}.`}`);
  }
  const value = text.slice(at + 1);
  const items = objectOf(property["items"]);
  // A list is given whole as JSON, or one element at a time.
  if (property["type"] === "array" && !value.trimStart().startsWith("[")) {
    return { name, value: inputValue(name, value, items), isElement: true };
  }
  return { name, value: inputValue(name, value, property), isElement: false };
}

function inputValue(name: string, text: string, property: Json): InputValue {
  const type = property["type"];
  if (property["format"] === "uri" && text.startsWith("@")) {
    if (text.length === 1) throw new CliFault(`-i ${name}=@ names no file.`);
    return { kind: "file", path: text.slice(1) };
  }
  if (type === "string") return { kind: "value", value: text };
  const parsed = parseJson(text);
  // Several types, or none: JSON where it is JSON, else text.
  if (type === undefined) return { kind: "value", value: parsed === undefined ? text : parsed };
  if (parsed === undefined)
    throw new CliFault(`-i ${name}=${text}: ${name} is ${article(String(type))}, written as JSON.`);
  return { kind: "value", value: parsed };
}

/** The input object: elements of one list are put together. */
export function inputOf(given: { name: string; value: unknown; isElement: boolean }[]): Json {
  const input: Json = {};
  for (const { name, value, isElement } of given) {
    if (!isElement) input[name] = value;
    else input[name] = [...(Array.isArray(input[name]) ? input[name] : []), value];
  }
  return input;
}

function resolved(property: Json, schemas: Json): Json {
  const [first] = Array.isArray(property["allOf"]) ? property["allOf"] : [];
  const reference = objectOf(first)["$ref"];
  if (typeof reference !== "string") return property;
  return { ...objectOf(schemas[reference.split("/").pop() ?? ""]), ...property };
}

function article(type: string): string {
  return `${/^[aeiou]/.test(type) ? "an" : "a"} ${type}`;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function objectOf(value: unknown): Json {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : {};
}
