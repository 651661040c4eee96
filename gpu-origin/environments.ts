/**
 * Python environments of models: made once, named by the digest of what goes into them, shared by models that need the same. Requirements are resolved to a
 * lock first, pinned packages all through, so that a version gets the same packages on every host and at every time. uv does both, and compiles bytecode;
 * where it cannot be had, pip installs what it finds, unlocked. A marker file, written last, tells a whole environment from one whose making was cut off; a
 * lock file keeps two origins that share the cache apart. Everything here can be made again.
 */
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { saysDiskFull } from "./builds/disk.ts";
import { EnvironmentUses } from "./builds/environment-uses.ts";
import { LockCache } from "./builds/lock-cache.ts";
import { type Python, PythonTools } from "./builds/python-tools.ts";
import { runTool, type ToolEnd } from "./builds/run-tool.ts";
import { SharedWork } from "./builds/shared-work.ts";
import type { EnvironmentSpec } from "./prepared-version.ts";

/** The runtime that this origin is written against; installed into every environment, whatever cog.yaml asks for. */
const COG_PINS = ["cog==0.23.1", "coglet==0.23.1"];
export const COG_VERSION = "0.23.1";
/** Some environments hold gigabytes of packages. */
const INSTALL_TIMEOUT_MS = 45 * 60_000;
const RESOLVE_TIMEOUT_MS = 10 * 60_000;
const IMPORT_TIMEOUT_MS = 60_000;
const LOCK_POLL_MS = 250;
const ERROR_TAIL_LINES = 12;
const ERROR_CHARACTERS_MAX = 2_000;
const MARKER = ".cogway-complete";
const NO_PYTHON = "Python 3.10 or newer with venv is needed, and none was found on PATH.";

export type EnvironmentCode = "build.requirements" | "build.run" | "build.environment" | "build.disk_full";
export type EnvironmentFailure = { kind: "failed"; code: EnvironmentCode; detail: string } | { kind: "canceled" };
export type Resolved =
  | { kind: "resolved" /** absent where only pip is there */; lock?: string; warnings: string[] }
  | EnvironmentFailure;
export type EnvironmentResult = { kind: "ready"; binDir: string; key: string; warning?: string } | EnvironmentFailure;

export interface EnvironmentOptions {
  signal?: AbortSignal | undefined;
  /** each line of what the installers write */
  onLine?: ((line: string) => void) | undefined;
  /** before it is made: where it will lie */
  onFolder?: ((folder: string) => void) | undefined;
}

/** Ends the making with this result. */
class Stop extends Error {
  readonly failure: EnvironmentFailure;
  constructor(failure: EnvironmentFailure) {
    super(failure.kind === "failed" ? failure.detail : "canceled");
    this.failure = failure;
  }
}

export class Environments {
  readonly #root: string;
  readonly #env: Record<string, string | undefined>;
  readonly #tools: PythonTools;
  readonly #uses: EnvironmentUses;
  readonly #locks: LockCache;
  /** one making at a time for each key in this process */
  readonly #making = new SharedWork<EnvironmentResult>();

  constructor(cacheDir: string, env: Record<string, string | undefined>) {
    this.#root = join(cacheDir, "environments");
    this.#uses = new EnvironmentUses(this.#root, MARKER);
    this.#env = env;
    this.#tools = new PythonTools(cacheDir, env);
    this.#locks = new LockCache(cacheDir);
  }

