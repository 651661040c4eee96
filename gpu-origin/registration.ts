/**
 * Makes this origin known to the edge and keeps it so: joins once with the one-time token, registers at each start and whenever the edge has forgotten
 * this incarnation, and sends heartbeats. It never gives up: an edge that is away comes back.
 */
import { HEARTBEAT_INTERVAL_MS, ORIGIN_PROTOCOL_VERSION, type Register } from "../schema/origin-protocol.ts";
import type { OriginConfig } from "./config.ts";
import type { Driver } from "./drivers/driver.ts";
import { type EdgeClient, loadCredential, saveCredential } from "./edge-client.ts";
import { type GpuAllocator, gpuHardware } from "./gpus.ts";
import { type Log, logProgress } from "./log.ts";
import type { Supervisor } from "./supervisor.ts";

const RETRY_FIRST_MS = 100;
const RETRY_MAX_MS = 3_000;
/** Time to finish for an instance that no deployment owns. */
const UNOWNED_GRACE_MS = 30_000;

export class Registration {
  readonly #config: OriginConfig;
  readonly #edge: EdgeClient;
  readonly #supervisor: Supervisor;
  readonly #driver: Driver;
  readonly #gpus: Pick<GpuAllocator, "working">;
  readonly #incarnation: string;
  readonly #credentialPath: string;
  readonly #log: Log;
  #timer: NodeJS.Timeout | null = null;
  #isStopped = false;

  constructor(parts: {
    config: OriginConfig;
    edge: EdgeClient;
    supervisor: Supervisor;
    driver: Driver;
    gpus: Pick<GpuAllocator, "working">;
    incarnation: string;
    credentialPath: string;
    log: Log;
  }) {
    this.#config = parts.config;
    this.#edge = parts.edge;
    this.#supervisor = parts.supervisor;
    this.#driver = parts.driver;
    this.#gpus = parts.gpus;
    this.#incarnation = parts.incarnation;
    this.#credentialPath = parts.credentialPath;
    this.#log = parts.log;
    parts.edge.setCredential(loadCredential(parts.credentialPath));
  }

  /** Resolves when the edge knows this origin; tries until then. False when stopped first. */
  async register(): Promise<boolean> {
    for (let pause = RETRY_FIRST_MS; !this.#isStopped; pause = Math.min(pause * 2, RETRY_MAX_MS)) {
      const detail = await this.#tryRegister();
      if (detail === null) return true;
      this.#log.info({ detail }, "not registered yet");
      await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random() / 2)));
    }
    return false;
  }

  /** Null when it worked. */
  async #tryRegister(): Promise<string | null> {
    const { credential } = this.#edge;
    const answer = await this.#edge.register(this.#message(credential?.origin_id ?? null));
    if (answer.kind === "refused" && credential !== null && this.#config.joinToken !== null) {
      // The edge's state may be a new one: with a join token at hand, join it anew.
      this.#edge.setCredential(null);
      const joined = await this.#edge.register(this.#message(null));
      if (joined.kind === "ok") return this.#accept(joined.value);
      this.#edge.setCredential(credential);
    }
    if (answer.kind !== "ok") return answer.detail;
    return this.#accept(answer.value);
  }

  #accept({
    origin_id,
    key,
  }: {
    origin_id: string;
    key?: { key_id: string; secret: string } | undefined;
  }): string | null {
    if (key !== undefined) {
      const credential = { origin_id, key };
      saveCredential(this.#credentialPath, credential);
      this.#edge.setCredential(credential);
    }
    if (this.#edge.credential === null) return "the edge gave no key";
    logProgress(this.#log, { step: "registered", detail: origin_id });
    return null;
  }

  #message(originId: string | null): Register {
    const config = this.#config;
    return {
      protocol: ORIGIN_PROTOCOL_VERSION,
      ...(originId === null ? {} : { origin_id: originId }),
      ...(originId === null && config.joinToken !== null ? { join_token: config.joinToken } : {}),
      url: config.url,
      incarnation: this.#incarnation,
      region: "local",
      driver: this.#driver.name,
      hardware: [config.hardware, ...gpuHardware(this.#gpus.working, config.hardware)],
      capacity: { ...config.capacity, gpus: this.#gpus.working.length },
      runs: {
        packages: this.#driver.name === "docker" ? ["source", "image"] : ["source"],
        untrusted: this.#driver.isolates || config.trustsAllModels,
      },
      instances: this.#supervisor.statuses(),
    };
  }

  /** Heartbeats until stopped. */
  startHeartbeats(): void {
    this.#timer = setTimeout(() => {
      void this.#beat()
        .catch((error: unknown) => this.#log.warn({ err: error }, "a heartbeat failed"))
        .finally(() => {
          if (!this.#isStopped) this.startHeartbeats();
        });
    }, HEARTBEAT_INTERVAL_MS);
  }

  async #beat(): Promise<void> {
    const load = await this.#supervisor.load();
    const answer = await this.#edge.heartbeat({
      incarnation: this.#incarnation,
      instances: this.#supervisor.statuses(),
      load,
    });
    if (answer.kind === "refused" || (answer.kind === "ok" && !answer.value.known)) {
      await this.#tryRegister();
      return;
    }
    if (answer.kind !== "ok") return;
    for (const instanceId of answer.value.unowned) {
      this.#supervisor.drain(instanceId, "no deployment owns it", UNOWNED_GRACE_MS);
    }
  }

  stop(): void {
    this.#isStopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }
}
