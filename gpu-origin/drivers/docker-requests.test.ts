import { describe, expect, it } from "vitest";
import {
  type ContainerPlace,
  containerRequest,
  deviceRequest,
  imageFacts,
  MEMORY_BYTES_MIN,
} from "./docker-container.ts";
import { chooseVersion, messageOf } from "./docker-engine.ts";
import { chains, FILES_PORT } from "./docker-firewall.ts";
import { bridgeName, candidates } from "./docker-network.ts";
import { ContainerOutput } from "./docker-output.ts";
import type { StartSpec } from "./driver.ts";
import { LINE_CHARACTERS_MAX, readLines } from "./lines.ts";

const GIB = 1024 ** 3;
const aSpec = (change: Partial<StartSpec> = {}): StartSpec => ({
  instance_id: "i",
  version_id: "v",
  deployment_key: "d",
  launch: { kind: "image", image: "sha256:1", mounts: [{ source: "/data/blob", target: "/src/weights.bin" }] },
  env: { A: "b", HOME: "/root" },
  args: ["--upload-url", "http://10.197.0.1:28788/s/outputs"],
  memory_bytes: 2 * GIB,
  cpus: 1.5,
  gpus: [],
  egress: false,
  is_trusted: true,
  watch: { onLine: () => {}, onExit: () => {} },
  ...change,
});
const PLACE: ContainerPlace = {
  originId: "o",
  name: "cogway-i",
  network: "cogway-i",
  address: "10.197.0.2",
  runtime: null,
};
const request = (
  change: Partial<StartSpec> = {},
  image = { user: "", volumes: [] as string[] },
  place: ContainerPlace = PLACE,
) => {
  const requested = containerRequest(aSpec(change), image, place);
  if (requested.kind === "failed") throw new Error(requested.detail);
  return requested.options;
};

describe("what the engine is asked for", () => {
  it("takes every right away that coglet does without, and bounds the rest", () => {
    const { HostConfig, ...options } = request();
    expect(HostConfig).toMatchObject({
      ReadonlyRootfs: true,
      CapDrop: ["ALL"],
      SecurityOpt: ["no-new-privileges"],
      Memory: 2 * GIB,
      MemorySwap: 2 * GIB,
      NanoCpus: 1_500_000_000,
      PidsLimit: 2_048,
      IpcMode: "private",
      Tmpfs: { "/tmp": `rw,nosuid,nodev,exec,mode=1777,size=${GIB}` },
      Mounts: [{ Type: "bind", Source: "/data/blob", Target: "/src/weights.bin", ReadOnly: true }],
      LogConfig: { Type: "none" },
      NetworkMode: "cogway-i",
      Dns: ["127.0.0.1"],
    });
    for (const given of [
      "Binds",
      "Privileged",
      "Devices",
      "DeviceRequests",
      "CapAdd",
      "Runtime",
      "PortBindings",
      "PidMode",
    ]) {
      expect(HostConfig, given).not.toHaveProperty(given);
    }
    expect(options).toMatchObject({
      User: "65534:65534",
      WorkingDir: "/src",
      Cmd: [
        "python",
        "-m",
        "cog.server.http",
        "--host",
        "0.0.0.0",
        "--upload-url",
        "http://10.197.0.1:28788/s/outputs",
      ],
      Env: ["A=b", "HOME=/tmp", "PORT=5000", "TMPDIR=/tmp"],
      Labels: { "run.cogway.origin": "o", "run.cogway.instance": "i" },
      NetworkingConfig: { EndpointsConfig: { "cogway-i": { IPAMConfig: { IPv4Address: "10.197.0.2" } } } },
    });
    // The image's own stays: it may reap processes or set libraries' paths.
    expect(options).not.toHaveProperty("Entrypoint");
  });

  it.each([
    ["1000", "1000"],
    ["1000:1000", "1000:1000"],
    ["", "65534:65534"],
    ["root", "65534:65534"],
    ["0", "65534:65534"],
    ["0:1000", "65534:65534"],
    ["toor", "65534:65534"],
  ])("runs an image of user %j as %j: names may hide root", (user, expected) => {
    expect(request({}, { user, volumes: [] }).User).toBe(expected);
  });

  it("puts bounded memory in place of volumes that an image declares, which would be unbounded folders of the host", () => {
    const mounts = request({}, { user: "", volumes: ["/data"] }).HostConfig?.Mounts;
    expect(mounts?.at(-1)).toMatchObject({ Type: "tmpfs", Target: "/data", TmpfsOptions: { SizeBytes: GIB / 2 } });
    expect(containerRequest(aSpec(), { user: "", volumes: ["/tmp"] }, PLACE)).toMatchObject({ kind: "failed" });
  });

  it("never leaves memory without a bound", () => {
    expect(request({ memory_bytes: 0 }).HostConfig).toMatchObject({
      Memory: MEMORY_BYTES_MIN,
      MemorySwap: MEMORY_BYTES_MIN,
    });
  });

  it("names GPUs by UUID, as the engine's own command line does", () => {
    const uuids = ["GPU-a", "GPU-b"];
    expect(request({ gpus: uuids }).HostConfig?.DeviceRequests).toEqual([
      { Driver: "", DeviceIDs: uuids, Capabilities: [["gpu", "compute", "utility"]] },
    ]);
    expect(deviceRequest(["GPU-a"]).DeviceIDs).toEqual(["GPU-a"]);
  });

  it("has names only with egress, another runtime only where one is named, a prefix before the command", () => {
    expect(request({ egress: true }).HostConfig).not.toHaveProperty("Dns");
    expect(request({}, undefined, { ...PLACE, runtime: "runsc" }).HostConfig?.Runtime).toBe("runsc");
    const launch = { kind: "image" as const, image: "x", mounts: [], prefix: ["sh", "-c"] };
    expect(request({ launch }).Cmd?.slice(0, 3)).toEqual(["sh", "-c", "python"]);
  });

  it("is refused for what was made for the other driver", () => {
    const launch = { kind: "process" as const, cwd: "/", binDir: "/bin" };
    expect(containerRequest(aSpec({ launch }), { user: "", volumes: [] }, PLACE)).toMatchObject({ kind: "failed" });
  });

  it("knows of an image its user and volumes", () => {
    const info = { Config: { User: "7", Volumes: { "/data": {} } } };
    expect(imageFacts(info as unknown as Parameters<typeof imageFacts>[0])).toEqual({ user: "7", volumes: ["/data"] });
  });
});

