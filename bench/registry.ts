/**
 * Pushes and pulls of layers through the registry against Debian's docker-registry (files on the same disk), in one run, by one client: as docker does it, one
 * PATCH of unknown length and an empty PUT for each layer. With the memory of both sampled meanwhile.
 *   npm run bench -- registry [mebibytes of a layer]
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { Agent, type IncomingMessage, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freePort } from "../e2e/lib/system.ts";
import { waitFor } from "../e2e/lib/wait.ts";
import { printMachine, printTable } from "./lib/stats.ts";
import { startSystem } from "./lib/system.ts";

const MIB = 1024 ** 2;
const LAYER_BYTES = Number(process.argv[2] ?? 256) * MIB;
const CHUNK_BYTES = MIB;
/** Layers of one push: as many as docker sends side by side. */
const LAYERS = 4;
const ROUNDS = 2;
const SAMPLE_MS = 100;
const PAGE_BYTES = 4096;
const START_MS = 20_000;

interface Registry {
  name: string;
  url: string;
  repository: string;
  headers: Record<string, string>;
  memoryMb: () => number;
}

interface Layer {
  digest: string;
  chunks: Buffer[];
}

/** A connection for each request: an idle one is closed by either after some seconds, which a busy client sees too late. */
const agent = new Agent({ keepAlive: false });

/** New bytes each time, since both keep equal ones once. */
function aLayer(): Layer {
  const chunk = randomBytes(CHUNK_BYTES);
  const hash = createHash("sha256");
  const chunks = Array.from({ length: LAYER_BYTES / CHUNK_BYTES }, (_, i) => {
    // The first bytes of each differ, the rest is shared: memory of the client is not what is measured.
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(i));
    hash.update(head).update(chunk.subarray(8));
    return head;
  });
  return { digest: `sha256:${hash.digest("hex")}`, chunks: [chunk.subarray(8), ...chunks] };
}

function call(
  registry: Registry,
  method: string,
  path: string,
  write: (send: (bytes: Buffer) => Promise<void>) => Promise<void> = async () => undefined,
  headers: Record<string, string> = { "content-length": "0" },
): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const sent = request(new URL(path, registry.url), { method, agent, headers: { ...registry.headers, ...headers } });
    sent.on("response", resolve);
    sent.on("error", (error) =>
      reject(new Error(`${registry.name}: ${method} ${path.slice(0, 80)}: ${error.message}`)),
    );
    const send = (bytes: Buffer): Promise<void> =>
      new Promise((done) => {
        if (sent.write(bytes)) done();
        else sent.once("drain", done);
      });
    write(send).then(() => sent.end(), reject);
  });
}

async function finished(answer: IncomingMessage, status: number): Promise<number> {
  let bytes = 0;
  const shown: Buffer[] = [];
  for await (const chunk of answer as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (answer.statusCode !== status) shown.push(chunk);
  }
  if (answer.statusCode !== status) throw new Error(`${answer.statusCode} ${Buffer.concat(shown)}`);
  return bytes;
}

async function push(registry: Registry, layer: Layer): Promise<void> {
  const begun = await call(registry, "POST", `/v2/${registry.repository}/blobs/uploads/`);
  await finished(begun, 202);
  const [body = Buffer.alloc(0), ...heads] = layer.chunks;
  const patched = await call(
    registry,
    "PATCH",
    begun.headers.location ?? "",
    async (send) => {
      for (const head of heads) {
        await send(head);
        await send(body);
      }
    },
    { "content-type": "application/octet-stream" },
  );
  await finished(patched, 202);
  const end = new URL(patched.headers.location ?? "", registry.url);
  end.searchParams.set("digest", layer.digest);
  await finished(await call(registry, "PUT", end.href), 201);
}

async function pull(registry: Registry, { digest }: Layer): Promise<void> {
  const bytes = await finished(await call(registry, "GET", `/v2/${registry.repository}/blobs/${digest}`), 200);
  if (bytes !== LAYER_BYTES) throw new Error(`${bytes} bytes came`);
}

/** Of one process, read in no time: the client shares the cores with what it measures. */
function rssMb(pid: number): number {
  const pages = Number(readFileSync(`/proc/${pid}/statm`, "utf8").split(" ")[1]);
  return (pages * PAGE_BYTES) / 1e6;
}

