import { describe, expect, it } from "vitest";
import { breakingChanges, schemaDiff } from "./schema-compatibility.ts";

type Json = Record<string, unknown>;

function documentOf(input: Json, output: Json = { type: "string" }, others: Json = {}): Json {
  return { components: { schemas: { Input: { type: "object", ...input }, Output: output, ...others } } };
}
const color = (values: string[]): Json => ({ color: { type: "string", enum: values } });
const before = documentOf(
  {
    required: ["text"],
    properties: {
      text: { type: "string", maxLength: 100 },
      count: { type: "integer", minimum: 1, maximum: 10, default: 3 },
      scale: { type: "number", default: 1 },
      color: { allOf: [{ $ref: "#/components/schemas/color" }], default: "red" },
      image: { type: "string", format: "uri" },
      tags: { type: "array", items: { type: "string" } },
      any: {},
    },
  },
  { type: "array", items: { type: "string" }, "x-cog-array-type": "iterator", "x-cog-array-display": "concatenate" },
  color(["red", "blue"]),
);

const schemas = (before["components"] as { schemas: { Input: { properties: Json }; Output: Json } }).schemas;

/** `before` with one input or the choices changed. */
function withInput(name: string, property: Json | undefined, required = ["text"], values = ["red", "blue"]): Json {
  const { [name]: _, ...others } = schemas.Input.properties;
  const properties = property === undefined ? others : { ...others, [name]: property };
  return documentOf({ required, properties }, schemas.Output, color(values));
}
const withOutput = (output: Json): Json => documentOf(schemas.Input, output, color(["red", "blue"]));

describe("changes of an input", () => {
  it.each<[string, Json]>([
    ["nothing", before],
    ["a new optional input", withInput("seed", { type: "integer" })],
    ["a wider type", withInput("count", { type: "number", minimum: 1, maximum: 10 })],
    ["wider bounds", withInput("count", { type: "integer", minimum: 0, maximum: 20 })],
    ["no bounds", withInput("count", { type: "integer" })],
    ["another default", withInput("count", { type: "integer", minimum: 1, maximum: 10, default: 5 })],
    ["another description", withInput("scale", { type: "number", description: "how much" })],
    ["one more choice", withInput("seed", { type: "integer" }, ["text"], ["red", "blue", "green"])],
    ["any value instead of a choice", withInput("color", { type: "string" })],
    ["an input that is no longer required", withInput("text", { type: "string", maxLength: 100 }, [])],
  ])("that break nobody: %s", (_name, after) => {
    expect(breakingChanges(before, after)).toEqual([]);
  });

  it.each<[string, Json, string]>([
    ["a removed input", withInput("scale", undefined), "input.scale was removed"],
    ["a new required input", withInput("seed", { type: "integer" }, ["text", "seed"]), "input.seed is required now"],
    ["an input that became required", withInput("seed", undefined, ["text", "count"]), "input.count is required now"],
    ["another type", withInput("count", { type: "string" }), "input.count was integer and is string"],
    ["a narrower type", withInput("scale", { type: "integer" }), "input.scale was number and is integer"],
    [
      "a higher minimum",
      withInput("count", { type: "integer", minimum: 2, maximum: 10 }),
      "input.count has a higher minimum",
    ],
    [
      "a lower maximum",
      withInput("count", { type: "integer", minimum: 1, maximum: 9 }),
      "input.count has a lower maximum",
    ],
    ["a type where any was", withInput("any", { type: "string" }), "input.any was anything and is string"],
    ["a first maximum", withInput("scale", { type: "number", maximum: 2 }), "input.scale has a lower maximum"],
    ["a shorter text", withInput("text", { type: "string", maxLength: 99 }), "input.text has a lower maxLength"],
    [
      "a pattern",
      withInput("text", { type: "string", maxLength: 100, pattern: "^a" }),
      "input.text must match a pattern",
    ],
    ["a choice less", withInput("seed", undefined, ["text"], ["red"]), "input.color no longer accepts blue"],
    [
      "a choice where all went",
      withInput("text", { type: "string", enum: ["a"] }),
      "input.text accepts only some values now",
    ],
    ["no file any more", withInput("image", { type: "string" }), "input.image has another format"],
    [
      "other items",
      withInput("tags", { type: "array", items: { type: "integer" } }),
      "input.tags[] was string and is integer",
    ],
    [
      "another union",
      withInput("scale", { anyOf: [{ type: "number" }, { type: "string" }] }),
      "input.scale has another type",
    ],
  ])("that break callers: %s", (_name, after, fault) => {
    expect(breakingChanges(before, after)).toContain(fault);
  });
});