describe("the engine's API", () => {
  it.each([
    ["1.41", "1.12", "1.41"],
    ["1.47", "1.24", "1.47"],
    ["1.99", "1.44", "1.47"],
    ["1.40", "1.12", null],
    ["1.99", "1.60", null],
  ])("of %s down to %s is spoken as %s", (max, min, expected) => {
    expect(chooseVersion(max, min)).toBe(expected);
  });

  it("is quoted without the client's preface", () => {
    const error = Object.assign(new Error("(HTTP code 404) no such image - No such image: x"), { statusCode: 404 });
    expect(messageOf(error)).toBe("No such image: x");
    expect(messageOf(Object.assign(error, { json: { message: "No such\n image: x" } }))).toBe("No such image: x");
  });
});

describe("subnets of instances", () => {
  it("are pieces of the range that neither the engine nor the host has", () => {
    const all = candidates("10.1.0.0/28", [], "i");
    expect(all.toSorted()).toEqual(["10.1.0.0/30", "10.1.0.12/30", "10.1.0.4/30", "10.1.0.8/30"]);
    expect(candidates("10.1.0.0/28", ["10.1.0.4/30", "10.1.0.9/32", "fd00::/64"], "i").toSorted()).toEqual([
      "10.1.0.0/30",
      "10.1.0.12/30",
    ]);
    expect(candidates("10.1.0.0/28", ["10.0.0.0/8"], "i")).toEqual([]);
    expect(candidates("10.1.0.0/16", [], "i")).toHaveLength(200);
  });

  it("have bridges whose names fit the kernel and tell egress", () => {
    expect(bridgeName("instance", false)).toMatch(/^cwi[0-9a-f]{10}$/);
    expect(bridgeName("instance", true)).toMatch(/^cwe[0-9a-f]{10}$/);
  });
});

describe("rules of the packet filter", () => {
  const texts = chains(["10.0.0.53"]).map(({ chain, rules }) => ({
    chain,
    rules: rules.map((rule) => rule.join(" ")),
  }));

  it("let instances reach the host's file servers alone", () => {
    const input = texts.find(({ chain }) => chain === "COGWAY-INPUT")?.rules ?? [];
    expect(input.slice(1)).toEqual([
      `-p tcp --dport ${FILES_PORT} -m addrtype --dst-type LOCAL --limit-iface-in -j ACCEPT`,
      "-j REJECT --reject-with icmp-admin-prohibited",
    ]);
  });

  it("let those with egress ask for names before private addresses are refused", () => {
    const egress = texts.find(({ chain }) => chain === "COGWAY-EGRESS")?.rules ?? [];
    const at = (part: string): number => egress.findIndex((rule) => rule.includes(part));
    expect(at("-d 10.0.0.53 -p udp --dport 53")).toBeLessThan(at("-d 10.0.0.0/8"));
    for (const range of ["169.254.0.0/16", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"]) {
      expect(at(`-d ${range} -j REJECT`), range).toBeGreaterThan(0);
    }
  });
});

describe("what a container writes", () => {
  const piece = (channel: number, text: string): Buffer => {
    const head = Buffer.alloc(8);
    head[0] = channel;
    head.writeUInt32BE(Buffer.byteLength(text), 4);
    return Buffer.concat([head, Buffer.from(text)]);
  };

  it("comes as lines, however the engine cuts it", async () => {
    const bytes = Buffer.concat([piece(1, "one\ntw"), piece(2, "o\r\n"), piece(1, ""), piece(1, "Grüße")]);
    for (const size of [1, 3, 9, bytes.length]) {
      const output = new ContainerOutput();
      const lines: string[] = [];
      readLines(output, (line) => lines.push(line));
      for (let at = 0; at < bytes.length; at += size) output.write(bytes.subarray(at, at + size));
      output.end();
      await new Promise((resolve) => output.once("close", resolve));
      expect(lines).toEqual(["one", "two", "Grüße"]);
    }
  });

  it("comes in pieces where a line never ends", async () => {
    const output = new ContainerOutput();
    const lines: string[] = [];
    readLines(output, (line) => lines.push(line));
    for (let i = 0; i < 10; i++) output.write(piece(1, "x".repeat(LINE_CHARACTERS_MAX / 4)));
    output.end();
    await new Promise((resolve) => output.once("close", resolve));
    expect(lines.map((line) => line.length)).toEqual([65_536, 65_536, 32_768]);
  });
});
