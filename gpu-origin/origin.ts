/**
 * Puts the parts of an origin together, and starts and ends them in the right order: what a dead predecessor left is ended before the server listens, the
 * edge knows this origin before events are sent, models come last.
 */
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { newId } from "../schema/ids.ts";
import { BlobCache, takeOverWeights } from "./builds/blob-cache.ts";
import type { OriginConfig } from "./config.ts";
import { ProcessDriver } from "./drivers/process.ts";
import { EdgeClient } from "./edge-client.ts";
import { Environments } from "./environments.ts";
import { EventPush } from "./event-push.ts";
import { GpuAllocator, probeGpus } from "./gpus.ts";
import { InputFetch } from "./input-fetch.ts";
import { Journal } from "./journal.ts";
import { type Log, logProgress } from "./log.ts";
import { Models, type Prepared } from "./models.ts";
import { OutputFiles } from "./output-files.ts";
import { OutputSpool } from "./output-spool.ts";
import { VersionStore } from "./prepared-version.ts";
import { Registration } from "./registration.ts";
import { createApp, listen } from "./server.ts";
import { Supervisor } from "./supervisor.ts";

/** A predecessor's unacknowledged end is worth this wait at shutdown; after it the next start sends what is left. */
const FLUSH_TIMEOUT_MS = 2_000;

export class Origin {
  readonly incarnation = newId(16);
  readonly journal: Journal;
  readonly supervisor: Supervisor;
  readonly #config: OriginConfig;
  readonly #log: Log;
  readonly #edge: EdgeClient;
  readonly #push: EventPush;
  readonly #gpus: GpuAllocator;
  readonly #models: Models;
  readonly #registration: Registration;
  readonly #stopping = new AbortController();
  #server: { close: () => Promise<void> } | null = null;

  /** `env` is the environment that models and their build commands inherit from; nothing of ours may be in it. */
  constructor(config: OriginConfig, env: Record<string, string | undefined>, log: Log) {
    const { dataDir, edgeUrl, publicUrl } = config;
    mkdirSync(dataDir, { recursive: true, mode: 0o700 });
    this.#config = config;
    this.#log = log;
    this.journal = new Journal(join(dataDir, "origin.sqlite"));
    this.#edge = new EdgeClient(edgeUrl);
    const edge = this.#edge;
    const versions = new VersionStore(join(dataDir, "versions"));
    const environments = new Environments(config.cacheDir, env);
    const spool = new OutputSpool(join(dataDir, "spool", "outputs"), undefined, config.outputBounds);
    const blobsFolder = join(dataDir, "blobs");
    takeOverWeights(join(dataDir, "weights"), blobsFolder);
    const blobs = new BlobCache(blobsFolder, edge);
    this.#gpus = new GpuAllocator(() => probeGpus(env));
    const policy = { allowCidrs: config.allowPrivateUrls };
    this.#push = new EventPush(this.journal, edge, log, (key) => {
      this.supervisor.cancelAttempt(key, { reason: "fenced", force_after_ms: 5_000 });
    });
    this.supervisor = new Supervisor({
      driver: new ProcessDriver(join(dataDir, "tmp"), env),
      journal: this.journal,
      push: this.#push,
      versions,
      provideVersion: async ({ version_id }) => {
        const version = versions.get(version_id);
        return version === null
          ? { kind: "failed", detail: "this origin has not prepared this version" }
          : { kind: "ready", version };
      },
      builder: {
        launch: async (version, { instance_id, mode }) => {
          const source = versions.sourceFolder(version.id);
          const environment = await environments.ensure(version.environment, source);
          if (environment.kind === "failed") return environment;
          const trainer = mode === "train" ? join(dataDir, "trainers", instance_id) : null;
          if (trainer !== null) versions.makeTrainerFolder(version, trainer);
          const release = (): void => {
            if (trainer !== null) rmSync(trainer, { recursive: true, force: true });
          };
          const { binDir } = environment;
          return { kind: "ready", launch: { kind: "process", cwd: trainer ?? source, binDir }, release };
        },
      },
      gpus: this.#gpus,
      inputs: new InputFetch(join(dataDir, "spool", "inputs"), edge, { policy, edgeUrl, publicUrl, weights: blobs }),
      outputs: new OutputFiles(edge, spool),
      spool,
      weights: blobs,
      log,
      capacity: config.capacity,
      cpus: config.hardware.cpus,
      runsUntrusted: false,
    });
    this.#models = new Models({ edge, versions, environments, hasGpu: existsSync("/dev/nvidiactl"), log });
    this.#registration = new Registration({
      config,
      edge,
      supervisor: this.supervisor,
      incarnation: this.incarnation,
      credentialPath: join(dataDir, "origin-credential.json"),
      log,
    });
  }

  /** Rejects when the port is taken. Resolves when the server listens; nothing was told to the edge yet. */
  async listen(): Promise<void> {
    await this.supervisor.recover();
    const { supervisor, incarnation } = this;
    const app = createApp({ supervisor, secretOf: (keyId) => this.#edge.secretOf(keyId), incarnation, log: this.#log });
    this.#server = await listen(app, this.#config.port);
  }

  /** Joins the edge, however long that takes. False when it was shut down first. */
  async join(): Promise<boolean> {
    if (!(await this.#registration.register())) return false;
    this.#push.start();
    this.#registration.startHeartbeats();
    return true;
  }

  prepareModels(): Promise<Prepared[]> {
    return this.#models.prepareAll(this.#config.modelDirs, this.#stopping.signal);
  }

  get isStopping(): boolean {
    return this.#stopping.signal.aborted;
  }

  /** Predictions that run get `graceMs`; then they end with a reason, events are flushed and every process is stopped. */
  async shutDown(graceMs: number): Promise<void> {
    this.#stopping.abort();
    logProgress(this.#log, { step: "draining" });
    await this.supervisor.shutDown(graceMs);
    await this.#push.flushed(FLUSH_TIMEOUT_MS);
    this.#registration.stop();
    this.#push.stop();
    await this.#server?.close();
    this.#edge.close();
    this.journal.close();
    this.#log.info("stopped");
  }
}
