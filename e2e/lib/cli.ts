/** The binary `cogway` as its users run it: a process of its own, with a home of its own. */
import { type ChildProcess, spawn } from "node:child_process";
import { join, resolve } from "node:path";

const BINARY = resolve(import.meta.dirname, "../../gpu-origin/cli/cogway.mjs");

export interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

export class Cli {
  readonly #env: NodeJS.ProcessEnv;

  /** `home`: where logins are kept. Nothing of the caller's environment is a connection. */
  constructor(home: string, env: Record<string, string> = {}) {
    const { COGWAY_URL: _url, COGWAY_TOKEN: _token, NODE_OPTIONS: _options, ...own } = process.env;
    this.#env = { ...own, XDG_CONFIG_HOME: join(home, "config"), NODE_ENV: "", ...env };
  }

  start(args: string[], options: { stdin?: string; cwd?: string } = {}): Running {
    const child = spawn(process.execPath, [BINARY, ...args], {
      env: this.#env,
      stdio: ["pipe", "pipe", "pipe"],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    child.stdin.end(options.stdin ?? "");
    return new Running(child);
  }

  run(args: string[], options: { stdin?: string; cwd?: string } = {}): Promise<Finished> {
    return this.start(args, options).finished;
  }

  /** A run that must succeed without a word on stderr. */
  async ok(args: string[], options: { stdin?: string; cwd?: string } = {}): Promise<string> {
    const { code, stdout, stderr } = await this.run(args, options);
    if (code !== 0 || stderr !== "") throw new Error(`cogway ${args.join(" ")}: ${code}\n${stdout}\n${stderr}`);
    return stdout;
  }

  /** Every line of `--json`. */
  async json<T>(args: string[]): Promise<T[]> {
    const stdout = await this.ok([...args, "--json"]);
    return stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as T);
  }
}

export class Running {
  readonly finished: Promise<Finished>;
  readonly #child: ChildProcess;
  stdout = "";
  stderr = "";

  constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.on("data", (chunk: Buffer) => {
      this.stdout += chunk.toString();
    });
    child.stderr?.on("data", (chunk: Buffer) => {
      this.stderr += chunk.toString();
    });
    this.finished = new Promise((done) => {
      child.once("close", (code) => done({ code, stdout: this.stdout, stderr: this.stderr }));
    });
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error("cogway was not started");
    return this.#child.pid;
  }

  signal(name: "SIGINT" | "SIGTERM"): void {
    this.#child.kill(name);
  }
}