  /** The host's interpreter for a version such as `3.11`; null where there is none. */
  async pythonVersion(wanted: string | null): Promise<string | null> {
    return (await this.#tools.python(wanted))?.version ?? null;
  }

  /** Every package that these requirements need, pinned. `sourceDir` is where paths in them lead to. */
  async resolve(
    spec: EnvironmentSpec,
    sourceDir: string,
    options: EnvironmentOptions & { /** lines of a constraints file */ constraints?: string } = {},
  ): Promise<Resolved> {
    const { signal, onLine = () => {}, constraints = "" } = options;
    const python = await this.#tools.python(spec.python_version);
    if (python === null) return { kind: "failed", code: "build.environment", detail: NO_PYTHON };
    const key = this.#locks.key(spec.requirements, constraints, python.version, ...COG_PINS);
    const known = this.#locks.get(key);
    if (known?.isFresh === true) return { kind: "resolved", lock: known.text, warnings: [] };
    const uv = await this.#tools.uv(onLine);
    if (uv === null) {
      const warning =
        "uv is not installed and could not be fetched: packages are installed by pip, slower and not locked.";
      return { kind: "resolved", warnings: [warning] };
    }
    const folder = mkdtempSync(join(tmpdir(), "cogway-resolve-"));
    const constraintsFile = join(folder, "constraints.txt");
    writeFileSync(constraintsFile, constraints);
    const args = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python", python.path];
    const pins: string[] = [];
    const limit = AbortSignal.any([AbortSignal.timeout(RESOLVE_TIMEOUT_MS), ...(signal === undefined ? [] : [signal])]);
    const end = await runTool(uv, [...args, "--constraints", constraintsFile, "-"], {
      // Paths of local wheels are told from there.
      cwd: sourceDir,
      env: this.#tools.installerEnv(),
      signal: limit,
      input: `${[...COG_PINS, spec.requirements].join("\n")}\n`,
      onLine: (line, stream) => (stream === "stdout" ? pins.push(line) : onLine(line)),
    }).finally(() => rmSync(folder, { recursive: true, force: true }));
    if (end.kind === "done") {
      // Where packages come from is part of the lock, but only what the model itself says of it.
      const options = spec.requirements
        .split("\n")
        .filter((line) => /^(-i|-f|--[a-z-]*(index|links|host)[a-z-]*)\b/.test(line));
      const lock = `${[...options, ...pins].join("\n")}\n`;
      this.#locks.save(key, lock);
      return { kind: "resolved", lock, warnings: [] };
    }
    if (known !== null && end.kind === "failed" && /Failed to fetch/.test(end.tail.join("\n"))) {
      const warning = "No package registry could be reached: the packages are those of an earlier build.";
      return { kind: "resolved", lock: known.text, warnings: [warning] };
    }
    return failureOf(end, "build.requirements", "The requirements cannot be resolved", RESOLVE_TIMEOUT_MS, signal);
  }

  /** The environment for `spec`; makes it when it is not whole. `sourceDir` is where local files are looked up. */
  async ensure(spec: EnvironmentSpec, sourceDir: string, options: EnvironmentOptions = {}): Promise<EnvironmentResult> {
    const { signal, onLine, onFolder } = options;
    const python = await this.#tools.python(spec.python_version);
    if (python === null) return { kind: "failed", code: "build.environment", detail: NO_PYTHON };
    const key = keyOf(python.version, spec, sourceDir);
    const folder = join(this.#root, key);
    const ready: EnvironmentResult = {
      kind: "ready",
      binDir: join(folder, "bin"),
      key,
      ...(python.warning === undefined ? {} : { warning: python.warning }),
    };
    if (existsSync(join(folder, MARKER))) {
      this.#uses.touch(key);
      return ready;
    }
    onFolder?.(folder);
    const made = await this.#making.run(key, { signal, onProgress: onLine }, (given, tell) =>
      this.#makeLocked(folder, python, spec, sourceDir, { signal: given, onLine: tell }, ready),
    );
    return made ?? { kind: "canceled" };
  }

  /** Keeps an environment until it is called back, once. */
  hold(key: string): () => void {
    return this.#uses.hold(key);
  }

  async #makeLocked(
    folder: string,
    python: Python,
    spec: EnvironmentSpec,
    sourceDir: string,
    options: { signal: AbortSignal; onLine: (line: string) => void },
    ready: EnvironmentResult,
  ): Promise<EnvironmentResult> {
    mkdirSync(this.#root, { recursive: true });
    const unlock = await lock(`${folder}.lock`, options.signal, () =>
      options.onLine("Waiting for another origin that makes it"),
    );
    if (unlock === null) return { kind: "canceled" };
    try {
      if (existsSync(join(folder, MARKER))) return ready;
      // Half-made: an environment cannot be moved, so it is made in place, from nothing.
      rmSync(folder, { recursive: true, force: true });
      await this.#make(folder, python, spec, sourceDir, options);
      writeFileSync(join(folder, MARKER), `${JSON.stringify({ python: python.version, spec })}\n`);
      await this.#uses.sweep();
      return ready;
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      if (error instanceof Stop) return error.failure;
      const detail = error instanceof Error ? error.message : String(error);
      return { kind: "failed", code: saysDiskFull(detail) ? "build.disk_full" : "build.environment", detail };
    } finally {
      unlock();
    }
  }

  async #make(
    folder: string,
    python: Python,
    spec: EnvironmentSpec,
    sourceDir: string,
    { signal, onLine }: { signal: AbortSignal; onLine: (line: string) => void },
  ): Promise<void> {
    const bin = join(folder, "bin");
    const env = { ...this.#tools.installerEnv(), PATH: `${bin}:${this.#env["PATH"] ?? ""}`, VIRTUAL_ENV: folder };
    const run = async (
      command: string,
      args: string[],
      cwd: string,
      code: EnvironmentCode,
      what: string,
    ): Promise<void> => {
      const limit = AbortSignal.any([AbortSignal.timeout(INSTALL_TIMEOUT_MS), signal]);
      const end = await runTool(command, args, { cwd, env, signal: limit, onLine });
      if (end.kind !== "done") throw new Stop(failureOf(end, code, what, INSTALL_TIMEOUT_MS, signal));
    };
    const uv = await this.#tools.uv(onLine);
    const environment = "build.environment";
    onLine("Making a virtual environment");
    if (uv === null) await run(python.path, ["-m", "venv", folder], sourceDir, environment, "python -m venv failed");
    else
      await run(
        uv,
        ["venv", "--quiet", "--seed", "--python", python.path, folder],
        sourceDir,
        environment,
        "uv venv failed",
      );
    // As in an image, where they run before the source is there: what they leave beside the environment is of no version.
    const scratch = join(folder, "cogway-run");
    mkdirSync(scratch);
    const runAll = async (commands: string[], member: string): Promise<void> => {
      for (const command of commands) {
        onLine(`$ ${command}`);
        const what = `${member} failed: ${command.split("\n")[0]?.slice(0, 200)}`;
        await run("/bin/sh", ["-ec", command], scratch, "build.run", what);
      }
    };
    await runAll(spec.pre_install ?? [], "build.pre_install");
    const requirements = join(folder, "cogway-requirements.txt");
    const failed = "The requirements cannot be installed";
    if (uv !== null && spec.lock !== undefined) {
      writeFileSync(requirements, spec.lock);
      const args = ["pip", "install", "--no-deps", "--compile-bytecode", "-r", requirements];
      await run(uv, args, sourceDir, "build.requirements", failed);
    } else {
      // One resolution over both, so that the pins win over what a model asks for, or fail clearly.
      writeFileSync(requirements, `${[...COG_PINS, spec.lock ?? spec.requirements].join("\n")}\n`);
      const [command, args] =
        uv === null
          ? [join(bin, "python"), ["-m", "pip", "install", "--progress-bar", "off"]]
          : [uv, ["pip", "install", "--compile-bytecode"]];
      await run(command, [...args, "-r", requirements], sourceDir, "build.requirements", failed);
    }
    await runAll(spec.run, "build.run");
    rmSync(scratch, { recursive: true, force: true });
    const limit = AbortSignal.any([AbortSignal.timeout(IMPORT_TIMEOUT_MS), signal]);
    const imported = await runTool(join(bin, "python"), ["-c", "import cog, coglet"], {
      cwd: folder,
      env,
      signal: limit,
    });
    if (imported.kind !== "done") {
      throw new Stop(
        failureOf(imported, environment, "cog cannot be imported in the environment", IMPORT_TIMEOUT_MS, signal),
      );
    }
  }
}

/** What goes into an environment. Versions that were prepared without a lock keep the key, and so the environment, that they had. */
function keyOf(python: string, spec: EnvironmentSpec, sourceDir: string): string {
  const { lock, requirements, run, pre_install = [] } = spec;
  // A path says nothing of what lies there.
  const paths = lock !== undefined && hasPaths(lock) ? [sourceDir] : [];
  const parts =
    lock === undefined
      ? [python, requirements, run, COG_PINS, ...pre_install]
      : ["lock", python, lock, pre_install, run, COG_PINS, ...paths];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex").slice(0, 32);
}

function hasPaths(lock: string): boolean {
  return lock.split("\n").some((line) => /^(\.|\/|file:|-e\s)|@ (file:|\.)/.test(line) && !line.startsWith("--"));
}

/** One message out of how a program ended: what failed, and its own last words. */
function failureOf(
  end: Exclude<ToolEnd, { kind: "done" }>,
  code: EnvironmentCode,
  what: string,
  limitMs: number,
  signal: AbortSignal | undefined,
): EnvironmentFailure {
  if (end.kind === "aborted") {
    if (signal?.aborted === true) return { kind: "canceled" };
    return { kind: "failed", code, detail: `${what}: it took longer than ${limitMs / 60_000} minutes` };
  }
  const text = end.tail.join("\n");
  if (saysDiskFull(text)) return { kind: "failed", code: "build.disk_full", detail: `${what}: the disk is full` };
  const words = end.tail
    .slice(-ERROR_TAIL_LINES)
    .map((line) => line.replaceAll("`-`", "the requirements").replace(/^[\s×╰─▶│├]*((error|cause|ERROR):\s*)?/, ""))
    .join("\n")
    .replace(/(\S)\n(?=[a-z])/g, "$1 ")
    .trim();
  return { kind: "failed", code, detail: `${what}: ${words.slice(-ERROR_CHARACTERS_MAX) || end.how}` };
}

/** Holds a lock file with our process id; takes over one whose owner is gone. Null when it was given up. */
async function lock(path: string, signal: AbortSignal, onWait: () => void): Promise<(() => void) | null> {
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
    await wait(LOCK_POLL_MS, null, { signal }).catch(() => null);
    if (signal.aborted) return null;
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
