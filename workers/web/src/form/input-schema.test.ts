import { describe, expect, it } from "vitest";
import { component, defaultsOf, inputForm, inputOf } from "./input-schema.ts";

/** What gpu-origin/python/make_schema.py writes. */
function document(
  properties: Record<string, unknown>,
  required: string[] = [],
  components: Record<string, unknown> = {},
) {
  return {
    components: { schemas: { Input: { type: "object", title: "Input", properties, required }, ...components } },
  };
}

describe("a form made from a version's schema", () => {
  it("orders members by x-order, whatever the document's order", () => {
    const { uiSchema } = inputForm(
      document({
        b: { type: "string", "x-order": 1 },
        c: { type: "string", "x-order": 2 },
        a: { type: "string", "x-order": 0 },
      }),
    );
    expect(uiSchema["ui:order"]).toEqual(["a", "b", "c"]);
  });

  it("resolves the choices of an enum component, with the member's own default and description", () => {
    const { schema, uiSchema } = inputForm(
      document(
        {
          size: {
            allOf: [{ $ref: "#/components/schemas/size" }],
            default: 256,
            description: "Edge in pixels",
            "x-order": 0,
          },
        },
        [],
        { size: { title: "size", description: "An enumeration.", type: "integer", enum: [64, 256] } },
      ),
    );
    expect(schema.properties?.["size"]).toMatchObject({
      type: "integer",
      enum: [64, 256],
      default: 256,
      description: "Edge in pixels",
      title: "Size",
    });
    expect(uiSchema["size"]).toEqual({ "ui:widget": "choice" });
  });

  it.each([
    ["a file", { type: "string", format: "uri" }, { "ui:widget": "file" }],
    ["a secret", { type: "string", format: "password", "x-cog-secret": true }, { "ui:widget": "secret" }],
    ["a short text", { type: "string" }, { "ui:widget": "line" }],
    ["a text with a long default", { type: "string", default: "word ".repeat(20) }, { "ui:widget": "longText" }],
    ["a number", { type: "number", minimum: 0, maximum: 1 }, { "ui:widget": "number" }],
    ["a flag", { type: "boolean" }, { "ui:widget": "toggle" }],
    [
      "a list of texts",
      { type: "array", items: { type: "string" } },
      { items: { "ui:widget": "line", "ui:label": false } },
    ],
    ["a list of objects", { type: "array", items: { type: "object" } }, { "ui:field": "json" }],
    ["an object", { type: "object" }, { "ui:field": "json" }],
    ["a union", { anyOf: [{ type: "string" }, { type: "integer" }] }, { "ui:field": "json" }],
  ])("gives %s its control", (_, member, control) => {
    expect(inputForm(document({ it: member })).uiSchema["it"]).toEqual(control);
  });

  it("gives a prompt a box of several lines, unless it may hold only a few characters", () => {
    const { uiSchema } = inputForm(document({ prompt: { type: "string" }, text: { type: "string", maxLength: 20 } }));
    expect(uiSchema["prompt"]).toEqual({ "ui:widget": "longText" });
    expect(uiSchema["text"]).toEqual({ "ui:widget": "line" });
  });

  it("comes out of a reference that leads to itself", () => {
    const looped = document({ a: { $ref: "#/components/schemas/a" } }, [], { a: { $ref: "#/components/schemas/a" } });
    expect(inputForm(looped).schema.properties?.["a"]).toMatchObject({ title: "A" });
  });

  it("is empty for a version without inputs, and has no Output where there is none", () => {
    expect(inputForm({}).schema).toEqual({ type: "object", properties: {}, required: [] });
    expect(component({}, "Output")).toEqual({});
  });
});

describe("the values of a form", () => {
  const { schema } = inputForm(
    document({ a: { type: "string", default: "x" }, b: { type: "integer" }, c: { type: "boolean", default: false } }),
  );

  it("starts with the defaults", () => {
    expect(defaultsOf(schema)).toEqual({ a: "x", c: false });
  });

  it("sends what is set, false and 0 too, and nothing that is empty or unknown", () => {
    expect(inputOf(schema, { a: "y", b: undefined, c: false, stranger: 1 })).toEqual({ a: "y", c: false });
    expect(inputOf(schema, { b: 0, a: null })).toEqual({ b: 0 });
  });
});
