/** From a folder to a version that runs, and back: the command line over a started system, as an author uses it. */
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Cli } from "./lib/cli.ts";
import { killHard, processTree } from "./lib/processes.ts";
import { modelFolder, System, temporaryFolder } from "./lib/system.ts";
import { waitFor } from "./lib/wait.ts";

let system: System;
let home: string;
let cli: Cli;
beforeAll(async () => {
  system = await System.start({ models: ["tokens", "files"] });
  home = temporaryFolder();
  cli = new Cli(home);
});
afterAll(async () => {
  await system?.stop();
  if (home !== undefined) rmSync(home, { recursive: true, force: true });
});

/** A line of `push --json`. */
interface PushEvent {
  event: string;
  version?: string;
  layers?: number;
  layers_sent?: number;
  bytes_sent?: number;
  schema_diff?: { breaking: string[]; added: string[]; changed: string[]; previous_version: string | null } | null;
  test_prediction?: { status: string; output: unknown } | null;
  url?: string;
  curl?: string;
}

/** One message, no stack, and nothing beside it. */
function expectOneMessage(stderr: string, ...texts: (string | RegExp)[]): void {
  expect(stderr.match(/^error /gm)).toHaveLength(1);
  expect(stderr).not.toMatch(/^ {4}at /m);
  for (const text of texts) expect(stderr).toMatch(text);
}

/** A model of its own in a folder of its own. */
function newModel(name: string, files: Record<string, string | Buffer> = {}): string {
  const folder = join(home, name);
  cpSync(modelFolder("noop"), folder, { recursive: true });
  writeFileSync(join(folder, "example.json"), '{ "text": "ab", "times": 2 }');
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(folder, path, ".."), { recursive: true });
    writeFileSync(join(folder, path), content);
  }
  return folder;
}

function edit(path: string, from: string, to: string): void {
  const text = readFileSync(path, "utf8");
  if (!text.includes(from)) throw new Error(`${path} has no ${from}`);
  writeFileSync(path, text.replace(from, to));
}

async function push(folder: string, model: string, ...flags: string[]): Promise<PushEvent> {
  const events = await cli.json<PushEvent>(["push", folder, model, ...flags]);
  const done = events.at(-1);
  if (done?.event !== "done") throw new Error(JSON.stringify(events));
  return done;
}

test("nobody is logged in, and the message says how", async () => {
  const { code, stdout, stderr } = await cli.run(["whoami"]);
  expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
  expectOneMessage(stderr, "cogway login");
});

test("login, whoami", async () => {
  const stdout = await cli.ok(["login", "--url", system.url, "--token-stdin"], { stdin: `${system.api.token}\n` });
  expect(stdout).toContain(`Logged in to ${system.url} as cogway`);
  expect(await cli.ok(["whoami"])).toBe(`cogway at ${system.url}\n`);
});

