/**
 * The schema that Cog's tool makes (docs: its pkg/schema), form by form, out of the types of a really imported module. One process takes the forms of inputs
 * and outputs; what needs the program as it is called starts it.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Environments } from "../environments.ts";
import { TEST_CACHE, temporaryFolder } from "../testing/harness.ts";

const MAKE_SCHEMA = fileURLToPath(new URL("./make_schema.py", import.meta.url));

const PREAMBLE = `
import collections.abc, dataclasses, datetime, enum, pathlib, typing
from dataclasses import dataclass
from typing import *
import cog, pydantic
from cog import AsyncConcatenateIterator, BaseModel, BaseRunner, ConcatenateIterator, File, Input, Opaque, Path, Secret

class Colour(str, enum.Enum):
    RED = "red"
    BLUE = "blue"

class Box(BaseModel):
    label: str
    note: Optional[str]
    score: float = 0.5

@dataclass
class Point:
    x: int
    y: int = 0

class Pydantic(pydantic.BaseModel):
    text: str
    parts: list[int] = []
    more: Optional[Point] = None

class Row(TypedDict):
    a: int
    b: NotRequired[str]

class Tree(BaseModel):
    children: list["Tree"]

def helper(default): return Input(description="made elsewhere", default=default)
SIZES = {"small": 1, "large": 2}
`;

/** Reads [id, code] pairs, imports each as a module and prints what make_schema.py makes of it. */
const HARNESS = `
import json, os, sys
sys.path[:0] = [os.path.dirname(sys.argv[1]), os.getcwd()]
import make_schema
make_schema.note_marks()
results = {}
for index, (key, code) in enumerate(json.load(sys.stdin)):
    with open(f"case_{index}.py", "w") as file:
        file.write(code)
    try:
        (schema, enums, output), _ = make_schema.inspect_reference(f"case_{index}.py:Runner", "Input", [])
        results[key] = {"input": schema, "enums": enums, "output": output}
    except make_schema.BrokenModel as problem:
        results[key] = {"fault": str(problem).partition(": ")[2]}
print(json.dumps(results))
`;

const uri = { type: "string", format: "uri" };
const secret = { type: "string", format: "password", writeOnly: true, "x-cog-secret": true };
const choice = { allOf: [{ $ref: "#/components/schemas/x" }] };

