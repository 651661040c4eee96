/** What `-i key=value` means by the schema, and what outputs look like here. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { inputOf, inputProperties, parseInput } from "./run-inputs.ts";
import { filePaths, fileUrls, isText, outputText } from "./run-outputs.ts";

const openapi = {
  components: {
    schemas: {
      Input: {
        properties: {
          prompt: { type: "string" },
          image: { type: "string", format: "uri" },
          steps: { type: "integer" },
          strict: { type: "boolean" },
          either: { anyOf: [{ type: "string" }, { type: "integer" }] },
          style: { allOf: [{ $ref: "#/components/schemas/style" }] },
          images: { type: "array", items: { type: "string", format: "uri" } },
          words: { type: "array", items: { type: "string" } },
        },
      },
      style: { type: "string", enum: ["oil", "1"] },
      Output: { type: "array", items: { type: "string" }, "x-cog-array-display": "concatenate" },
    },
  },
};
const properties = inputProperties(openapi);

describe("an input", () => {
  it.each([
    ["prompt=a=b", "a=b"],
    ["prompt=", ""],
    ["prompt=42", "42"],
    ["prompt=@ada", "@ada"],
    ["steps=42", 42],
    ["strict=true", true],
    ["either=7", 7],
    ["either=seven", "seven"],
    ["style=1", "1"],
    ["image=https://example.com/a.png", "https://example.com/a.png"],
    ['words=["a","b"]', ["a", "b"]],
  ])("%s", (text, value) => {
    const parsed = parseInput(text, properties);
    expect(parsed.value).toEqual({ kind: "value", value });
  });

  it("is a file where it may be one", () => {
    expect(parseInput("image=@a/b.png", properties).value).toEqual({ kind: "file", path: "a/b.png" });
    expect(parseInput("images=@b.png", properties)).toEqual({
      name: "images",
      value: { kind: "file", path: "b.png" },
      isElement: true,
    });
  });

  it("collects the elements of a list", () => {
    const given = ["words=x", "words=y", "prompt=p"].map((text) => parseInput(text, properties));
    const values = given.map(({ value, ...rest }) => ({ ...rest, value: value.kind === "value" ? value.value : null }));
    expect(inputOf(values)).toEqual({ words: ["x", "y"], prompt: "p" });
  });

  it.each([
    ["prompt", "no key=value"],
    ["=x", "no key=value"],
    ["promt=x", "It takes: prompt, image"],
    ["steps=many", "steps is an integer"],
    ["image=@", "names no file"],
  ])("%s is refused with what to do", (text, message) => {
    expect(() => parseInput(text, properties)).toThrow(message);
  });
});

describe("an output", () => {
  const url = (n: number, name: string): string => `https://c.example/outputs/abc/${n}/${name}?sig=1`;

  it("has its files found at any depth, in order", () => {
    expect(fileUrls({ a: [url(0, "x.png")], b: { c: url(1, "y.png") }, d: "https://c.example/other" })).toEqual([
      url(0, "x.png"),
      url(1, "y.png"),
    ]);
  });

  it("goes to the path that was said, or into the folder under its own names", () => {
    const folder = mkdtempSync(join(tmpdir(), "cogway-run-"));
    expect(filePaths([url(0, "x.png")], "cat.png")).toEqual(["cat.png"]);
    expect(filePaths([url(0, "x.png")], folder)).toEqual([join(folder, "x.png")]);
    expect(filePaths([url(0, "x.png"), url(1, "x.png")], "new")).toEqual(["new/x.png", "new/x-1.png"]);
    // Whatever the platform calls it, it stays in the folder.
    expect(filePaths([url(0, "..%2F..%2Fevil")], folder)).toEqual([join(folder, "evil")]);
    rmSync(folder, { recursive: true });
  });

  it("is text as it is, and else JSON", () => {
    expect(outputText("hi", {})).toBe("hi");
    expect(outputText({ a: 1 }, {})).toBe('{\n  "a": 1\n}');
    expect(outputText(["a", "b"], openapi)).toBe("ab");
    expect(outputText(["a", "b"], {}, 0)).toBe('["a","b"]');
    expect(outputText([url(0, "x.png"), url(1, "y.png")], {})).toBe(`${url(0, "x.png")}\n${url(1, "y.png")}`);
    expect(isText(openapi)).toBe(true);
    expect(isText({})).toBe(false);
  });
});