describe.sequential("a model", () => {
  const MODEL = "cogway/pushed";
  let folder: string;
  let first: PushEvent;
  let second: PushEvent;
  beforeAll(() => {
    folder = newModel("pushed", {
      "weights/a.bin": Buffer.alloc(3_000_000, 1),
      "weights/b.bin": Buffer.alloc(2_000_000, 2),
    });
  });

  test("passes the check, is pushed, and has run its example", async () => {
    expect(await cli.ok(["check", folder])).toContain("has no faults");
    first = await push(folder, MODEL);
    expect(first).toMatchObject({
      layers: 3,
      layers_sent: 3,
      test_prediction: { status: "succeeded", output: "abab" },
    });
    expect(first.version).toMatch(/^[0-9a-f]{64}$/);
    expect(first.curl).toContain(`${system.url}/v1/models/${MODEL}/predictions`);
  });

  test("pushed again as it is, it is the same version and sends nothing", async () => {
    expect(await push(folder, MODEL)).toMatchObject({ version: first.version, layers_sent: 0, bytes_sent: 0 });
  });

  test("a change of one line is one small layer, and its schema's change is told", async () => {
    edit(join(folder, "predict.py"), "note: str | None = None)", "note: str | None = None, loud: bool = False)");
    edit(join(folder, "predict.py"), "return text * times", "return (text.upper() if loud else text) * times");
    second = await push(folder, MODEL);
    expect(second).toMatchObject({ layers: 3, layers_sent: 1 });
    expect(second.bytes_sent).toBeLessThan(20_000);
    expect(second.version).not.toBe(first.version);
    expect(second.schema_diff).toMatchObject({
      breaking: [],
      added: [expect.stringContaining("input.loud is new")],
      previous_version: first.version,
    });
  });

  test("its versions are listed and compared", async () => {
    const lines = (await cli.ok(["versions", MODEL])).trimEnd().split("\n");
    expect(lines).toHaveLength(2);
    expect(lines[0]).toMatch(new RegExp(`^${second.version} .*latest$`));
    const [diff] = await cli.json<object>(["versions", "diff", MODEL, `${first.version?.slice(0, 8)}`]);
    expect(diff).toMatchObject({ before: first.version, after: second.version, breaking: [] });
    expect(await cli.ok(["versions", "diff", MODEL])).toContain("input.loud is new");
  });

  test("it runs, at its latest version and at an older one", async () => {
    expect(await cli.ok(["run", MODEL, "-i", "text=ab", "-i", "loud=true"])).toBe("AB\n");
    expect(await cli.ok(["run", `${MODEL}:${first.version?.slice(0, 12)}`, "-i", "text=ab", "-i", "times=3"])).toBe(
      "ababab\n",
    );
    const old = await cli.run(["run", `${MODEL}:${first.version}`, "-i", "loud=true"]);
    expect(old.code).toBe(1);
    expectOneMessage(old.stderr, /no input "loud".*text/);
  });

  test("it goes back to the version before, and forth again", async () => {
    expect(await cli.ok(["rollback", MODEL])).toContain(`${MODEL} is at ${first.version} again`);
    const { code } = await cli.run(["run", MODEL, "-i", "loud=true"]);
    expect(code).toBe(1);
    await cli.ok(["rollback", MODEL, `${second.version}`]);
    expect(await cli.ok(["run", MODEL, "-i", "text=x", "-i", "loud=true"])).toBe("X\n");
  });

  test("the log of its last build is kept", async () => {
    const stdout = await cli.ok(["logs", MODEL]);
    expect(stdout).toMatch(new RegExp(`succeeded: ${second.version}\nInstance \\w+ is `));
    const [{ builds } = { builds: [] }] = await cli.json<{ builds: { status: string }[] }>(["builds", MODEL]);
    expect(builds.map(({ status }) => status)).toEqual(["succeeded", "succeeded", "succeeded"]);
  });

  test("people see plain lines with the step in front", async () => {
    edit(join(folder, "predict.py"), "return (", "return (  ");
    const stdout = await cli.ok(["push", folder, MODEL]);
    expect(stdout).toMatch(/^upload +3 files: [\d.]+ kB/m);
    expect(stdout).toMatch(/^upload +1 of 3 layers new, [\d.]+ kB/m);
    expect(stdout).toMatch(/^schema +the schema is as it was$/m);
    expect(stdout).toMatch(/^test +succeeded abab$/m);
    expect(stdout).toContain("curl -s");
    expect(stdout).not.toContain("\x1b");
    // What is shown to paste works as it stands.
    const curl = stdout.trimEnd().split("\n").at(-1) ?? "";
    expect(curl).toContain(`'{"input":{"text":"ab","times":2}}'`);
  });
});

describe.sequential("a stable model", () => {
  const MODEL = "cogway/steady";

  test("refuses a version that breaks its callers, unless it is forced", async () => {
    const folder = newModel("steady", { "cogway.yaml": "stable: true\n" });
    const { version } = await push(folder, MODEL);
    edit(join(folder, "predict.py"), "times: int = 1, ", "");
    edit(join(folder, "predict.py"), "text * times", "text * 2");
    writeFileSync(join(folder, "example.json"), '{ "text": "ab" }');
    const refused = await cli.run(["push", folder, MODEL]);
    expect(refused.code).toBe(1);
    expectOneMessage(refused.stderr, "input.times was removed", "--force");
    const [{ versions } = { versions: [] }] = await cli.json<{ versions: { id: string; is_latest: boolean }[] }>([
      "versions",
      MODEL,
    ]);
    expect(versions.find(({ is_latest }) => is_latest)?.id).toBe(version);
    const forced = await push(folder, MODEL, "--force");
    expect(forced.schema_diff?.breaking).toEqual(["input.times was removed"]);
  });
});

describe("files and texts", () => {
  test("text comes as it is made", async () => {
    const running = cli.start(["run", "cogway/tokens", "-i", "count=20", "-i", "delay_ms=200"]);
    await waitFor("the first token", 60_000, () => (running.stdout.includes("token 0\n") ? true : null));
    expect(running.stdout).not.toContain("token 19");
    const { code, stdout, stderr } = await running.finished;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toBe(Array.from({ length: 20 }, (_, n) => `token ${n}\n`).join(""));
  });

  test("logs of a prediction", async () => {
    const [prediction] = await cli.json<{ id: string }>(["run", "cogway/tokens", "-i", "count=1"]);
    const stdout = await cli.ok(["logs", `${prediction?.id}`]);
    expect(stdout).toContain("begun\nended\n");
  });
});

