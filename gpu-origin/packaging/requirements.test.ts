import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { temporaryFolder } from "../testing/harness.ts";
import { checkCogYaml } from "./cog-yaml.ts";
import { parseRequirements } from "./requirements.ts";
import { readRequirements } from "./requirements-file.ts";

const at = { python: "3.11.4" };

describe("a line of requirements", () => {
  it.each([
    ["numpy", { name: "numpy", specifier: "", extras: [], source: null }],
    ["Foo_Bar.baz [ a , b ] >= 1.0 , < 2", { name: "foo-bar-baz", specifier: ">=1.0,<2", extras: ["a", "b"] }],
    ["torch (==2.1.0)", { name: "torch", specifier: "==2.1.0" }],
    ["torch==2.1.0+cu118 --hash=sha256:00 --hash=sha256:11", { specifier: "==2.1.0+cu118" }],
    ["torch==2.1.0 # the last one", { specifier: "==2.1.0" }],
    ["x @ https://h/x.zip#sha1=1 ; python_version >= '3'", { name: "x", source: "https://h/x.zip#sha1=1" }],
    [
      "./dist/my_pkg-1.2-py3-none-any.whl",
      { name: "my-pkg", specifier: "==1.2", source: "./dist/my_pkg-1.2-py3-none-any.whl" },
    ],
    ["my_pkg-1.2-py3-none-any.whl", { name: "my-pkg", source: "my_pkg-1.2-py3-none-any.whl" }],
    ["https://h/w/a-1-py3-none-any.whl", { name: "a", specifier: "==1" }],
    ["tor\\\nch==2.1.0", { name: "torch", specifier: "==2.1.0" }],
    ["\uFEFFtorch==2.1.0\r\n", { name: "torch", specifier: "==2.1.0" }],
  ])("%j is read", (text, expected) => {
    expect(parseRequirements(text, at).packages).toEqual([expect.objectContaining(expected)]);
  });

  it.each([
    "",
    "# x",
    "-e .",
    "==1",
    "torch==",
    "torch=2",
    "torch >= banana",
    "🤗",
    "./a.tar.gz",
    "git+https://h/x",
    "[a]",
    "--hash",
  ])("%j is left to the installer", (text) => {
    expect(parseRequirements(text, at).packages).toEqual([]);
  });

  it.each([
    ["sys_platform == 'linux'", true],
    ["sys_platform != 'win32' and python_version < '3.12'", true],
    ["python_version < '3.9' or (os_name == 'posix' and python_version >= '3.11')", true],
    ["python_full_version >= '3.11.5'", false],
    ["'linux' in sys_platform", true],
    ["platform_machine not in 'x86_64 AMD64'", false],
    ["extra == 'dev'", false],
    ["python_version ~= '3.10'", true],
    ["python_version > '3.9'", true],
    ["banana", true],
    ["python_version < ", true],
    ["((((", true],
  ])("with the marker %j applies: %s", (marker, isApplied) => {
    expect(parseRequirements(`torch ; ${marker}`, at).packages).toHaveLength(isApplied ? 1 : 0);
  });

  it("of an index or another file is told apart", () => {
    const text =
      "--index-url https://a\n-i https://b\n--extra-index-url=https://c\n-r base.txt\n--constraint=c.txt\n-rmore.txt\n--pre\n";
    expect(parseRequirements(text, at)).toEqual({
      packages: [],
      indexUrls: ["https://a", "https://b", "https://c"],
      includes: [
        { line: 4, path: "base.txt" },
        { line: 5, path: "c.txt" },
        { line: 6, path: "more.txt" },
      ],
    });
  });
});

describe("a requirements file", () => {
  let folder: ReturnType<typeof temporaryFolder>;
  beforeEach(() => {
    folder = temporaryFolder();
  });
  afterEach(() => folder.remove());

  const read = (files: Record<string, string>) => {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder.path, path)), { recursive: true });
      writeFileSync(join(folder.path, path), text);
    }
    const yaml = 'build:\n  python_version: "3.11"\n  python_requirements: r/all.txt\nrun: a.py:B\n';
    const cog = checkCogYaml(yaml).value;
    if (cog === null) throw new Error("not read");
    return readRequirements(folder.path, cog);
  };

  it("is one text with all that it includes", () => {
    expect(
      read({
        "r/all.txt": "a==1\n-r more/b.txt\n-c limits.txt\nz\n",
        "r/more/b.txt": "b\n-r ../c.txt",
        "r/c.txt": "c # why\n",
        "r/limits.txt": "z<3\n",
      }),
    ).toEqual({ requirements: "a==1\nb\nc # why\nz\n", constraints: "z<3\n", faults: [] });
  });

  it("names what is missing, outside of the folder, or without end", () => {
    expect(read({ "r/all.txt": "-r gone.txt\n-r ../../up.txt\n-r /etc/passwd\n-r all.txt\n" }).faults).toEqual(
      expect.arrayContaining([
        { file: "r/gone.txt", line: 1, message: "is missing." },
        { file: "r/all.txt", line: 2, message: "../up.txt must lie in the model's folder." },
        { file: "r/all.txt", line: 3, message: "/etc/passwd must lie in the model's folder." },
        { file: "r/all.txt", line: 4, message: "files include each other too deep." },
      ]),
    );
  });
});
