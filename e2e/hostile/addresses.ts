/**
 * Runs in a network namespace of its own, where every address leads to this process (hostile.e2e.ts makes it): a whole Cogway is given hostile and honest URLs
 * in each place that takes one, and what connections came, and for which address, is printed as JSON.
 */
import { createSocket } from "node:dgram";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { isIP, isIPv4, type Socket } from "node:net";
import { HONEST_URLS, HOSTILE_URLS, NAMES } from "../../schema/testing/hostile-urls.ts";
import type { Api, Page, Prediction } from "../lib/api.ts";
import { System } from "../lib/system.ts";
import { waitFor } from "../lib/wait.ts";

/** What the operator opened, and what lies beside it; other ports than 80 and 443 are for the first alone. */
const OPENED = "127.0.0.9";
const NEXT_TO_OPENED = "127.0.0.10";
const OPENED_PORT = 9_999;
const PORTS = [22, 70, 80, 443, 6_379, 8_080, 8_443, 11_211, OPENED_PORT];
const DNS_PORT = 53;
const DNS_ADDRESS = "127.0.0.53";
const PUBLIC_ADDRESS = "93.184.215.14";
const LOCAL_NAME =
  /(^|\.)(localhost|localdomain|local|internal|intranet|lan|home|corp|private|home\.arpa|ip6-localhost)$/;
const AT_ONCE = 16;
const CREATES_PER_MINUTE = 100_000;

type Road = "input" | "webhook" | "batch";
const ROADS: Road[] = ["input", "webhook", "batch"];

/** A connection that came to an address. */
interface Visit {
  address: string;
  port: number;
}

export interface Report {
  /** hostile URLs that were tried by each road */
  tried: number;
  /** connections to addresses that are not public, and not opened */
  visits: Visit[];
  /** URLs that were taken although nothing of them may be called, by road */
  taken: string[];
  /** honest ones that were not reached, by road */
  unreached: string[];
  /** what came of the address that is opened, the one beside it, and Cogway's own ports, by road */
  opened: Record<string, boolean>;
  /** what came of names that resolve to a public address first, and to loopback afterwards */
  rebound: { reached: number; lookups: number };
}

const visits: Visit[] = [];
const isHonestAddress = new Set([PUBLIC_ADDRESS, ...HONEST_URLS.map(hostOf)]);

// ---- the network

let lookups = 0;
const rebound = new Map<string, number>();

function addressesOf(name: string): string[] {
  if (name.startsWith("rebind-")) {
    lookups += 1;
    const before = rebound.get(name) ?? 0;
    rebound.set(name, before + 1);
    return before === 0 ? [PUBLIC_ADDRESS] : ["127.0.0.1"];
  }
  if (NAMES[name] !== undefined) return NAMES[name];
  if (name === "metadata.google.internal") return ["169.254.169.254"];
  if (LOCAL_NAME.test(name) || !name.includes(".")) return ["127.0.0.1", "10.0.0.1"];
  return [PUBLIC_ADDRESS];
}

/** Answers A from {@link addressesOf}; AAAA of its IPv6 addresses. Nothing may be kept. */
async function serveNames(): Promise<() => void> {
  const socket = createSocket("udp4");
  socket.on("message", (query, from) => {
    const labels: string[] = [];
    let at = 12;
    for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
      labels.push(query.toString("latin1", at + 1, at + 1 + length));
      at += length + 1;
    }
    const question = query.subarray(12, at + 5);
    const isV6 = query.readUInt16BE(at + 1) === 28;
    const name = labels.join(".").toLowerCase();
    const answers = isV6
      ? (NAMES[name] ?? []).filter((address) => address === "::1").map(() => Buffer.from([...Array(15).fill(0), 1]))
      : addressesOf(name)
          .filter(isIPv4)
          .map((address) => Buffer.from(address.split(".").map(Number)));
    const head = Buffer.from([query[0] ?? 0, query[1] ?? 0, 0x81, 0x80, 0, 1, 0, answers.length, 0, 0, 0, 0]);
    const records = answers.map((data) =>
      Buffer.concat([Buffer.from([0xc0, 12, 0, isV6 ? 28 : 1, 0, 1, 0, 0, 0, 0, 0, data.length]), data]),
    );
    socket.send(Buffer.concat([head, question, ...records]), from.port, from.address);
  });
  await new Promise<void>((done) => socket.bind(DNS_PORT, DNS_ADDRESS, done));
  return () => socket.close();
}

