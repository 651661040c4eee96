import { expect, it } from "vitest";
import { limitsOf, sliderStep, wayOfFile } from "./limits.ts";

it.each([
  [{ type: "integer", minimum: 1, maximum: 512 }, 1],
  [{ type: "integer", minimum: 0, maximum: 2_147_483_647 }, null],
  [{ type: "integer", minimum: 0 }, null],
  [{ type: "number", minimum: 0, maximum: 1 }, 0.01],
  [{ type: "number", minimum: 0, maximum: 2 }, 0.01],
  [{ type: "number", minimum: 0, maximum: 30 }, 0.1],
  [{ type: "number", minimum: 1, maximum: 1 }, null],
])("the slider of %j moves by %j", (schema, step) => {
  expect(sliderStep(schema)).toBe(step);
});

it.each([
  [{ type: "integer", minimum: 1, maximum: 512 }, "1 – 512"],
  [{ type: "number", minimum: 0 }, "from 0"],
  [{ type: "string", maxLength: 16_000 }, "up to 16,000 characters"],
  [{ type: "string" }, ""],
])("the note on %j is %j", (schema, note) => {
  expect(limitsOf(schema)).toBe(note);
});

it.each([
  [0, "inline"],
  [1_048_576, "inline"],
  [1_048_577, "upload"],
  [104_857_600, "upload"],
  [104_857_601, "refused"],
])("a file of %d bytes goes by %s", (size, way) => {
  expect(wayOfFile(size)).toBe(way);
});
