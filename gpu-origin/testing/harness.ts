/**
 * Runs a whole origin over real coglet against a {@link FakeEdge}. One Python environment, made on a clean clone and kept in `.cogway-test/`, serves every
 * test model. Builders give ids and messages.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { newId } from "../../schema/ids.ts";
import type { AttemptEvent, InstanceBoot, InstanceStatus, WeightsSource } from "../../schema/origin-protocol.ts";
import type { OriginConfig } from "../config.ts";
import { createLog } from "../log.ts";
import { Origin } from "../origin.ts";
import { FakeEdge, JOIN_TOKEN } from "./fake-edge.ts";

export const TEST_CACHE = fileURLToPath(new URL("../../.cogway-test/cache", import.meta.url));
const MODELS = fileURLToPath(new URL("./models", import.meta.url));

export function testModel(name: string): string {
  return join(MODELS, name);
}

/** An empty folder that is removed by the returned function. */
export function temporaryFolder(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), "cogway-origin-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true, maxRetries: 3 }) };
}

/** A port of the range that is kept for these tests; each test file gets its own by its worker's number. */
export function testPort(): number {
  return 18_800 + (Number(process.env.VITEST_POOL_ID ?? 0) % 20) * 4 + (portCount++ % 4);
}
let portCount = 0;

function testConfig(
  options: Partial<OriginConfig> & { dataDir: string; edgeUrl: string; models: string[] },
): OriginConfig {
  const { models, ...given } = options;
  const port = options.port ?? testPort();
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    publicUrl: options.edgeUrl,
    cacheDir: TEST_CACHE,
    modelDirs: models.map(testModel),
    modelsAreExplicit: false,
    joinToken: JOIN_TOKEN,
    allowPrivateUrls: [],
    capacity: { instances: 16, memory_bytes: 64 * 1024 ** 3 },
    hostPart: { index: 0, of: 1 },
    hardware: { sku: "cpu", name: "CPU", cpus: 2, memory_bytes: 1024 ** 3, gpus: 0 },
    instanceCpus: 2,
    adopts: true,
    driver: "process",
    docker: { host: "", runtime: null, subnets: "10.197.0.0/16", baseImage: "", buildSecrets: null },
    trustsAllModels: false,
    buildsMax: 1,
    blobsBytesMax: 1024 ** 3,
    logLevel: process.env.COGWAY_TEST_LOG ?? "silent",
    telemetry: { url: null, headers: "" },
    metricsPort: null,
    ...given,
  };
}

export class TestOrigin {
  readonly edge: FakeEdge;
  origin: Origin;
  readonly dataDir: string;
  readonly url: string;
  readonly #config: OriginConfig;
  readonly #remove: () => void;
  #versions = new Map<string, { id: string; slots: number }>();

  private constructor(edge: FakeEdge, origin: Origin, config: OriginConfig, remove: () => void) {
    this.edge = edge;
    this.origin = origin;
    this.dataDir = config.dataDir;
    this.url = config.url;
    this.#config = config;
    this.#remove = remove;
  }

  /** `options` replace what is configured for tests. */
  static async start(models: string[], options: Partial<OriginConfig> = {}): Promise<TestOrigin> {
    const edge = new FakeEdge();
    await edge.listen();
    const { path, remove } = temporaryFolder();
    const config = testConfig({ dataDir: path, edgeUrl: edge.url, models, ...options });
    const origin = newOrigin(config);
    const started = new TestOrigin(edge, origin, config, remove);
    await origin.listen();
    await origin.join();
    await started.#prepare();
    return started;
  }

  /** Prepares the models in these folders, instead of those that it was started with. */
  async prepare(folders: string[]): Promise<void> {
    this.#config.modelDirs = folders;
    await this.#prepare();
  }