/** Every address is this process: `to` redirects, `hops` times within public addresses first; anything else is a file that suits all roads. */
function answer(request: IncomingMessage, response: ServerResponse): void {
  const url = new URL(request.url ?? "/", "http://host");
  request.resume();
  const to = url.searchParams.get("to");
  const hops = Number(url.searchParams.get("hops") ?? 0);
  if (to === null) response.writeHead(200, { "content-type": "text/plain" }).end('{"text":"a"}\n');
  else if (hops === 0) response.writeHead(302, { location: to }).end();
  else response.writeHead(302, { location: redirecting(to, hops - 1) }).end();
}

function redirecting(to: string, hops: number): string {
  return `http://example.com/?${new URLSearchParams({ to, hops: String(hops) })}`;
}

async function serveEverything(): Promise<() => void> {
  const servers = await Promise.all(
    PORTS.map(async (port) => {
      const server = createServer(answer);
      server.on("connection", (socket: Socket) => {
        const address = (socket.localAddress ?? "").replace(/^::ffff:/, "");
        visits.push({ address, port });
      });
      server.on("clientError", (_error, socket) => socket.destroy());
      await new Promise<void>((done) => server.listen(port, "::", done));
      return server;
    }),
  );
  return () => {
    for (const server of servers) {
      server.closeAllConnections();
      server.close();
    }
  };
}

// ---- the roads

class Roads {
  readonly #api: Api;
  constructor(api: Api) {
    this.#api = api;
  }

  /** Whether Cogway fetched or called the URL, as it says. */
  async take(road: Road, url: string): Promise<boolean> {
    if (road === "input") return this.#asInput(url);
    return road === "webhook" ? this.#asWebhook(url) : this.#asBatch(url);
  }

  async #asInput(url: string): Promise<boolean> {
    const { status, body } = await this.#api.tryCreate("inputs", { file: url });
    return status === 201 && (await this.#api.untilEnd(body)).status === "succeeded";
  }

  async #asWebhook(url: string): Promise<boolean> {
    const made = await this.#api.request<Prediction>("POST", "/v1/models/cogway/noop/predictions", {
      body: { input: {}, webhook: url, webhook_events_filter: ["completed"] },
    });
    if (made.status !== 201) return false;
    type Events = Page<{ attempts: { status: number | null }[] }>;
    return waitFor(`the webhook ${url}`, 60_000, async () => {
      const { body } = await this.#api.request<Events>("GET", `/v1/predictions/${made.body.id}/webhooks`);
      const attempt = body.results[0]?.attempts[0];
      return attempt === undefined ? null : attempt.status === 200;
    });
  }

  async #asBatch(url: string): Promise<boolean> {
    const body = { version: "cogway/noop", input_url: url };
    return (await this.#api.request("POST", "/v1/batches", { body })).status === 201;
  }
}

