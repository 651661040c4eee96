/**
 * The edge as one local process: workerd through the Miniflare API, with the built Worker and the bindings of wrangler.toml, and what only a local edge needs.
 * Everything that Miniflare calls unsafe or unstable is in this file; its version is pinned.
 */
import { readdirSync, readFileSync } from "node:fs";
import { get } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare, type WorkerOptions } from "miniflare";
import { operatorSeed } from "../../schema/tables/operator-seed.ts";
import type { LogFile } from "./log-file.ts";
import { EDGE_BUILD, PAGE_BUILD, ROOT } from "./paths.ts";
import { progress } from "./progress.ts";
import { SetupFault } from "./settings.ts";

/** A full young generation stops every connection for up to 0.3 s; with this size it does so for less than 0.07 s. */
const V8_FLAGS = "--max-semi-space-size=4";
/** Ranges that count as public and must not be reached: benchmarks, documentation, and addresses that carry an IPv4 address inside. */
const EGRESS_DENY = [
  "198.18.0.0/15",
  "192.0.2.0/24",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "64:ff9b::/96",
  "64:ff9b:1::/48",
  "2002::/16",
  "2001::/32",
];
/** Where origins of this host listen, on whatever ports. */
const LOOPBACK = "127.0.0.1/32";
const EGRESS_WORKER = "export default { fetch: (request, env) => env.NETWORK.fetch(request) };";
/**
 * The page's files lie behind a Worker of their own. On one Worker, Miniflare puts two more before it to choose between files and code, and every request of
 * an API that has no use for them would pass through both (measured: 0.2 ms each time).
 */
const PAGE_WORKER = "export default { fetch: (request, env) => env.ASSETS.fetch(request) };";
const PROBE_INTERVAL_MS = 3_000;
/**
 * No answer for so long: it hangs. One that has more to do than it can answers late, and starting it anew would break all that it has begun. So does one that
 * was sent SIGTERM alone: it ends what it has begun (measured: 29 s for a body that does not come), and meanwhile takes connections without an answer.
 */
const PROBE_TIMEOUT_MS = 60_000;
/** Miniflare starts a dead workerd again by itself, in about a second; after so many refused probes it is started anew. */
const PROBES_REFUSED_MAX = 3;

const ENDING_SIGNALS = ["SIGINT", "SIGTERM"] as const;

export interface EdgeSettings {
  /** where workerd listens, on loopback, in plain HTTP */
  port: number;
  publicUrl: string;
  retention: string;
  canaryInterval: string;
  laneLeasesPerS: number | undefined;
  uploadRelayUrl: string;
  otlp: { url: string; headers: string };
  /** CIDRs of private networks that the Worker's fetch may reach */
  allowPrivateCidrs: string[];
  signingSecret: string;
  /** of the join tokens of this host's origins */
  joinTokensSha256: string[];
  /** folder of D1, R2 and the objects */
  stateDir: string;
  /** where the process file of workerd goes */
  processFile: string;
}

type MiniflareOptions = Parameters<typeof convertV4MiniflareOptions>[0];

