/** The built edge in workerd, as the launcher starts it. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import { createServer as createSecureServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { unstable_getMiniflareWorkerOptions } from "wrangler";
import { newToken } from "../../schema/tokens.ts";
import { buildAll } from "./build.ts";
import { Edge, type EdgeSettings, edgeOptions } from "./edge.ts";
import { LogFile } from "./log-file.ts";
import { ROOT } from "./paths.ts";
import { freePort } from "./processes.ts";
import { localCertificate } from "./tls.ts";

const BUILD_TIMEOUT_MS = 120_000;

let folder: string;
let log: LogFile;
let settings: EdgeSettings;
beforeAll(async () => {
  await buildAll();
  folder = mkdtempSync(join(tmpdir(), "cogway-edge-"));
  log = new LogFile(join(folder, "edge.log"));
  settings = {
    port: await freePort(),
    publicUrl: "http://public.example",
    retention: "2h",
    canaryInterval: "3h",
    laneLeasesPerS: 5,
    uploadRelayUrl: "http://127.0.0.1:1",
    otlp: { url: "http://127.0.0.1:4318/v1/traces", headers: "a=b" },
    allowPrivateCidrs: [],
    signingSecret: "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3I=",
    joinTokensSha256: ["0".repeat(64), "1".repeat(64)],
    stateDir: join(folder, "state"),
    processFile: join(folder, "workerd.pid"),
  };
}, BUILD_TIMEOUT_MS);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface WorkerView {
  name: string;
  bindings: Record<string, string>;
  [option: string]: unknown;
}

/** One Worker's options, seen as far as these tests look. */
function worker(name: string): WorkerView {
  const { workers } = edgeOptions(settings, log) as unknown as { workers: WorkerView[] };
  const found = workers.find((each) => each.name === name);
  if (found === undefined) throw new Error(`no Worker ${name}`);
  return found;
}

describe("the options", () => {
  it("hold every binding of wrangler.toml, with the same settings", () => {
    const { workerOptions } = unstable_getMiniflareWorkerOptions(join(ROOT, "wrangler.toml"));
    const wanted = JSON.parse(JSON.stringify(workerOptions)) as WorkerView & { assets: { binding: string } };
    const { modulesRules: _, bindings, assets, serviceBindings, ...same } = wanted;
    expect(worker("edge")).toMatchObject(same);
    // Wrangler has the secret where its environment does.
    const names = new Set([...Object.keys(bindings), "SIGNING_SECRET"]);
    expect(Object.keys(worker("edge").bindings).sort()).toEqual([...names].sort());
    expect(worker("page")["assets"]).toEqual(assets);
    expect(worker("edge")["serviceBindings"]).toMatchObject({
      ...(serviceBindings as object),
      [assets.binding]: "page",
    });
  });

  it("hold every name of the generated Env, and the local origin", () => {
    const types = readFileSync(join(ROOT, "workers/worker-configuration.d.ts"), "utf8");
    const env = /interface __BaseEnv_Env \{([^}]*)\}/.exec(types)?.[1] ?? "";
    const names = [...env.matchAll(/^\s*(\w+):/gm)].map(([, name]) => name);
    const { bindings, durableObjects, d1Databases, r2Buckets, serviceBindings } = worker("edge");
    const given = [bindings, durableObjects, d1Databases, r2Buckets, serviceBindings].flatMap((each) =>
      Object.keys(each ?? {}),
    );
    expect(names.length).toBeGreaterThan(10);
    expect(given.sort()).toEqual([...names, "LOCAL_ORIGIN"].sort());
  });

  it("set what is the launcher's to set", () => {
    expect(worker("edge").bindings).toMatchObject({
      PUBLIC_URL: "http://public.example",
      RETENTION: "2h",
      CANARY_INTERVAL: "3h",
      LANE_LEASES_PER_S: "5",
      UPLOAD_RELAY_URL: "http://127.0.0.1:1",
      OTLP_TRACES_URL: "http://127.0.0.1:4318/v1/traces",
      OTLP_HEADERS: "a=b",
      LOOP_TURN: "1",
      SIGNING_SECRET: settings.signingSecret,
    });
  });
});

