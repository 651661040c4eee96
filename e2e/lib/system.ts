/**
 * Starts the real system: the launcher of `npm start` as a process of its own, on free ports, with an empty data folder, and the Python environments of
 * earlier runs. Nothing of it is imported here.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Api, type Model } from "./api.ts";
import { isAlive, killHard, type Process, processesNaming, processTree } from "./processes.ts";
import { waitFor } from "./wait.ts";

const ROOT = resolve(import.meta.dirname, "../..");
/** Rebuildable things only; ignored by git and kept between runs. */
export const CACHE = join(ROOT, ".cogway-test/cache");
const MODEL_FOLDERS = ["e2e/models", "e2e/docker/models", "gpu-origin/testing/models", "examples/models"];
/** The first start on a fresh clone makes the Python environment of the test models. */
const READY_TIMEOUT_MS = 300_000;
/** The design's bound for the end of everything after SIGTERM. */
const STOP_TIMEOUT_MS = 40_000;
/** Until another process is there; on a busy machine that takes seconds. */
const EDGE_RESTART_TIMEOUT_MS = 60_000;
const PORT_TRIES_MAX = 20;
const OUTPUT_KEPT_CHARACTERS = 200_000;

export interface Ports {
  edge: number;
  origin: number;
}

export interface SystemOptions {
  /** names of folders in {@link MODEL_FOLDERS} */
  models: string[];
  env?: Record<string, string>;
  /** `npm start` itself in a process group of its own, instead of its launcher alone */
  byNpm?: boolean;
  /** a data folder of an earlier system; it is then the caller's to remove */
  data?: string;
  ports?: Ports;
  /** `--origins`: the ports behind the first one's must be free too */
  origins?: number;
}

/** The folder of a test model or example. */
export function modelFolder(name: string): string {
  const found = MODEL_FOLDERS.map((folder) => join(ROOT, folder, name)).find((folder) => existsSync(folder));
  if (found === undefined) throw new Error(`no model folder ${name}`);
  return found;
}

export function temporaryFolder(): string {
  return mkdtempSync(join(tmpdir(), "cogway-e2e-"));
}

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const address = server.address();
  await new Promise((done) => server.close(done));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

/** The first of `count` ports in a row that were free a moment ago. */
async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < PORT_TRIES_MAX; tries++) {
    const first = await freePort();
    const others = Array.from({ length: count - 1 }, (_, index) => first + 1 + index);
    if ((await Promise.all(others.map(isFree))).every((isItsOwn) => isItsOwn)) return first;
  }
  throw new Error(`no ${count} free ports in a row`);
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const listens = await new Promise<boolean>((done) => {
    server.once("error", () => done(false));
    server.listen(port, "127.0.0.1", () => done(true));
  });
  if (listens) await new Promise((done) => server.close(done));
  return listens;
}

export class System {
  readonly url: string;
  readonly ports: Ports;
  readonly data: string;
  readonly #child: ChildProcess;
  readonly #ownsData: boolean;
  readonly #exited: Promise<number | null>;
  #output = "";
  #api: Api | null = null;

