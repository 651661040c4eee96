import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { newId } from "../schema/ids.ts";
import { FakeEdge, JOIN_TOKEN } from "./testing/fake-edge.ts";
import { TEST_CACHE, temporaryFolder, testModel, testPort } from "./testing/harness.ts";

const MAIN = fileURLToPath(new URL("./main.ts", import.meta.url));

describe("the origin's process", () => {
  let edge: FakeEdge;
  let folder: ReturnType<typeof temporaryFolder>;
  let running: ChildProcess[];
  let port: number;
  let output: string;
  beforeEach(async () => {
    edge = new FakeEdge();
    await edge.listen();
    folder = temporaryFolder();
    running = [];
    port = testPort();
    output = "";
  });
  afterEach(async () => {
    for (const child of running) child.kill("SIGKILL");
    await edge.close();
    folder.remove();
  });

  const start = (models: string[], env: Record<string, string> = {}): ChildProcess => {
    const { PATH, HOME } = process.env;
    const child = spawn(process.execPath, [MAIN], {
      stdio: ["ignore", "pipe", "pipe"],
      env: {
        PATH,
        HOME,
        COGWAY_ORIGIN_PORT: String(port),
        COGWAY_EDGE_URL: edge.url,
        COGWAY_DATA: folder.path,
        COGWAY_CACHE: TEST_CACHE,
        COGWAY_MODEL_DIRS: JSON.stringify(models.map((name) => (name.startsWith("/") ? name : testModel(name)))),
        COGWAY_JOIN_TOKEN: JOIN_TOKEN,
        ...env,
      },
    });
    for (const stream of [child.stdout, child.stderr])
      stream?.on("data", (chunk: Buffer) => (output += chunk.toString()));
    running.push(child);
    return child;
  };
  const exited = (child: ChildProcess): Promise<number | null> =>
    new Promise((resolve) => (child.exitCode === null ? child.once("exit", resolve) : resolve(child.exitCode)));
  const ready = async (model: string): Promise<{ version: string; instance: string }> => {
    const version = await edge.until(() => edge.announces.get(model)?.at(-1)?.version?.id, `${model} ready`, 120_000);
    const instance = newId(16);
    const boot = {
      protocol: 1,
      instance_id: instance,
      deployment_key: "d",
      version_id: version,
      slots: 1,
      memory_bytes: 1,
      setup_timeout_ms: 30_000,
    };
    await edge.call("POST", "/v1/instances", boot);
    await edge.until(() => edge.statuses.some((s) => s.instance_id === instance && s.state === "ready"), "an instance");
    return { version, instance };
  };
  const send = async (target: { version: string; instance: string }, input: unknown): Promise<string> => {
    const id = newId(26);
    const { version, instance } = target;
    const start = {
      protocol: 1,
      prediction_id: id,
      attempt: 1,
      instance_id: instance,
      version_id: version,
      account_id: "a",
      input,
    };
    const answer = await edge.call("PUT", `/v1/attempts/${id}/1`, start);
    expect(answer.status).toBe(202);
    return id;
  };
  const endOf = (id: string, type: "finished" | "lost") =>
    edge.until(() => edge.eventsOf(id).find((event) => event.type === type), `${type} of ${id}`);

  it("joins once, then registers with its own key; after kill -9 it tells what was lost, keeps what is ready, and goes on with it", async () => {
    const first = start(["slow"]);
    const target = await ready("slow");
    const id = await send(target, { seconds: 60 });
    await edge.until(() => edge.eventsOf(id).some((event) => event.type === "log"), "its first line");
    const group = processesIn(folder.path);
    expect(group.length).toBeGreaterThan(0);
    first.kill("SIGKILL");
    await exited(first);

    const second = start(["slow"]);
    expect(await endOf(id, "lost")).toMatchObject({ started: true, i: edge.eventsOf(id).length - 1 });
    expect(edge.registrations.map((registration) => registration.joined)).toEqual([true, false]);
    expect(edge.registrations.at(-1)?.instances).toMatchObject([{ instance_id: target.instance, state: "ready" }]);
    expect(new Set(edge.registrations.map((registration) => registration.incarnation)).size).toBe(2);
    expect(statSync(join(folder.path, "origin-credential.json")).mode & 0o777).toBe(0o600);
    const state = await edge.call("GET", `/v1/attempts/${id}/1`);
    expect(state.body).toMatchObject({ state: "lost", started: true });

    const next = await send(target, { seconds: 0 });
    expect(await endOf(next, "finished")).toMatchObject({ status: "succeeded" });
    expect(processesIn(folder.path)).toEqual(group);
    second.kill("SIGTERM");
    expect(await exited(second)).toBe(0);
    expect(group.filter(isAlive)).toEqual([]);
  }, 150_000);

  it("ends what an earlier process left where it hangs", async () => {
    const first = start(["slow"]);
    const target = await ready("slow");
    const group = processesIn(folder.path);
    first.kill("SIGKILL");
    await exited(first);
    for (const pid of group) process.kill(pid, "SIGSTOP");
    start(["slow"]);
    await edge.until(() => edge.registrations.length === 2, "a registration");
    expect(edge.registrations.at(-1)?.instances).toEqual([]);
    expect(group.filter(isAlive)).toEqual([]);
    expect(
      (await edge.call("POST", `/v1/instances/${target.instance}/drain`, { reason: "idle", grace_ms: 0 })).status,
    ).toBe(404);
  }, 150_000);

  it("on SIGTERM lets a prediction end, tells the edge, stops everything and exits 0", async () => {
    const child = start(["slow"]);
    const target = await ready("slow");
    const id = await send(target, { seconds: 1.5 });
    await edge.until(() => edge.eventsOf(id).length > 0, "its start");
    child.kill("SIGTERM");
    expect(await exited(child)).toBe(0);
    expect(edge.eventsOf(id).at(-1)).toMatchObject({ type: "finished", status: "succeeded" });
    expect(processesIn(folder.path)).toEqual([]);
  }, 150_000);

  it("waits for an edge that is not there yet", async () => {
    const { port: edgePort } = edge;
    await edge.close();
    edge = new FakeEdge();
    start([], { COGWAY_EDGE_URL: `http://127.0.0.1:${edgePort}` });
    await expect.poll(() => output, { timeout: 10_000 }).toContain("not registered yet");
    await edge.listen(edgePort);
    await edge.until(() => edge.registrations.length > 0, "a registration");
  });

  it("ends with one clear line and exit 1: a broken model that was named, an engine that is not there, a taken port", async () => {
    const broken = start([join(folder.path, "nothing")], { COGWAY_MODELS: "nothing" });
    expect(await exited(broken)).toBe(1);
    expect(lastProgress(output)).toMatchObject({
      step: "fatal",
      model: "nothing",
      detail: expect.stringContaining("not a folder"),
    });
    output = "";
    expect(
      await exited(start([], { COGWAY_DRIVER: "docker", COGWAY_DOCKER_HOST: `unix://${folder.path}/none.sock` })),
    ).toBe(1);
    expect(lastProgress(output)).toMatchObject({
      step: "fatal",
      detail: expect.stringContaining("no container engine answers"),
    });
    output = "";
    expect(
      await exited(start([], { COGWAY_ORIGIN_PORT: String(edge.port), COGWAY_DATA: join(folder.path, "b") })),
    ).toBe(1);
    expect(lastProgress(output)).toMatchObject({ step: "fatal", detail: expect.stringContaining("taken") });
  });
});

function lastProgress(output: string): unknown {
  const lines = output.split("\n").filter((line) => line.includes('"progress"'));
  return JSON.parse(lines.findLast((line) => line.includes('"fatal"')) ?? "{}").progress;
}

/** Processes that work in folders below `path`. */
function processesIn(path: string): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter(
      (pid) =>
        Number.isInteger(pid) && pid !== process.pid && isAlive(pid) && environmentOf(pid).includes(`TMPDIR=${path}/`),
    );
}

function environmentOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, "utf8");
  } catch {
    return "";
  }
}

function isAlive(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ");
  } catch {
    return false;
  }
}