/** The parameter `x`, its property besides title and x-order, and whether it is required. */
const INPUTS: [string, Record<string, unknown>, boolean][] = [
  ["x: str", { type: "string" }, true],
  ["x: int", { type: "integer" }, true],
  ["x: float", { type: "number" }, true],
  ["x: bool", { type: "boolean" }, true],
  ["x: Path", uri, true],
  ["x: File", uri, true],
  ["x: pathlib.Path", uri, true],
  ["x: Secret", secret, true],
  ["x: dict", { type: "object" }, true],
  ["x: Dict[str, int]", { type: "object" }, true],
  ["x: Row", { type: "object" }, true],
  ["x: Any", { type: "object" }, true],
  ["x: Annotated[Point, Opaque]", { type: "object" }, true],
  ["x: Annotated[list[Point], Opaque]", { type: "array", items: { type: "object" } }, true],
  ["x: Annotated[Optional[Point], Opaque]", { type: "object", nullable: true }, false],
  ["x: Annotated[str, 'a note']", { type: "string" }, true],
  ["x: list", { type: "array", items: { type: "object" } }, true],
  ["x: list[str]", { type: "array", items: { type: "string" } }, true],
  ["x: List[Path]", { type: "array", items: uri }, true],
  ["x: list[dict]", { type: "array", items: { type: "object" } }, true],
  ["x: list[Any]", { type: "array", items: { type: "object" } }, true],
  ["x: list[Annotated[Point, Opaque]]", { type: "array", items: { type: "object" } }, true],
  ["x: Optional[str]", { type: "string", nullable: true }, false],
  ["x: int | None", { type: "integer", nullable: true }, false],
  ["x: Optional[list[Path]]", { type: "array", items: uri, nullable: true }, false],
  ["x: Optional[dict]", { type: "object", nullable: true }, false],
  ["x: Optional[Secret]", { ...secret, nullable: true }, false],
  ["x: str | int", { anyOf: [{ type: "string" }, { type: "integer" }] }, true],
  ["x: Union[float, bool, dict]", { anyOf: [{ type: "number" }, { type: "boolean" }, { type: "object" }] }, true],
  [
    "x: str | list[str] = 'a'",
    { anyOf: [{ type: "string" }, { type: "array", items: { type: "string" } }], default: "a" },
    false,
  ],
  ["x: str | int | None", { anyOf: [{ type: "string" }, { type: "integer" }], nullable: true }, true],
  [
    "x: str | int | None = None",
    { anyOf: [{ type: "string" }, { type: "integer" }], nullable: true, default: null },
    false,
  ],
  ["x: Literal['a', 'b']", choice, true],
  ["x: Literal[1, 2] = 2", { ...choice, default: 2 }, false],
  ["x: Optional[Literal['a', 'b']] = None", { ...choice, nullable: true, default: null }, false],
  ["x: str = Input(choices=['a', 'b'])", choice, true],
  [
    "x: str = Input(choices=list(SIZES), default='small', description='how large')",
    { ...choice, default: "small", description: "how large" },
    false,
  ],
  ["x: int = Input(choices=SIZES.values())", choice, true],
  ["x: str = Input(choices=list(Colour), default=Colour.RED)", { ...choice, default: "red" }, false],
  ["x: str = 'hi'", { type: "string", default: "hi" }, false],
  ["x: str = Input(default='hi', description='d')", { type: "string", default: "hi", description: "d" }, false],
  ["x: str = Input()", { type: "string" }, true],
  ["x: int = Input(default=None)", { type: "integer" }, true],
  ["x: int = None", { type: "integer" }, true],
  ["x: Optional[int] = None", { type: "integer", nullable: true, default: null }, false],
  ["x: Optional[int] = Input(default=None)", { type: "integer", nullable: true, default: null }, false],
  ["x: Optional[int] = Input(description='d')", { type: "integer", nullable: true, description: "d" }, false],
  ["x: Secret = Input(default=None)", { ...secret, nullable: true, default: null }, false],
  ["x: Secret = Input(default=Secret('never shown'))", { ...secret, nullable: true }, false],
  ["x: Secret = Input(description='d')", { ...secret, description: "d" }, true],
  ["x: int = Input(default=5, ge=0, le=10)", { type: "integer", default: 5, minimum: 0, maximum: 10 }, false],
  ["x: float = Input(ge=0.5)", { type: "number", minimum: 0.5 }, true],
  ["x: float = 1", { type: "number", default: 1 }, false],
  ["x: float = float('inf')", { type: "number" }, false],
  [
    "x: str = Input(min_length=1, max_length=9, regex='^a')",
    { type: "string", minLength: 1, maxLength: 9, pattern: "^a" },
    true,
  ],
  ["x: str = Input(deprecated=True)", { type: "string", deprecated: true }, true],
  ["x: Path = Input(accept='image/*')", { ...uri, "x-cog-accept": "image/*" }, true],
  ["x: Path = pathlib.Path('a.png')", { ...uri, default: "a.png" }, false],
  [
    "x: list[int] = Input(default=[1, 2], ge=0)",
    { type: "array", items: { type: "integer" }, default: [1, 2], minimum: 0 },
    false,
  ],
  ["x: dict = Input(default={'a': 1})", { type: "object", default: { a: 1 } }, false],
  ["x: str = helper('b')", { type: "string", default: "b", description: "made elsewhere" }, false],
  [
    "x: Optional[str] = helper(None)",
    { type: "string", nullable: true, default: null, description: "made elsewhere" },
    false,
  ],
  ["x: 'str'", { type: "string" }, true],
];

const box = {
  type: "object",
  properties: {
    label: { title: "Label", type: "string" },
    score: { title: "Score", type: "number" },
    note: { title: "Note", type: "string", nullable: true },
  },
  required: ["label"],
};
const point = {
  type: "object",
  properties: { x: { title: "X", type: "integer" }, y: { title: "Y", type: "integer" } },
  required: ["x"],
};
const iterator = { "x-cog-array-type": "iterator" };
const text = { ...iterator, "x-cog-array-display": "concatenate", type: "array", items: { type: "string" } };