  async #prepare(): Promise<void> {
    for (const result of await this.origin.prepareModels()) {
      if (result.kind === "failed") throw new Error(`${result.name}: ${result.reason}`);
      this.#versions.set(result.name, { id: result.version.id, slots: result.version.slots });
    }
  }

  /** Ends the origin and starts another one on its data. */
  async restart(): Promise<void> {
    await this.origin.shutDown(0);
    this.origin = newOrigin(this.#config);
    await this.origin.listen();
    await this.origin.join();
  }

  /** Gives a name to a version that was not prepared from a folder. */
  knows(model: string, version: { id: string; slots: number }): void {
    this.#versions.set(model, version);
  }

  version(model: string): { id: string; slots: number } {
    const version = this.#versions.get(model);
    if (version === undefined) throw new Error(`${model} was not prepared`);
    return version;
  }

  /** Boots an instance and waits for one of `states`. */
  async boot(
    model: string,
    states: InstanceStatus["state"][] = ["ready"],
    setupTimeoutMs = 30_000,
    more: Partial<InstanceBoot> = {},
  ): Promise<string> {
    const { id, slots } = this.version(model);
    const instance_id = newId(16);
    const answer = await this.edge.call("POST", "/v1/instances", {
      protocol: 1,
      instance_id,
      deployment_key: `version:${id}`,
      version_id: id,
      slots,
      memory_bytes: 1024 ** 2,
      setup_timeout_ms: setupTimeoutMs,
      ...more,
    });
    if (answer.status !== 202) throw new Error(JSON.stringify(answer.body));
    await this.untilState(instance_id, states);
    return instance_id;
  }

  /** Ends the instances of a test, so that the next one has the host to itself. */
  async releaseInstances(): Promise<void> {
    const live = this.origin.supervisor.statuses().filter(({ state }) => state !== "stopped" && state !== "failed");
    for (const { instance_id } of live) this.origin.supervisor.drain(instance_id, "the test ended", 0);
    for (const { instance_id } of live) await this.untilState(instance_id, ["stopped", "failed"]);
  }

  async untilState(instanceId: string, states: InstanceStatus["state"][], sinceIndex = 0): Promise<InstanceStatus> {
    return this.edge.until(
      () =>
        this.edge.statuses
          .slice(sinceIndex)
          .find((status) => status.instance_id === instanceId && states.includes(status.state)),
      `state ${states.join(" or ")} of ${instanceId}`,
    );
  }

  /** Sends an attempt; returns its prediction id. */
  async send(
    model: string,
    instanceId: string,
    input: Record<string, unknown>,
    options: { id?: string; attempt?: number; deadline_ms?: number; weights?: WeightsSource } = {},
  ): Promise<string> {
    const { id = newId(26), attempt = 1, ...rest } = options;
    const answer = await this.edge.call("PUT", `/v1/attempts/${id}/${attempt}`, {
      protocol: 1,
      prediction_id: id,
      attempt,
      instance_id: instanceId,
      version_id: this.version(model).id,
      account_id: "account-of-tests",
      input,
      ...rest,
    });
    if (answer.status !== 202) throw new Error(JSON.stringify(answer.body));
    return id;
  }

  cancel(id: string, forceAfterMs: number, reason = "user", attempt = 1): Promise<{ status: number; body: unknown }> {
    return this.edge.call("POST", `/v1/attempts/${id}/${attempt}/cancel`, { reason, force_after_ms: forceAfterMs });
  }

  async untilFinished(id: string, timeoutMs = 20_000): Promise<Finished> {
    return this.edge.until(() => finishedOf(this.edge.eventsOf(id)), `the end of ${id}`, timeoutMs);
  }

  /** Sends an attempt and waits for its end. */
  async predict(model: string, instanceId: string, input: Record<string, unknown>): Promise<Outcome> {
    const id = await this.send(model, instanceId, input);
    const finished = await this.untilFinished(id);
    return outcomeOf(id, this.edge.eventsOf(id), finished);
  }

  outcome(id: string): Outcome {
    const events = this.edge.eventsOf(id);
    const finished = finishedOf(events);
    if (finished === undefined) throw new Error(`${id} has not ended`);
    return outcomeOf(id, events, finished);
  }

  async stop(): Promise<void> {
    await this.origin.shutDown(0);
    await this.edge.close();
    this.#remove();
  }
}

function newOrigin(config: OriginConfig): Origin {
  // Installers need this machine's certificate authorities.
  const { PATH, HOME, SSL_CERT_FILE, PIP_CERT } = process.env;
  return new Origin(config, { PATH, HOME, SSL_CERT_FILE, PIP_CERT }, createLog(config.logLevel));
}

export type Finished = Extract<AttemptEvent, { type: "finished" }>;

export interface Outcome extends Finished {
  id: string;
  events: AttemptEvent[];
  /** as the edge folds it: elements of an iterator, or the value */
  output: unknown;
  logs: string;
}

function finishedOf(events: AttemptEvent[]): Finished | undefined {
  return events.find((event) => event.type === "finished");
}

function outcomeOf(id: string, events: AttemptEvent[], finished: Finished): Outcome {
  let output: unknown = null;
  for (const event of events) {
    if (event.type !== "output") continue;
    output = event.mode === "set" ? event.value : [...(Array.isArray(output) ? output : []), event.value];
  }
  if (finished.output !== undefined) output = finished.output;
  const logs = events.map((event) => (event.type === "log" ? event.data : "")).join("");
  return { ...finished, id, events, output, logs };
}
