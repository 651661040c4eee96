/**
 * A driver without processes: it keeps what it was told, and its instances answer as scripted. For tests only; it cannot be selected.
 */
import type {
  Adopted,
  Driver,
  Exit,
  FilesAddress,
  InstanceRecord,
  StartResult,
  StartSpec,
  StopResult,
  Watch,
} from "../driver.ts";

const ENDED: Exit = { code: 0, signal: null, isOutOfMemory: false };

/** What survives the driver, as processes survive the origin that started them. */
export class FakeHost {
  readonly running = new Set<string>();
  next = 1;
}

export class FakeDriver implements Driver {
  readonly name = "fake";
  readonly isolates = true;
  readonly #running = new Map<string, { record: InstanceRecord; watch: Watch }>();
  readonly #host: FakeHost;

  constructor(host = new FakeHost()) {
    this.#host = host;
  }

  async check(): Promise<string | null> {
    return null;
  }

  async filesAddress(): Promise<FilesAddress> {
    return { kind: "ready", host: "127.0.0.1", port: 0 };
  }

  async start(spec: StartSpec): Promise<StartResult> {
    const { instance_id, version_id, deployment_key, launch, gpus, watch } = spec;
    if (launch.kind === "process" && launch.binDir.includes("missing")) {
      return { kind: "failed", reason: "spawn", detail: "there is no such program" };
    }
    const address = { host: "127.0.0.1", port: 1 };
    const record = { instance_id, version_id, deployment_key, handle: String(this.#host.next++), address, gpus };
    this.#running.set(instance_id, { record, watch });
    this.#host.running.add(record.handle);
    watch.onLine("started");
    return { kind: "started", record };
  }

  async stop(instanceId: string, _graceMs: number): Promise<StopResult> {
    const running = this.#running.get(instanceId);
    if (running === undefined) return { kind: "gone" };
    this.#running.delete(instanceId);
    this.#host.running.delete(running.record.handle);
    running.watch.onExit(ENDED);
    return { kind: "stopped" };
  }

  async pause(instanceId: string): Promise<boolean> {
    return this.#running.has(instanceId);
  }

  async resume(instanceId: string): Promise<boolean> {
    return this.#running.has(instanceId);
  }

  async release(): Promise<void> {}

  async list(): Promise<InstanceRecord[]> {
    return [...this.#running.values()].map(({ record }) => record);
  }

  async adopt(record: InstanceRecord, watch: Watch): Promise<Adopted> {
    if (!this.#host.running.has(record.handle)) return { kind: "gone" };
    this.#running.set(record.instance_id, { record, watch });
    return { kind: "adopted" };
  }

  async reap(known: ReadonlySet<string>): Promise<number> {
    const unknown = [...this.#running.keys()].filter((id) => !known.has(id));
    await Promise.all(unknown.map((id) => this.stop(id, 0)));
    return unknown.length;
  }

  async memoryBytes(instanceId: string): Promise<number | null> {
    return this.#running.has(instanceId) ? 1_000_000 : null;
  }

  isWorkerAlive(): boolean {
    return true;
  }

  ranOutOfMemory(): boolean {
    return false;
  }

  sweep(): void {}

  async close(): Promise<void> {}
}
