import { describe, expect, it } from "vitest";
import { errorSchema, faultsOf } from "./rjsf-validator.ts";
import { validate } from "./validate.ts";

describe("a form's values", () => {
  const schema = {
    type: "object",
    required: ["prompt"],
    properties: {
      prompt: { type: "string", minLength: 1, maxLength: 5 },
      steps: { type: "integer", minimum: 1, maximum: 50 },
      texts: { type: "array", items: { type: "string" }, maxItems: 2 },
      size: { enum: [64, 128], type: "integer" },
      either: { anyOf: [{ type: "string" }, { type: "integer" }] },
    },
  };

  it("fit", () => {
    expect(validate(schema, { prompt: "hello", steps: 3, texts: ["a"], size: 64, either: 4 })).toEqual([]);
  });

  it("show all their faults at once, each at its place", () => {
    expect(validate(schema, { steps: 0.5, texts: ["a", 7, "c"], size: 65, either: true })).toEqual([
      { path: ["prompt"], message: "is needed" },
      { path: ["steps"], message: "must be a whole number" },
      { path: ["texts"], message: "must have at most 2 entries" },
      { path: ["texts", 1], message: "must be a text" },
      { path: ["size"], message: "must be one of 64, 128" },
      { path: ["either"], message: "must be a text or a whole number" },
    ]);
  });

  it("count characters as the model does: an emoji is one", () => {
    expect(validate(schema, { prompt: "😀😀😀😀😀" })).toEqual([]);
    expect(validate(schema, { prompt: "123456" })).toEqual([
      { path: ["prompt"], message: "must have at most 5 characters (it has 6)" },
    ]);
  });

  it.each([
    [{ type: "number", multipleOf: 0.1 }, 0.3, []],
    [{ type: "number", multipleOf: 0.1 }, 0.35, ["must be a multiple of 0.1"]],
    [{ type: "number", exclusiveMinimum: 0 }, 0, ["must be more than 0"]],
    [{ type: "number", maximum: 1 }, 2, ["must be at most 1"]],
    [{ type: "number" }, Number.NaN, ["must be a number"]],
    [{ type: "string", pattern: "^[a-z]+$" }, "A1", ["must match ^[a-z]+$"]],
    // Python's own syntax: the edge decides.
    [{ type: "string", pattern: "(?P<year>\\d{4})" }, "x", []],
  ])("keep %j with %j", (schema, value, messages) => {
    expect(validate(schema, value).map(({ message }) => message)).toEqual(messages);
  });

  it("may leave an optional member null, and may not leave an entry of a list open", () => {
    expect(validate(schema, { prompt: "a", steps: null })).toEqual([]);
    expect(validate(schema, { prompt: "a", texts: ["x", undefined] })).toEqual([
      { path: ["texts", 1], message: "must be filled in" },
    ]);
  });
});

describe("what the edge refuses", () => {
  it("stands at the form's members; what is of none of them is left over", () => {
    const { faults, rest } = faultsOf(
      [
        { type: "number_lte", field: "input.steps", description: "must be at most 50" },
        { type: "invalid_type", field: "input.texts.1", description: "must be a string" },
        { type: "required", field: "input", description: "prompt is required" },
        { type: "required", field: "", description: "version is required" },
      ],
      ["prompt", "steps", "texts"],
    );
    expect(faults).toEqual([
      { path: ["steps"], message: "must be at most 50" },
      { path: ["texts", 1], message: "must be a string" },
      { path: ["prompt"], message: "prompt is required" },
    ]);
    expect(rest.map(({ description }) => description)).toEqual(["version is required"]);
    expect(errorSchema(faults)).toEqual({
      steps: { __errors: ["must be at most 50"] },
      texts: { "1": { __errors: ["must be a string"] } },
      prompt: { __errors: ["prompt is required"] },
    });
  });
});
