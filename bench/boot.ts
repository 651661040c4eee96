/**
 * From nothing to READY, and from a changed line to a version. Boots are those of a whole origin, as the edge asks for them, against coglet that is started by
 * hand with the same environment or image, in turns in the same run; builds are those of a folder, anew and after a change of one line.
 *   npm run bench -- boot                                                    processes
 *   node e2e/engine/with-engine.ts npm run bench -- boot                     containers too
 */
import { spawn } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import Docker from "dockerode";
import { BASE_IMAGE } from "../e2e/engine/base-image.ts";
import { freePort } from "../e2e/lib/system.ts";
import type { OriginConfig } from "../gpu-origin/config.ts";
import { TestOrigin, temporaryFolder } from "../gpu-origin/testing/harness.ts";
import { printMachine, printTable, summarize } from "./lib/stats.ts";

const ROUNDS = 9;
const POLL_MS = 5;
const READY_TIMEOUT_MS = 60_000;
const INSTANCE_BYTES = 512 * 1024 ** 2;
/** Something to install, so that a full build is one. */
const REQUIREMENT = "numpy==2.2.6";

interface Driver {
  name: string;
  config: Partial<OriginConfig>;
  /** Starts coglet by hand beside an instance that runs, and gives the milliseconds until it is READY. */
  byHand: (origin: TestOrigin, instance: string) => Promise<number>;
}

async function untilReady(url: string, startedAt: number): Promise<number> {
  while (performance.now() - startedAt < READY_TIMEOUT_MS) {
    const health = (await fetch(`${url}/health-check`)
      .then((answer) => answer.json())
      .catch(() => null)) as { status: string } | null;
    if (health?.status === "READY") return performance.now() - startedAt;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
  throw new Error("coglet by hand did not become ready");
}

/** The command line of the instance's server, in the folder of its version. */
async function processByHand(origin: TestOrigin): Promise<number> {
  const cmdline = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return { pid, args: readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0") };
      } catch {
        return { pid, args: [] };
      }
    })
    .find(({ pid, args }) => args.includes("cog.server.http") && environmentOf(pid).includes(origin.dataDir));
  if (cmdline === undefined) throw new Error("no instance runs");
  const version = readdirSync(join(origin.dataDir, "versions"))[0] ?? "";
  const [program = "", ...args] = cmdline.args;
  const port = await freePort();
  const startedAt = performance.now();
  const child = spawn(program, args.slice(0, args.indexOf("cog.server.http") + 1), {
    cwd: join(origin.dataDir, "versions", version, "source"),
    env: {
      PATH: `${join(program, "..")}:${process.env["PATH"]}`,
      PORT: String(port),
      COG_PREDICT_TYPE_STUB: "predict.py:Runner",
      COG_LOG_LEVEL: "error",
    },
    stdio: "ignore",
    detached: true,
  });
  try {
    return await untilReady(`http://127.0.0.1:${port}`, startedAt);
  } finally {
    const ended = new Promise((resolve) => child.once("exit", resolve));
    if (child.pid !== undefined) process.kill(-child.pid, "SIGTERM");
    await ended;
  }
}

function environmentOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return "";
  }
}

/** `docker run` of the instance's image, with nothing but coglet's own settings. */
async function containerByHand(docker: Docker, instance: string): Promise<number> {
  const [running] = await docker.listContainers({ filters: { label: [`run.cogway.instance=${instance}`] } });
  if (running === undefined) throw new Error("no instance runs");
  const { Config } = await docker.getContainer(running.Id).inspect();
  const startedAt = performance.now();
  const container = await docker.createContainer({
    Image: running.Image,
    Cmd: ["python", "-m", "cog.server.http", "--host", "0.0.0.0"],
    Env: Config.Env.filter((entry) => entry.startsWith("COG_")),
    HostConfig: { Memory: INSTANCE_BYTES },
  });
  try {
    await container.start();
    const { NetworkSettings } = await container.inspect();
    return await untilReady(`http://${NetworkSettings.Networks["bridge"]?.IPAddress}:5000`, startedAt);
  } finally {
    await container.remove({ force: true });
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

async function measure({ name, config, byHand }: Driver): Promise<(string | number)[][]> {
  const folder = temporaryFolder();
  const model = join(folder.path, "bench-boot");
  mkdirSync(model);
  writeFileSync(
    join(model, "cog.yaml"),
    `build:\n  python_version: "3.11"\n  python_packages:\n    - ${REQUIREMENT}\nrun: "predict.py:Runner"\n`,
  );
  const write = (line: number): void =>
    writeFileSync(
      join(model, "predict.py"),
      `from cog import BaseRunner\n\n\nclass Runner(BaseRunner):\n    def run(self, text: str = "") -> str:\n        return text + "${line}"\n`,
    );
  write(0);
  const origin = await TestOrigin.start([], { cacheDir: join(folder.path, "cache"), modelDirs: [], ...config });
  const prepared = [model];
  try {
    const build = (): Promise<unknown> => origin.prepare(prepared);
    const full = await timed(build);
    const boots: number[] = [];
    const hands: number[] = [];
    // The first has what the file system did not have in memory.
    for (let round = 0; round <= ROUNDS; round++) {
      let instance = "";
      const boot = await timed(async () => {
        instance = await origin.boot("bench-boot", ["ready"], READY_TIMEOUT_MS, { memory_bytes: INSTANCE_BYTES });
      });
      const hand = await byHand(origin, instance);
      await origin.releaseInstances();
      if (round > 0) {
        boots.push(boot);
        hands.push(hand);
      }
    }
    const changes: number[] = [];
    for (let line = 1; line <= 3; line++) {
      write(line);
      changes.push(await timed(build));
    }
    const ratios = boots.map((boot, i) => boot / (hands[i] ?? Number.NaN));
    const [boot, hand, ratio, change] = [boots, hands, ratios, changes].map((values) => summarize(values).p50);
    return [
      [
        name,
        "boot to READY",
        `${Math.round(boot ?? 0)} ms`,
        `${Math.round(hand ?? 0)} ms by hand`,
        (ratio ?? 0).toFixed(2),
        "1.15",
      ],
      [
        name,
        "build after one line",
        `${Math.round(change ?? 0)} ms`,
        `${Math.round(full)} ms in full`,
        ((change ?? 0) / full).toFixed(3),
        "0.1",
      ],
    ];
  } finally {
    await origin.stop();
    folder.remove();
  }
}

const drivers: Driver[] = [{ name: "process", config: {}, byHand: processByHand }];
const socket = process.env["COGWAY_TEST_DOCKER_HOST"]?.replace(/^unix:\/\//, "");
if (socket !== undefined && socket !== "") {
  const docker = new Docker({ socketPath: socket });
  drivers.push({
    name: "docker",
    config: {
      driver: "docker",
      docker: {
        host: `unix://${socket}`,
        runtime: null,
        subnets: "10.198.0.0/16",
        baseImage: BASE_IMAGE,
        buildSecrets: null,
      },
    },
    byHand: (_, instance) => containerByHand(docker, instance),
  });
} else {
  console.log("containers are not measured: run it by e2e/engine/with-engine.ts");
}
printMachine();
const rows: (string | number)[][] = [];
for (const driver of drivers) rows.push(...(await measure(driver)));
printTable(["driver", "what", "median", "against", "ratio", "aim"], rows);
printMachine();
