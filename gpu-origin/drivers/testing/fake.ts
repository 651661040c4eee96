/**
 * A driver without processes: it keeps what it was told, and its instances answer as scripted. For tests only; it cannot be selected.
 */
import type { InstanceRecord } from "../../journal.ts";
import type { Driver, StartResult, StartSpec, StopResult } from "../driver.ts";

export class FakeDriver implements Driver {
  readonly name = "fake";
  readonly #running = new Map<string, { record: InstanceRecord; spec: StartSpec | null }>();
  /** survives this object, as processes survive the origin that started them */
  readonly #host: Set<string>;
  #nextPid = 1;

  constructor(host = new Set<string>()) {
    this.#host = host;
  }

  async start(spec: StartSpec): Promise<StartResult> {
    if (spec.binDir.includes("missing")) return { kind: "failed", reason: "spawn", detail: "there is no such program" };
    const { instance_id, version_id, deployment_key } = spec;
    const pid = this.#nextPid++;
    const record = { instance_id, version_id, deployment_key, pid, start_ticks: `ticks-${pid}`, port: 1 };
    this.#running.set(instance_id, { record, spec });
    this.#host.add(`${pid} ${record.start_ticks}`);
    spec.onLine("started");
    return { kind: "started", record };
  }

  async stop(instanceId: string, _graceMs: number): Promise<StopResult> {
    const running = this.#running.get(instanceId);
    if (running === undefined) return { kind: "gone" };
    this.#running.delete(instanceId);
    this.#host.delete(`${running.record.pid} ${running.record.start_ticks}`);
    running.spec?.onExit({ code: 0, signal: null });
    return { kind: "stopped" };
  }

  async list(): Promise<InstanceRecord[]> {
    return [...this.#running.values()].map(({ record }) => record);
  }

  async adopt(record: InstanceRecord): Promise<{ kind: "adopted" } | { kind: "gone" }> {
    if (!this.#host.has(`${record.pid} ${record.start_ticks}`)) return { kind: "gone" };
    this.#running.set(record.instance_id, { record, spec: null });
    return { kind: "adopted" };
  }

  async memoryBytes(instanceId: string): Promise<number | null> {
    return this.#running.has(instanceId) ? 1_000_000 : null;
  }
}
