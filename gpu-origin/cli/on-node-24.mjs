/**
 * What every command of Cogway begins with, on the Node that the user has: plain JavaScript for Node 20, built-ins only. Installs what is missing, out of
 * date or broken, then runs a script on the Node that the package `node` brings. It stays as that process's parent: signals are passed on, its exit code is
 * ours, and when it is killed the script is told to end (its IPC channel closes).
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { delimiter, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = resolve(fileURLToPath(import.meta.url), "../../..");
const MODULES = join(ROOT, "node_modules");
const NODE = join(MODULES, ".bin", "node");
/** Written last: without it, or with another digest, an install was cut off or the lock has changed. */
const STAMP = join(MODULES, ".cogway-installed");
/** Commands that never change the tree may run side by side; installs may not. */
const LOCK = join(ROOT, "dist", "installing");
const NODE_MAJOR_MIN = 24;
const PROGRESS_MS = 1_000;
/** Without a terminal a line this often is enough. */
const PROGRESS_PLAIN_MS = 10_000;
const LOCK_POLL_MS = 500;
const PARENT_POLL_MS = 500;
const OUTPUT_TAIL_CHARACTERS = 4_000;

/** The running child, which signals are for. */
let child = null;
let endedBy = null;
/** Where progress is told: the stream that is not the command's answer. */
let out = process.stdout;

/** Ends this process with the script's code. `script`: below the repository's root; it runs in `cwd`. */
export async function runOnNode24({ script, args, cwd = ROOT, progress = process.stdout }) {
  out = progress;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(name, () => {
      endedBy = name;
      child?.kill(name);
    });
  }
  watchNpm();
  await ensureInstalled();
  process.exit(
    await run(NODE, [join(ROOT, script), ...args], { cwd, stdio: ["inherit", "inherit", "inherit", "ipc"] }),
  );
}

/** npm passes SIGTERM on, but nothing tells of its own kill -9. */
function watchNpm() {
  if (process.env.npm_lifecycle_event === undefined) return;
  const npm = process.ppid;
  setInterval(() => {
    if (process.ppid === npm || endedBy !== null) return;
    endedBy = "SIGTERM";
    child?.kill("SIGTERM");
  }, PARENT_POLL_MS).unref();
}

async function ensureInstalled() {
  if (state() === "ready") return;
  const unlock = await lock();
  try {
    const found = state();
    if (found === "ready") return;
    if (found === "broken") {
      say("node_modules is broken: it is removed and installed again.");
      rmSync(MODULES, { recursive: true, force: true });
    }
    await install();
    if (whatIsMissing() !== null) {
      say(`${whatIsMissing()} is still missing: node_modules is removed and installed again.`);
      rmSync(MODULES, { recursive: true, force: true });
      await install();
    }
    const missing = whatIsMissing();
    if (missing !== null) fail(`npm install ended, but ${missing} is missing.`);
    writeFileSync(STAMP, lockDigest());
  } finally {
    unlock();
  }
}

/** `stale` is a tree that npm install can bring up to date; a broken one it may take for whole. */
function state() {
  if (!existsSync(join(MODULES, ".package-lock.json"))) return existsSync(MODULES) ? "broken" : "missing";
  if (whatIsMissing() !== null) return "broken";
  return existsSync(STAMP) && readFileSync(STAMP, "utf8") === lockDigest() ? "ready" : "stale";
}

/** The first package, by npm's own record of the tree, that is not there; or the Node that runs everything. */
function whatIsMissing() {
  let packages;
  try {
    packages = Object.keys(JSON.parse(readFileSync(join(MODULES, ".package-lock.json"), "utf8")).packages);
  } catch {
    return "npm's record of the tree";
  }
  const missing = packages.find((path) => !isFilled(join(ROOT, path, "package.json")));
  if (missing !== undefined) return missing;
  const version = spawnSync(NODE, ["--version"], { encoding: "utf8" }).stdout ?? "";
  return Number(/^v(\d+)\./.exec(version)?.[1] ?? 0) >= NODE_MAJOR_MIN ? null : "Node 24 (package node)";
}