  private constructor(options: SystemOptions, ports: Ports) {
    this.ports = ports;
    this.data = options.data ?? temporaryFolder();
    this.#ownsData = options.data === undefined;
    this.url = `${options.env?.["COGWAY_TLS"] === "1" ? "https" : "http"}://127.0.0.1:${ports.edge}`;
    mkdirSync(CACHE, { recursive: true });
    const flags = ["--no-wait", ...(options.origins === undefined ? [] : ["--origins", String(options.origins)])];
    const [command, args]: [string, string[]] =
      options.byNpm === true
        ? ["npm", ["start", "--", ...flags]]
        : [process.execPath, [join(ROOT, "gpu-origin/cli/start.ts"), ...flags]];
    this.#child = spawn(command, args, {
      cwd: ROOT,
      detached: options.byNpm === true,
      env: {
        ...process.env,
        // vitest's own; the launcher is no test
        NODE_OPTIONS: "",
        NODE_ENV: "",
        COGWAY_PORT: String(ports.edge),
        COGWAY_ORIGIN_PORT: String(ports.origin),
        COGWAY_DATA: this.data,
        COGWAY_CACHE: CACHE,
        COGWAY_MODELS: options.models.map(modelFolder).join(","),
        ...options.env,
      },
      stdio: ["ignore", "pipe", "pipe"],
    });
    const keep = (chunk: Buffer): void => {
      this.#output = (this.#output + chunk.toString()).slice(-OUTPUT_KEPT_CHARACTERS);
      if (process.env["COGWAY_TEST_LOG"] !== undefined) process.stderr.write(chunk);
    };
    this.#child.stdout?.on("data", keep);
    this.#child.stderr?.on("data", keep);
    this.#exited = new Promise((done) => this.#child.once("exit", (code) => done(code)));
  }

  /** Ports that were free a moment ago, for a system that is started more than once. */
  static async freePorts(origins = 1): Promise<Ports> {
    return { edge: await freePort(), origin: await freePorts(origins) };
  }

  /** Starts it and waits until every model can run. */
  static async start(options: SystemOptions): Promise<System> {
    const ports = options.ports ?? (await System.freePorts(options.origins));
    const system = new System(options, ports);
    try {
      await system.#untilReady(options.models);
    } catch (error) {
      await system.stop();
      throw new Error(`the system did not start; its last output:\n${system.output.slice(-4_000)}`, { cause: error });
    }
    return system;
  }

  async #untilReady(models: string[]): Promise<void> {
    this.#api = await waitFor("the launcher's own edge", READY_TIMEOUT_MS, () => {
      if (this.#child.exitCode !== null) return "ended" as const;
      // Its own: a killed launcher's edge may still answer on the same port.
      this.edge();
      return new Api(this.url, readFileSync(join(this.data, "token"), "utf8").trim());
    }).then((found) => {
      if (found === "ended") throw new Error(`the launcher ended with ${this.#child.exitCode}`);
      return found;
    });
    await this.untilHealthy(READY_TIMEOUT_MS);
    for (const name of models) {
      await waitFor(`model ${name}`, READY_TIMEOUT_MS, async () => {
        const { body } = await this.api.request<Model>("GET", `/v1/models/cogway/${name}`);
        if (body.state === "failed") throw new Error(`model ${name} failed`);
        return body.latest_version;
      });
    }
  }

  /** As the first account, which is the operator. */
  get api(): Api {
    if (this.#api === null) throw new Error("the system has not started");
    return this.#api;
  }

  /** What the launcher printed, stdout and stderr together. */
  get output(): string {
    return this.#output;
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error("the launcher was not started");
    return this.#child.pid;
  }

  /** The launcher and everything below it. */
  processes(): Process[] {
    return processTree(this.pid);
  }

  /** Everything alive that names this system's data folder, whoever its parent is now. */
  leftovers(): Process[] {
    return processesNaming(this.data);
  }

  #find(what: string, isIt: (process: Process) => boolean): Process {
    const found = this.processes().find(isIt);
    if (found === undefined) throw new Error(`${what} does not run`);
    return found;
  }

  edge(): Process {
    return this.#find("workerd", ({ name, command }) => name === "workerd" || /\/workerd /.test(command));
  }

  origin(): Process {
    return this.#find("gpu-origin", ({ command }) => command.includes("gpu-origin/main.ts"));
  }

  /** All of them that run now. */
  origins(): Process[] {
    return this.processes().filter(({ command }) => command.includes("gpu-origin/main.ts"));
  }

  /** The process that supervises the other two. */
  launcher(): Process {
    return this.#find("the launcher", ({ command }) => /gpu-origin\/cli\/start\.ts/.test(command));
  }

  killEdge(): void {
    killHard(this.edge().pid);
  }

  /** `kill -9` of workerd; resolves when the next one answers. */
  async restartEdge(): Promise<void> {
    const { pid } = this.edge();
    this.killEdge();
    await waitFor("the next workerd", EDGE_RESTART_TIMEOUT_MS, () => (this.edge().pid === pid ? null : true));
    await this.untilHealthy();
  }

  killOrigin(): void {
    killHard(this.origin().pid);
  }

  async untilHealthy(timeoutMs = 60_000): Promise<void> {
    await waitFor("/healthz", timeoutMs, async () => {
      const answer = await fetch(`${this.url}/healthz`);
      const text = await answer.text();
      if (answer.status !== 200) throw new Error(`${answer.status} ${text}`);
      return true;
    });
  }

  /** The n-th origin has prepared its models too: the first one alone is waited for, and only it tells of them. */
  async untilPrepared(n: number): Promise<void> {
    const log = join(this.data, "logs", `gpu-origin-${n}.log`);
    await waitFor(`the models of origin ${n}`, READY_TIMEOUT_MS, () =>
      readFileSync(log, "utf8").includes("models.done") ? true : null,
    );
  }

  /** Sends a signal to the started process alone (for npm: its shell is npm's to signal), and waits for its end. */
  async signal(
    name: "SIGTERM" | "SIGINT" | "SIGKILL",
    target: "process" | "group" = "process",
  ): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      process.kill(target === "group" ? -this.pid : this.pid, name);
    }
    return this.#exited;
  }

  /** Ends it, by force where it does not end itself; removes its data. */
  async stop(): Promise<void> {
    const before = this.processes();
    if (isAlive(this.pid)) {
      this.#child.kill("SIGTERM");
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((done) => {
        timer = setTimeout(done, STOP_TIMEOUT_MS);
      });
      await Promise.race([this.#exited, late]);
      clearTimeout(timer);
    }
    for (const { pid } of [...before, ...this.leftovers()]) if (isAlive(pid)) killHard(pid);
    if (this.#ownsData) rmSync(this.data, { recursive: true, force: true, maxRetries: 5 });
  }
}