/** The options of Miniflare: those of wrangler.toml, as the build wrote them, and the local additions. */
export function edgeOptions(settings: EdgeSettings, log: LogFile): MiniflareOptions {
  const fromToml: unknown = JSON.parse(readFileSync(join(EDGE_BUILD, "bindings.json"), "utf8"));
  const { assets, ...worker } = fromToml as WorkerOptions & {
    bindings: Record<string, string>;
    compatibilityDate: string;
    assets: { binding: string };
  };
  return {
    host: "127.0.0.1",
    // The entry that Miniflare puts before the Worker is used by its own calls alone; callers come by the direct socket.
    port: 0,
    cf: false,
    logRequests: false,
    unsafeLocalExplorer: false,
    unsafeObservability: false,
    telemetry: { enabled: false },
    resourcePersistencePath: settings.stateDir,
    log: new FileLog(log),
    handleStructuredLogs: ({ level, message }) => log.write(level === "log" ? message : `${level}: ${message}`),
    unsafeRuntimeEnv: { COGWAY_WORKERD: workerdBinary(), COGWAY_WORKERD_PID_FILE: settings.processFile },
    unsafeHandleRuntimeRestart: () => tellRestart(log, "The edge (workerd) ended and was started again."),
    workers: [
      {
        ...worker,
        name: "edge",
        rootPath: ROOT,
        modulesRoot: EDGE_BUILD,
        modules: modules(),
        bindings: {
          ...worker.bindings,
          PUBLIC_URL: settings.publicUrl,
          RETENTION: settings.retention,
          CANARY_INTERVAL: settings.canaryInterval,
          ...(settings.laneLeasesPerS === undefined ? {} : { LANE_LEASES_PER_S: String(settings.laneLeasesPerS) }),
          ALLOW_PRIVATE_URLS: settings.allowPrivateCidrs.join(","),
          UPLOAD_RELAY_URL: settings.uploadRelayUrl,
          OTLP_TRACES_URL: settings.otlp.url,
          OTLP_HEADERS: settings.otlp.headers,
          LOOP_TURN: "1",
          SIGNING_SECRET: settings.signingSecret,
          JOIN_TOKEN_SHA256: settings.joinTokensSha256.join(","),
        },
        serviceBindings: {
          [assets.binding]: "page",
          LOCAL_ORIGIN: { network: { allow: [LOOPBACK], deny: [] } },
        },
        outboundService: "egress",
        unsafeDirectSockets: [{ host: "127.0.0.1", port: settings.port }],
      },
      {
        name: "page",
        compatibilityDate: worker.compatibilityDate,
        modules: [{ type: "ESModule", path: "page.js", contents: PAGE_WORKER }],
        assets: { ...assets, binding: "ASSETS", directory: PAGE_BUILD },
      },
      {
        name: "egress",
        modules: [{ type: "ESModule", path: "egress.js", contents: EGRESS_WORKER }],
        serviceBindings: {
          NETWORK: {
            network: {
              allow: ["public", ...settings.allowPrivateCidrs],
              deny: EGRESS_DENY,
              // Without this workerd's network speaks no https at all.
              tlsOptions: { trustBrowserCas: true },
            },
          },
        },
      },
    ],
  };
}

function modules(): { type: "ESModule" | "Text"; path: string }[] {
  return readdirSync(EDGE_BUILD)
    .filter((name) => name === "index.js" || name.endsWith(".sql"))
    .map((name) => ({ type: name.endsWith(".js") ? "ESModule" : "Text", path: join(EDGE_BUILD, name) }));
}

function workerdBinary(): string {
  const miniflare = createRequire(import.meta.url).resolve("miniflare");
  const { default: path } = createRequire(miniflare)("workerd") as { default: string };
  return path;
}

function tellRestart(log: LogFile, text: string): void {
  log.write(text);
  progress.warn(text);
}

/** Miniflare's own words go where workerd's go. */
class FileLog extends Log {
  readonly #file: LogFile;

  constructor(file: LogFile) {
    super(LogLevel.WARN);
    this.#file = file;
  }

  override log(message: string): void {
    this.#file.write(message);
  }
}

export class Edge {
  readonly #settings: EdgeSettings;
  readonly #log: LogFile;
  #miniflare: Miniflare | null = null;
  #watch: NodeJS.Timeout | null = null;
  #isStopped = false;

  constructor(settings: EdgeSettings, log: LogFile) {
    this.#settings = settings;
    this.#log = log;
  }

  /** Resolves when workerd answers and the database is as the migrations want it. */
  async start(operatorToken: string): Promise<void> {
    process.env["MINIFLARE_WORKERD_V8_FLAGS"] = V8_FLAGS;
    process.env["MINIFLARE_WORKERD_PATH"] = join(import.meta.dirname, "workerd.sh");
    const miniflare = await this.#startMiniflare();
    await applyMigrations(await miniflare.getD1Database("DB"), operatorToken);
    this.#watchOver();
  }