/** The return annotation, and its component besides the title. `async` begins an async form. */
const OUTPUTS: [string, Record<string, unknown>][] = [
  ["str", { type: "string" }],
  ["int", { type: "integer" }],
  ["float", { type: "number" }],
  ["bool", { type: "boolean" }],
  ["Path", uri],
  ["File", uri],
  ["Any", { type: "object" }],
  ["dict", { type: "object" }],
  ["dict[str, Any]", { type: "object" }],
  ["dict[str, list[int]]", { type: "object", additionalProperties: { type: "array", items: { type: "integer" } } }],
  ["list", { type: "array", items: { type: "object" } }],
  ["list[str]", { type: "array", items: { type: "string" } }],
  ["List[Path]", { type: "array", items: uri }],
  ["list[list[float]]", { type: "array", items: { type: "array", items: { type: "number" } } }],
  ["list[Box]", { type: "array", items: box }],
  ["Annotated[Point, Opaque]", { type: "object" }],
  ["Iterator[str]", { type: "array", items: { type: "string" }, ...iterator }],
  ["collections.abc.Iterator[Path]", { type: "array", items: uri, ...iterator }],
  ["Iterator[Box]", { type: "array", items: box, ...iterator }],
  ["ConcatenateIterator[str]", text],
  ["async str", { type: "string" }],
  ["async AsyncIterator[Path]", { type: "array", items: uri, ...iterator }],
  ["async AsyncConcatenateIterator[str]", text],
  ["Box", box],
  ["Point", point],
  [
    "Pydantic",
    {
      type: "object",
      properties: {
        text: { title: "Text", type: "string" },
        parts: { title: "Parts", type: "array", items: { type: "integer" } },
        more: { title: "More", ...point, nullable: true },
      },
      required: ["text"],
    },
  ],
  [
    "Row",
    {
      type: "object",
      properties: { a: { title: "A", type: "integer" }, b: { title: "B", type: "string" } },
      required: ["a"],
    },
  ],
  [
    "Tree",
    {
      type: "object",
      properties: { children: { title: "Children", type: "array", items: { type: "object" } } },
      required: ["children"],
    },
  ],
];

/** What Cog refuses: the signature after `def run(self, `, and words of the fault. */
const REFUSED: [string, string][] = [
  ["x) -> str", "run(): parameter x has no type; write it as x: str"],
  ["x: str)", "run(): must say what it returns"],
  ["x: str) -> None", "run(): must say what it returns"],
  ["*x: str) -> str", "parameter x: *args, **kwargs and keyword-only parameters are no inputs"],
  ["*, x: str) -> str", "parameter x: *args, **kwargs"],
  ["x: bytes) -> str", "parameter x: type bytes has no schema; use cog.Path, and read or write the file"],
  ["x: tuple[int, int]) -> str", "parameter x: type tuple[int, int] has no schema; use list"],
  ["x: set) -> str", "parameter x: type set has no schema; use list"],
  ["x: Colour) -> str", "parameter x: type Colour has no schema; use Literal['red', 'blue']"],
  ["x: Box) -> str", "parameter x: type Box has no schema; use dict, or an input for each of its members"],
  ["x: datetime.datetime) -> str", "parameter x: type datetime has no schema; use str"],
  [
    "x: list[list[int]]) -> str",
    "parameter x: type list[list[int]] is nested too deep for an input; use list, or dict",
  ],
  [
    "x: Path | str) -> str",
    "parameter x: Path cannot be one of several types; only str, int, float, bool, dict and list can",
  ],
  ["x: Literal['a', 1]) -> str", "parameter x: type Literal['a', 1] must hold texts alone, or whole numbers alone"],
  ["x: 'Nowhere') -> str", "run(): the types of Runner.run cannot be resolved: name 'Nowhere' is not defined"],
  ["x: str = Input(ge=1)) -> str", "parameter x: ge and le are for int and float"],
  ["x: int = Input(max_length=1)) -> str", "parameter x: min_length, max_length and regex are for str"],
  ["x: int = Input(choices=['a'])) -> str", "parameter x: choices must be a list of int"],
  ["x: int = Input(default=9, le=5)) -> str", "parameter x: the default 9 is outside of its limits"],
  ["x: str = Input(default='ab', regex='b')) -> str", "parameter x: the default 'ab' does not match its regex"],
  [
    "a: bytes, b) -> tuple",
    "parameter a: type bytes has no schema; use cog.Path, and read or write the file; parameter b has no type; write it as b: str, or what it is; its output: type tuple has no schema",
  ],
  ["x: str) -> Optional[str]", "its output: Optional[str]: an output is of one type and never null"],
  ["x: str) -> str | int", "its output: str | int: an output is of one type and never null"],
  [
    "x: str) -> tuple[str, int]",
    "its output: type tuple[str, int] has no schema; use list, or a cog.BaseModel with named members",
  ],
  ["x: str) -> bytes", "its output: type bytes has no schema; use cog.Path"],
  ["x: str) -> Generator[str, None, None]", "use Iterator[...], or ConcatenateIterator[str] for text"],
  ["x: str) -> Iterator", "its output: Iterator needs the type of its elements"],
  ["x: str) -> ConcatenateIterator[int]", "joins texts: its elements must be str; use Iterator for other types"],
  ["x: str) -> list[set]", "its output: type set has no schema"],
];

