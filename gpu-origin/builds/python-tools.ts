/** What makes Python environments on this host: its interpreters, and uv, which is fetched from the package index where it is not installed. */
import { existsSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { execa } from "execa";
import { runTool } from "./run-tool.ts";

/** The release that this origin fetches; one on PATH is taken as it is. */
const UV_VERSION = "0.13.9";
const PROBE_TIMEOUT_MS = 15_000;
/** One wheel of 22 MB. */
const UV_INSTALL_TIMEOUT_MS = 180_000;

export interface Python {
  path: string;
  /** such as 3.11.7 */
  version: string;
  /** where it is not what was asked for */
  warning?: string;
}

export class PythonTools {
  readonly #cacheDir: string;
  readonly #env: Record<string, string | undefined>;
  readonly #pythons = new Map<string, Promise<Python | null>>();
  #uv: Promise<string | null> | null = null;

  constructor(cacheDir: string, env: Record<string, string | undefined>) {
    this.#cacheDir = cacheDir;
    this.#env = env;
  }

  /** The interpreter for a version such as `3.11`, else the host's own with a warning; null when there is none that coglet runs on. */
  python(wanted: string | null): Promise<Python | null> {
    const known = this.#pythons.get(wanted ?? "") ?? this.#findPython(wanted);
    this.#pythons.set(wanted ?? "", known);
    return known;
  }

  /** uv's path; null where it is not installed and cannot be had. */
  uv(onLine: (line: string) => void): Promise<string | null> {
    this.#uv ??= this.#findUv(onLine);
    return this.#uv;
  }

  /**
   * The environment of installers. uv is told what the host's pip was told: another index, further wheels, certificates. Packages are cached beside the
   * environments, so that installing the same again links files.
   */
  installerEnv(): Record<string, string | undefined> {
    const env = this.#env;
    const given: Record<string, string | undefined> = {
      PIP_DISABLE_PIP_VERSION_CHECK: "1",
      PIP_NO_INPUT: "1",
      PIP_ROOT_USER_ACTION: "ignore",
      PIP_CACHE_DIR: join(this.#cacheDir, "pip"),
      UV_CACHE_DIR: join(this.#cacheDir, "uv"),
      UV_PYTHON_DOWNLOADS: "never",
      UV_NO_PROGRESS: "1",
      // The host's certificates, under both names that uv has had for it.
      UV_NATIVE_TLS: "1",
      UV_SYSTEM_CERTS: "1",
      // As pip does: a package may come from any of the given indexes.
      UV_INDEX_STRATEGY: "unsafe-best-match",
      UV_DEFAULT_INDEX: env["PIP_INDEX_URL"],
      UV_INDEX: env["PIP_EXTRA_INDEX_URL"],
      UV_FIND_LINKS: env["PIP_FIND_LINKS"],
      SSL_CERT_FILE: env["PIP_CERT"],
    };
    return { ...given, ...env };
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

  async #findUv(onLine: (line: string) => void): Promise<string | null> {
    const onPath = await execa("uv", ["--version"], {
      env: this.#env,
      extendEnv: false,
      reject: false,
      timeout: PROBE_TIMEOUT_MS,
    });
    if (onPath.exitCode === 0) return "uv";
    const folder = join(this.#cacheDir, "tools", `uv-${UV_VERSION}`);
    const path = join(folder, "bin", "uv");
    if (existsSync(path)) return path;
    const python = await this.python(null);
    if (python === null) return null;
    onLine(`Fetching uv ${UV_VERSION}, which makes environments`);
    // uv is a program of its own, which may be moved; so another origin that shares the cache never sees half of it.
    const temporary = `${folder}.${process.pid}`;
    rmSync(temporary, { recursive: true, force: true });
    mkdirSync(temporary, { recursive: true });
    const options = { cwd: temporary, env: this.installerEnv(), signal: AbortSignal.timeout(UV_INSTALL_TIMEOUT_MS) };
    const args = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", temporary, `uv==${UV_VERSION}`];
    // The host's own pip, or that of a fresh environment where Debian's has none.
    let made = await runTool(python.path, args, options);
    if (made.kind === "failed" && made.tail.some((line) => line.includes("No module named pip"))) {
      const venv = join(temporary, "venv");
      await runTool(python.path, ["-m", "venv", venv], options);
      made = await runTool(join(venv, "bin", "python"), args, options);
      rmSync(venv, { recursive: true, force: true });
    }
    if (made.kind !== "done" || !existsSync(join(temporary, "bin", "uv"))) {
      rmSync(temporary, { recursive: true, force: true });
      return null;
    }
    try {
      renameSync(temporary, folder);
    } catch {
      // Another origin was first.
      rmSync(temporary, { recursive: true, force: true });
    }
    return existsSync(path) ? path : null;
  }
}
