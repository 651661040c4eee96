import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import Docker from "dockerode";
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from "vitest";
import { newId } from "../../schema/ids.ts";
import type { InstanceStatus } from "../../schema/origin-protocol.ts";
import { CogClient, type CogEvent } from "../cog-client.ts";
import { Instance, type InstanceSpec } from "../instance.ts";
import { createLog } from "../log.ts";
import { CuttableSocket } from "../testing/cuttable-socket.ts";
import { testImage } from "../testing/docker-image.ts";
import { temporaryFolder } from "../testing/harness.ts";
import { DockerDriver, type DockerOptions } from "./docker.ts";
import { INSTANCE_LABEL, ORIGIN_LABEL } from "./docker-container.ts";
import { bridgeName } from "./docker-network.ts";
import type { InstanceRecord, StartSpec } from "./driver.ts";
import { describeDriverContract } from "./driver-contract.ts";

const engine = inject("engine");
const docker = new Docker({ socketPath: engine.socket });
const originId = newId(16);
const MEMORY = 192 * 1024 ** 2;
let image = "";

beforeAll(async () => {
  image = await testImage(docker, engine.base);
}, 240_000);

const aDriver = (change: Partial<DockerOptions> = {}): DockerDriver =>
  new DockerDriver({
    host: `unix://${engine.socket}`,
    originId,
    subnets: "10.197.0.0/16",
    runtime: null,
    warn: (detail) => console.warn(detail),
    ...change,
  });

describe("the docker driver", () => {
  describeDriverContract({
    createDriver: async () => aDriver(),
    launch: () => ({ kind: "image", image, mounts: [] }),
    env: {},
    missing: () => ({ kind: "image", image: "cogway-driver-test:missing", mounts: [] }),
    reused: (handle) => handle.replace(/^.{8}/, "00000000"),
    runsCoglet: true,
  });
});