/** Those of all roads and `urls` for which `isWanted` fails. */
async function notAs(
  roads: Roads,
  urls: readonly string[],
  isWanted: (isTaken: boolean) => boolean,
  of: readonly Road[] = ROADS,
): Promise<string[]> {
  const work = urls.flatMap((url) => of.map((road) => ({ road, url })));
  const found: string[] = [];
  const worker = async (): Promise<void> => {
    for (let job = work.shift(); job !== undefined; job = work.shift()) {
      const isTaken = await roads.take(job.road, job.url);
      if (!isWanted(isTaken)) found.push(`${job.road} ${job.url}`);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  return found;
}

/** Nobody here has a certificate for them: it counts that the connections are made. */
async function unreachedByTls(roads: Roads): Promise<string[]> {
  const urls = HONEST_URLS.filter((url) => url.startsWith("https:") && new URL(url).port === "");
  const wanted = new Map<string, number>();
  for (const url of urls) {
    const host = hostOf(url);
    const address = isIP(host) === 0 ? PUBLIC_ADDRESS : host;
    wanted.set(address, (wanted.get(address) ?? 0) + ROADS.length);
  }
  const before = visits.length;
  await notAs(roads, urls, () => true);
  const came = visits.slice(before).filter(({ port }) => port === 443);
  return [...wanted]
    .filter(([address, count]) => came.filter((visit) => visit.address === address).length < count)
    .map(([address]) => `https ${address}`);
}

/** The host of a URL; an address without brackets. */
function hostOf(url: string): string {
  return new URL(url).hostname.replace(/[[\]]/g, "");
}

async function main(): Promise<Report> {
  const stopNames = await serveNames();
  const stopServers = await serveEverything();
  const system = await System.start({
    models: ["noop", "inputs"],
    env: { COGWAY_ALLOW_PRIVATE_URLS: `${OPENED}/32` },
  });
  try {
    const api = await system.api.newAccount("caller", { creates_per_minute: CREATES_PER_MINUTE });
    const roads = new Roads(api);
    const { edge, origin } = system.ports;

    const denied = [
      "http://127.0.0.1/",
      "http://[::1]/",
      "http://169.254.169.254/latest/",
      "http://10.0.0.1/",
      "http://2130706433/",
    ];
    const targets = [
      ...denied,
      "http://two-faced.example/",
      `http://127.0.0.1:${edge}/healthz`,
      "http://localhost/",
      "file:///etc/passwd",
    ];
    const redirects = targets.flatMap((to) => [0, 1, 2].map((hops) => redirecting(to, hops)));
    // Of a name with a public address and another, the edge's network calls the public one; the origin's guard calls neither.
    const isTwoFaced = (found: string): boolean =>
      /^(webhook|batch) .*(two-faced|rebinding-to-v6)\.example/.test(found);
    const hostile = [...HOSTILE_URLS, ...redirects];
    const taken = (await notAs(roads, hostile, (isTaken) => !isTaken)).filter((found) => !isTwoFaced(found));

    const honest = HONEST_URLS.map((url) => url.replace(/^https:/, "http:")).filter((url) => new URL(url).port === "");
    const unreached = await notAs(roads, honest, (isTaken) => isTaken);
    unreached.push(
      ...(await notAs(roads, [redirecting("http://8.8.8.8/", 1)], (isTaken) => isTaken, ["input", "batch"])),
    );
    unreached.push(...(await unreachedByTls(roads)));

    const opened: Record<string, boolean> = {};
    const own = {
      opened: `${OPENED}:${OPENED_PORT}`,
      beside: `${NEXT_TO_OPENED}:${OPENED_PORT}`,
      edge: `127.0.0.1:${edge}`,
      origin: `127.0.0.1:${origin}`,
    };
    for (const [name, host] of Object.entries(own)) {
      for (const road of ROADS)
        opened[`${name} ${road}`] = await roads.take(road, `http://${host}/${name === "edge" ? "healthz" : ""}`);
    }

    let reached = 0;
    for (const road of ROADS) {
      for (let n = 0; n < 5; n++) {
        const url = `http://rebind-${road}-${n}.example/`;
        if (await roads.take(road, url)) reached += 1;
        // By now the name is loopback's. Where the connection of before is used again, none is made.
        await roads.take(road, url);
      }
    }
    const isOpened = ({ address, port }: Visit): boolean => address === OPENED && port === OPENED_PORT;
    return {
      tried: hostile.length,
      visits: visits.filter((visit) => !isHonestAddress.has(visit.address) && !isOpened(visit)),
      taken,
      unreached,
      opened,
      rebound: { reached, lookups },
    };
  } finally {
    await system.stop();
    stopServers();
    stopNames();
  }
}

try {
  process.stdout.write(`${JSON.stringify(await main())}\n`);
} catch (error) {
  console.error(error);
  // Its servers would keep it for ever.
  process.exit(1);
}
