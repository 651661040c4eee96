/** Starts that cannot succeed: one clear line, exit 1, nothing left behind. Those that do are tested end to end (e2e/restart.e2e.ts and others). */
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { freePort } from "./processes.ts";

const TIMEOUT_MS = 60_000;

let folder: string;
let env: Record<string, string>;
beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "cogway-start-"));
  const { PATH = "", HOME = "" } = process.env;
  env = {
    PATH,
    HOME,
    COGWAY_DATA: join(folder, "data"),
    COGWAY_PORT: String(await freePort()),
    COGWAY_ORIGIN_PORT: String(await freePort()),
  };
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

async function start(
  changes: Record<string, string>,
  args: string[] = [],
): Promise<{ code: number | null; errors: string[]; output: string }> {
  const child = spawn(process.execPath, [join(import.meta.dirname, "start.ts"), ...args], {
    env: { ...env, ...changes },
  });
  let output = "";
  let errors = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (errors += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, errors: errors.trim().split("\n"), output };
}

function leftRunning(): string[] {
  const run = join(folder, "data", "run");
  return readdirSync(run).filter((name) => readFileSync(join(run, name), "utf8") !== "");
}

it.each(["COGWAY_PORT", "COGWAY_ORIGIN_PORT"])(
  "a taken %s",
  async (variable) => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(Number(env[variable]), "127.0.0.1", resolve));
    const { code, errors } = await start({});
    server.close();
    expect(errors).toEqual([expect.stringContaining(`error Port ${env[variable]} (${variable}) is taken`)]);
    expect(code).toBe(1);
    expect(leftRunning()).toEqual([]);
  },
  TIMEOUT_MS,
);

it(
  "no Python",
  async () => {
    mkdirSync(join(folder, "bin"));
    symlinkSync(process.execPath, join(folder, "bin", "node"));
    const { code, errors } = await start({ PATH: join(folder, "bin") });
    expect(errors).toEqual([expect.stringContaining("error Python 3.10 or newer with venv is needed")]);
    expect(code).toBe(1);
  },
  TIMEOUT_MS,
);

it("a model folder that can be read but not run", async () => {
  const model = join(folder, "mine");
  mkdirSync(model);
  writeFileSync(join(model, "cog.yaml"), 'build: { python_version: "3.11" }\nrun: "predict.py:Runner"\n');
  writeFileSync(join(model, "predict.py"), "import missing_package\n\nclass Runner: ...\n");
  const { code, errors } = await start({ COGWAY_MODELS: model });
  expect(errors).toEqual([expect.stringContaining("missing_package")]);
  expect(code).toBe(1);
  expect(leftRunning()).toEqual([]);
}, 180_000);

it(
  "a flag that it does not know; --help names those that it knows",
  async () => {
    const tooMany = await start({}, ["--origins", "9"]);
    expect(tooMany).toMatchObject({ code: 1, errors: [expect.stringContaining("1 to 8")] });
    expect(await start({}, ["--now"])).toMatchObject({ code: 1, errors: [expect.stringContaining("--now")] });
    const { code, output } = await start({}, ["--help"]);
    expect(code).toBe(0);
    expect(output).toContain("--no-wait");
    expect(output).toContain("--origins N");
    expect(output).toContain("COGWAY_MODELS");
  },
  TIMEOUT_MS,
);
