/** `npm run check`: everything that must hold but is no test, one line per step. `--fix` (`npm run fix`) first repairs what can be repaired. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { lifecycleDiagram } from "../../schema/prediction-lifecycle.ts";
import { lostControls } from "./control-map.ts";
import { wrongImports } from "./import-directions.ts";
import { ROOT } from "./paths.ts";
import { paint, progress } from "./progress.ts";
import { sizeFault, startFault, startMs } from "./worker-size.ts";

const HELP = `npm run check, npm run fix

Types, lint and format, unused code, import directions, generated files, the Worker's size and start, what docs/security.md names, the lock file. fix repairs what can be repaired, then checks.`;

const TYPES_COMMAND = [
  "wrangler",
  "types",
  "--include-runtime=false",
  "--strict-vars=false",
  "workers/worker-configuration.d.ts",
];
const OPENAPI_COMMAND = ["vitest", "run", "--project", "edge", "workers/openapi.test.ts"];
const DIAGRAM = /(<!-- lifecycle -->\n)[\s\S]*?(<!-- \/lifecycle -->)/;

/** Null when it holds, else what does not. */
type Check = () => Promise<string | null>;

const CHECKS: Record<string, Check> = {
  "types of the edge": () => tool("tsc", "--noEmit", "-p", "workers"),
  "types of the origin": () => tool("tsc", "--noEmit", "-p", "gpu-origin"),
  "types of the simulator": () => tool("tsc", "--noEmit", "-p", "e2e/simulator"),
  "types of the page": () => tool("tsc", "--noEmit", "-p", "workers/web"),
  "lint and format": () => tool("biome", "check", "--error-on-warnings", "."),
  "unused code": () => tool("knip", "--no-progress", "--treat-config-hints-as-errors"),
  "import directions": async () => lines(wrongImports(ROOT, await sourceFiles())),
  "types of bindings": () => tool(...withCheck(TYPES_COMMAND)),
  migrations: migrationsDrift,
  "OpenAPI document": () => tool(...OPENAPI_COMMAND),
  "size of the Worker": workerSize,
  "start of the Worker": workerStart,
  "lifecycle diagram": async () =>
    withDiagram(architecture()) === architecture()
      ? null
      : "ARCHITECTURE.md section 5 is not what TRANSITIONS say: npm run fix",
  "map of controls": async () => lines(lostControls(read("docs/security.md"), await trackedFiles(), read)),
  "lock file": async () =>
    /"resolved"/.test(read("package-lock.json"))
      ? 'package-lock.json names download hosts: remove its "resolved" lines'
      : null,
};

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  if (args.includes("--help") || args.includes("-h")) return progress.line(HELP);
  if (args.includes("--fix")) await fix();
  let failed = 0;
  for (const [name, check] of Object.entries(CHECKS)) {
    const step = progress.begin(name);
    const fault = await check();
    if (fault === null) step.end(name);
    else {
      failed += 1;
      step.end();
      progress.line(`${paint("red", "✗")} ${name}\n${fault.trimEnd()}`);
    }
  }
  if (failed > 0) process.exitCode = 1;
  progress.line(`${Object.keys(CHECKS).length - failed} passed, ${failed} failed`);
}

async function fix(): Promise<void> {
  const step = progress.begin("Repairing");
  writeFileSync(join(ROOT, "ARCHITECTURE.md"), withDiagram(architecture()));
  for (const command of [TYPES_COMMAND, [...OPENAPI_COMMAND, "-u"], ["biome", "check", "--write", "."]]) {
    const fault = await tool(...command);
    if (fault !== null) progress.warn(`${command.join(" ")}:\n${fault}`);
  }
  step.end("Repaired what can be repaired");
}

/** As it would be uploaded. */
async function workerSize(): Promise<string | null> {
  const { isGood, text } = await run("wrangler", "deploy", "--dry-run", "--env=");
  return isGood ? sizeFault(text) : text;
}

/** Tries of one start, on a machine that does other things as well. */
const STARTS = 3;

/** Measured by wrangler, which profiles the built Worker in a local workerd from its first line to its last, without a request. */
async function workerStart(): Promise<string | null> {
  const folder = mkdtempSync(join(tmpdir(), "cogway-start-"));
  try {
    const starts: number[] = [];
    while (starts.length < STARTS && startFault(starts) !== null) {
      const { text } = await run("wrangler", "check", "startup", "--outfile", join(folder, "start.cpuprofile"));
      const ms = startMs(text);
      if (ms === null) return text;
      starts.push(ms);
    }
    return startFault(starts);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs a tool of node_modules/.bin; null when it exits 0, else its output. */
async function tool(name = "", ...args: string[]): Promise<string | null> {
  const { isGood, text } = await run(name, ...args);
  return isGood ? null : text;
}

async function run(name: string, ...args: string[]): Promise<{ isGood: boolean; text: string }> {
  const env = {
    WRANGLER_SEND_METRICS: "false",
    WRANGLER_HIDE_BANNER: "true",
    WRANGLER_LOG_PATH: join(ROOT, ".wrangler/logs"),
  };
  const result = await execa(name, args, {
    cwd: ROOT,
    env,
    preferLocal: true,
    localDir: ROOT,
    reject: false,
    all: true,
    stdin: "ignore",
  });
  const isGood = result.exitCode === 0;
  return { isGood, text: result.all || (isGood ? "" : `${name} ended with ${result.exitCode ?? result.signal}`) };
}

function withCheck(command: string[]): string[] {
  return [...command, "--check"];
}

/** Generates into a copy: a file more means that the tables have changed since the last migration. */
async function migrationsDrift(): Promise<string | null> {
  const folder = mkdtempSync(join(tmpdir(), "cogway-migrations-"));
  try {
    cpSync(join(ROOT, "schema/migrations"), folder, { recursive: true });
    const before = readdirSync(folder).length;
    const schema = join(ROOT, "schema/tables/index.ts");
    const fault = await tool("drizzle-kit", "generate", "--dialect=sqlite", `--schema=${schema}`, `--out=${folder}`);
    if (fault !== null) return fault;
    return readdirSync(folder).length === before
      ? null
      : "schema/tables has changed since the last migration: npm run db:generate";
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function read(path: string): string {
  return readFileSync(join(ROOT, path), "utf8");
}

function architecture(): string {
  return read("ARCHITECTURE.md");
}

function withDiagram(text: string): string {
  return text.replace(DIAGRAM, (_, start: string, end: string) => `${start}${lifecycleDiagram()}\n${end}`);
}

async function sourceFiles(): Promise<string[]> {
  return (await trackedFiles()).filter((path) => /\.(?:tsx?|mjs)$/.test(path));
}

/** What git knows or would take. */
async function trackedFiles(): Promise<string[]> {
  const { stdout } = await execa("git", ["ls-files", "--cached", "--others", "--exclude-standard"], { cwd: ROOT });
  const deleted = await execa("git", ["ls-files", "--deleted"], { cwd: ROOT });
  const gone = new Set(deleted.stdout.split("\n"));
  return stdout.split("\n").filter((path) => path !== "" && !gone.has(path));
}

function lines(faults: string[]): string | null {
  return faults.length === 0 ? null : faults.join("\n");
}

await main();
