/**
 * A model that tries to get out of its container, and to harm what runs beside it: under the engine's default runtime, and as an untrusted account's under
 * gVisor where the engine has it. What its probes say is checked, and what canaries outside saw.
 */

import { lookup } from "node:dns/promises";
import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { type Api, type Prediction, TERMINAL } from "../lib/api.ts";
import { Cli } from "../lib/cli.ts";
import { modelFolder, type System, temporaryFolder } from "../lib/system.ts";
import { waitFor } from "../lib/wait.ts";
import { Canaries } from "./lib/canaries.ts";
import { engine, instanceContainers, startDockerSystem } from "./lib/docker-system.ts";

/** The design's bound for the next prediction after whatever a model did. */
const NEXT_WITHIN_MS = 10_000;
const PROBES_MIN = 25;
const HARM_TIMEOUT_MS = 60_000;
/** A flood is held back, so it may go on for long. */
const PATIENCE_MS = 15_000;
/** An idle origin holds 150 MB; what a model writes must not gather in it. */
const ORIGIN_MB_MAX = 600;
/** Settings of the kernel that a model would change first. */
const KERNEL_SETTINGS = ["hostname", "core_pattern", "panic"].map((name) => `/proc/sys/kernel/${name}`);

let system: System;
let canaries: Canaries;
beforeAll(async () => {
  canaries = await Canaries.start();
  system = await startDockerSystem({ models: ["noop", "slow", "escape", "big-output"] });
});
afterAll(async () => {
  await system?.stop();
  await canaries?.stop();
});

