/**
 * Builds the page and the edge when what they are made of has changed. Wrangler is loaded by the build alone: the launcher stays small. Two launchers of one
 * checkout build one after the other.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { EDGE_BUILD, PAGE_BUILD, ROOT } from "./paths.ts";
import { startMark } from "./processes.ts";
import { progress } from "./progress.ts";
import { SetupFault } from "./settings.ts";

/** A build takes seconds; on a busy machine a minute. */
const BUILD_TIMEOUT_MS = 5 * 60_000;
const LOCK_POLL_MS = 200;
const ERROR_TAIL_CHARACTERS = 3_000;

interface Target {
  name: string;
  out: string;
  /** files and folders, relative to the root, whose content decides */
  sources: string[];
  isSource: (path: string) => boolean;
  commands: string[][];
}

const isTest = (path: string): boolean => /\.test\.tsx?$|\/testing\//.test(path);

const TARGETS: Target[] = [
  {
    name: "page",
    out: PAGE_BUILD,
    sources: ["workers/web", "schema", "docs", "package-lock.json"],
    isSource: (path) => !isTest(path),
    commands: [["vite/bin/vite.js", "build", "--config", "workers/web/vite.config.ts", "--logLevel", "warn"]],
  },
  {
    name: "edge",
    out: EDGE_BUILD,
    sources: [
      "workers",
      "durable-objects",
      "schema",
      "wrangler.toml",
      "package-lock.json",
      "gpu-origin/cli/edge-bindings.ts",
    ],
    isSource: (path) => !isTest(path) && !path.startsWith("workers/web/"),
    commands: [
      ["wrangler/bin/wrangler.js", "deploy", "--dry-run", "--env=", "--outdir", EDGE_BUILD],
      [join(ROOT, "gpu-origin/cli/edge-bindings.ts"), join(EDGE_BUILD, "bindings.json")],
    ],
  },
];

/** Resolves when page and edge are as their sources are. */
export async function buildAll(signal?: AbortSignal): Promise<void> {
  if (TARGETS.every((target) => isFresh(target))) return;
  const unlock = await lock(signal);
  try {
    for (const target of TARGETS) {
      if (isFresh(target)) continue;
      const step = progress.begin(`Building the ${target.name}`);
      const digest = digestOf(target);
      rmSync(stampPath(target), { force: true });
      for (const [tool = "", ...args] of target.commands) await runTool(target.name, tool, args, signal);
      writeFileSync(stampPath(target), digest);
      step.end(`Built the ${target.name}`);
    }
  } finally {
    unlock();
  }
}

function stampPath(target: Target): string {
  return join(ROOT, "dist", `${target.name}.stamp`);
}

function isFresh(target: Target): boolean {
  const stamp = stampPath(target);
  return existsSync(target.out) && existsSync(stamp) && readFileSync(stamp, "utf8") === digestOf(target);
}

/** Over names and contents. The root is part of it because the bindings name folders by their whole path. */
function digestOf(target: Target): string {
  const hash = createHash("sha256").update(ROOT);
  const add = (path: string): void => {
    const whole = join(ROOT, path);
    if (!existsSync(whole)) return;
    if (statSync(whole).isDirectory()) {
      for (const name of readdirSync(whole).sort()) add(`${path}/${name}`);
    } else if (target.isSource(path)) {
      hash.update(`${path}\0`).update(readFileSync(whole)).update("\0");
    }
  };
  for (const source of target.sources) add(source);
  return hash.digest("hex");
}

async function runTool(what: string, tool: string, args: string[], signal?: AbortSignal): Promise<void> {
  const script = tool.startsWith("/") ? tool : join(ROOT, "node_modules", tool);
  const child = spawn(process.execPath, [script, ...args], {
    cwd: ROOT,
    stdio: ["ignore", "pipe", "pipe"],
    timeout: BUILD_TIMEOUT_MS,
    ...(signal === undefined ? {} : { signal }),
    env: {
      ...process.env,
      NODE_ENV: "production",
      WRANGLER_SEND_METRICS: "false",
      WRANGLER_HIDE_BANNER: "true",
      WRANGLER_LOG_PATH: join(ROOT, ".wrangler/logs"),
    },
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  const code = await new Promise<number | null>((resolve) => {
    child.once("error", () => resolve(null));
    child.once("close", resolve);
  });
  if (signal?.aborted) throw new SetupFault("Interrupted.");
  if (code !== 0)
    throw new SetupFault(`The ${what} could not be built:\n${output.trim().slice(-ERROR_TAIL_CHARACTERS)}`);
}

/** One builder at a time; a lock whose owner is gone is taken over. */
async function lock(signal?: AbortSignal): Promise<() => void> {
  const path = join(ROOT, "dist", "building");
  mkdirSync(join(ROOT, "dist"), { recursive: true });
  const own = `${process.pid} ${startMark(process.pid)}`;
  while (signal?.aborted !== true) {
    try {
      writeFileSync(path, own, { flag: "wx" });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    }
    const [pid = "", mark = ""] = readFileSync(path, { encoding: "utf8", flag: "a+" }).split(/ (.*)/);
    if (startMark(Number(pid)) === mark) await new Promise((resolve) => setTimeout(resolve, LOCK_POLL_MS));
    else rmSync(path, { force: true });
  }
  throw new SetupFault("Interrupted.");
}
