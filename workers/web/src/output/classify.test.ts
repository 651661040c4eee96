import { describe, expect, it } from "vitest";
import { classify, fileName, isFileUrl, mediaOf } from "./classify.ts";

const OUTPUT = "https://edge.example/outputs/abc/0";

describe("an output", () => {
  it.each([
    ["nothing", null, "nothing"],
    ["an empty list", [], "nothing"],
    ["a text", "hello", "text"],
    ["a text that names a page", "https://example.com/about", "text"],
    ["a number", 4, "number"],
    ["a flag", false, "boolean"],
    ["a served file", `${OUTPUT}/out.bin?s=x`, "file"],
    ["a data URI", "data:image/png;base64,AAAA", "file"],
    ["files", [`${OUTPUT}/a.png?s=x`, `${OUTPUT}/b.png?s=y`], "files"],
    ["lines", ["one", "two"], "texts"],
    ["a vector", [0.1, 0.2, 0.3], "series"],
    [
      "a matrix",
      [
        [1, 2],
        [3, 4],
      ],
      "series",
    ],
    [
      "named vectors",
      [
        { text: "a", vector: [1, 2] },
        { text: "b", vector: [3, 4] },
      ],
      "series",
    ],
    ["scores by name", { cat: 0.9, dog: 0.1 }, "scores"],
    [
      "labels with scores",
      [
        { label: "cat", score: 0.2 },
        { label: "dog", score: 0.8 },
      ],
      "scores",
    ],
    [
      "rows",
      [
        { start: 0, end: 1.5, text: "Hi" },
        { start: 1.5, end: 2, text: "there" },
      ],
      "table",
    ],
    ["rows with boxes", [{ class: "face", score: 0.7, box: [1, 2, 3, 4] }], "table"],
    ["an object", { text: "a", words: [] }, "fields"],
    ["a mixed list", [1, "a", { b: 2 }], "list"],
  ])("that is %s", (_, value, kind) => {
    expect(classify(value).kind).toBe(kind);
  });

  it("joins the pieces of a text where the schema says so", () => {
    expect(classify(["Once ", "upon"], { type: "array", "x-cog-array-display": "concatenate" })).toEqual({
      kind: "text",
      text: "Once upon",
    });
  });

  it("names vectors by their text, else by what else is there", () => {
    expect(
      classify([
        { text: "a", vector: [1, 2] },
        { index: 1, embedding: [3, 4] },
      ]),
    ).toEqual({
      kind: "series",
      series: [
        { label: "a", values: [1, 2] },
        { label: "Index 1", values: [3, 4] },
      ],
    });
  });

  it("puts the highest score first", () => {
    expect(
      classify([
        { label: "a", score: 0.1 },
        { label: "b", score: 0.9 },
      ]),
    ).toMatchObject({ scores: [{ label: "b" }, { label: "a" }] });
  });

  it("is a file wherever the schema says that it is one", () => {
    expect(classify("https://example.com/thing", { type: "string", format: "uri" })).toMatchObject({
      kind: "file",
      media: "other",
    });
  });
});

describe("a file's URL", () => {
  it.each([
    [`${OUTPUT}/out.PNG?s=a.b`, "image"],
    [`${OUTPUT}/speech.wav?s=x`, "audio"],
    [`${OUTPUT}/film.mp4`, "video"],
    [`${OUTPUT}/model.gguf`, "other"],
    ["data:audio/wav;base64,AA", "audio"],
    ["data:application/json,{}", "other"],
  ])("%s is %s", (url, media) => {
    expect(mediaOf(url)).toBe(media);
  });

  it("is told from text, and never runs as a script", () => {
    expect(isFileUrl("see https://example.com/a.png")).toBe(false);
    expect(isFileUrl("javascript:alert(1)")).toBe(false);
    expect(isFileUrl("https://example.com/a.png")).toBe(true);
  });

  it("gives the file's name", () => {
    expect(fileName(`${OUTPUT}/a%20b.png?s=x`)).toBe("a b.png");
    expect(fileName("data:image/png;base64,AA")).toBeNull();
  });
});