describe("changes of an output", () => {
  const iterator = { "x-cog-array-type": "iterator", "x-cog-array-display": "concatenate" };
  it.each<[string, Json, string]>([
    ["another type", { type: "string" }, "output was array and is string"],
    ["other items", { type: "array", items: { type: "integer" }, ...iterator }, "output[] was string and is integer"],
    ["files", { type: "array", items: { type: "string", format: "uri" }, ...iterator }, "output[] has another format"],
    ["no iterator", { type: "array", items: { type: "string" } }, "output has another x-cog-array-type"],
    ["null", { type: "array", items: { type: "string", nullable: true }, ...iterator }, "output[] may be null now"],
    ["anything", {}, "output was array and is anything"],
  ])("that break readers: %s", (_name, output, fault) => {
    expect(breakingChanges(before, withOutput(output))).toContain(fault);
  });

  const structured = (properties: Json, required: string[]) => documentOf({}, { type: "object", properties, required });
  const old = structured({ label: { type: "string", enum: ["a", "b"] }, score: { type: "number" } }, ["label"]);
  it("of an object: more members and fewer values break nobody", () => {
    const after = structured(
      { label: { type: "string", enum: ["a"] }, score: { type: "integer" }, extra: { type: "string" } },
      ["label", "extra"],
    );
    expect(breakingChanges(old, after)).toEqual([]);
  });
  it("of an object: missing members and other values do", () => {
    const after = structured({ label: { type: "string", enum: ["a", "c"] } }, []);
    expect(breakingChanges(old, after)).toEqual([
      "output.label may be missing now",
      "output.label has other values",
      "output.score was removed",
    ]);
  });
});

it("a schema that refers to itself ends", () => {
  const node = { type: "object", properties: { next: { $ref: "#/components/schemas/Node" } } };
  const document = documentOf({ properties: { tree: { $ref: "#/components/schemas/Node" } } }, {}, { Node: node });
  expect(breakingChanges(document, document)).toEqual([]);
});

describe("the difference of two versions", () => {
  const diff = (after: Json) => {
    const { breaking, added, changed } = schemaDiff(
      { id: "a", openapi_schema: before },
      { id: "b", openapi_schema: after },
    );
    return { breaking, added, changed };
  };
  const none = { breaking: [], added: [], changed: [] };

  it.each<[string, Json, Partial<typeof none> | { [part in keyof typeof none]?: string[] }]>([
    ["nothing", before, {}],
    ["a new input", withInput("seed", { type: "integer", default: 1 }), { added: ["input.seed is new, by default 1"] }],
    [
      "another default",
      withInput("count", { type: "integer", minimum: 1, maximum: 10, default: 5 }),
      { changed: ["input.count is by default 5, and was 3"] },
    ],
    [
      "another description",
      withInput("scale", { type: "number", default: 1, description: "how much" }),
      { changed: ["input.scale has another description"] },
    ],
    [
      "wider bounds",
      withInput("count", { type: "integer", minimum: 0, maximum: 10, default: 3 }),
      { changed: ["input.count accepts or gives other values"] },
    ],
    ["a removed input", withInput("scale", undefined), { breaking: ["input.scale was removed"] }],
    [
      "a new required input, which is named once",
      withInput("seed", { type: "integer" }, ["text", "seed"]),
      { breaking: ["input.seed is required now"] },
    ],
    ["another output", withOutput({ type: "integer" }), { breaking: ["output was array and is integer"] }],
  ])("names %s", (_name, after, expected) => {
    expect(diff(after)).toEqual({ ...none, ...expected });
  });

  it("counts trainers in, and one that is new breaks nobody", () => {
    const trained = (input: Json) =>
      documentOf(schemas.Input, schemas.Output, {
        ...color(["red", "blue"]),
        TrainingInput: { type: "object", properties: input },
      });
    const steps = { steps: { type: "integer" } };
    expect(diff(trained(steps))).toMatchObject({ breaking: [], added: ["training input is new"] });
    expect(breakingChanges(trained(steps), trained({}))).toEqual(["training input.steps was removed"]);
  });

  it("is bounded, whatever the schemas are", () => {
    const many = Object.fromEntries(Array.from({ length: 500 }, (_, n) => [`n${n}${"x".repeat(1_000)}`, {}]));
    const { added } = diff(documentOf({ properties: { ...schemas.Input.properties, ...many } }, schemas.Output));
    expect(added.length).toBeLessThan(30);
    expect(Math.max(...added.map((line) => line.length))).toBeLessThan(400);
    expect(added.at(-1)).toMatch(/^and \d+ more$/);
  });
});