  async #startMiniflare(): Promise<Miniflare> {
    const options = convertV4MiniflareOptions(edgeOptions(this.#settings, this.#log));
    const miniflare = withoutSignalHandlers(() => new Miniflare(options));
    this.#miniflare = miniflare;
    try {
      await miniflare.ready;
    } catch (error) {
      const { port } = this.#settings;
      if (!isAddressInUse(error)) throw error;
      throw new SetupFault(`Port ${port} (COGWAY_PORT) is taken; stop what listens there, or choose another.`);
    }
    return miniflare;
  }

  #watchOver(): void {
    let refused = 0;
    const probe = async (): Promise<void> => {
      const probed = await probeEdge(this.#settings.port);
      refused = probed === "refused" ? refused + 1 : 0;
      if ((probed === "silent" || refused === PROBES_REFUSED_MAX) && !this.#isStopped) {
        refused = 0;
        tellRestart(this.#log, "The edge (workerd) does not answer and is started again.");
        await this.#dispose();
        await this.#startMiniflare();
      }
    };
    const next = (): void => {
      if (this.#isStopped) return;
      this.#watch = setTimeout(() => {
        void probe()
          .catch((error: unknown) => this.#log.write(`the launcher: ${error}`))
          .finally(next);
      }, PROBE_INTERVAL_MS);
    };
    next();
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    if (this.#watch !== null) clearTimeout(this.#watch);
    await this.#dispose();
  }

  async #dispose(): Promise<void> {
    const miniflare = this.#miniflare;
    this.#miniflare = null;
    // One that never became ready rejects, and is gone all the same.
    await miniflare?.dispose().catch((error: unknown) => this.#log.write(`the launcher: ${error}`));
  }
}

/** Miniflare ends the process by itself on a signal. Here the launcher does that, after the drain. */
function withoutSignalHandlers<T>(make: () => T): T {
  const before = new Map(ENDING_SIGNALS.map((name) => [name, process.listeners(name)]));
  const made = make();
  for (const [name, own] of before) {
    for (const listener of process.listeners(name)) if (!own.includes(listener)) process.removeListener(name, listener);
  }
  return made;
}

function isAddressInUse(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "ERR_ADDRESS_IN_USE";
}

/** Whether the edge gives any answer at all: what it answers is not the launcher's to judge. */
function probeEdge(port: number): Promise<"answered" | "refused" | "silent"> {
  return new Promise((resolve) => {
    const request = get({ host: "127.0.0.1", port, path: "/healthz", agent: false, timeout: PROBE_TIMEOUT_MS });
    request.on("response", (response) => {
      response.resume();
      resolve("answered");
    });
    request.on("timeout", () => {
      resolve("silent");
      request.destroy();
    });
    request.on("error", () => resolve("refused"));
    request.on("close", () => resolve("refused"));
  });
}

type Database = Awaited<ReturnType<Miniflare["getD1Database"]>>;

/** Applies what is missing, in order, each file in one transaction; the table is wrangler's own, so both may apply them. Then the first account. */
async function applyMigrations(db: Database, operatorToken: string): Promise<void> {
  await db.exec(
    "CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)",
  );
  const { results } = await db.prepare("SELECT name FROM d1_migrations").all<{ name: string }>();
  const applied = new Set(results.map(({ name }) => name));
  const folder = join(ROOT, "schema/migrations");
  const files = readdirSync(folder).filter((name) => name.endsWith(".sql"));
  for (const name of files.sort()) {
    if (applied.has(name)) continue;
    const statements = readFileSync(join(folder, name), "utf8").split("--> statement-breakpoint");
    const insert = db.prepare("INSERT INTO d1_migrations (name) VALUES (?)").bind(name);
    await db.batch([...statements.map((sql) => db.prepare(sql)), insert]);
  }
  await db.batch(operatorSeed(operatorToken, Date.now()).map(({ sql, params }) => db.prepare(sql).bind(...params)));
}