describe("the edge", () => {
  const account = async (token: string): Promise<unknown> => {
    const headers = { authorization: `Bearer ${token}` };
    return (await fetch(`http://127.0.0.1:${settings.port}/v1/account`, { headers })).json();
  };

  it("migrates its database once, knows the operator, and keeps both over a restart", async () => {
    const tokens = [newToken(), newToken()];
    for (const token of tokens) {
      const edge = new Edge(settings, log);
      try {
        await edge.start(token);
        for (const known of tokens.slice(0, tokens.indexOf(token) + 1)) {
          expect(await account(known)).toMatchObject({ username: "cogway" });
        }
        expect(await account(newToken())).toMatchObject({ status: 401 });
      } finally {
        await edge.stop();
      }
    }
  }, 60_000);

  it("says plainly that its port is taken", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(settings.port, "127.0.0.1", resolve));
    const edge = new Edge(settings, log);
    try {
      await expect(edge.start(newToken())).rejects.toThrow(`Port ${settings.port} (COGWAY_PORT) is taken`);
    } finally {
      await edge.stop();
      server.close();
    }
  }, 30_000);
});

describe("what the Worker's fetch may reach", () => {
  /** Stands in for the Worker; everything around it is as the launcher makes it. */
  const probe = `export default { fetch: (request) => fetch(new URL(request.url).searchParams.get("url")).catch((error) => new Response(String(error), { status: 599 })) };`;
  let target: Server;
  let targetPort: number;
  beforeAll(async () => {
    target = createServer((_, response) => response.end("reached"));
    targetPort = await freePort();
    await new Promise<void>((resolve) => target.listen(targetPort, "0.0.0.0", resolve));
  });
  afterAll(() => target.close());

  async function reach(
    allowPrivateCidrs: string[],
    hosts: string[],
    base = `http://HOST:${targetPort}/`,
  ): Promise<string[]> {
    const options = edgeOptions({ ...settings, allowPrivateCidrs }, log) as unknown as { workers: WorkerView[] };
    const modules = [{ type: "ESModule", path: "probe.js", contents: probe }];
    const stand = { name: "edge", modules, outboundService: "egress", compatibilityDate: "2026-08-01" };
    const workers = [stand, options.workers.find(({ name }) => name === "egress")];
    const miniflare = new Miniflare(
      convertV4MiniflareOptions({ ...options, workers } as Parameters<typeof convertV4MiniflareOptions>[0]),
    );
    try {
      const texts: string[] = [];
      for (const host of hosts) {
        const url = encodeURIComponent(base.replace("HOST", host));
        texts.push(await (await miniflare.dispatchFetch(`http://probe/?url=${url}`)).text());
      }
      return texts;
    } finally {
      await miniflare.dispose();
    }
  }

  it("is nothing on this machine, in any spelling", async () => {
    const hosts = [
      "127.0.0.1",
      "localhost",
      "2130706433",
      "0x7f000001",
      "127.1",
      "0.0.0.0",
      "[::1]",
      "[::ffff:127.0.0.1]",
    ];
    const texts = await reach([], hosts);
    expect(texts.filter((text) => text === "reached")).toEqual([]);
    expect(texts.every((text) => text.includes("Error"))).toBe(true);
  }, 60_000);

  it("but for the ranges that its owner allows", async () => {
    expect(await reach(["127.0.0.0/8"], ["127.0.0.1"])).toEqual(["reached"]);
    // A name is judged by the address that it leads to.
    expect(await reach(["127.0.0.2/32"], ["localhost", "127.0.0.1"])).not.toContain("reached");
  }, 60_000);

  it("and over https who shows a certificate of an authority that this machine trusts", async () => {
    const { key, chain, authorityPath } = await localCertificate(folder);
    const secure = createSecureServer({ key, cert: chain }, (_, response) => response.end("reached"));
    const port = await freePort();
    await new Promise<void>((resolve) => secure.listen(port, "127.0.0.1", resolve));
    const outer = process.env["SSL_CERT_FILE"];
    const base = `https://HOST:${port}/`;
    try {
      expect(await reach(["127.0.0.0/8"], ["127.0.0.1"], base)).not.toContain("reached");
      process.env["SSL_CERT_FILE"] = authorityPath;
      expect(await reach(["127.0.0.0/8"], ["127.0.0.1"], base)).toEqual(["reached"]);
    } finally {
      if (outer === undefined) delete process.env["SSL_CERT_FILE"];
      else process.env["SSL_CERT_FILE"] = outer;
      secure.close();
    }
  }, 60_000);
});