interface CaseResult {
  input: { properties: Record<string, Record<string, unknown>>; required?: string[] };
  enums: Record<string, unknown>;
  output: Record<string, unknown>;
  fault?: string;
}

const folder = temporaryFolder();
let python = "";
let results: Record<string, CaseResult> = {};

function runner(signature: string, keyword = "def"): string {
  return `${PREAMBLE}\nclass Runner(BaseRunner):\n    ${keyword} run(self, ${signature}: ...\n`;
}

function outputCase(annotation: string): string {
  const isAsync = annotation.startsWith("async ");
  return runner(`x: str) -> ${annotation.replace("async ", "")}`, isAsync ? "async def" : "def");
}

beforeAll(async () => {
  const spec = { python_version: null, requirements: "pydantic==2.14.4", run: [] };
  const made = await new Environments(TEST_CACHE, process.env).ensure(spec, folder.path);
  if (made.kind !== "ready") throw new Error(JSON.stringify(made));
  python = join(made.binDir, "python");
  const cases = [
    ...INPUTS.map(([parameter]) => [parameter, runner(`${parameter}) -> str`)]),
    ...OUTPUTS.map(([annotation]) => [`-> ${annotation}`, outputCase(annotation)]),
    ...REFUSED.map(([signature]) => [signature, runner(signature)]),
  ];
  const { stdout } = await execa(python, ["-c", HARNESS, MAKE_SCHEMA], {
    cwd: folder.path,
    input: JSON.stringify(cases),
  });
  results = JSON.parse(stdout.split("\n").at(-1) ?? "");
}, 240_000);
afterAll(() => folder.remove());

describe("the schema of one form", () => {
  it.each(INPUTS)("%s", (parameter, expected, isRequired) => {
    const result = results[parameter];
    const title = "allOf" in expected ? {} : { title: "X" };
    expect(result?.fault).toBeUndefined();
    expect(result?.input.properties).toEqual({ x: { ...title, ...expected, "x-order": 0 } });
    expect(result?.input.required).toEqual(isRequired ? ["x"] : undefined);
    expect(Object.keys(result?.enums ?? {})).toEqual("allOf" in expected ? ["x"] : []);
  });

  it.each(OUTPUTS)("-> %s", (annotation, expected) => {
    expect(results[`-> ${annotation}`]).toMatchObject({ output: { title: "Output", ...expected } });
    expect(results[`-> ${annotation}`]?.output).toEqual({ title: "Output", ...expected });
  });

  it.each(REFUSED)("(%s is refused: %s", (signature, words) => {
    expect(results[signature]?.fault).toContain(words);
    expect(results[signature]?.fault).not.toContain("\n");
  });

  it("of choices is a component with their values and type", () => {
    const enumeration = (values: unknown[], type: string) => ({
      x: { title: "x", description: "An enumeration.", enum: values, type },
    });
    expect(results["x: Literal[1, 2] = 2"]?.enums).toEqual(enumeration([1, 2], "integer"));
    expect(results["x: str = Input(choices=list(Colour), default=Colour.RED)"]?.enums).toEqual(
      enumeration(["red", "blue"], "string"),
    );
  });
});

