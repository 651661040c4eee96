/**
 * Puts the parts of an origin together, and starts and ends them in the right order: what a dead predecessor left is ended before the server listens, the
 * edge knows this origin before events are sent, models come last.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { newId } from "../schema/ids.ts";
import { BlobCache, takeOverWeights } from "./builds/blob-cache.ts";
import { BuildQueue } from "./builds/build-queue.ts";
import { createBuilder } from "./builds/create-builder.ts";
import { VersionMaker } from "./builds/make-version.ts";
import { provideVersions } from "./builds/provide-version.ts";
import { SourceFetch } from "./builds/source-fetch.ts";
import { CompileCaches, cpuFeatures } from "./compile-cache.ts";
import type { OriginConfig } from "./config.ts";
import { createDriver } from "./drivers/create-driver.ts";
import type { Driver } from "./drivers/driver.ts";
import { EdgeClient } from "./edge-client.ts";
import { Environments } from "./environments.ts";
import { EventPush } from "./event-push.ts";
import { GpuAllocator, partOf, probeGpus } from "./gpus.ts";
import { InputFetch } from "./input-fetch.ts";
import { Journal } from "./journal.ts";
import { type Log, logProgress } from "./log.ts";
import { originMetrics, serveMetrics } from "./metrics.ts";
import { Models, type Prepared } from "./models.ts";
import { OutputFiles } from "./output-files.ts";
import { OutputSpool } from "./output-spool.ts";
import { VersionStore } from "./prepared-version.ts";
import { Registration } from "./registration.ts";
import { createApp, listen } from "./server.ts";
import { Supervisor } from "./supervisor.ts";
import { Telemetry } from "./telemetry.ts";
import { UploadRelay } from "./upload-relay.ts";

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
  readonly #driver: Driver;
  readonly #models: Models;
  readonly #builds: BuildQueue;
  readonly #registration: Registration;
  readonly #uploads: UploadRelay;
  readonly #telemetry: Telemetry;
  readonly #blobs: BlobCache;
  #metrics: { close: () => Promise<void> } | null = null;
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
    this.#uploads = new UploadRelay(edgeUrl);
    const edge = this.#edge;
    this.#telemetry = new Telemetry(config.telemetry, this.incarnation, log);
    const versions = new VersionStore(join(dataDir, "versions"));
    const environments = new Environments(config.cacheDir, env);
    const spool = new OutputSpool(join(dataDir, "spool", "outputs"), undefined, config.outputBounds);
    const blobsFolder = join(dataDir, "blobs");
    takeOverWeights(join(dataDir, "weights"), blobsFolder);
    const blobs = new BlobCache(blobsFolder, edge, config.blobsBytesMax);
    this.#blobs = blobs;
    this.#gpus = new GpuAllocator(async () => partOf(await probeGpus(env), config.hostPart));
    blobs.onNeedOfRoom(() => versions.removeOldest());
    const policy = { allowCidrs: config.allowPrivateUrls };
    this.#driver = createDriver(config, env, log);
    const builder = createBuilder(config, this.#driver, { versions, environments, edge, env });
    const sources = new SourceFetch({ edge, blobs, versions });
    const maker = new VersionMaker(builder, { versions, blobs, policy });
    const runsUntrusted = this.#driver.isolates || config.trustsAllModels;
    this.#builds = new BuildQueue({
      path: join(dataDir, "builds.sqlite"),
      edge,
      sources,
      maker,
      runsUntrusted,
      atOnce: config.buildsMax,
      hidden: [
        [`${config.cacheDir}/`, ""],
        [`${dataDir}/`, ""],
      ],
      log,
    });
    this.#push = new EventPush(this.journal, edge, log, (key) => {
      this.supervisor.cancelAttempt(key, { reason: "fenced", force_after_ms: 5_000 });
    });
    this.supervisor = new Supervisor({
      driver: this.#driver,
      journal: this.journal,
      push: this.#push,
      versions,
      provideVersion: provideVersions({ versions, blobs, policy, edge, sources }),
      builder,
      caches: new CompileCaches({
        folder: join(dataDir, "compile-caches"),
        edge,
        cpuFeatures: cpuFeatures(),
        readFolder: this.#driver.readFolder?.bind(this.#driver),
        deviceName: (uuid) => this.#gpus.nameOf(uuid),
        log,
      }),
      gpus: this.#gpus,
      inputs: new InputFetch(join(dataDir, "spool", "inputs"), edge, { policy, edgeUrl, publicUrl, weights: blobs }),
      outputs: new OutputFiles(edge, spool),
      telemetry: this.#telemetry,
      spool,
      weights: blobs,
      log,
      capacity: config.capacity,
      cpus: config.instanceCpus,
      runsUntrusted,
    });
    this.#models = new Models({
      edge: config.hostPart.index === 0 ? edge : null,
      versions,
      maker,
      hasGpu: () => this.#gpus.working.length > 0,
      log,
    });
    this.#registration = new Registration({
      config,
      edge,
      supervisor: this.supervisor,
      driver: this.#driver,
      gpus: this.#gpus,
      incarnation: this.incarnation,
      credentialPath: join(dataDir, "origin-credential.json"),
      log,
    });
  }

  /** Rejects when the driver cannot work or the port is taken. Resolves when the server listens; nothing was told to the edge yet. */
  async listen(): Promise<void> {
    const fault = await this.#driver.check();
    if (fault !== null) throw new Error(fault);
    await this.#gpus.refresh();
    await this.supervisor.recover(this.#config.adopts);
    const { supervisor, incarnation } = this;
    const [builds, uploads] = [this.#builds, this.#uploads];
    const secretOf = (keyId: string): string | null => this.#edge.secretOf(keyId);
    const app = createApp({ supervisor, builds, uploads, secretOf, incarnation, log: this.#log });
    this.#server = await listen(app, this.#config.port);
    const { metricsPort } = this.#config;
    if (metricsPort !== null) this.#metrics = await serveMetrics(metricsPort, () => this.#metricsText());
  }

  /** Joins the edge, however long that takes. False when it was shut down first. */
  async join(): Promise<boolean> {
    if (!(await this.#registration.register())) return false;
    this.#push.start();
    this.#builds.begin();
    this.#registration.startHeartbeats();
    this.#gpus.watch(({ lost }) => {
      for (const instanceId of lost) this.supervisor.drain(instanceId, "a GPU of it failed", 0);
      void this.#registration.register();
    });
    return true;
  }

  #metricsText(): string {
    return originMetrics({
      attempts: this.supervisor.attempts(),
      instances: this.supervisor.statuses(),
      journal: { events_bytes: this.journal.eventBytes },
      push: this.#push.counts(),
      telemetry: this.#telemetry.counts(),
      blobs: this.#blobs.counts(),
      builds: this.#builds.counts(),
    });
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
    const builds = this.#builds.stop();
    await this.supervisor.shutDown(graceMs);
    await builds;
    await this.#push.flushed(FLUSH_TIMEOUT_MS);
    this.#registration.stop();
    this.#gpus.stop();
    this.#push.stop();
    await this.#telemetry.flush();
    await this.#server?.close();
    await this.#metrics?.close();
    await this.#driver.close();
    this.#edge.close();
    this.#uploads.close();
    this.journal.close();
    this.#log.info("stopped");
  }
}