describe("a container of a model", () => {
  let driver: DockerDriver;
  beforeAll(async () => {
    driver = aDriver();
    expect(await driver.check()).toBeNull();
  });
  afterAll(async () => {
    await driver.reap(new Set());
    await driver.close();
  });

  const started = async (change: Partial<StartSpec> = {}): Promise<{ record: InstanceRecord; client: CogClient }> => {
    const spec: StartSpec = {
      instance_id: newId(16),
      version_id: "v",
      deployment_key: "d",
      launch: { kind: "image", image, mounts: [] },
      env: {},
      args: [],
      memory_bytes: MEMORY,
      cpus: 1,
      gpus: [],
      egress: false,
      is_trusted: true,
      watch: { onLine: () => {}, onExit: () => {} },
      ...change,
    };
    expect(await driver.filesAddress(spec)).toMatchObject({ kind: "ready" });
    const result = await driver.start(spec);
    if (result.kind === "failed") throw new Error(result.detail);
    const client = new CogClient(result.record.address);
    const status = async (): Promise<string | undefined> => (await client.health())?.status;
    await expect.poll(status, { timeout: 30_000, interval: 50 }).toBe("READY");
    onTestFinished(async () => {
      await driver.stop(spec.instance_id, 0);
      await driver.release(spec.instance_id);
    });
    return { record: result.record, client };
  };

  it("can do nothing but write in its scratch space, which counts as its memory", async () => {
    const { client } = await started();
    const said = await python(
      client,
      `
import os
def tried(act):
    try:
        act(); return "done"
    except OSError as error:
        return error.strerror
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(os.getuid(), status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"])
for path in ["/src/a", "/a", "/etc/a", "/usr/lib/a", "/tmp/a", "/dev/shm/a"]:
    print(path, tried(lambda: open(path, "w")))
print("full", tried(lambda: [open("/tmp/big", "ab").write(b"x" * 2**20) for _ in range(1000)]))
print(os.environ["HOME"], os.environ["TMPDIR"], os.getcwd())
`,
    );
    expect(said.trim().split("\n")).toEqual([
      "65534 0000000000000000 0000000000000000 1 2",
      "/src/a Read-only file system",
      "/a Read-only file system",
      "/etc/a Read-only file system",
      "/usr/lib/a Read-only file system",
      "/tmp/a done",
      "/dev/shm/a done",
      "full No space left on device",
      "/tmp /tmp /src",
    ]);
  });

  it("without egress reaches its own file server on this host, and nothing else of anybody", async () => {
    const files = createServer((_request, response) => response.end("files"));
    const others = createServer((_request, response) => response.end("another"));
    const instance_id = newId(16);
    const address = await driver.filesAddress({ instance_id, egress: false });
    if (address.kind === "failed") throw new Error(address.detail);
    await new Promise<void>((resolve) => files.listen(address.port, address.host, resolve));
    await new Promise<void>((resolve) => others.listen(0, "0.0.0.0", resolve));
    const { port } = others.address() as AddressInfo;
    onTestFinished(() => {
      files.close();
      others.close();
    });
    const neighbour = await started();
    const { client } = await started({ instance_id });
    const said = await python(
      client,
      `
import socket
from concurrent.futures import ThreadPoolExecutor
def tried(place):
    try:
        socket.create_connection(place, 2).close(); return "open"
    except OSError as error:
        return "closed"
places = [("${address.host}", ${address.port}), ("${address.host}", ${port}), ("${neighbour.record.address.host}", 5000), ("1.1.1.1", 443), ("169.254.169.254", 80), ("172.17.0.1", ${port})]
print(*ThreadPoolExecutor().map(tried, places))
try:
    print(socket.getaddrinfo("example.com", 443))
except OSError:
    print("no names")
`,
    );
    expect(said.trim().split("\n")).toEqual(["open closed closed closed closed closed", "no names"]);
  });

  it("with egress reaches public addresses alone", async () => {
    const others = createServer((_request, response) => response.end("another"));
    await new Promise<void>((resolve) => others.listen(0, "0.0.0.0", resolve));
    const { port } = others.address() as AddressInfo;
    onTestFinished(() => void others.close());
    const { client, record } = await started({ egress: true });
    const host = record.address.host.replace(/\d+$/, (last) => String(Number(last) - 1));
    const said = await python(
      client,
      `
import socket
def tried(place):
    try:
        socket.create_connection(place, 2).close(); return "open"
    except OSError as error:
        return "closed"
print(tried(("${host}", ${port})), tried(("172.17.0.1", ${port})), tried(("169.254.169.254", 80)))
routes = [line.split() for line in open("/proc/net/route").read().splitlines()[1:]]
print(any(route[1] == "00000000" for route in routes))
`,
    );
    expect(said.trim().split("\n")).toEqual(["closed closed closed", "True"]);
  });

  it("that floods its log is held back, not kept: nothing on the disk, little in memory, and it is served meanwhile", async () => {
    let characters = 0;
    let longest = 0;
    const onLine = (line: string): void => {
      characters += line.length;
      longest = Math.max(longest, line.length);
    };
    const { record, client } = await started({ watch: { onLine, onExit: () => {} } });
    const other = await started();
    const before = process.memoryUsage().rss;
    const flood = new AbortController();
    void client.predict("a1", { how: "flood", text: "1000000" }, () => {}, flood.signal);
    await expect.poll(() => characters, { timeout: 30_000 }).toBeGreaterThan(20_000_000);
    const began = performance.now();
    expect(await run(other.client, { text: "served" })).toBe("served");
    expect(performance.now() - began).toBeLessThan(3_000);
    expect(process.memoryUsage().rss - before).toBeLessThan(200 * 1024 ** 2);
    expect(longest).toBeLessThanOrEqual(65_536 * 2);
    const { LogPath } = await docker.getContainer(record.handle).inspect();
    expect(LogPath).toBe("");
    flood.abort();
  });

  it("that asks for GPUs which the engine cannot give is refused with what to do", async () => {
    const info = await docker.info();
    const spec = { gpus: ["GPU-8c6e4cbb-0000-0000-0000-000000000000"] };
    await expect(started(spec)).rejects.toThrow(/NVIDIA Container Toolkit/);
    expect(Object.keys(info.Runtimes)).not.toContain("nvidia");
  });

  it("of somebody else's model runs in gVisor where the engine has it", async () => {
    const theirs = await started({ is_trusted: false });
    const version = await python(theirs.client, "print(open('/proc/version').read())");
    expect(version.startsWith("Linux version 4.4.0")).toBe(engine.offersGvisor);
    const ours = await started();
    expect(await python(ours.client, "print(open('/proc/version').read())")).not.toContain("Linux version 4.4.0");
  }, 60_000);

  it("is removed when nobody knows it; what is not of this origin stays", async () => {
    const create = (origin: string): Promise<Docker.Container> =>
      docker.createContainer({
        Image: image,
        Cmd: ["true"],
        Labels: { [ORIGIN_LABEL]: origin, [INSTANCE_LABEL]: "x" },
      });
    const [left, foreign] = await Promise.all([create(originId), create(`${originId}-other`)]);
    onTestFinished(async () => {
      await foreign.remove();
    });
    expect(await driver.reap(new Set())).toBe(1);
    await expect(left.inspect()).rejects.toThrow(/No such container/i);
    expect((await foreign.inspect()).State.Status).toBe("created");
  });

  it("has coglet's folders removed behind its predictions", async () => {
    const { record, client } = await started();
    await run(client, { text: "one" }, "one1");
    driver.sweep(record.instance_id, "one1");
    const left = (): Promise<string> =>
      python(client, "import os; print(sorted(os.listdir('/tmp/coglet/predictions')))", "two2");
    await expect.poll(left, { timeout: 10_000 }).toBe("['two2']\n");
  });

  it("has a network of its own, which goes with it", async () => {
    const { record } = await started();
    const networks = async (): Promise<number> =>
      (await docker.listNetworks({ filters: { label: [`${INSTANCE_LABEL}=${record.instance_id}`] } })).length;
    expect(await networks()).toBe(1);
    const bridge = (await docker.listNetworks()).find(
      ({ Options }) => Options?.["com.docker.network.bridge.name"] === bridgeName(record.instance_id, false),
    );
    expect(bridge).toMatchObject({ Internal: true });
    await driver.stop(record.instance_id, 0);
    await driver.release(record.instance_id);
    expect(await networks()).toBe(0);
  });
});