describe("make_schema.py", () => {
  let count = 0;
  /** Runs the program in a folder of these files. */
  const make = async (files: Record<string, string>, args: string[] = []) => {
    const cwd = join(folder.path, `model-${count++}`);
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(cwd, path)), { recursive: true });
      writeFileSync(join(cwd, path), text);
    }
    const out = join(cwd, ".cog", "openapi_schema.json");
    const ref = args.includes("--ref") ? [] : ["--ref", "predict.py:Runner"];
    const { exitCode, stdout, stderr } = await execa(python, [MAKE_SCHEMA, ...ref, "--out", out, ...args], {
      cwd,
      reject: false,
      timeout: 60_000,
    });
    return {
      exitCode,
      stdout,
      out,
      last: stderr.trim().split("\n").at(-1) ?? "",
      facts: exitCode === 0 ? JSON.parse(stdout) : null,
    };
  };
  const CODE = "from cog import BaseRunner\nclass Runner(BaseRunner):\n    def run(self, text: str) -> str: ...\n";

  it("writes the whole document as Cog's tool makes it", async () => {
    const code = `from cog import BaseRunner, Input, Path, streaming, concurrent, ConcatenateIterator
class Runner(BaseRunner):
    def setup(self): raise SystemExit("weights are never loaded")
    @streaming
    def run(self, max_tokens: int = Input(default=5), style: str = Input(choices=["a", "b"]), prompt: str = "x") -> ConcatenateIterator[str]: ...
`;
    const { facts, out } = await make({ "predict.py": code });
    expect(facts).toMatchObject({
      streaming: true,
      concurrency: null,
      is_async: false,
      output_is_file_list: false,
      warnings: [],
    });
    expect(JSON.parse(readFileSync(out, "utf8"))).toEqual(facts.schema);
    const { schema } = facts;
    expect(schema).toMatchObject({ openapi: "3.0.2", info: { title: "Cog", version: "0.23.1" } });
    expect(Object.keys(schema.paths)).toEqual([
      "/",
      "/health-check",
      "/predictions",
      "/predictions/{prediction_id}/cancel",
    ]);
    expect(schema.paths["/predictions"].post["x-cog-streaming"]).toBe(true);
    expect(Object.keys(schema.components.schemas)).toEqual([
      "Input",
      "Output",
      "style",
      "PredictionRequest",
      "PredictionResponse",
      "Status",
      "HTTPValidationError",
      "ValidationError",
    ]);
    expect(schema.components.schemas.Input).toEqual({
      title: "Input",
      type: "object",
      properties: {
        max_tokens: { title: "Max Tokens", type: "integer", default: 5, "x-order": 0 },
        style: { allOf: [{ $ref: "#/components/schemas/style" }], "x-order": 1 },
        prompt: { title: "Prompt", type: "string", default: "x", "x-order": 2 },
      },
      required: ["style"],
    });
    expect(Object.keys(schema.components.schemas.Input.properties)).toEqual(["max_tokens", "style", "prompt"]);
  });

  it("adds a trainer's parts; an input of both with other choices keeps its own", async () => {
    const files = {
      "predict.py": `from cog import BaseRunner, Input\nclass Runner(BaseRunner):\n    def run(self, kind: str = Input(choices=["a", "b"])) -> str: ...\n`,
      "train.py": `from cog import BaseModel, Input, Path\nclass TrainingOutput(BaseModel):\n    weights: Path\ndef train(data: Path, kind: str = Input(choices=["c", "d"], default="c")) -> TrainingOutput: ...\n`,
    };
    const { facts } = await make(files, ["--train-ref", "train.py:train"]);
    const { schemas } = facts.schema.components;
    expect(schemas.kind.enum).toEqual(["a", "b"]);
    expect(schemas.TrainingInput).toEqual({
      title: "TrainingInput",
      type: "object",
      properties: {
        data: { title: "Data", ...uri, "x-order": 0 },
        kind: { title: "Kind", type: "string", enum: ["c", "d"], default: "c", "x-order": 1 },
      },
      required: ["data"],
    });
    expect(schemas.TrainingOutput).toEqual({
      title: "Output",
      type: "object",
      properties: { weights: { title: "Weights", ...uri } },
      required: ["weights"],
    });
    expect(Object.keys(facts.schema.paths).slice(-2)).toEqual(["/trainings", "/trainings/{training_id}/cancel"]);
  });

  it.each([
    ["a function", "def Runner(x: str) -> list: ...\n", { is_async: false }],
    [
      "an older class",
      "from cog import BasePredictor\nclass Runner(BasePredictor):\n    def predict(self, x: str) -> str: ...\n",
      { warnings: ["predict.py: Runner.predict() is deprecated; name it run()."] },
    ],
    ["a run that a parent has", "class Base:\n    def run(self, x: str) -> str: ...\nclass Runner(Base): ...\n", {}],
    [
      "slots",
      "import cog\nclass Runner:\n    @cog.concurrent(max=8)\n    async def run(self) -> str: ...\n",
      { concurrency: 8, is_async: true },
    ],
    [
      "a list of files",
      "from cog import Path\nclass Runner:\n    def run(self) -> list[Path]: ...\n",
      { output_is_file_list: true },
    ],
    [
      "annotations that are texts",
      "from __future__ import annotations\nfrom cog import Path\nclass Runner:\n    def run(self, x: Path) -> Path: ...\n",
      {},
    ],
    [
      "a decorated run",
      "import functools\ndef log(f):\n    @functools.wraps(f)\n    def inner(*a, **k): return f(*a, **k)\n    return inner\nclass Runner:\n    @log\n    def run(self, x: str) -> str: ...\n",
      {},
    ],
    ["a module that prints", `import os\nprint("{}")\nos.write(1, b"noise\\n")\n${CODE}`, {}],
    [
      "a thread that never ends",
      `import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n${CODE}`,
      {},
    ],
  ])("takes %s", async (_what, code, expected) => {
    expect((await make({ "predict.py": code })).facts).toMatchObject(expected);
  });

  it.each([
    ["a syntax error", { "predict.py": "class Runner:\n  def run(self -> str:\n" }, /^predict\.py:2:\d+: /],
    [
      "a syntax error elsewhere",
      { "predict.py": `import lib.helper\n${CODE}`, "lib/helper.py": "x = = 1\n" },
      /^lib\/helper\.py:1:\d+: invalid syntax/,
    ],
    [
      "a package that is not installed",
      { "predict.py": `import os\nimport cv2\n${CODE}` },
      "predict.py:2: no module named cv2; add opencv-python-headless to the requirements",
    ],
    [
      "an import that fails",
      {
        "predict.py": `import helper\n${CODE}`,
        "helper.py": "def f():\n    raise OSError('libGL.so.1: cannot open\\nshared object')\nf()\n",
      },
      "helper.py:2: importing it fails: OSError: libGL.so.1: cannot open shared object",
    ],
    [
      "a missing class",
      { "predict.py": CODE.replace("Runner(", "Runer(") },
      "predict.py has no Runner; did you mean predict.py:Runer?",
    ],
    ["a missing file", { "other.py": "" }, "predict.py: no such file (named by `predict.py:Runner` in cog.yaml)"],
    [
      "no run",
      { "predict.py": "from cog import BaseRunner\nclass Runner(BaseRunner): ...\n" },
      "predict.py: Runner has no run() method",
    ],
    [
      "run and predict",
      { "predict.py": "class Runner:\n    def run(self) -> str: ...\n    def predict(self) -> str: ...\n" },
      "predict.py: Runner has run() and predict(); keep run()",
    ],
    ["a value", { "predict.py": "Runner = 5\n" }, "predict.py: 5 is neither a class nor a function"],
    [
      "a setup that wants more",
      { "predict.py": `${CODE}    def setup(self, device): ...\n` },
      "predict.py: setup() is called with weights alone; it must not need device",
    ],
    [
      "a type",
      { "predict.py": CODE.replace("text: str", "image: bytes") },
      "predict.py: run(): parameter image: type bytes has no schema; use cog.Path, and read or write the file.",
    ],
    [
      "sys.exit",
      { "predict.py": "import sys\nsys.exit(3)\n" },
      "predict.py:2: the module calls sys.exit(3) when it is imported",
    ],
    [
      "os._exit",
      { "predict.py": "import os\nos._exit(3)\n" },
      "predict.py:Runner: importing it ended the process (exit code 3)",
    ],
    [
      "a crash",
      { "predict.py": "import os\nos.abort()\n" },
      /^predict\.py:Runner: importing it crashed Python \(SIGABRT\)/,
    ],
    [
      "endless recursion",
      { "predict.py": "def f(): f()\nf()\n" },
      /^predict\.py:1: importing it fails: RecursionError/,
    ],
  ])("says in one line what is wrong: %s", async (_what, files, expected) => {
    const { exitCode, stdout, last } = await make(files);
    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: "" });
    expect(last).toMatch(expected);
  });

  it("tells a module of Python's own name apart", async () => {
    const { last } = await make({ "json.py": CODE }, ["--ref", "json.py:Runner"]);
    expect(last).toBe("json.py: Python has a module json of its own; give the file another name");
  });

  it.each([
    ["that sleeps", "import time\ntime.sleep(3600)\n"],
    [
      "that ignores signals",
      "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: time.sleep(1)\n",
    ],
  ])("ends a module %s in time", async (_what, code) => {
    const { last } = await make({ "predict.py": `${code}${CODE}` }, ["--timeout", "1"]);
    expect(last).toBe(
      "predict.py:Runner: importing it took longer than 1 s; move slow work from module level into setup()",
    );
  });

  it("ends a module that takes more memory than its bound", async () => {
    const { last } = await make({ "predict.py": `x = bytearray(2 * 1024 ** 3)\n${CODE}` }, ["--memory-mb", "512"]);
    expect(last).toBe(
      "predict.py:1: importing it needs more than 512 MB of memory; load weights in setup(), not at module level",
    );
  });
});