/** A name that this machine can resolve: that of its packages' mirror, where there may be no way to any other. */
function resolvableName(): string {
  for (const file of ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"]) {
    const text = existsSync(file) ? readFileSync(file, "utf8") : "";
    const host = /^(?!#).*https?:\/\/([\w.-]+)/m.exec(text)?.[1];
    if (host !== undefined) return host;
  }
  return "example.com";
}

/** Everything that the test knows and a model should not be able to use. */
async function world(self: string, other: Prediction, marks: string[]): Promise<Record<string, unknown>> {
  const neighbours = (await instanceContainers(system)).filter(({ version_id }) => version_id !== self);
  expect(neighbours.length).toBeGreaterThan(0);
  const secrets = JSON.parse(readFileSync(join(system.data, "secrets.json"), "utf8")) as Record<string, string>;
  const credential = readFileSync(join(system.data, "origin-credential.json"), "utf8");
  const name = resolvableName();
  const resolved = await lookup(name, { family: 4 }).catch(() => null);
  const nameServers = [...readFileSync("/etc/resolv.conf", "utf8").matchAll(/^nameserver (\S+)/gm)];
  return {
    canary_port: canaries.port,
    loopback_port: canaries.loopbackPort,
    canary_file: canaries.file,
    origin_port: system.ports.origin,
    edge_port: system.ports.edge,
    engine_socket: inject("engine").socket,
    host_addresses: Canaries.hostAddresses(),
    name_servers: nameServers.map((match) => match[1]),
    neighbours: neighbours.map(({ address }) => [address, 5000]),
    file_servers: neighbours.map(({ gateway }) => [gateway, 28_788]),
    other_predictions: [`${other.id}a1`],
    names: [name],
    public: resolved === null ? [] : [[resolved.address, 443]],
    marks: [...marks, canaries.mark],
    secrets: [system.api.token, ...Object.values(secrets), ...(credential.match(/[\w+/=-]{24,}/g) ?? [])],
  };
}

const kernelSettings = (): string[] => KERNEL_SETTINGS.map((path) => readFileSync(path, "utf8"));

/** One account's use of the model, whoever owns it, and the harms that it does to its instance. `ownKernel`: what probes get of a sandbox that is a kernel itself. */
function suite(model: string, caller: () => Api, harms: string[], ownKernel: Record<string, string> = {}): void {
  const create = async (input: Record<string, unknown>, wait?: number): Promise<Prediction> => {
    const answer = await caller().request<Prediction>("POST", `/v1/models/${model}/predictions`, {
      body: { input },
      ...(wait === undefined ? {} : { headers: { prefer: `wait=${wait}` } }),
    });
    if (answer.status >= 300) throw new Error(`${answer.status}: ${answer.text}`);
    return answer.body;
  };
  const run = async (input: Record<string, unknown>): Promise<Prediction> =>
    caller().untilEnd(await create(input, 60), HARM_TIMEOUT_MS);

  const untilEndOrCancel = async (prediction: Prediction): Promise<Prediction> => {
    const end = await caller()
      .untilEnd(prediction, PATIENCE_MS)
      .catch(() => null);
    if (end !== null) return end;
    await caller().cancel(prediction);
    return caller().untilEnd(prediction, HARM_TIMEOUT_MS);
  };

  test("none of its probes gets out, and no canary outside saw it", async () => {
    const mark = `input-${crypto.randomUUID()}`;
    const earlier = await run({ file: `data:text/plain;base64,${Buffer.from(mark).toString("base64")}` });
    expect(earlier).toMatchObject({ status: "succeeded", output: "still here" });
    const other = await system.api.create("slow", { seconds: 100 });
    await system.api.untilRunning(other);
    try {
      const [before, seen] = [kernelSettings(), canaries.connections.length];
      const end = await run({ probe: "all", world: JSON.stringify(await world(earlier.version, other, [mark])) });
      expect(end).toMatchObject({ status: "succeeded", error: null });
      const results = JSON.parse(String(end.output)) as Record<string, string | null>;
      expect(Object.keys(results).length).toBeGreaterThanOrEqual(PROBES_MIN);
      expect(
        Object.fromEntries(Object.entries(results).filter(([name, got]) => got !== null && got !== ownKernel[name])),
      ).toEqual({});
      expect(canaries.connections.slice(seen)).toEqual([]);
      expect(canaries.isFileUntouched()).toBe(true);
      expect(kernelSettings()).toEqual(before);
      expect(await system.api.get(other)).toMatchObject({ status: "processing", output: null });
    } finally {
      await system.api.cancel(other);
    }
  });

  test.each(harms)(
    "after %s another model and the same one run within 10 s, and the origin is the same",
    async (harm) => {
      const origin = system.origin().pid;
      const harmful = await create({ probe: harm });
      await caller().until(harmful, "starts", ({ status }) => status === "processing" || TERMINAL.includes(status));
      expect(await timed(system.api.run("noop", { text: "meanwhile" }))).toBeLessThan(NEXT_WITHIN_MS);
      const end = await untilEndOrCancel(harmful);
      if (harm === "memory_bomb") expect(end.error).toMatch(/memory|crashed/);
      const [another, same] = await Promise.all([
        timed(system.api.run("noop", { text: "next" })),
        timed(run({}).then((next) => expect(next).toMatchObject({ status: "succeeded", output: "still here" }))),
      ]);
      expect(Math.max(another, same)).toBeLessThan(NEXT_WITHIN_MS);
      expect(system.origin().pid).toBe(origin);
      expect(system.origin().rss_mb).toBeLessThan(ORIGIN_MB_MAX);
      await system.untilHealthy(1_000);
      expect(readdirSync(join(system.data, "spool/outputs"))).toEqual([]);
      const { body } = await caller().request<{ results: { id: string }[] }>("GET", "/v1/predictions");
      expect(body.results.some(({ id }) => id.startsWith("selfmade"))).toBe(false);
    },
  );

  test("one that suspends its server and hangs is ended by a cancel, and the next runs within 10 s", async () => {
    const hanging = await create({ probe: "stop_parent" });
    await caller().until(hanging, "runs", ({ status }) => status === "processing");
    await caller().cancel(hanging);
    expect(await caller().untilEnd(hanging, HARM_TIMEOUT_MS)).toMatchObject({ status: "canceled" });
    expect(await timed(run({}))).toBeLessThan(NEXT_WITHIN_MS);
  });

  test("what it listens on is reached by nobody", async () => {
    const self = (await run({})).version;
    const listening = await create({ probe: "listen", world: JSON.stringify({ port: 5555, seconds: 3 }) });
    await caller().untilRunning(listening);
    const all = await instanceContainers(system);
    const neighbour = all.find(({ version_id }) => version_id !== self);
    // Of equal content, so the other owner's instance is dialed too.
    const addresses = all.filter(({ version_id }) => version_id === self).map(({ address }) => address);
    const dial = `
import socket
for address in ${JSON.stringify(addresses)}:
    try:
        socket.create_connection((address, 5555), 1)
        exit("reached")
    except OSError:
        pass`;
    const exec = await engine()
      .getContainer(neighbour?.id ?? "")
      .exec({ Cmd: ["python", "-c", dial], AttachStderr: true });
    const stream = await exec.start({});
    stream.resume();
    await waitFor("the neighbour's try", 10_000, async () => ((await exec.inspect()).Running ? null : true));
    expect((await exec.inspect()).ExitCode).toBe(0);
    expect((await caller().untilEnd(listening)).output).toBe("reached by nobody");
  });
}

async function timed(work: Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work;
  return performance.now() - startedAt;
}

describe("the operator's, under the default runtime", () => {
  suite("cogway/escape", () => system.api, [
    "fork_bomb",
    "thread_bomb",
    "memory_bomb",
    "disk_fill",
    "file_count",
    "descriptors",
    "native_log_flood",
    "kill_all",
    "segfault",
    "own_predictions",
  ]);
});

/** A model of an account, pushed as source. */
if (inject("engine").offersGvisor) {
  describe("an untrusted account's, under gVisor", () => {
    let stranger: Api;
    beforeAll(async () => {
      stranger = await system.api.newAccount("stranger");
      const home = temporaryFolder();
      try {
        const cli = new Cli(home, { COGWAY_URL: system.url, COGWAY_TOKEN: stranger.token });
        await cli.ok(["push", modelFolder("escape"), "stranger/escape"]);
      } finally {
        rmSync(home, { recursive: true, force: true });
      }
    });
    test("runs under gVisor", async () => {
      const running = await stranger.request<Prediction>("POST", "/v1/models/stranger/escape/predictions", {
        body: { input: {} },
        headers: { prefer: "wait=60" },
      });
      expect(await stranger.untilEnd(running.body)).toMatchObject({ status: "succeeded" });
      // Of equal content, so the operator's version has the same id: an instance of the operator's is not one of theirs.
      const found = (await instanceContainers(system)).filter(({ version_id }) => version_id === running.body.version);
      const runtimes = found.map(async ({ id }) => (await engine().getContainer(id).inspect()).HostConfig.Runtime);
      expect((await Promise.all(runtimes)).filter((runtime) => runtime === "runsc").length).toBe(1);
    });
    suite("stranger/escape", () => stranger, ["fork_bomb", "memory_bomb", "disk_fill", "kill_all"], {
      user_namespace: "made",
      other_namespaces: "mount",
      devices_of_the_host: "opened /dev/fuse",
      write_to_proc: "wrote /proc/self/oom_score_adj",
    });
  });
}

test("an output of 10 GB ends its prediction in words, and fills neither the host nor the next prediction's time", async () => {
  const end = await system.api.run("big-output", { gigabytes: 10 });
  expect(end).toMatchObject({ status: "failed", output: null });
  expect(end.error).toMatch(/memory|crashed|larger/);
  expect(readdirSync(join(system.data, "spool/outputs"))).toEqual([]);
  const [another, same] = await Promise.all([
    timed(system.api.run("noop", {})),
    timed(system.api.run("big-output", {}).then((next) => expect(next.status).toBe("succeeded"))),
  ]);
  expect(Math.max(another, same)).toBeLessThan(NEXT_WITHIN_MS);
});

test("the probes are no sham: without bounds they get far", async () => {
  const folder = temporaryFolder();
  const container = await engine().createContainer({
    Image: inject("engine").base,
    Cmd: [
      "timeout",
      "60",
      "python3",
      "-B",
      "/model/probes.py",
      JSON.stringify({ canary_port: 9, loopback_port: 9, origin_port: 9, edge_port: 9, canary_file: "/host/canary" }),
    ],
    HostConfig: {
      Binds: [`${modelFolder("escape")}:/model:ro`, `${canaries.file}:/host/canary:ro`],
      CapAdd: ["SYS_ADMIN"],
      SecurityOpt: ["seccomp=unconfined"],
      NetworkMode: "none",
    },
  });
  try {
    const stream = await container.attach({ stream: true, stdout: true });
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    await container.start();
    await container.wait();
    const text = Buffer.concat(chunks).toString();
    for (const name of [
      "mount",
      "user_namespace",
      "other_namespaces",
      "raw_socket",
      "new_root",
      "capabilities",
      "root_by_setuid",
      "write_to_the_image",
      "bpf",
      "files_of_the_host",
    ]) {
      expect(text).toMatch(new RegExp(`"${name}": "`));
    }
  } finally {
    await container.remove({ force: true });
    rmSync(folder, { recursive: true, force: true });
  }
});
