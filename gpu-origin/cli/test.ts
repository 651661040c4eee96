/**
 * `npm test`: runs the test projects one after another, and ends with one line, `N passed, N failed`, whose numbers are those of the reports. What is no test
 * but went wrong (a file that does not load, an error outside of tests, a project without tests) counts as failed. A suite whose machine is not this one (no
 * GPU, no container engine) is named in one line, and counts as nothing.
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { buildAll } from "./build.ts";
import { findChromium } from "./chromium.ts";
import { ROOT } from "./paths.ts";
import { paint, progress, seconds } from "./progress.ts";
import { SetupFault } from "./settings.ts";
import { type Sums, sumsOf } from "./test-report.ts";

const PROJECTS = ["edge", "platform-limits", "origin", "simulator", "e2e", "gpu", "docker"];

/** Takes minutes and the whole machine: run where it is named. */
const NAMED_ONLY = ["chaos"];

/** Projects of the same suite. */
const FOLLOWED_BY: Record<string, string[]> = {
  docker: ["docker-restart"],
  e2e: ["e2e-own", "e2e-alone"],
  chaos: ["chaos-alone"],
};

const HELP = `npm test [-- project…] [file…]

Runs every test: ${PROJECTS.join(", ")}. Names of projects select some, other words select files by a part of their path.
${NAMED_ONLY.join(", ")} (kills, floods and long loads; the whole machine for ten minutes) runs where it is named, as CI does.
Chromium, which the page's test drives, is taken from COGWAY_CHROMIUM or PATH, or installed by apt where that is allowed.
docker runs with an engine of its own (e2e/engine/README.md) or with the one that COGWAY_TEST_DOCKER_HOST names; COGWAY_REQUIRE_DOCKER=1 makes it a failure
that none can be started. gpu runs where nvidia-smi lists a GPU.`;

const WITH_ENGINE = join(ROOT, "e2e/engine/with-engine.ts");
/** How it begins the line that says why no engine could be started, and the code it then exits with. */
const NO_ENGINE = { line: "no engine: ", code: 75 };

interface Suite extends Sums {
  name: string;
  took: string;
  /** why it was not run */
  notRun?: string;
}

let running: ReturnType<typeof spawn> | null = null;

async function main(): Promise<void> {
  const args = process.argv.slice(2);
  if (args.includes("--help") || args.includes("-h")) return progress.line(HELP);
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      running?.kill("SIGTERM");
      process.exitCode = 1;
    });
  }
  const known = [...PROJECTS, ...NAMED_ONLY];
  const named = known.filter((project) => args.includes(project));
  const projects = named.length === 0 ? PROJECTS : named;
  const files = args.filter((arg) => !known.includes(arg));
  // The Worker's tests take the built page as its assets, e2e starts the whole.
  await buildAll();
  const chromium = projects.includes("e2e") ? await findChromium() : null;
  const folder = mkdtempSync(join(tmpdir(), "cogway-test-"));
  const suites: Suite[] = [];
  try {
    for (const project of projects) {
      if (process.exitCode === 1) break;
      progress.line(`\n${paint("bold", project)}`);
      const env = { ...process.env, ...(chromium === null ? {} : { COGWAY_CHROMIUM: chromium }) };
      const lacking = project === "gpu" ? lackingGpu() : null;
      suites.push(
        lacking === null
          ? await runProject(project, files, join(folder, `${project}.json`), env)
          : { name: project, ...NOTHING, took: "", notRun: lacking },
      );
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const passed = suites.reduce((sum, suite) => sum + suite.passed, 0);
  const failed = suites.reduce((sum, suite) => sum + suite.failed, 0);
  progress.line();
  for (const suite of suites) {
    if (suite.notRun !== undefined) {
      progress.line(`${suite.name} suite not run: ${suite.notRun}`);
      continue;
    }
    progress.line(
      `${suite.name.padEnd(16)} ${`${suite.passed} passed, ${suite.failed} failed`.padEnd(26)} ${suite.took}`,
    );
    for (const fault of suite.faults) progress.line(`  ${paint("red", fault)}`);
  }
  if (failed > 0 || passed === 0) process.exitCode = 1;
  progress.line(`${passed} passed, ${failed} failed`);
}

async function runProject(name: string, files: string[], report: string, env: NodeJS.ProcessEnv): Promise<Suite> {
  const startedAt = performance.now();
  const args = [
    "run",
    ...[name, ...(FOLLOWED_BY[name] ?? [])].flatMap((project) => ["--project", project]),
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${report}`,
    ...files,
  ];
  const vitest = [join(ROOT, "node_modules/vitest/vitest.mjs"), ...args];
  const command = name === "docker" ? [WITH_ENGINE, process.execPath, ...vitest] : vitest;
  const child = spawn(process.execPath, command, { cwd: ROOT, env, stdio: ["ignore", "inherit", "pipe"] });
  running = child;
  let noEngine = "";
  createInterface({ input: child.stderr }).on("line", (line) => {
    if (line.startsWith(NO_ENGINE.line)) noEngine = line.slice(NO_ENGINE.line.length);
    else process.stderr.write(`${line}\n`);
  });
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  running = null;
  const took = seconds(startedAt);
  if (code !== NO_ENGINE.code || noEngine === "") return { name, ...sumsOf(report, code), took };
  if (process.env["COGWAY_REQUIRE_DOCKER"] !== "1") return { name, ...NOTHING, took, notRun: noEngine };
  return { name, passed: 0, failed: 1, faults: [`docker suite not run: ${noEngine}`], took };
}

const NOTHING: Sums = { passed: 0, failed: 0, faults: [] };

/** Null where a GPU can be tested. */
function lackingGpu(): string | null {
  const listed = spawnSync("nvidia-smi", ["-L"], { encoding: "utf8" });
  if (listed.error !== undefined) return "no NVIDIA GPU here (nvidia-smi is not installed)";
  if (/^GPU \d+:/m.test(listed.stdout)) return null;
  return `no NVIDIA GPU here (nvidia-smi: ${`${listed.stdout}${listed.stderr}`.trim().split("\n")[0] || "lists none"})`;
}

try {
  await main();
} catch (error) {
  if (!(error instanceof SetupFault)) throw error;
  progress.fault(error.message);
  progress.line("0 passed, 1 failed");
  process.exitCode = 1;
}