describe("an instance in a container", () => {
  const folder = temporaryFolder();
  const socket = new CuttableSocket(join(folder.path, "engine.sock"), engine.socket);
  let driver: DockerDriver;
  beforeAll(async () => {
    await socket.mend();
    driver = aDriver({ host: `unix://${socket.path}` });
    expect(await driver.check()).toBeNull();
  });
  afterAll(async () => {
    await driver.reap(new Set());
    await driver.close();
    await socket.cut();
    folder.remove();
  });

  const anInstance = async (change: Partial<InstanceSpec> = {}) => {
    const statuses: InstanceStatus[] = [];
    const records: InstanceRecord[] = [];
    const instance_id = newId(16);
    await driver.filesAddress({ instance_id, egress: false });
    const spec: InstanceSpec = {
      protocol: 1,
      instance_id,
      deployment_key: "d",
      version_id: "v",
      slots: 1,
      memory_bytes: MEMORY,
      setup_timeout_ms: 60_000,
      launch: { kind: "image", image, mounts: [] },
      env: {},
      args: [],
      cpus: 1,
      devices: [],
      ...change,
    };
    const instance = new Instance(spec, {
      driver,
      log: createLog("silent"),
      onStatus: (status) => statuses.push(status),
      saveRecord: (record) => records.push(record),
      deleteRecord: () => {},
    });
    onTestFinished(() => instance.stop("the test ended", 0));
    instance.start();
    const becomes = async (state: InstanceStatus["state"]): Promise<void> => {
      await expect.poll(() => instance.state, { timeout: 30_000 }).toBe(state);
    };
    await becomes("ready");
    const slot = async (): Promise<{ client: CogClient; release: () => void }> => {
      const acquired = await instance.acquire(AbortSignal.timeout(30_000));
      if (acquired.kind === "gone") throw new Error(acquired.reason);
      return acquired.slot;
    };
    return { instance, statuses, records, becomes, slot };
  };

  it("keeps its place when its process ends, and runs the next prediction", async () => {
    const { instance, statuses, slot } = await anInstance();
    const first = await slot();
    await first.client.predict("a1", { how: "exit" }, () => {}, AbortSignal.timeout(20_000));
    instance.crashed("its process crashed");
    first.release();
    const next = await slot();
    expect(await run(next.client, { text: "next" })).toBe("next");
    next.release();
    expect(statuses.map(({ state }) => state)).not.toContain("failed");
  });

  it("keeps its place when its container ends, and runs the next prediction", async () => {
    const { records, statuses, slot, becomes } = await anInstance();
    await docker.getContainer(records[0]?.handle ?? "").kill();
    await expect
      .poll(() => statuses.some(({ state, reason }) => state === "boot" && reason?.includes("137")))
      .toBe(true);
    await becomes("ready");
    const next = await slot();
    expect(await run(next.client, { text: "next" })).toBe("next");
    next.release();
    expect(statuses.map(({ state }) => state)).not.toContain("failed");
  });

  it("says that memory ran out, and how much there was", async () => {
    const { instance, statuses, slot, becomes } = await anInstance();
    const first = await slot();
    await first.client.predict("a1", { how: "memory" }, () => {}, AbortSignal.timeout(20_000));
    instance.crashed("its process crashed");
    first.release();
    await expect.poll(() => statuses.map(({ reason }) => reason).join("\n")).toContain("out of memory (limit 192 MB)");
    await becomes("ready");
    expect(instance.status().reason).toBeUndefined();
  });

  it("is seen as crashed when the engine was away and it is gone, and started again", async () => {
    const { records, statuses, becomes, slot } = await anInstance();
    await socket.cut();
    await docker.getContainer(records[0]?.handle ?? "").remove({ force: true });
    await socket.mend();
    await expect
      .poll(() => statuses.some(({ reason }) => reason?.includes("restarting")), { timeout: 15_000 })
      .toBe(true);
    await becomes("ready");
    expect(records).toHaveLength(2);
    const next = await slot();
    expect(await run(next.client, { text: "again" })).toBe("again");
    next.release();
  });

  it("that ended while the engine was away is removed when it is back", async () => {
    const { instance } = await anInstance();
    await driver.reap(new Set([instance.id]));
    await socket.cut();
    await instance.stop("its time is over", 0);
    const label = [`${INSTANCE_LABEL}=${instance.id}`];
    expect(await docker.listContainers({ filters: { label } })).toHaveLength(1);
    await socket.mend();
    const left = async (): Promise<number> =>
      (await docker.listContainers({ all: true, filters: { label } })).length +
      (await docker.listNetworks({ filters: { label } })).length;
    await expect.poll(left, { timeout: 15_000 }).toBe(0);
  });

  it("goes on while the engine is away, and waits for it where it must be started", async () => {
    const { instance, records, statuses, slot, becomes } = await anInstance();
    await socket.cut();
    onTestFinished(() => socket.cut().then(() => socket.mend()));
    const held = await slot();
    expect(await run(held.client, { text: "meanwhile" })).toBe("meanwhile");
    held.release();
    instance.crashed("its server went away");
    await expect
      .poll(() => statuses.map(({ reason }) => reason).join("\n"), { timeout: 15_000 })
      .toContain("waiting for the container engine");
    await socket.mend();
    await becomes("ready");
    expect(records).toHaveLength(2);
    // What ran before was removed, so that only one is left.
    const label = [`${INSTANCE_LABEL}=${instance.id}`];
    expect(await docker.listContainers({ all: true, filters: { label } })).toHaveLength(1);
  });
});

it("no engine, an engine without the runtime that was asked for: one line says so", async () => {
  expect(await aDriver({ host: "unix:///nowhere/docker.sock" }).check()).toMatch(
    /^no container engine answers at unix:\/\/\/nowhere\/docker.sock .*: start Docker, or name its socket in COGWAY_DOCKER_HOST$/,
  );
  expect(await aDriver({ runtime: "kata" }).check()).toMatch(/^COGWAY_DOCKER_RUNTIME=kata: .* has no such runtime/);
});

async function run(client: CogClient, input: Record<string, unknown>, id = newId(8).toLowerCase()): Promise<unknown> {
  for (;;) {
    const events: CogEvent[] = [];
    const call = await client.predict(id, input, (event) => events.push(event), AbortSignal.timeout(60_000));
    // coglet answers before its slot is free.
    if (call.kind === "busy") continue;
    const end = events.find((event) => event.type === "completed");
    return end?.type === "completed" ? (end.result.output ?? end.result.error) : call;
  }
}

async function python(client: CogClient, text: string, id?: string): Promise<string> {
  return String(await run(client, { how: "python", text }, id));
}