describe("a fault is one message that says what to change", () => {
  const cases: { name: string; files: Record<string, string>; says: (string | RegExp)[] }[] = [
    {
      name: "a broken cog.yaml",
      files: { "cog.yaml": 'build:\n  python_verison: "3.11"\nrun: "predict.py:Runner"\n' },
      says: [/cog\.yaml:2:3 .*python_version/],
    },
    {
      name: "a torch and a CUDA that do not go together",
      files: {
        "cog.yaml":
          'build:\n  gpu: true\n  cuda: "11.8"\n  python_version: "3.11"\n  python_requirements: requirements.txt\nrun: "predict.py:Runner"\n',
        "requirements.txt": "torch==2.9.1\n",
      },
      says: [/torch/, /CUDA/i, /12\.6/],
    },
    {
      name: "a syntax error",
      files: { "predict.py": "from cog import BaseRunner\n\nclass Runner(BaseRunner)\n    pass\n" },
      says: [/predict\.py/, /line 3|:3/],
    },
    {
      name: "a package that does not exist",
      files: {
        "cog.yaml":
          'build:\n  python_version: "3.11"\n  python_requirements: requirements.txt\nrun: "predict.py:Runner"\n',
        "requirements.txt": "no-such-package-of-cogway==1.0\n",
      },
      says: [/no-such-package-of-cogway/],
    },
    {
      name: "an import that fails in setup",
      files: {
        "predict.py":
          "from cog import BaseRunner\n\n\nclass Runner(BaseRunner):\n    def setup(self):\n        import not_there\n\n    def run(self, text: str = 'x', times: int = 1) -> str:\n        return text\n",
      },
      says: [/not_there/],
    },
  ];

  test.each(cases)("$name", async ({ name, files, says }) => {
    const folder = newModel(name.replaceAll(" ", "-"), files);
    const { code, stdout, stderr } = await cli.run(["push", folder, "cogway/faulty"]);
    expect(code, stdout).toBe(1);
    expectOneMessage(stderr, ...says);
  });

  test("a folder that is not there, and a name that is none", async () => {
    expectOneMessage((await cli.run(["push", join(home, "none"), "cogway/x"])).stderr, /no folder/);
    expectOneMessage((await cli.run(["push", home, "x"])).stderr, /owner\/name/);
    expectOneMessage((await cli.run(["push", newModel("other"), "somebody/x"])).stderr, /somebody/);
  });
});

test("a push that is killed halfway goes on where it was", async () => {
  const layers = 12;
  const files = Array.from({ length: layers }, (_, n) => [`weights/${n}.bin`, Buffer.alloc(4_000_000, n + 1)] as const);
  const folder = newModel("cut", Object.fromEntries(files));
  const running = cli.start(["push", folder, "cogway/cut", "--concurrency", "1"]);
  await waitFor(
    "half of the layers",
    60_000,
    () => (running.stdout.match(/\.bin: /g) ?? []).length >= layers / 2 || null,
  );
  for (const { pid } of processTree(running.pid)) killHard(pid);
  await running.finished;
  const arrived = (running.stdout.match(/\.bin: /g) ?? []).length;
  const done = await push(folder, "cogway/cut");
  expect(done).toMatchObject({ layers: layers + 1, test_prediction: { status: "succeeded" } });
  expect(done.layers_sent).toBeLessThanOrEqual(layers + 1 - arrived);
  expect(done.layers_sent).toBeGreaterThan(0);
});

test("Ctrl-C during an upload says how to go on", async () => {
  const folder = newModel("interrupted", { "weights/a.bin": Buffer.alloc(40_000_000, 7) });
  const running = cli.start(["push", folder, "cogway/interrupted"]);
  await waitFor("the upload", 60_000, () => (running.stdout.includes("pack") ? true : null));
  running.signal("SIGINT");
  const { code, stderr } = await running.finished;
  expect(code).toBe(130);
  expectOneMessage(stderr, /Push again/);
});

test("Ctrl-C during a build cancels it where nobody can be asked", async () => {
  const folder = newModel("long-build", {
    "cog.yaml":
      'build:\n  python_version: "3.11"\n  run:\n    - echo it sleeps && sleep 60\nrun: "predict.py:Runner"\n',
  });
  const running = cli.start(["push", folder, "cogway/long-build"]);
  await waitFor("the build", 60_000, () => (running.stdout.includes("it sleeps") ? true : null));
  running.signal("SIGINT");
  const { code, stderr } = await running.finished;
  expect(code).toBe(130);
  expectOneMessage(stderr, /was canceled\. Push again/);
  const [{ builds } = { builds: [] }] = await cli.json<{ builds: { status: string }[] }>([
    "builds",
    "cogway/long-build",
  ]);
  expect(builds.map(({ status }) => status)).toEqual(["canceled"]);
});
