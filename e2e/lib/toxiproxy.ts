/** Proxies between parts that reset connections: toxiproxy, built by Go once, as a process of its own that its HTTP API drives. */
import { type ChildProcess, spawn } from "node:child_process";
import { goProgram } from "./go-program.ts";
import { freePort } from "./system.ts";
import { waitFor } from "./wait.ts";

const MODULE = "github.com/Shopify/toxiproxy/v2";
const VERSION = "v2.5.0";
const START_MS = 20_000;
/** A connection that is reset lives this long before: some are reset before their request, some amid their answer. */
const RESET_AFTER_MS = [0, 30, 300];

export class Toxiproxy {
  readonly #process: ChildProcess;
  readonly #api: string;

  private constructor(process: ChildProcess, api: string) {
    this.#process = process;
    this.#api = api;
  }

  /** Null where it cannot be built; `what` is then named as not run. */
  static async start(what: string): Promise<Toxiproxy | null> {
    const program = await goProgram(what, {
      name: "toxiproxy",
      module: MODULE,
      package: `${MODULE}/cmd/server`,
      version: VERSION,
      build: ["build"],
    });
    if (program === null) return null;
    const port = await freePort();
    const child = spawn(program, ["-host", "127.0.0.1", "-port", String(port)], {
      env: { ...process.env, LOG_LEVEL: "fatal" },
      stdio: "ignore",
    });
    const started = new Toxiproxy(child, `http://127.0.0.1:${port}`);
    try {
      await waitFor("toxiproxy", START_MS, async () => (await fetch(`${started.#api}/version`)).ok || null);
    } catch (error) {
      await started.stop();
      throw error;
    }
    return started;
  }

  /** Listens on `port` and passes on to `upstream`, both of loopback; `share` of its connections are reset. */
  async add(name: string, port: number, upstream: number, share: number): Promise<void> {
    await this.#call("POST", "/proxies", { name, listen: `127.0.0.1:${port}`, upstream: `127.0.0.1:${upstream}` });
    for (const timeout of RESET_AFTER_MS) {
      await this.#call("POST", `/proxies/${name}/toxics`, {
        name: `reset-${timeout}`,
        type: "reset_peer",
        toxicity: share / RESET_AFTER_MS.length,
        attributes: { timeout },
      });
    }
  }

  /** Cuts every connection of a proxy that is open now. */
  async cut(name: string): Promise<void> {
    await this.#call("POST", `/proxies/${name}`, { enabled: false });
    await this.#call("POST", `/proxies/${name}`, { enabled: true });
  }

  async #call(method: string, path: string, body: unknown): Promise<void> {
    const answer = await fetch(`${this.#api}${path}`, { method, body: JSON.stringify(body) });
    if (!answer.ok) throw new Error(`toxiproxy ${method} ${path}: ${answer.status} ${await answer.text()}`);
    await answer.body?.cancel();
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode !== null) return;
    const ended = new Promise((done) => this.#process.once("exit", done));
    this.#process.kill("SIGKILL");
    await ended;
  }
}