interface Measured {
  mb_per_s: number;
  /** before, and the most meanwhile */
  memory_mb: [before: number, most: number];
}

async function measure(registry: Registry, layers: Layer[], work: (layer: Layer) => Promise<void>): Promise<Measured> {
  const before = registry.memoryMb();
  let most = before;
  const sampler = setInterval(() => {
    most = Math.max(most, registry.memoryMb());
  }, SAMPLE_MS);
  const start = performance.now();
  await Promise.all(layers.map(work));
  const seconds = (performance.now() - start) / 1_000;
  clearInterval(sampler);
  return { mb_per_s: (layers.length * LAYER_BYTES) / 1e6 / seconds, memory_mb: [before, most] };
}

/** Null where it is not installed. */
async function startDockerRegistry(folder: string): Promise<{ registry: Registry; child: ChildProcess } | null> {
  if (spawnSync("docker-registry", ["--version"]).status !== 0) return null;
  const port = await freePort();
  const config = join(folder, "config.yml");
  writeFileSync(
    config,
    `version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: ${join(folder, "data")}}, delete: {enabled: true}}\nhttp: {addr: "127.0.0.1:${port}", secret: bench}\n`,
  );
  const child = spawn("docker-registry", ["serve", config], { stdio: "ignore" });
  const url = `http://127.0.0.1:${port}`;
  await waitFor("docker-registry", START_MS, async () => ((await fetch(`${url}/v2/`)).ok ? true : null));
  const memoryMb = () => rssMb(child.pid ?? 0);
  return { registry: { name: "docker-registry", url, repository: "bench/layers", headers: {}, memoryMb }, child };
}

const folder = mkdtempSync(join(tmpdir(), "cogway-bench-registry-"));
const { url, headers, system } = await startSystem(["noop"]);
const peer = await startDockerRegistry(folder);
try {
  const account = (await (await fetch(`${url}/v1/account`, { headers })).json()) as { username: string };
  const repository = `${account.username}/layers`;
  const body = JSON.stringify({ owner: account.username, name: "layers", visibility: "private", hardware: "cpu" });
  const made = await fetch(`${url}/v1/models`, { method: "POST", headers, body });
  if (made.status !== 201) throw new Error(`${made.status} ${await made.text()}`);
  const basic = Buffer.from(`bench:${headers["authorization"]?.replace("Bearer ", "")}`).toString("base64");
  const given = await fetch(`${url}/v2/token?scope=repository:${repository}:pull,push,delete`, {
    headers: { authorization: `Basic ${basic}` },
  });
  const { token } = (await given.json()) as { token: string };
  const edge = system.edge().pid;
  const own: Registry = {
    name: "Cogway",
    url,
    repository,
    headers: { authorization: `Bearer ${token}` },
    memoryMb: () => rssMb(edge),
  };
  if (peer === null) console.log("docker-registry is not installed (Debian's package docker-registry): no ratios.");
  printMachine();
  const rows: (string | number)[][] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    for (const count of [1, LAYERS]) {
      const layers = Array.from({ length: count }, aLayer);
      for (const [what, work] of [
        ["push", push],
        ["pull", pull],
      ] as const) {
        const results = new Map<string, Measured>();
        for (const registry of peer === null ? [own] : [peer.registry, own]) {
          const result = await measure(registry, layers, (layer) => work(registry, layer));
          results.set(registry.name, result);
          const [before, most] = result.memory_mb;
          const floor = results.get("docker-registry");
          rows.push([
            ...[round, `${what} ${count}`, registry.name, result.mb_per_s.toFixed(0)],
            ...[before.toFixed(0), most.toFixed(0)],
            registry === own && floor !== undefined ? `${(result.mb_per_s / floor.mb_per_s).toFixed(2)}x` : "",
          ]);
        }
      }
    }
  }
  printTable(["round", "layers", "registry", "MB/s", "memory before MB", "most MB", "ratio"], rows);
  printMachine();
} finally {
  peer?.child.kill();
  await system.stop();
  agent.destroy();
  rmSync(folder, { recursive: true, force: true });
}