function isFilled(path) {
  return (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 0;
}

function lockDigest() {
  const hash = createHash("sha256");
  for (const name of ["package.json", "package-lock.json"]) hash.update(readFileSync(join(ROOT, name)));
  return hash.digest("hex");
}

/** `npm install`, never `npm ci`: the lock leaves out packages of other platforms, which `ci` takes for a fault. */
async function install() {
  const startedAt = Date.now();
  const { packages } = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8"));
  const wanted = Object.keys(packages).filter((path) => path !== "");
  const isLive = out.isTTY === true;
  const tell = () => {
    const done = wanted.filter((path) => existsSync(join(ROOT, path, "package.json"))).length;
    const text = `Installing packages … ${elapsed(startedAt)}  (${done} of about ${wanted.length})`;
    out.write(isLive ? `\r\x1b[2K${text}` : `${text}\n`);
  };
  tell();
  const timer = setInterval(tell, isLive ? PROGRESS_MS : PROGRESS_PLAIN_MS);
  // The user's npm settings must not leave out what runs and tests Cogway, nor the script by which the package `node` gets its binary.
  const options = [
    "install",
    "--include=dev",
    "--include=optional",
    "--ignore-scripts=false",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
  ];
  const npm = process.env.npm_execpath;
  const [tool, first] = npm?.endsWith(".js") ? [process.execPath, [npm]] : ["npm", []];
  let output = "";
  const code = await run(tool, [...first, ...options], { stdio: ["ignore", "pipe", "pipe"] }, (text) => {
    output = (output + text).slice(-OUTPUT_TAIL_CHARACTERS);
  });
  clearInterval(timer);
  if (isLive) out.write("\r\x1b[2K");
  if (endedBy !== null) process.exit(code);
  if (code !== 0) fail(`npm install failed (${code}):\n${output.trim()}`);
  say(`Installed packages (${elapsed(startedAt)})`);
}

/** The exit code, in the shell's way: 128 and more for a signal. */
function run(tool, args, options, onOutput = () => {}) {
  const path = `${join(MODULES, ".bin")}${delimiter}${process.env.PATH ?? ""}`;
  return new Promise((done) => {
    if (endedBy !== null) return done(1);
    child = spawn(tool, args, { cwd: ROOT, env: { ...process.env, PATH: path }, ...options });
    child.stdout?.on("data", (chunk) => onOutput(String(chunk)));
    child.stderr?.on("data", (chunk) => onOutput(String(chunk)));
    child.once("error", (error) => fail(`${tool} could not be started: ${error.message}`));
    child.once("close", (code, signal) => done(code ?? (signal === "SIGINT" ? 130 : signal === "SIGKILL" ? 137 : 143)));
  });
}

/** Two copies of one checkout may start at the same moment. A lock whose owner is gone is taken over. */
async function lock() {
  mkdirSync(join(ROOT, "dist"), { recursive: true });
  for (let isFirst = true; ; isFirst = false) {
    try {
      writeFileSync(LOCK, String(process.pid), { flag: "wx" });
      return () => rmSync(LOCK, { force: true });
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    if (isGone()) {
      rmSync(LOCK, { force: true });
      continue;
    }
    if (isFirst) say("Another command installs packages; waiting for it.");
    await new Promise((done) => setTimeout(done, LOCK_POLL_MS));
    if (endedBy !== null) process.exit(1);
  }
}

function isGone() {
  try {
    process.kill(Number(readFileSync(LOCK, "utf8")), 0);
    return false;
  } catch (error) {
    return error.code === "ESRCH";
  }
}

function elapsed(since) {
  return `${Math.round((Date.now() - since) / 1000)} s`;
}

function say(text) {
  out.write(`${text}\n`);
}

function fail(text) {
  process.stderr.write(`error ${text}\n`);
  rmSync(LOCK, { force: true });
  process.exit(1);
}
