import { execFileSync } from "node:child_process";
import { expect, it } from "vitest";
import { LANGUAGES, python, type SnippetRequest, snippet } from "./snippets.ts";

const request: SnippetRequest = {
  origin: "http://127.0.0.1:8787",
  model: "cogway/gemma",
  version: null,
  input: { prompt: 'It\'s a "quote"\n', key: "hunter2", image: `data:image/png;base64,${"A".repeat(1_000)}` },
  secrets: ["key"],
};

it.each(LANGUAGES)("writes no secret and no whole file into %s", (language) => {
  const code = snippet(language, request);
  expect(code).not.toContain("hunter2");
  expect(code).not.toContain("AAAA");
  expect(code).toContain("COGWAY_TOKEN");
});

it("quotes for the shell: what curl would send is the input", () => {
  const code = snippet("curl", request).replace(/^curl -s \S+/, "printf '%s\\n'");
  const sent = execFileSync("sh", ["-c", code], { encoding: "utf8" }).split("-d\n")[1] ?? "";
  expect(JSON.parse(sent)).toEqual({
    input: { ...request.input, key: "<your secret>", image: "<URL of your file, or a data: URI>" },
  });
});

it("names the version where it is not the latest", () => {
  expect(snippet("curl", { ...request, version: "abc" })).toContain('"version": "abc"');
  expect(snippet("python", { ...request, version: "abc" })).toContain('"cogway/gemma:abc"');
});

it("writes values as Python does", () => {
  expect(python({ a: [true, null], b: {} })).toBe(
    '{\n    "a": [\n        True,\n        None,\n    ],\n    "b": {},\n}',
  );
});
