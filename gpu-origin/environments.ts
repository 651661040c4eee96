/**
 * Python environments of models: made once, named by the digest of what goes into them, shared by models that need the same. uv makes them where it is
 * installed, else venv and pip. A marker file, written last, tells a whole one from one whose making was cut off; a lock file keeps two origins that share
 * the cache apart. Everything here can be made again.
 */
import { createHash } from "node:crypto";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import type { EnvironmentSpec } from "./prepared-version.ts";

/** The runtime that this origin is written against; installed into every environment, whatever cog.yaml asks for. */
const COG_PINS = ["cog==0.23.1", "coglet==0.23.1"];
export const COG_VERSION = "0.23.1";
/** Some environments hold gigabytes of packages. */
const INSTALL_TIMEOUT_MS = 45 * 60_000;
const PROBE_TIMEOUT_MS = 15_000;
const LOCK_POLL_MS = 250;
const ERROR_TAIL_LINES = 12;
const MARKER = ".cogway-complete";

export type EnvironmentResult =
  | { kind: "ready"; binDir: string; key: string; warning?: string }
  | { kind: "failed"; detail: string };

interface Python {
  path: string;
  /** such as 3.11.7 */
  version: string;
  warning?: string;
}

export class Environments {
  readonly #root: string;
  readonly #env: Record<string, string | undefined>;
  /** one making at a time for each key in this process */
  readonly #running = new Map<string, Promise<EnvironmentResult>>();
  readonly #pythons = new Map<string, Promise<Python | null>>();
  #hasUv: Promise<boolean> | null = null;

  constructor(cacheDir: string, env: Record<string, string | undefined>) {
    this.#root = join(cacheDir, "environments");
    this.#env = env;
  }

  /** The environment for `spec`; makes it when it is not whole. `sourceDir` is where build.run commands and local files are looked up. */
  async ensure(
    spec: EnvironmentSpec,
    sourceDir: string,
    onProgress: (detail: string) => void = () => {},
  ): Promise<EnvironmentResult> {
    const python = await this.#python(spec.python_version);
    if (python === null) {
      return { kind: "failed", detail: "Python 3.10 or newer with venv is needed, and none was found on PATH." };
    }
    const key = createHash("sha256")
      .update(JSON.stringify([python.version, spec.requirements, spec.run, COG_PINS]))
      .digest("hex")
      .slice(0, 32);
    const folder = join(this.#root, key);
    const ready: EnvironmentResult = {
      kind: "ready",
      binDir: join(folder, "bin"),
      key,
      ...(python.warning === undefined ? {} : { warning: python.warning }),
    };
    if (existsSync(join(folder, MARKER))) return ready;
    const running = this.#running.get(key) ?? this.#makeLocked(folder, python, spec, sourceDir, onProgress, ready);
    this.#running.set(key, running);
    return running.finally(() => this.#running.delete(key));
  }

  async #makeLocked(
    folder: string,
    python: Python,
    spec: EnvironmentSpec,
    sourceDir: string,
    onProgress: (detail: string) => void,
    ready: EnvironmentResult,
  ): Promise<EnvironmentResult> {
    mkdirSync(this.#root, { recursive: true });
    const unlock = await lock(`${folder}.lock`, () => onProgress("waiting for another origin that makes it"));
    try {
      if (existsSync(join(folder, MARKER))) return ready;
      // Half-made: an environment cannot be moved, so it is made in place, from nothing.
      rmSync(folder, { recursive: true, force: true });
      await this.#make(folder, python, spec, sourceDir, onProgress);
      writeFileSync(join(folder, MARKER), `${JSON.stringify({ python: python.version, spec })}\n`);
      return ready;
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      return { kind: "failed", detail: error instanceof Error ? error.message : String(error) };
    } finally {
      unlock();
    }
  }

  async #make(
    folder: string,
    python: Python,
    spec: EnvironmentSpec,
    sourceDir: string,
    onProgress: (detail: string) => void,
  ): Promise<void> {
    const bin = join(folder, "bin");
    const env = {
      ...this.#env,
      PATH: `${bin}:${this.#env.PATH ?? ""}`,
      VIRTUAL_ENV: folder,
      PIP_DISABLE_PIP_VERSION_CHECK: "1",
      PIP_NO_INPUT: "1",
    };
    const run = (command: string, args: string[], what: string) =>
      install(command, args, { cwd: sourceDir, env }, what, onProgress);
    this.#hasUv ??= works("uv", ["--version"], this.#env);
    const hasUv = await this.#hasUv;
    onProgress("making a virtual environment");
    if (hasUv) await run("uv", ["venv", "--quiet", "--seed", "--python", python.path, folder], "uv venv");
    else await run(python.path, ["-m", "venv", folder], "python -m venv");
    const requirements = join(folder, "cogway-requirements.txt");
    writeFileSync(requirements, `${spec.requirements}\n`);
    const pip = hasUv
      ? (["uv", ["pip", "install"]] as const)
      : ([join(bin, "python"), ["-m", "pip", "install", "--progress-bar", "off"]] as const);
    // One resolution over both, so that the pins win over what a model asks for, or fail clearly.
    const wanted = spec.requirements.trim() === "" ? [] : ["-r", requirements];
    await run(pip[0], [...pip[1], ...COG_PINS, ...wanted], "installing the requirements");
    for (const command of spec.run) {
      onProgress(command);
      await run("/bin/sh", ["-ec", command], `build.run: ${command}`);
    }
    if (!(await works(join(bin, "python"), ["-c", "import cog, coglet"], env))) {
      throw new Error("cog cannot be imported in the environment that was made.");
    }
  }

  /** The interpreter for a version such as `3.11`, else the host's own with a warning; null when there is none that coglet runs on. */
  #python(wanted: string | null): Promise<Python | null> {
    const known = this.#pythons.get(wanted ?? "");
    if (known !== undefined) return known;
    const found = this.#findPython(wanted);
    this.#pythons.set(wanted ?? "", found);
    return found;
  }

