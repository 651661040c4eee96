/**
 * The inner half of with-engine.ts: runs below tini, the first process of namespaces of its own. It starts the engine, imports the base image, runs the
 * command, and leaves: with the first process the kernel ends all others, the engine among them, and its data is thrown away.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createReadStream, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { networkInterfaces } from "node:os";
import { basename, join } from "node:path";
import { BASE_IMAGE } from "./base-image.ts";
import { NoEngine } from "./machine.ts";

const NO_ENGINE = 75;
const NETWORK_TIMEOUT_MS = 10_000;
const ENGINE_TIMEOUT_MS = 30_000;
const POLL_MS = 50;
/** These run in a network namespace of their own: the ranges must only differ from slirp4netns's 10.0.2.0/24 and from what the machine itself reaches. */
const BRIDGE = "10.213.0.1/24";
const POOL = { base: "10.214.0.0/16", size: 28 };

const [folder = "", archive = "", ...command] = process.argv.slice(2);
const socket = join(folder, "docker.sock");

async function main(): Promise<number> {
  let running: ChildProcess | null = null;
  let isStopped = false;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(name, () => {
      isStopped = true;
      running?.kill(name);
    });
  }
  system("ip", "link", "set", "lo", "up");
  for (const path of ["/etc/docker", "/run/docker"]) system("mount", "-t", "tmpfs", "tmpfs", path);
  await until("the network", NETWORK_TIMEOUT_MS, () => networkInterfaces()["tap0"] !== undefined);
  const engine = startEngine();
  await until("the engine", ENGINE_TIMEOUT_MS, async () => {
    if (engine.exitCode !== null) throw new NoEngine(`dockerd ended with ${engine.exitCode}: ${lastLine()}`);
    return existsSync(socket) && (await call("GET", "/_ping")) === 200;
  });
  const [repository = "", tag = ""] = BASE_IMAGE.split(":");
  const imported = await call("POST", `/images/create?fromSrc=-&repo=${repository}&tag=${tag}`, archive);
  if (imported !== 200) throw new NoEngine(`the base image could not be imported: ${imported}`);
  if (isStopped) return 143;
  const [program = "", ...args] = command;
  const host = `unix://${socket}`;
  const env = {
    ...process.env,
    COGWAY_TEST_DOCKER_HOST: host,
    DOCKER_HOST: host,
    // Ours to restart: what a test of that needs to know.
    COGWAY_TEST_ENGINE: folder,
  };
  running = spawn(program, args, { stdio: "inherit", env });
  return await exitCode(running);
}

function startEngine(): ChildProcess {
  mkdirSync(join(folder, "data"));
  const configuration = {
    "data-root": join(folder, "data"),
    "exec-root": join(folder, "run"),
    pidfile: join(folder, "dockerd.pid"),
    hosts: [`unix://${socket}`],
    "cgroup-parent": `/${basename(folder)}`,
    bip: BRIDGE,
    "default-address-pools": [POOL],
    // gVisor's own network stack and its kvm platform do not run on every kernel; the container's own network namespace bounds it as well.
    runtimes: { runsc: { path: "/usr/bin/runsc", runtimeArgs: ["--network=host", "--platform=ptrace"] } },
  };
  writeFileSync(join(folder, "daemon.json"), JSON.stringify(configuration));
  const log = process.env["COGWAY_TEST_ENGINE_LOG"] === "1" ? "inherit" : openSync(join(folder, "dockerd.log"), "a");
  // A group of its own: Ctrl-C is for the command, which may still need the engine.
  const args = ["--config-file", join(folder, "daemon.json")];
  return spawn("dockerd", args, { stdio: ["ignore", log, log], detached: true });
}

function lastLine(): string {
  const path = join(folder, "dockerd.log");
  return existsSync(path) ? (readFileSync(path, "utf8").trim().split("\n").at(-1) ?? "") : "";
}

/** One call of the engine's API; its status, after its whole answer. */
function call(method: string, path: string, bodyFile?: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const sent = request({ socketPath: socket, method, path }, (answer) => {
      answer.resume();
      answer.once("end", () => resolve(answer.statusCode ?? 0));
    });
    sent.once("error", reject);
    if (bodyFile === undefined) sent.end();
    else createReadStream(bodyFile).pipe(sent);
  });
}

async function until(what: string, timeoutMs: number, probe: () => boolean | Promise<boolean>): Promise<void> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    try {
      if (await probe()) return;
    } catch (error) {
      if (error instanceof NoEngine) throw error;
    }
    if (performance.now() > end)
      throw new NoEngine(`${what} was not there within ${timeoutMs / 1000} s: ${lastLine()}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function system(program: string, ...args: string[]): void {
  const result = spawnSync(program, args, { encoding: "utf8" });
  if (result.status !== 0) throw new NoEngine(`${program} ${args.join(" ")}: ${result.stderr.trim()}`);
}

function exitCode(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    if (child.exitCode !== null) return resolve(child.exitCode);
    child.once("error", reject);
    child.once("exit", (code, signal) => resolve(code ?? (signal === "SIGKILL" ? 137 : 143)));
    return undefined;
  });
}

try {
  // The engine's process would keep this one.
  process.exit(await main());
} catch (error) {
  if (!(error instanceof NoEngine)) throw error;
  process.stderr.write(`no engine: ${error.message}\n`);
  process.exit(NO_ENGINE);
}