  async #findPython(wanted: string | null): Promise<Python | null> {
    const minor = wanted === null ? null : wanted.split(".").slice(0, 2).join(".");
    const names = [...(minor === null ? [] : [`python${minor}`]), "python3", "python"];
    for (const name of names) {
      const code = "import sys, venv; print(sys.executable); print('.'.join(map(str, sys.version_info[:3])))";
      const result = await execa(name, ["-c", code], {
        env: this.#env,
        extendEnv: false,
        reject: false,
        timeout: PROBE_TIMEOUT_MS,
      });
      const [path, version] = result.exitCode === 0 ? result.stdout.split("\n") : [];
      if (path === undefined || version === undefined) continue;
      const [major = 0, second = 0] = version.split(".").map(Number);
      if (major !== 3 || second < 10) continue;
      const isWanted = minor === null || version.startsWith(`${minor}.`);
      if (isWanted) return { path, version };
      return { path, version, warning: `cog.yaml asks for Python ${wanted}; this host has ${version}, which is used.` };
    }
    return null;
  }
}

async function works(command: string, args: string[], env: Record<string, string | undefined>): Promise<boolean> {
  const result = await execa(command, args, { env, extendEnv: false, reject: false, timeout: PROBE_TIMEOUT_MS * 4 });
  return result.exitCode === 0;
}

/** Runs an installer. Its lines are progress; the last ones are the error. */
async function install(
  command: string,
  args: string[],
  options: { cwd: string; env: Record<string, string | undefined> },
  what: string,
  onProgress: (detail: string) => void,
): Promise<void> {
  const tail: string[] = [];
  const child = execa(command, args, {
    ...options,
    extendEnv: false,
    all: true,
    reject: false,
    buffer: false,
    stdin: "ignore",
    timeout: INSTALL_TIMEOUT_MS,
    killDescendants: true,
  } as const);
  for await (const line of child.iterable({ from: "all" })) {
    tail.push(line);
    if (tail.length > ERROR_TAIL_LINES) tail.shift();
    const detail = progressOf(line);
    if (detail !== null) onProgress(detail);
  }
  const result = await child;
  if (result.exitCode === 0) return;
  const how = result.timedOut
    ? `took longer than ${INSTALL_TIMEOUT_MS / 60_000} minutes`
    : `failed (${result.exitCode ?? result.signal ?? result.code ?? "not found"})`;
  throw new Error(`${what} ${how}: ${tail.join("\n").trim().slice(-2_000)}`);
}

/** What of an installer's line is worth showing. */
function progressOf(line: string): string | null {
  const match =
    /^\s*(Collecting|Downloading|Using cached|Installing collected packages|Building|Resolved|Prepared|Installed|Successfully installed)\b(.*)/.exec(
      line,
    );
  if (match === null) return null;
  return `${match[1]}${(match[2] ?? "").replace(/https?:\/\/\S+\//, "")}`.slice(0, 120);
}

/** Holds a lock file with our process id; takes over one whose owner is gone. */
async function lock(path: string, onWait: () => void): Promise<() => void> {
  for (let isFirst = true; ; isFirst = false) {
    try {
      const file = openSync(path, "wx");
      writeSync(file, String(process.pid));
      closeSync(file);
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (!(error instanceof Error && "code" in error && error.code === "EEXIST")) throw error;
    }
    if (isOwnerGone(path)) {
      rmSync(path, { force: true });
      continue;
    }
    if (isFirst) onWait();
    await new Promise((resolve) => setTimeout(resolve, LOCK_POLL_MS));
  }
}

function isOwnerGone(path: string): boolean {
  try {
    const pid = Number(readFileSync(path, "utf8"));
    if (pid === process.pid) return false;
    process.kill(pid, 0);
    return false;
  } catch (error) {
    // ESRCH: gone. ENOENT: unlocked meanwhile, so the next try takes it.
    return error instanceof Error && "code" in error && error.code === "ESRCH";
  }
}
